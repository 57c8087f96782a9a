"""Poolings by hand: which numbers a window holds, and what their sum is divided by."""

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from traced import trace_operation

from atlas.forward.pooling import pool, reduced_indices


def test_the_largest_of_a_window_with_its_place() -> None:
    run = trace_operation(lambda maps: functional.max_pool2d(maps, 3, 2, 1))
    step, picture = run.recording.steps[1], run.maps(0)
    corner = pool(run, step, 0, 9)
    (term,) = corner.terms
    assert (term["channel"], term["y"], term["x"]) == (0, -1, -1)
    assert corner.total == float(picture[0, :2, :2].max())
    row, column = term["largest"]
    assert float(picture[0, row - 1, column - 1]) == corner.total
    assert corner.formula == {"name": "largest", "text": "the largest of 4 numbers", "input": corner.total}
    middle = pool(run, step, 9 + 4, 9)  # channel 1, place (1, 1): rows and columns 1 to 3
    assert middle.total == float(picture[1, 1:4, 1:4].max())
    assert np.array_equal(middle.terms[0]["patch"], picture[1, 1:4, 1:4].double())


@pytest.mark.parametrize(
    ("options", "index", "divisor"),
    [
        ({"kernel_size": 2, "stride": 2}, 0, 4),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, 0, 9),  # the padding counts
        ({"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}, 0, 4),
        ({"kernel_size": 4, "stride": 4, "ceil_mode": True}, 3, 4),  # 2 × 2 of 4 × 4 lie on the map
        ({"kernel_size": 2, "stride": 2, "divisor_override": 3}, 0, 3),
    ],
)
def test_what_a_mean_is_divided_by(options: dict[str, int], index: int, divisor: int) -> None:
    run = trace_operation(lambda maps: functional.avg_pool2d(maps, **options))  # type: ignore[arg-type]
    result = pool(run, run.recording.steps[1], index, 9)
    (term,) = result.terms
    assert set(np.ravel(term["kernel"]).tolist()) == {1 / divisor}
    assert result.total == pytest.approx(float(run.maps(1).flatten()[index]), rel=1e-6)
    assert result.formula is not None
    assert result.formula["text"].endswith(f" / {divisor}")


def test_parts_of_a_pooling_to_a_size_may_overlap() -> None:
    """6 rows in 4 parts: 0–1, 1–2, 3–4, 4–5."""
    run = trace_operation(lambda maps: functional.adaptive_avg_pool2d(maps, 4))
    picture = run.maps(0)
    for number, rows in enumerate([(0, 2), (1, 3), (3, 5), (4, 6)]):
        result = pool(run, run.recording.steps[1], 4 * number, 9)
        assert result.total == pytest.approx(float(picture[0, rows[0] : rows[1], 0:2].double().mean()))


def test_a_mean_over_the_channels_reads_one_of_each() -> None:
    run = trace_operation(lambda maps: maps.mean(1, keepdim=True))
    step = run.recording.steps[1]
    assert reduced_indices(run, step, 7).tolist() == [7, 36 + 7, 72 + 7]
    result = pool(run, step, 7, 9)
    assert result.total == pytest.approx(float(run.maps(0)[:, 1, 1].double().mean()))
    assert np.shape(result.terms[0]["patch"]) == (1, 3)


def test_a_large_patch_is_shown_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.forward.pooling._VISIBLE_SIDE", 4)
    run = trace_operation(lambda maps: maps.mean((2, 3), keepdim=True))
    result = pool(run, run.recording.steps[1], 2, 9)
    assert np.shape(result.terms[0]["patch"]) == (4, 4)
    assert result.total == pytest.approx(float(run.maps(0)[2].double().mean())), "all of it counts"
    assert torch.is_tensor(run.maps(0))

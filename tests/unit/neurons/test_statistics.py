"""Statistics of units over a store, against the plain way."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from atlas.neurons.statistics import SIMILAR, unit_statistics
from atlas.neurons.tables import BINS, SPREAD, STATISTICS
from atlas.store import shards
from atlas.store.shards import ShardWriter, schema

PICTURES, VIEWS, UNITS = 20, 3, 6


def write_store(folder: Path, activations: NDArray[np.float16], cuts: tuple[int, ...]) -> list[Path]:
    """Shards of these rows, three a picture, that end at ``cuts``."""
    paths = []
    for number, part in enumerate(np.split(np.arange(len(activations)), cuts)):
        paths.append(folder / f"part-{number:05d}.parquet")
        columns = {name: np.zeros(len(part)) for name in ("place_x", "place_y", "confidence")}
        whole = {name: np.zeros(len(part), int) for name in ("draw", "y", "x", "label", "predicted")}
        keys = {
            "image_id": part // VIEWS,
            "view": part % VIEWS,
            "image": ["a"] * len(part),
            "box": np.zeros((len(part), 4)),
        }
        with ShardWriter(paths[-1], schema(False, {"channels": activations.shape[1]})) as writer:
            writer.append({**columns, **whole, **keys, "activation": activations[part]})
    return paths


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float16]:
    """Unit 0 varies, 1 is like it, 2 its opposite, 3 never fires, 4 is constant, 5 varies by itself."""
    generator = np.random.default_rng(0)
    one = generator.normal(size=PICTURES * VIEWS)
    columns = [one, one + 0.1 * generator.normal(size=len(one)), -one, np.zeros(len(one)), np.full(len(one), 2.5)]
    return np.stack([*columns, generator.normal(size=len(one))], 1).astype(np.float16)


def test_figures_are_those_of_all_rows(tmp_path: Path, rows: NDArray[np.float16]) -> None:
    table = unit_statistics(write_store(tmp_path, rows, (30,)), 4)
    assert table.schema == STATISTICS
    exact = rows.astype(np.float64)
    for unit, row in enumerate(table.to_pylist()):
        assert (row["unit"], row["rows"]) == (unit, 60)
        assert row["mean"] == pytest.approx(exact[:, unit].mean(), abs=1e-5)
        assert row["deviation"] == pytest.approx(exact[:, unit].std(), abs=1e-3)
        assert (row["smallest"], row["largest"]) == (exact[:, unit].min(), exact[:, unit].max())
        assert (row["low"], row["high"]) == (row["smallest"], row["largest"])
        assert row["positive"] == pytest.approx((exact[:, unit] > 0).mean())
        assert sum(row["histogram"]) == 60
        assert len(row["histogram"]) == BINS
    varying = table.to_pylist()[0]
    expected, _ = np.histogram(exact[:, 0], BINS, (varying["low"], varying["high"]))
    assert np.abs(np.array(varying["histogram"]) - expected).sum() <= 2, "but for rounding at the edges"
    for constant in table.to_pylist()[3:5]:
        assert constant["histogram"][0] == 60


def test_top_rows_are_the_best_of_different_pictures(tmp_path: Path, rows: NDArray[np.float16]) -> None:
    for unit, row in enumerate(unit_statistics(write_store(tmp_path, rows, (30,)), 4).to_pylist()):
        by_picture = rows[:, unit].reshape(PICTURES, VIEWS)
        order = np.argsort(-by_picture.max(1), kind="stable")[:4]
        assert [entry["image_id"] for entry in row["top"]] == order.tolist()
        assert [entry["view"] for entry in row["top"]] == by_picture[order].argmax(1).tolist()
        assert [entry["activation"] for entry in row["top"]] == by_picture[order].max(1).tolist()


def test_the_spread_goes_evenly_from_the_smallest_to_the_largest(tmp_path: Path, rows: NDArray[np.float16]) -> None:
    table = unit_statistics(write_store(tmp_path, rows, (30,)), 4).to_pylist()
    values = rows[:, 0].astype(np.float64)
    targets = np.linspace(values.min(), values.max(), SPREAD)
    nearest = [int(np.abs(values - target).argmin()) for target in targets]
    assert [3 * entry["image_id"] + entry["view"] for entry in table[0]["spread"]] == list(dict.fromkeys(nearest))
    assert len(table[4]["spread"]) == 1, "of a constant unit one row stands for all"


def test_similar_units_are_those_that_go_together(tmp_path: Path, rows: NDArray[np.float16]) -> None:
    table = unit_statistics(write_store(tmp_path, rows, (30,)), 4).to_pylist()
    first = table[0]["similar"][0]
    assert first["unit"] == 1
    assert first["correlation"] == pytest.approx(np.corrcoef(rows[:, :2].T.astype(float))[0, 1], abs=2e-3)
    for unit in (3, 4):
        assert table[unit]["similar"] == [], "a constant unit is like none"
        assert unit not in [entry["unit"] for row in table for entry in row["similar"]]
    assert 2 not in [entry["unit"] for entry in table[0]["similar"]], "nor is the opposite"
    assert SIMILAR == 8


@pytest.mark.parametrize("cuts", [(), (1, 2, 31), (29, 30)])
def test_they_do_not_depend_on_where_shards_and_row_groups_end(
    tmp_path: Path, rows: NDArray[np.float16], cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture may be cut in two: it still has one top row."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one = unit_statistics(write_store(tmp_path / "one", rows, (30,)), 4).to_pylist()
    monkeypatch.setattr(shards, "ROW_GROUP", 7)
    other = unit_statistics(write_store(tmp_path / "other", rows, cuts), 4).to_pylist()
    for row, again in zip(one, other):
        for name in ("smallest", "largest", "histogram", "top", "spread", "positive"):
            assert row[name] == again[name], name
        assert row["mean"] == pytest.approx(again["mean"], abs=1e-6)


def test_fewer_pictures_than_asked_for_are_all_there_are(tmp_path: Path, rows: NDArray[np.float16]) -> None:
    (row, *_) = unit_statistics(write_store(tmp_path, rows[:6], ()), 4).to_pylist()
    assert [entry["image_id"] for entry in row["top"]] == np.argsort(-rows[:6, 0].reshape(2, 3).max(1)).tolist()

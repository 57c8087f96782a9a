"""Parts of the arithmetic of a number: terms, patches, and the places of numbers."""

import numpy as np
import pytest
import torch
from traced import view

from atlas.forward.terms import (
    broadcast,
    largest_terms,
    multi_index_of,
    number_term,
    numbers_at,
    operands,
    patch_at,
    ravel,
    term,
)
from atlas.forward.trace import Trace, trace
from atlas.networks.network import Network

MAPS = torch.arange(24.0).reshape(2, 3, 4)  # number 12 c + 4 y + x


@pytest.fixture(scope="module")
def followed(small: Network) -> Trace:
    return trace(small, view(small))


def test_a_place_is_channel_row_and_column(followed: Trace) -> None:
    stem = next(step for step in followed.recording.steps if step.name == "stem.conv")
    assert stem.shape == (8, 16, 16)
    assert multi_index_of(followed, stem.number, 0) == (0, 0, 0)
    assert multi_index_of(followed, stem.number, 3 * 256 + 5 * 16 + 7) == (3, 5, 7)
    assert multi_index_of(followed, followed.recording.logits, 4) == (4, 0, 0), "a number has no row and no column"


def test_a_term_says_what_it_reads(followed: Trace) -> None:
    assert term(followed, 0, (2, 4, 5), 1.5) == {
        "step": 0, "channel": 2, "title": "blue of the picture", "y": 4, "x": 5, "sum": 1.5, "patch": None,
        "kernel": None,
    }  # fmt: skip
    stem = next(step for step in followed.recording.steps if step.name == "stem.conv")
    assert term(followed, stem.number, (3, 0, 0), 0)["title"] == "channel 3 of stem.conv"
    assert term(followed, followed.recording.logits, (3, 0, 0), 0)["title"] == "number 3 of head"
    number = number_term(followed, stem.number, 3 * 256 + 5 * 16 + 7, -1.0)
    assert number["sum"] == -float(followed.maps(stem.number)[3, 5, 7])
    assert (number["channel"], number["y"], number["x"]) == (3, 5, 7)


def test_the_largest_terms_by_magnitude_and_the_sum_of_the_others() -> None:
    sums = np.array([1.0, -5.0, 2.0, 0.5, 5.0])
    assert largest_terms(sums, 2) == ([1, 4], (3, 3.5)), "of equal ones the first"
    assert largest_terms(sums, 5) == ([1, 4, 2, 0, 3], None)
    assert largest_terms(np.array([1.0, np.nan]), 1)[0] == [1], "what is no number is not hidden in the rest"


def test_a_patch_reaches_beyond_the_map() -> None:
    rows, columns = np.array([-1, 0, 2]), np.array([1, 4])
    expected = [[[-7, -7], [1, -7], [9, -7]], [[-7, -7], [13, -7], [21, -7]]]
    patch = patch_at(MAPS, rows, columns, -7.0)
    assert patch.tolist() == expected
    assert patch.dtype == np.float64
    assert patch_at(MAPS, rows, columns)[0, 0].tolist() == [0, 0]


def test_numbers_by_their_flat_index() -> None:
    assert numbers_at(MAPS.transpose(0, 1), np.array([0, 4, 23])).tolist() == [0, 12, 23], "whatever the memory"
    for place in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        assert ravel(place, MAPS.shape) == int(MAPS[place])


@pytest.mark.parametrize(
    ("shape", "index", "expected"), [((3, 1), 17, 1), ((4,), 17, 1), ((2, 1, 1), 17, 1), ((1,), 17, 0), ((), 17, 0)]
)
def test_what_is_broadcast_is_read_at_its_own_index(shape: tuple[int, ...], index: int, expected: int) -> None:
    """Index 17 of (2, 3, 4) is the place (1, 1, 1)."""
    assert broadcast(torch.Size(shape), MAPS.shape, index) == expected
    value = torch.arange(float(np.prod(shape))).reshape(shape)
    assert float(value.expand(2, 3, 4).reshape(-1)[index]) == expected


def test_operands_are_constants_or_numbers_of_steps(followed: Trace) -> None:
    """Of the sum in a residual block: both are of other steps, at the same index."""
    step = next(step for step in followed.recording.steps if step.kind == "add")
    pair = operands(followed, step.node, followed.values[step.number].shape, 77)
    assert {source for source, _ in pair} == set(step.reads)  # type: ignore[misc]
    assert {index for _, index in pair} == {77}  # type: ignore[misc]
    total = sum(followed.number(source, index) for source, index in pair)  # type: ignore[misc]
    assert total == pytest.approx(followed.number(step.number, 77), rel=1e-5)

"""Cells of more errors than chance gives: the plant is found, and nothing is where errors know nothing of places."""

import numpy as np
import pytest
from made_verdicts import made_verdicts

from atlas.slices.errors import find_errors
from atlas.slices.permutation import FALSE_DISCOVERY_RATE, Members, benjamini_hochberg, excess_of_levels


def a_level(cell: np.ndarray, picture: np.ndarray, view: np.ndarray | None = None) -> Members:
    """Rows of pictures that each have one a cell."""
    cells = int(cell.max()) + 1
    view = np.zeros_like(picture) if view is None else view
    return Members(cell, picture, view, np.ones(len(cell)), cells, np.ones(cells, bool))


def test_errors_that_know_nothing_of_places_are_no_slices() -> None:
    """Under the null the false discovery rate is the chance of any discovery at all."""
    levels = discoveries = 0
    for seed in range(12):
        verdicts, u, v = made_verdicts(pictures=700, seed=seed)
        _, facts = find_errors(verdicts, {}, u, v, grids=(5, 10), min_count=8, seed=seed)
        levels += 2
        discoveries += sum(grid["slices"] > 0 for grid in facts["grids"].values())
    assert discoveries <= 0.2 * levels


def test_a_class_that_is_often_wrong_is_no_slice_and_a_part_of_it_is() -> None:
    """Cell 0 and 1 hold a class that is wrong half the time; only in cell 2 and 3 the errors are uneven."""
    classes = np.repeat([0, 1], 400)
    errors = np.zeros((800, 1))
    errors[:400:2] = 1
    errors[400:500] = 1
    cell = np.repeat([0, 1, 2, 3], 200)
    (excess,) = excess_of_levels([a_level(cell, np.arange(800))], errors, classes, seed=0)
    assert excess.errors.tolist() == [100, 100, 100, 0]
    np.testing.assert_allclose(excess.expected, [100, 100, 50, 50])
    assert (excess.q <= FALSE_DISCOVERY_RATE).tolist() == [False, False, True, False]
    assert abs(excess.score[:2]).max() < 0.1
    assert excess.score[2] > 5


def test_a_picture_counts_once_however_many_views_it_has() -> None:
    """Ten views of one wrong picture in a cell are one error, where ten wrong pictures are ten."""
    classes = np.zeros(300, int)
    errors = np.zeros((300, 10))
    errors[:1] = 1
    errors[100:110] = 1
    # Cell 0 holds all views of pictures 0 to 9, cell 1 one view of each of 100 to 199.
    picture = np.concatenate([np.repeat(np.arange(10), 10), np.arange(100, 200)])
    view = np.concatenate([np.tile(np.arange(10), 10), np.zeros(100, int)])
    weight = np.concatenate([np.full(100, 0.1), np.ones(100)])
    cell = np.repeat([0, 1], 100)
    level = Members(cell, picture, view, weight, 2, np.ones(2, bool))
    (excess,) = excess_of_levels([level], errors, classes, seed=0)
    np.testing.assert_allclose(excess.errors, [1, 10])
    np.testing.assert_allclose(excess.expected, [11 / 30, 11 / 3])
    assert excess.score[1] > 3
    assert excess.score[0] < 1.5


def test_where_nothing_can_change_places_nothing_is_tested() -> None:
    errors = np.array([[1.0], [1.0], [0.0]])
    level = a_level(np.array([0, 0, 1]), np.arange(3))
    (excess,) = excess_of_levels([level], errors, np.array([0, 0, 1]), seed=0)
    assert np.isnan(excess.q).all()
    assert excess.score.tolist() == [0, 0]


def test_the_same_seed_gives_the_same() -> None:
    generator = np.random.default_rng(0)
    level = a_level(generator.integers(0, 9, 500), np.arange(500))
    errors, classes = (generator.random((500, 1)) < 0.3).astype(float), generator.integers(0, 3, 500)
    first, again, other = (excess_of_levels([level], errors, classes, seed=seed)[0].score for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_false_discoveries_are_counted_by_benjamini_and_hochberg(order: list[int]) -> None:
    p, q = np.array([0.01, 0.04, 0.03, 0.5]), np.array([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    np.testing.assert_allclose(benjamini_hochberg(p[order]), q[order])
    assert benjamini_hochberg(np.zeros(0)).tolist() == []

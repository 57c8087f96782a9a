"""Which classes are told of a cell: planted ones are found, chance is not, and a level says how far it holds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from atlas.words.claims import Claims, Views, claim
from atlas.words.folds import FOLDS

CELLS, CLASSES, PICTURES = 40, 200, 24
# Cells in which all pictures push towards the class of the same number.
PLANTED = range(10)


def level(
    generator: np.random.Generator, *, effect: float = 5.0, telling: float = 0.9
) -> tuple[NDArray[np.float32], Views]:
    """Gains of a level and its views: in the ``PLANTED`` cells a class gains ``effect`` deviations more, and the share
    ``telling`` of their views are predicted as it, all others as anything."""
    gains = generator.normal(size=(CELLS, FOLDS, CLASSES)).astype(np.float32)
    cell, fold = np.repeat(np.arange(CELLS), PICTURES), np.tile(np.arange(PICTURES) % FOLDS, CELLS)
    predicted = generator.integers(0, CLASSES, len(cell))
    for number in PLANTED:
        gains[number, :, number] += effect
        own = np.flatnonzero(cell == number)
        predicted[own[generator.random(len(own)) < telling]] = number
    return gains, Views(cell, fold, predicted)


def claims(**options: float) -> Claims:
    return claim(*level(np.random.default_rng(0), **options))


def test_what_all_pictures_push_towards_is_told_and_said_again() -> None:
    result = claims()
    assert [result.classes[number][:1] for number in PLANTED] == [[number] for number in PLANTED]
    assert sum(map(bool, result.classes)) <= len(PLANTED) + 1
    assert result.level.holds
    assert result.level.replication is not None
    assert result.level.replication >= 0.95
    assert result.level.replication_strict is not None
    assert result.level.replication_strict >= 0.8
    assert result.level.validity == 1
    assert result.level.validity_all is not None
    assert result.level.validity_chance == pytest.approx(CLASSES / 2, rel=0.2)
    assert result.level.validity_all < result.level.validity_chance
    assert result.gains[3, 3] == pytest.approx(5, abs=1)
    assert result.t[3, 3] > result.threshold


@pytest.mark.parametrize("seed", range(8))
def test_of_chance_nothing_is_told(seed: int) -> None:
    gains, views = level(np.random.default_rng(seed), effect=0.0, telling=0.0)
    result = claim(gains, views, seed=seed)
    assert not any(result.classes)
    assert not result.level.holds


def test_a_class_that_the_network_says_of_none_of_the_views_is_not_told() -> None:
    """All pictures push towards it, as textures of an early layer do, but it is never what they are taken for."""
    result = claims(telling=0.0)
    assert not any(result.classes)


def test_one_picture_alone_tells_nothing() -> None:
    gains, views = level(np.random.default_rng(0), effect=0.0)
    for number in PLANTED:
        gains[number, 2, number] += 50  # the mean over the folds is larger than that of any other class
    result = claim(gains, views)
    assert not any(result.classes)


def test_cells_of_few_pictures_are_measured_as_far_as_they_go() -> None:
    gains, views = level(np.random.default_rng(0))
    gains[5, 1:] = np.nan
    gains[6] = np.nan
    filled = ~np.isnan(gains[views.cell, views.fold, 0])
    result = claim(gains, Views(views.cell[filled], views.fold[filled], views.predicted[filled]))
    assert result.classes[5] == result.classes[6] == []
    assert result.classes[4][:1] == [4]
    assert np.isfinite(result.gains).all()
    assert np.isfinite(result.t).all()


def test_the_same_seed_tells_the_same_and_nothing_of_nothing() -> None:
    gains, views = level(np.random.default_rng(0))
    first, second = (claim(gains, views, seed=4) for _ in range(2))
    assert (first.classes, first.level) == (second.classes, second.level)
    empty = np.zeros(0, np.int64)
    nothing = claim(np.zeros((0, FOLDS, CLASSES), np.float32), Views(empty, empty, empty))
    assert nothing.classes == []
    assert not nothing.level.holds

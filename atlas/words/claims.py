"""Which classes may be told of a cell: those that its pictures push towards again and again.

What each fold of a cell's pictures adds to the logits is one measurement. A class is told of a cell

- where these measurements are larger than chance: their t statistic, with variances shrunk towards the class's own
  over all cells (Smyth 2004), against folds that are shuffled between the cells, at a false discovery rate of 5 % over
  all cells and classes of the level (Benjamini and Hochberg 1995);
- where both halves of the pictures say it, each at 5 %;
- where what the network says of one half's views comes among the first classes that the other half pushes towards.

How far such words hold is measured by the same rule with one half of the pictures, asked of the other: `Level`. Where
less than 80 % is said again, only stronger evidence is taken, as much as it needs (in the spirit of the irreproducible
discovery rate of Li et al. 2011); where that does not help, nothing is told of the whole level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.words.chance import threshold
from atlas.words.folds import FOLDS

# Of all that is told, so much may be chance; the level of the test by which one half of the pictures says it again.
FALSE_DISCOVERIES, CONFIRMED = 0.05, 0.05
# What the network says of a cell's views must come, in the median, among so large a share of all classes.
VALID_SHARE = 0.01
# What a level must reach: the share of words that other pictures say again, and that median rank as a share.
LEAST_REPLICATION, LEAST_VALIDITY = 0.8, 0.02
# Classes told of a cell at most.
MOST = 5
# How many measurements the class's own variance weighs, and how many shuffled statistics are made.
_PRIOR, _SHUFFLED = 4.0, 2_000_000
# Pictures whose ranks are computed together.
_BLOCK = 4096


@dataclass(frozen=True)
class Views:
    """What the network says of the views in the cells: for each row that lies in one, its ``cell``, its ``fold`` there
    and the class that it is ``predicted`` as, int64 (n,)."""

    cell: NDArray[np.int64]
    fold: NDArray[np.int64]
    predicted: NDArray[np.int64]


@dataclass(frozen=True)
class Level:
    """How far the words of a level hold, measured by the rule with one half of the pictures and asked of the other.

    ``replication``: the share of what a half tells that the other half says again, at a test of 5 %;
    ``replication_strict``: that the other half tells too, by the whole rule. ``validity``: the median rank of what the
    network says of the other half's views among what the half pushes towards, in the cells that it tells something of;
    ``validity_all``: in all cells; ``validity_chance``: of views of any other cells. None where there is nothing to
    measure. ``holds``: whether that is enough for anything to be told.
    """

    replication: float | None
    replication_strict: float | None
    validity: float | None
    validity_all: float | None
    validity_chance: float | None
    holds: bool


@dataclass(frozen=True)
class Claims:
    """The words of a level's cells. ``classes``: of each cell the classes that are told, the one that it pushes towards
    most first; ``gains`` float32 (cells, classes): the logits that a cell's pictures add, 0 where it has none; ``t``
    float32 (cells, classes): how sure it is that this is more than in the other cells; ``threshold``: the least t that
    is larger than chance, infinite where none is; ``level``: how far the words hold."""

    classes: list[list[int]]
    gains: Float32
    t: Float32
    threshold: float
    level: Level


def claim(gains: Float32, views: Views, *, seed: int = 0) -> Claims:
    """What may be told of each cell: ``gains`` (cells, FOLDS, classes) are the logits that the mean of each fold of its
    pictures adds, NaN where the fold is empty."""
    cells, _, classes = gains.shape
    generator = np.random.default_rng(seed)
    all_folds, even, odd = np.arange(FOLDS), np.arange(0, FOLDS, 2), np.arange(1, FOLDS, 2)
    if not cells or not classes or np.isnan(gains).all():
        nothing = np.zeros((cells, classes), np.float32)
        return Claims(
            [[] for _ in range(cells)], nothing, nothing, np.inf, Level(None, None, None, None, None, holds=False)
        )
    level_gains = _FoldGains(gains, generator)
    halves = [level_gains.select(half, (half[::2], half[1::2]), views) for half in (even, odd)]
    least = _least_replicated(level_gains, (even, odd), halves)
    whole = level_gains.select(all_folds, (even, odd), views).above(least)
    level = _measure(level_gains, (even, odd), [half.above(least) for half in halves], views, generator)
    mean = np.nan_to_num(level_gains.mean(all_folds))
    mask = whole.mask if level.holds else np.zeros_like(whole.mask)
    names = [
        np.argsort(-row, kind="stable")[: min(MOST, int(own.sum()))].tolist()
        for row, own in zip(np.where(mask, mean, -np.inf), mask)
    ]
    return Claims(names, mean, np.nan_to_num(whole.t), whole.threshold, level)


@dataclass(frozen=True)
class _Selection:
    """What a set of folds tells: ``mask`` bool (cells, classes), by ``t`` (cells, classes), NaN where there are too few
    pictures, at least ``threshold``."""

    mask: NDArray[np.bool_]
    t: Float32
    threshold: float

    def above(self, least: float) -> _Selection:
        """What of it has a t of at least ``least``."""
        with np.errstate(invalid="ignore"):
            return _Selection(self.mask & (self.t >= least), self.t, max(self.threshold, least))


class _FoldGains:
    """The folds' gains of a level, and its statistics under shuffling."""

    def __init__(self, gains: Float32, generator: np.random.Generator) -> None:
        self.gains = gains
        self._filled = ~np.isnan(gains[:, :, 0])
        # How much more than in the level's other cells.
        self._excess = gains - np.nanmean(gains.reshape(-1, gains.shape[2]), axis=0)
        within = self._excess - np.nanmean(self._excess, axis=1, keepdims=True)
        freedom = max(int(self._filled.sum()) - int(self._filled.any(1).sum()), 1)
        self._variance = np.nansum(within**2, axis=(0, 1)) / freedom + 1e-12
        self._generator = generator
        self._null: dict[int, Float32] = {}

    def mean(self, folds: NDArray[np.intp]) -> Float32:
        """The mean gains (cells, classes) over some ``folds``."""
        mean: Float32 = _nanmean(self.gains[:, folds])
        return mean

    def select(
        self, folds: NDArray[np.intp], halves: tuple[NDArray[np.intp], NDArray[np.intp]], views: Views
    ) -> _Selection:
        """What ``folds`` tell by the rule, whose ``halves`` must agree."""
        t = self.t(folds)
        least = self._discoveries(t, len(folds))
        both = np.logical_and.reduce([self.says_again(half) for half in halves])
        valid = self._valid(halves, views)
        with np.errstate(invalid="ignore"):
            return _Selection((t >= least) & both & valid[:, None], t, least)

    def says_again(self, folds: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether these folds alone say each class (cells, classes) at a test of 5 %."""
        with np.errstate(invalid="ignore"):
            shuffled = self._shuffled(len(folds))
            least = np.quantile(shuffled, 1 - CONFIRMED) if len(shuffled) else np.inf
            larger: NDArray[np.bool_] = self.t(folds) > least
        return larger

    def t(self, folds: NDArray[np.intp]) -> Float32:
        """The statistic (cells, classes) of some folds; NaN where fewer than two of them have pictures."""
        return self._statistic(self._excess[:, folds])

    def _statistic(self, excess: Float32) -> Float32:
        count = (~np.isnan(excess[:, :, 0])).sum(1)[:, None]
        mean = _nanmean(excess)
        squares = np.nansum((excess - mean[:, None]) ** 2, axis=1)
        variance = (squares + _PRIOR * self._variance) / (np.maximum(count - 1, 0) + _PRIOR)
        t = mean / np.sqrt(variance / np.maximum(count, 1))
        return np.where(count >= 2, t, np.nan).astype(np.float32)

    def _shuffled(self, count: int) -> Float32:
        """The statistic, sorted, of cells that are made of ``count`` folds of any cells."""
        if count not in self._null:
            filled = self._excess[self._filled]
            if not len(filled):
                return np.zeros(0, np.float32)
            cells, classes = len(self.gains), filled.shape[1]
            number = max(1, min(8 * cells, _SHUFFLED // classes))
            rows = self._generator.integers(0, len(filled), (number, count))
            empty = ~self._filled[self._generator.integers(0, cells, number)][:, :count]
            excess = filled[rows]
            excess[empty] = np.nan  # as many folds of a cell are empty as in the cells themselves
            t = self._statistic(excess)
            self._null[count] = np.sort(t[~np.isnan(t)])
        return self._null[count]

    def _discoveries(self, t: Float32, count: int) -> float:
        """The least t at which at most 5 % of what lies above it is chance."""
        null, values = self._shuffled(count), t[~np.isnan(t)]
        if not len(null) or not len(values):
            return np.inf
        p = (len(null) - np.searchsorted(null, values, "left") + 1) / (len(null) + 1)
        return float(values[p <= threshold(p, FALSE_DISCOVERIES)].min(initial=np.inf))

    def _valid(self, halves: Sequence[NDArray[np.intp]], views: Views) -> NDArray[np.bool_]:
        """Of which cells what the network says of one half's views comes first in what the other pushes towards."""
        cells, ranks = self.ranks(halves[0], halves[1], views)
        other_cells, other_ranks = self.ranks(halves[1], halves[0], views)
        cell, rank = np.r_[cells, other_cells], np.r_[ranks, other_ranks]
        valid = np.zeros(len(self.gains), bool)
        order = np.argsort(cell, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1) if len(order) else ():
            valid[cell[part[0]]] = np.median(rank[part]) <= max(1.0, VALID_SHARE * self.gains.shape[2])
        return valid

    def ranks(
        self,
        folds: NDArray[np.intp],
        others: NDArray[np.intp],
        views: Views,
        predicted: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each view in the folds ``others`` its cell, and the rank, from 1, of what the network says of it among
        what ``folds`` push towards; ``predicted`` in its place."""
        mean = self.mean(folds)
        rows = np.flatnonzero(np.isin(views.fold, others) & ~np.isnan(mean[views.cell, 0]))
        said = (views.predicted if predicted is None else predicted)[rows]
        ranks = np.empty(len(rows), np.int64)
        for first in range(0, len(rows), _BLOCK):
            part = slice(first, first + _BLOCK)
            of_views = mean[views.cell[rows[part]]]
            ranks[part] = (of_views > of_views[np.arange(len(of_views)), said[part], None]).sum(1) + 1
        return views.cell[rows], ranks


def _least_replicated(
    level_gains: _FoldGains, halves: tuple[NDArray[np.intp], NDArray[np.intp]], selections: Sequence[_Selection]
) -> float:
    """The least t above which the other half says again what is asked for, of all that the halves tell."""
    t = np.concatenate([selection.t[selection.mask] for selection in selections])
    again = np.concatenate(
        [level_gains.says_again(other)[selection.mask] for selection, other in zip(selections, halves[::-1])]
    )
    order = np.argsort(-t, kind="stable")
    enough = np.flatnonzero(np.cumsum(again[order]) >= LEAST_REPLICATION * np.arange(1, len(order) + 1))
    return float(t[order][enough[-1]]) if len(enough) else np.inf


def _measure(
    level_gains: _FoldGains,
    halves: tuple[NDArray[np.intp], NDArray[np.intp]],
    selections: Sequence[_Selection],
    views: Views,
    generator: np.random.Generator,
) -> Level:
    """What each half tells, asked of the other."""
    count = again = strict = 0
    ranks, ranks_all, ranks_chance = [], [], []
    shuffled = generator.permutation(views.predicted)
    for number, (half, other) in enumerate((halves, halves[::-1])):
        own: NDArray[np.bool_] = selections[number].mask
        count += int(own.sum())
        again += int((own & level_gains.says_again(other)).sum())
        strict += int((own & selections[1 - number].mask).sum())
        cell, rank = level_gains.ranks(half, other, views)
        ranks_all.append(rank)
        telling = own.sum(1) > 0
        ranks.append(rank[telling[cell]])
        ranks_chance.append(level_gains.ranks(half, other, views, shuffled)[1])
    validity, validity_all, chance = (_median(parts) for parts in (ranks, ranks_all, ranks_chance))
    replication = again / count if count else None
    classes = level_gains.gains.shape[2]
    holds = (
        replication is not None
        and validity is not None
        and replication >= LEAST_REPLICATION
        and validity <= max(1.0, LEAST_VALIDITY * classes)
    )
    return Level(replication, strict / count if count else None, validity, validity_all, chance, holds)


def _median(parts: list[NDArray[np.int64]]) -> float | None:
    values = np.concatenate(parts)
    return float(np.median(values)) if len(values) else None


def _nanmean(values: Float32) -> Float32:
    """The mean over the second axis of what is no NaN; NaN where nothing is, without a warning."""
    count = (~np.isnan(values[:, :, 0])).sum(1)[:, None]
    mean: Float32 = np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan).astype(np.float32)
    return mean

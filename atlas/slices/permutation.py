"""Which cells hold more errors than their classes would give: a permutation of pictures between cells.

Were a picture's errors the same wherever it lies, pictures of one class could change places, each with the errors of
all its views. Each permutation gives what every cell would have then. A cell's score is what it has beyond the mean of
that, over its deviation and half a picture: the constant keeps cells in which hardly an error is expected from standing
out by one or two (Tusher, Tibshirani & Chu 2001, SAM). Scores of all cells and permutations together are what chance
gives; from them each cell's p, and by Benjamini & Hochberg (1995) its q, the share of false ones among all cells that
stand out as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# The false discovery rate among the cells of a level.
FALSE_DISCOVERY_RATE = 0.05
# Fewer pictures than this say nothing of a cell.
FEWEST_PICTURES = 5
# Half a picture.
_CONSTANT = 0.5
# Scores by chance to compare with, on each level, and bounds of the permutations that give them.
_CHANCE_SCORES, _PERMUTATIONS = 50_000, (100, 1000)


@dataclass(frozen=True)
class Members:
    """The rows of the cells of one level, those of pictures that have a class, as arrays (m,): the numbers of their
    ``cell``, ``picture`` and ``view``, each pair of a picture and a view once a cell, and their ``weight``: in a cell,
    those of a picture sum to 1. ``cells``: how many cells there are; ``testable`` (cells,): those to be tested."""

    cell: NDArray[np.int64]
    picture: NDArray[np.int64]
    view: NDArray[np.int64]
    weight: NDArray[np.float64]
    cells: int
    testable: NDArray[np.bool_]

    def sums(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many pictures err in each cell, (cells,), of ``errors`` (pictures, views)."""
        weights = self.weight * errors[self.picture, self.view]
        return np.bincount(self.cell, weights, minlength=self.cells).astype(np.float64)


@dataclass(frozen=True)
class Excess:
    """What the permutations say of the cells of one level, arrays (cells,): the pictures that err, ``errors``, and that
    their classes let expect, ``expected``; ``score``; ``q``, NaN where a cell was not tested."""

    errors: NDArray[np.float64]
    expected: NDArray[np.float64]
    score: NDArray[np.float64]
    q: NDArray[np.float64]


def excess_of_levels(
    levels: Sequence[Members], errors: NDArray[np.float64], classes: NDArray[np.integer], *, seed: int
) -> list[Excess]:
    """The cells of each of the ``levels``, tested with the same permutations.

    ``errors`` (pictures, views): 1 where a view is wrong, 0 where it is right; ``classes`` (pictures,). Of views that a
    picture lacks, it has the mean of the others.
    """
    order = np.argsort(classes, kind="stable")
    bounds = np.r_[0, np.flatnonzero(np.diff(classes[order])) + 1, len(order)]
    blocks = [slice(first, last) for first, last in pairwise(bounds) if last > first]
    class_means = np.empty_like(errors)
    for block in blocks:
        class_means[order[block]] = errors[order[block]].mean(0)
    # A level of many cells needs fewer permutations for as many scores by chance.
    counts = [int(np.clip(-(-_CHANCE_SCORES // max(int(level.testable.sum()), 1)), *_PERMUTATIONS)) for level in levels]
    generator = np.random.default_rng(seed)
    chance = [np.empty((count, level.cells), np.float32) for level, count in zip(levels, counts)]
    permuted = np.empty_like(errors)
    shuffled = order.copy()
    for number in range(max(counts, default=0)):
        for block in blocks:
            generator.shuffle(shuffled[block])
        permuted[order] = errors[shuffled]
        for level, sums in zip(levels, chance):
            if number < len(sums):
                sums[number] = level.sums(permuted)
    return [_excess(level, level.sums(errors), level.sums(class_means), sums) for level, sums in zip(levels, chance)]


def _excess(
    level: Members, errors: NDArray[np.float64], expected: NDArray[np.float64], chance: NDArray[np.float32]
) -> Excess:
    deviation = chance.std(0, dtype=np.float64)
    score = (errors - expected) / (deviation + _CONSTANT)
    # Where all pictures of its classes are in a cell, or all err alike, nothing can be said of it.
    candidates = np.flatnonzero(level.testable & (deviation > 0))
    q = np.full(level.cells, np.nan)
    if len(candidates):
        by_chance = np.sort(
            ((chance[:, candidates] - expected[candidates]) / (deviation[candidates] + _CONSTANT)).reshape(-1)
        )
        # A score that chance reaches exactly is no rarer than it: float32 sums are compared with some tolerance.
        reached = len(by_chance) - np.searchsorted(by_chance, score[candidates] - 1e-4)
        q[candidates] = benjamini_hochberg((1 + reached) / (1 + len(by_chance)))
    return Excess(errors, expected, score, q)


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """The q (n,) of ``p`` (n,): the smallest false discovery rate at which each is among the discoveries."""
    order = np.argsort(p, kind="stable")
    steps = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1)
    return q

"""Which cells of an earlier layer's map build a cell of a later one.

A cell stands for a direction among a layer's channels, the mean of its rows. Expanded weights give the kernel of the
target's direction; what a source cell adds is the sum over the kernel's positions of kernel · the source cell's mean:
how much more of the target's direction there would be, were the whole surroundings filled with the source cell.

Both means are taken as differences from the mean of all cells of their map: what builds this cell rather than another.
On EfficientNet-Lite0 (`_blocks.8` → `_blocks.10`, 150 groups of like rows each) the source cell that lies under most of
a target cell's rows then stands before 99 % of the others by strength, which knows nothing of rows; from `_blocks.6`
before 90 %. With the means as they are, 99 and 86 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.circuits.average_slopes import Gates
from atlas.circuits.expanded_weights import summed
from atlas.circuits.linear_path import LinearPath
from atlas.errors import ConfigError

Integers = NDArray[np.integer]


@dataclass(frozen=True)
class Building:
    """For each of n target cells first its ``count`` supporting source cells, then its ``count`` opposing ones, arrays
    (n, 2 · count): ``source``, their numbers (−1 where there is no more), ``strength`` (−1 to 1, a share of the largest
    of the target cell) and ``together`` (0 to 1)."""

    source: NDArray[np.int64]
    strength: Float32
    together: Float32


def strengths(path: LinearPath, gates: Gates, targets: Float32, sources: Float32) -> Float32:
    """What each of m source cells adds to each of n target cells, float32 (n, m), as a share of the largest magnitude
    that a source cell has for that target cell: −1 to 1.

    ``targets`` (n, channels of the target) and ``sources`` (m, channels of the source) are the means of all cells of
    either map, since each is compared with the others; a cell that is alone on its map is taken as it is.
    Raises ConfigError for means of another length.
    """
    given = np.asarray(sources, np.float32)
    if given.ndim != 2 or given.shape[1] != path.source_channels or len(given) == 0:
        raise ConfigError(
            f"Cells of {path.source} have {path.source_channels} numbers each, and means of shape {given.shape} were "
            f"given. Give an array of shape (m, {path.source_channels}), m at least 1."
        )
    added = summed(path, _apart(targets), gates).astype(np.float64) @ _apart(given).T.astype(np.float64)
    largest = np.abs(added).max(1, keepdims=True)
    return np.divide(added, largest, out=np.zeros_like(added), where=largest > 0).astype(np.float32)


def building(
    path: LinearPath, gates: Gates, targets: Float32, sources: Float32, together: Float32, count: int = 3
) -> Building:
    """The source cells that build each target cell, and those that oppose it; means as for `strengths`, ``together``
    (n, m) as `together_of` gives it.

    Supporting cells (strength above 0) are ranked by strength × together, and behind them, where together is 0, by
    strength: a strong cell that never lies there builds nothing, and one that lies there without weight neither.
    Opposing cells (strength below 0) are ranked by strength alone: what is opposed is not there when the cell fires, so
    that nothing together is no argument against them.
    Raises ConfigError for arrays that do not fit each other.
    """
    strength = strengths(path, gates, targets, sources)
    if together.shape != strength.shape or count < 1:
        raise ConfigError(
            f"Shares of shape {together.shape} and {count} cells were given for {len(targets)} cells of {path.target} "
            f"and {len(sources)} of {path.source}. Give shares of shape {strength.shape}, and ask for 1 cell at least."
        )
    supports = np.lexsort((-strength, -np.maximum(strength, 0) * together), axis=1)
    opposes = np.argsort(strength, axis=1, kind="stable")
    found = Building(
        np.full((len(strength), 2 * count), -1, np.int64),
        np.zeros((len(strength), 2 * count), np.float32),
        np.zeros((len(strength), 2 * count), np.float32),
    )
    for row, values in enumerate(strength):
        for first, order, sign in ((0, supports[row], 1), (count, opposes[row], -1)):
            chosen = order[values[order] * sign > 0][:count]
            places = slice(first, first + len(chosen))
            found.source[row, places] = chosen
            found.strength[row, places], found.together[row, places] = values[chosen], together[row, chosen]
    return found


def _apart(means: Float32) -> Float32:
    """``means`` (n, channels) less what all cells have in common."""
    given = np.asarray(means, np.float32)
    return given - given.mean(0) if len(given) > 1 else given


def together_of(target_rows: Integers, source_rows: Integers, targets: int, sources: int) -> Float32:
    """The share of each target cell's rows that lie in each source cell, float32 (targets, sources).

    ``target_rows`` and ``source_rows`` (rows,): the cell that a row, one place of one view, lies in on either map; −1
    where it lies in none. A target cell without rows shares nothing.
    """
    first, second = np.asarray(target_rows, np.int64), np.asarray(source_rows, np.int64)
    if first.shape != second.shape or first.ndim != 1:
        raise ConfigError(
            f"Cells of {first.shape} rows of one map and of {second.shape} of the other were given. Give one of each "
            "for each row."
        )
    count = np.bincount(first[first >= 0], minlength=targets)
    both = (first >= 0) & (second >= 0)
    shared = np.bincount(first[both] * sources + second[both], minlength=targets * sources)
    return (shared.reshape(targets, sources) / np.maximum(count, 1)[:, None]).astype(np.float32)

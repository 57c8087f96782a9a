"""Which cells of an earlier layer's map build a cell of a later one.

A cell stands for a direction among a layer's channels, the mean of its rows. Expanded weights give the kernel of the
target's direction; what a source cell adds is the sum over the kernel's positions of kernel · the source cell's mean:
how much more of the target's direction there would be, were the whole surroundings filled with the source cell.

Both means are taken as differences from the mean of all cells of their map: what builds this cell rather than another.
On EfficientNet-Lite0 (`_blocks.8` → `_blocks.10`, 150 groups of like rows each) the source cell that lies under most of
a target cell's rows then ranks before 99 % of the others by weight, which knows nothing of rows; from `_blocks.6`
before 90 %. With the means themselves, 99 and 86 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlas.arrays import Float32, Int64, Integers
from atlas.circuits.average_slopes import AverageSlopes
from atlas.circuits.expanded_weights import check_vectors, sum_weights
from atlas.circuits.linear_path import LinearPath
from atlas.errors import ConfigError


@dataclass(frozen=True)
class CellCircuits:
    """For each of n target cells first its ``count`` supporting source cells, then its ``count`` opposing ones, arrays
    (n, 2 · count): ``source``, their numbers (−1 where there are no more), ``weight`` (−1 to 1, a share of the largest
    of the target cell) and ``overlap``, the share of the target cell's rows that lie in the source cell (0 to 1)."""

    source: Int64
    weight: Float32
    overlap: Float32


def edge_weights(path: LinearPath, slopes: AverageSlopes, targets: Float32, sources: Float32) -> Float32:
    """What each of m source cells adds to each of n target cells, float32 (n, m), as a share of the largest magnitude
    that a source cell has for that target cell: −1 to 1.

    ``targets`` (n, channels of the target) and ``sources`` (m, channels of the source), float32, are the means of all
    cells of either map, since each is compared with the others; the only cell of a map is not centred.
    Raises ConfigError for means of another length.
    """
    means = check_vectors(sources, path.source_channels, f"Cells of {path.source}")
    added = sum_weights(path, _centred(targets), slopes).astype(np.float64) @ _centred(means).T.astype(np.float64)
    largest = np.abs(added).max(1, keepdims=True)
    return np.divide(added, largest, out=np.zeros_like(added), where=largest > 0).astype(np.float32)


def cell_circuits(
    path: LinearPath, slopes: AverageSlopes, targets: Float32, sources: Float32, overlap: Float32, count: int = 3
) -> CellCircuits:
    """The source cells that build each target cell, and those that oppose it; means as for `edge_weights`, ``overlap``
    (n, m) as `cell_overlap` gives it.

    Supporting cells (weight above 0) are ranked by weight × overlap, and after them, where the overlap is 0, by weight:
    a cell of large weight that never lies there builds nothing, and one that lies there without weight neither.
    Opposing cells (weight below 0) are ranked by weight alone: what is opposed is absent when the cell fires, so that
    an overlap of 0 is no argument against it.
    Raises ConfigError for arrays that do not fit each other.
    """
    weight = edge_weights(path, slopes, targets, sources)
    if overlap.shape != weight.shape or count < 1:
        raise ConfigError(
            f"Shares of shape {overlap.shape} and {count} cells were given for {len(targets)} cells of {path.target} "
            f"and {len(sources)} of {path.source}. Give shares of shape {weight.shape}, and ask for 1 cell at least."
        )
    supports = np.lexsort((-weight, -np.maximum(weight, 0) * overlap), axis=1)
    opposes = np.argsort(weight, axis=1, kind="stable")
    circuits = CellCircuits(
        np.full((len(weight), 2 * count), -1, np.int64),
        np.zeros((len(weight), 2 * count), np.float32),
        np.zeros((len(weight), 2 * count), np.float32),
    )
    for row, values in enumerate(weight):
        for first, order, sign in ((0, supports[row], 1), (count, opposes[row], -1)):
            numbers = order[values[order] * sign > 0][:count]
            entries = slice(first, first + len(numbers))
            circuits.source[row, entries] = numbers
            circuits.weight[row, entries], circuits.overlap[row, entries] = values[numbers], overlap[row, numbers]
    return circuits


def _centred(means: Float32) -> Float32:
    """``means`` (n, channels) less what all cells have in common."""
    rows = np.asarray(means, np.float32)
    return rows - rows.mean(0) if len(rows) > 1 else rows


def cell_overlap(target_rows: Integers, source_rows: Integers, targets: int, sources: int) -> Float32:
    """The share of each target cell's rows that lie in each source cell, float32 (targets, sources).

    ``target_rows`` and ``source_rows``, whole numbers (rows,): the cell that a row, one place of one view, lies in on
    either map; −1 where it lies in none. A target cell without rows has an overlap of 0 with all. Raises ConfigError
    for arrays of different lengths.
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

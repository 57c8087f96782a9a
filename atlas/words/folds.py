"""The pictures of each cell, dealt into folds, and the mean activation of each fold.

What is said of a cell must be said again by other pictures of it. So its pictures, not its rows, are dealt into folds
like cards: a picture with many rows in a cell lies in one fold and counts once (a cluster is resampled as a whole, as
in Cameron, Gelbach and Miller 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32, Float64
from atlas.pictures.hashing import uniform_hash
from atlas.store.shards import iterate

# Folds of a cell; each half of its pictures is every second fold, each quarter every fourth.
FOLDS = 8


@dataclass(frozen=True)
class Folds:
    """The rows of a layer, dealt: ``cell`` int64 (n,), the number of each row's cell, −1 for none; ``fold`` int64 (n,)
    in 0 … FOLDS − 1; ``weight`` float64 (n,), the share of each row in the mean of its fold, in which every picture
    counts alike; ``cells``, how many cells there are."""

    cell: NDArray[np.int64]
    fold: NDArray[np.int64]
    weight: Float64
    cells: int


def deal(cell: NDArray[np.integer], pictures: NDArray[np.integer], *, cells: int, seed: int = 0) -> Folds:
    """Deal the pictures of each cell, in an order that hangs on ``seed`` alone, into FOLDS folds.

    ``cell`` (n,): the number of each row's cell, −1 for none; ``pictures`` (n,): the number of each row's picture.
    """
    fold = np.zeros(len(cell), np.int64)
    weight = np.zeros(len(cell))
    rows = np.flatnonzero(cell >= 0)
    if len(rows):
        of_picture, number = np.unique(pictures[rows], return_inverse=True)
        order_of = np.array([uniform_hash(seed, "folds", int(picture))[0] for picture in of_picture])
        order = np.lexsort((order_of[number], cell[rows]))
        new_cell = np.r_[True, np.diff(cell[rows][order]) != 0]
        new_picture = new_cell | np.r_[True, np.diff(number[order]) != 0]
        entry = np.cumsum(new_picture) - 1  # a picture in a cell, for each row
        first_entry = entry[new_cell][np.cumsum(new_cell) - 1]
        own_fold = (entry - first_entry) % FOLDS
        fold[rows[order]] = own_fold
        rows_of_entry = np.bincount(entry)
        place = cell[rows][order].astype(np.int64) * FOLDS + own_fold
        entries_of_place = np.bincount(place[new_picture], minlength=cells * FOLDS)
        weight[rows[order]] = 1 / (rows_of_entry[entry] * entries_of_place[place])
    return Folds(cell.astype(np.int64), fold, weight, cells)


def fold_means(shards: Sequence[Path], folds: Folds) -> Float32:
    """The mean activation of each fold of each cell, float32 (cells, FOLDS, channels), NaN where a fold is empty; from
    one pass over the layer."""
    sums: Float64 | None = None
    start = 0
    for block in iterate(shards, ["activation"]):
        activation = block["activation"]
        span = slice(start, start + len(activation))
        start += len(activation)
        inside = folds.cell[span] >= 0
        place = (folds.cell[span] * FOLDS + folds.fold[span])[inside]
        if sums is None:
            sums = np.zeros((folds.cells * FOLDS, activation.shape[1]))
        np.add.at(sums, place, activation[inside].astype(np.float64) * folds.weight[span][inside, None])
    if sums is None:
        return np.zeros((folds.cells, FOLDS, 0), np.float32)
    inside = folds.cell >= 0
    present = np.bincount((folds.cell * FOLDS + folds.fold)[inside], minlength=len(sums)) > 0
    means = np.where(present[:, None], sums, np.nan).astype(np.float32)
    return means.reshape(folds.cells, FOLDS, sums.shape[1])

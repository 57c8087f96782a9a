"""What a finer icon starts from: the pictures of the coarser cells around it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from atlas.arrays import Pixels

# Deviation of the bell by which coarser cells count, in their sides. Narrower, and sisters (children of one parent)
# look more alike than cousins, a pattern of the grid and not of the network; wider, and all starts are the same grey.
BELL = 0.75


def coarser_cells(row: int, col: int) -> dict[tuple[int, int], float]:
    """The 4 × 4 coarser cells around the centre of cell (row, col) of a grid twice as fine, and the weight of each.

    Weights fall with the distance of the centres, as a bell.

        +-----+-----+-----+-----+
        |     |     |     |     |
        +-----+-----+-----+-----+
        |     | P   |     |     |      a child * in the lower right corner of its parent P
        |     |   * |     |     |
        +-----+-----+-----+-----+
        |     |     |     |     |
        +-----+-----+-----+-----+
        |     |     |     |     |
        +-----+-----+-----+-----+
    """
    down, right = (row + 0.5) / 2 - 0.5, (col + 0.5) / 2 - 0.5
    return {
        (around_row, around_col): math.exp(-((around_row - down) ** 2 + (around_col - right) ** 2) / (2 * BELL**2))
        for around_row in range(math.floor(down) - 1, math.floor(down) + 3)
        for around_col in range(math.floor(right) - 1, math.floor(right) + 3)
    }


def blend(pictures: Mapping[tuple[int, int], Pixels], row: int, col: int) -> Pixels:
    """The weighted mean of the coarser ``pictures``, each uint8 (h, w, 3), around cell (row, col), parent included."""
    weights = {cell: weight for cell, weight in coarser_cells(row, col).items() if cell in pictures}
    total = sum(weight * pictures[cell].astype(np.float32) for cell, weight in weights.items())
    return np.rint(total / sum(weights.values())).astype(np.uint8)

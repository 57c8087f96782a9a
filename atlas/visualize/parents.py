"""What a finer icon starts from: the pictures of the coarser cells around it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def coarser_cells(row: int, col: int) -> dict[tuple[int, int], int]:
    """The coarser cells next to the centre of cell (row, col) of a grid twice as fine, and the weight of each.

    Its own parent weighs 9, the three on the side where it lies 3, 3 and 1: bilinear interpolation.

        +-----+-----+        a child in the lower right corner of P
        | P   |  3  |        lies next to the cells to the right of P,
        |   * |     |        under it, and across the corner
        +-----+-----+
        |  3  |  1  |
    """
    parent_row, parent_col = row // 2, col // 2
    beside_row, beside_col = parent_row + (1 if row % 2 else -1), parent_col + (1 if col % 2 else -1)
    return {
        (parent_row, parent_col): 9,
        (beside_row, parent_col): 3,
        (parent_row, beside_col): 3,
        (beside_row, beside_col): 1,
    }


def blend(pictures: Mapping[tuple[int, int], Bytes], row: int, col: int) -> Bytes:
    """The weighted mean of the coarser ``pictures``, each uint8 (h, w, 3), around cell (row, col), parent included.

    A start from the parent alone makes four sisters look like one picture and hides how near the cousins are.
    """
    weights = {cell: weight for cell, weight in coarser_cells(row, col).items() if cell in pictures}
    total = sum(weight * pictures[cell].astype(np.float32) for cell, weight in weights.items())
    return np.rint(total / sum(weights.values())).astype(np.uint8)

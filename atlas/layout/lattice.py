"""The square lattice over the unit square: which cell a point lies in, the Z-order of cells, and which are
drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cell_of(u: NDArray[np.floating], v: NDArray[np.floating], grid: int) -> NDArray[np.int64]:
    """The cell number row · grid + col of each point (n,); −1 where the point was dropped. Cells are half-open."""
    finite = np.isfinite(u) & np.isfinite(v)
    col = np.minimum((np.where(finite, u, 0).astype(np.float64) * grid).astype(np.int64), grid - 1)
    row = np.minimum((np.where(finite, v, 0).astype(np.float64) * grid).astype(np.int64), grid - 1)
    return np.where(finite, row * grid + col, -1)


def morton(row: NDArray[np.integer], col: NDArray[np.integer]) -> NDArray[np.int64]:
    """The numbers (n,) of cells ``row``, ``col`` (n,) in Z-order: neighbours stay near each other, and the children of
    a cell stand together."""
    code = np.zeros(len(row), np.int64)
    for bit in range(12):
        code |= ((np.asarray(col, np.int64) >> bit) & 1) << (2 * bit)
        code |= ((np.asarray(row, np.int64) >> bit) & 1) << (2 * bit + 1)
    return code


def drawn_filters(grid: int, min_count: int) -> list[tuple[str, str, int]]:
    """By which a table of cells is read where the drawn cells of one grid are meant: those of at least ``min_count``
    rows."""
    return [("grid", "=", grid), ("count", ">=", min_count)]

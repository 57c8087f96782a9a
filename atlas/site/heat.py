"""Values of cells as bytes, for the heat maps of the page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def heat_maps(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Values (cells, n) of n classes or units as bytes (n, cells), and the scale of each (n,): a byte b stands for
    (b − 128) / 127 of it. The scale is the largest value, whatever its sign, of the drawn cells, ``mask`` (cells,);
    cells of few rows may lie beyond it, and are cut off there."""
    drawn_values = values[mask] if mask.any() else values
    scale = np.abs(drawn_values).max(0, initial=0).astype(np.float32)
    shares = values / np.where(scale > 0, scale, 1)
    return (128 + np.rint(127 * np.clip(shares, -1, 1))).astype(np.uint8).T.copy(), scale

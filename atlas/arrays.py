"""The kinds of arrays that most of the house speaks of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
# Whole numbers of any width.
Integers = NDArray[np.integer]
# Pictures: (height, width, 3) or with a number of pictures in front, 0 to 255.
Pixels = NDArray[np.uint8]

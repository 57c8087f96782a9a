"""Numbers as plain, short values for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def round_values(values: NDArray[Any]) -> list[float | None]:
    """All of ``values``, of any shape, row by row, as plain numbers of five digits; None for what is not finite."""
    return [round_value(value) for value in np.asarray(values, np.float64).reshape(-1).tolist()]


def round_value(value: Any) -> float | None:
    """A number of five digits, None where it is not finite."""
    number = float(value)
    return float(f"{number:.5g}") if np.isfinite(number) else None

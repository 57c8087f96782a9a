"""Numbers for JSON: five digits, and nothing for what is not finite."""

import numpy as np
import pytest

from atlas.explain.rounding import round_value, round_values


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.234567, 1.2346), (123_456.7, 123_460.0), (-0.000123456, -0.00012346), (0, 0.0), (np.float32(0.1), 0.1)],
)
def test_five_digits_are_left(value: float, expected: float) -> None:
    assert round_value(value) == expected
    assert type(round_value(value)) is float


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_nothing(value: float) -> None:
    assert round_value(value) is None


def test_arrays_become_plain_rows() -> None:
    assert round_values(np.array([[1.0, np.nan], [2.000049, 3]], np.float32)) == [1.0, None, 2.0, 3.0]
    assert round_values(np.array([7])) == [7.0]

"""What a finer icon starts from."""

import numpy as np
import pytest


def test_a_finer_icon_starts_from_the_cells_around_it() -> None:
    """Weights fall with distance; what is not drawn does not count; sisters and cousins start equally far apart."""
    from atlas.visualize.coarse_start import blend, coarser_cells

    weights = coarser_cells(4, 7)
    assert set(weights) == {(row, col) for row in (0, 1, 2, 3) for col in (2, 3, 4, 5)}
    assert max(weights, key=weights.__getitem__) == (2, 3)
    assert weights[1, 3] == weights[2, 4] < weights[2, 3]
    assert weights[2, 3] / weights[1, 3] == pytest.approx(np.exp((0.75**2 - 0.25**2) / (2 * 0.75**2)))
    one = {cell: np.full((2, 2, 3), 10 * cell[0] + cell[1], np.uint8) for cell in weights}
    expected = sum(weight * (10 * row + col) for (row, col), weight in weights.items()) / sum(weights.values())
    assert blend(one, 4, 7)[0, 0, 0] == round(expected)
    assert blend({(2, 3): one[2, 3]}, 4, 7)[0, 0, 0] == 23
    ramp = {(0, col): np.full((1, 1, 3), 20 * col, np.uint8) for col in range(10)}
    steps = np.diff([int(blend(ramp, 0, col)[0, 0, 0]) for col in range(5, 15)])
    assert steps.min() >= 8
    assert steps.max() <= 12

"""The hash that places, boxes and starts are drawn from."""

import numpy as np
import pytest

from atlas.pictures.hashing import uniform_hash


def test_uniform_hash_is_the_same_everywhere_and_even() -> None:
    assert uniform_hash(0, "a.png", 1, 2) == uniform_hash(0, "a.png", 1, 2)
    assert uniform_hash(0, "a.png", 1, 2) == pytest.approx((0.8708567747235381, 0.250537312116181), abs=1e-15)
    assert len({uniform_hash(*parts) for parts in ((0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a1"))}) == 5
    values = np.array([uniform_hash(0, f"{number}.png") for number in range(4000)])
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram2d(values[:, 0], values[:, 1], bins=4, range=[[0, 1], [0, 1]])[0]
    assert ((counts - 250) ** 2 / 250).sum() < 37.7  # chi-squared, 15 degrees of freedom, 0.1 %

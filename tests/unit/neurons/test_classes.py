"""What a unit does for the classes."""

import numpy as np

from atlas.neurons.classes import strongest


def test_strongest_classes_by_hand() -> None:
    effects = np.array([[1.0, -2.0, 0.0, 3.0], [1.0, 0.0, 0.0, 1.0]], np.float32)
    assert strongest(effects, 5) == [{"class": 3, "effect": 2.0}, {"class": 0, "effect": 1.0}]
    assert strongest(effects, 1) == [{"class": 3, "effect": 2.0}]
    assert strongest(effects, 5, opposing=True) == [{"class": 1, "effect": -1.0}]

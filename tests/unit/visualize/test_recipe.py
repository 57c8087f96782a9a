"""Recipes: their values are checked."""

import pytest

from atlas.errors import ConfigError
from atlas.visualize import Recipe


def test_recipes_are_checked() -> None:
    for wrong in (
        {"ridge": -1.0}, {"power": float("nan")}, {"steps": 0}, {"rate": 0.0}, {"steps_from_start": 2.5},
        {"rate": "0.1"}, {"betas": (2, 3)}, {"betas": (0.3,)}, {"around": 5}, {"floor": 0.0}, {"smooth": None},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"Recipe: {next(iter(wrong))} is"):
            Recipe(**wrong)
    with pytest.raises(ConfigError, match="nothing is asked for"):
        Recipe(dot=0, power=0, power_whitened=0)

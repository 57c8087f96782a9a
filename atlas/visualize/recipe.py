"""How icons are drawn: every setting of the engine, and its default.

Each default has its row in the ablation of scripts/benchmarks/engine.md; scripts/ablate.py computes that table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from atlas.errors import ConfigError
from atlas.visualize.transform import Moves


@dataclass(frozen=True)
class Recipe:
    """The settings of the gradient ascent that draws an icon.

    ``steps`` from noise, and ``steps_from_start`` from pictures that already show nearly the same. ``rate``: Adam's,
    falling to 0 along a cosine; ``betas``: Adam's.

    The objective is ``dot`` · log dot + ``power`` · log cos + ``power_whitened`` · log whitened cos; see objective.py.
    Under ``floor`` a logarithm goes on as a straight line, so that there is a slope at 0 and below. ``whitening``: the
    power of Σ⁻¹ in the direction of the dot product, 0 for the raw one. ``ridge``: of the whitening, as a share of the
    mean eigenvalue of Σ. ``relaxed``: in so many first steps a share ``leak`` of the gradient passes ReLUs where they
    are 0.

    ``moves`` at full strength, faded out evenly after ``fade`` of the steps. ``wide``: the centre is taken to see a
    square this many times as wide as its effective receptive field (0: nothing); what lies around it is the first
    weight of the other positions. ``around`` in [0, 1]: how much of that weight remains when the moves are gone.

    ``decay``: exponent of the spectrum's falloff with frequency. Natural pictures have about 1, but there the
    optimiser fills the high frequencies, which are most of the coefficients, with noise; at 2 the icons blur.
    ``phase_only``: fix the magnitudes at the falloff and optimise only the phases (Fel et al. 2023, MACO): more
    natural texture, far less faithful. ``smooth``: weight, against the objective, of the total variation (mean step
    between neighbouring pixels); it takes detail before it takes noise.
    ``chroma``: how far the two chromatic axes are widened; at 1 the icons are greyish. ``gain``: how far a step moves
    a pixel in an ascent of 160 steps; at 0.3 the icons stay grey, at 3 they saturate. In shorter ones it is larger, by
    the third root, so that their pictures are as rich. ``contrast``: at which a picture to begin with is taken (a
    finished one is partly saturated, where nothing can move), and ``noise`` on top of it, in units of the first noise
    (so that what the picture showed is drawn anew and not copied).
    """

    steps: int = 160
    steps_from_start: int = 92
    rate: float = 0.1
    betas: tuple[float, float] = (0.3, 0.9)
    dot: float = 1.0
    power: float = 16.0
    power_whitened: float = 5.0
    floor: float = 0.1
    whitening: float = 1.0
    ridge: float = 1e-3
    relaxed: int = 16
    leak: float = 0.1
    moves: Moves = Moves(shift=7, turn=10, scale=0.1)  # noqa: RUF009 - frozen
    fade: float = 0.92
    wide: float = 1.25
    around: float = 0.0
    decay: float = 1.75
    phase_only: bool = False
    smooth: float = 0.0
    chroma: float = 2.5
    gain: float = 1.5
    contrast: float = 0.7
    noise: float = 5.0

    def __post_init__(self) -> None:
        numbers: dict[str, Any] = {
            name: value for name, value in vars(self).items() if name not in ("betas", "moves", "phase_only")
        }
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ConfigError(f"Recipe: {name} is {value!r}, expected a number of at least 0.")
        betas: Any = self.betas
        if not isinstance(betas, tuple | list) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"Recipe: betas is {betas!r}, expected two numbers from 0 to under 1.")
        if self.around > 1:
            raise ConfigError(f"Recipe: around is {self.around}, expected a share in [0, 1].")
        if not (self.dot or self.power or self.power_whitened):
            raise ConfigError("Recipe: dot, power and power_whitened are all 0: nothing is asked for.")
        for name in ("steps", "steps_from_start"):
            if not isinstance(numbers[name], int) or numbers[name] < 1:
                raise ConfigError(f"Recipe: {name} is {numbers[name]}, expected a whole number of at least 1.")
        for name in ("ridge", "rate", "gain", "fade", "floor"):
            if numbers[name] == 0:
                raise ConfigError(f"Recipe: {name} is 0, expected a number above 0.")


# For an atlas: the centre alone counts in the end.
ATLAS = Recipe()
# For a single picture: all positions count alike, so that it is filled to its edges.
SINGLE = Recipe(wide=0.0, around=1.0)

"""Icons of one picture's positions, groups and channels, a few at a time, so that each can be shown as it comes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atlas.arrays import Float32
from atlas.networks.network import Network
from atlas.visualize import Recipe, draw
from atlas.visualize.recipe import ATLAS
from atlas.visualize.score import centre_activations, cosines

# Steps of an icon that someone waits for: the raw cosine is .97 of 1 at a middle layer, a third of the time that the
# atlas's own take; measured in scripts/benchmarks/one-picture.md.
QUICK_STEPS = 32
# So many icons are drawn at a time, after a first few that are soon there.
_FIRST, _CHUNK = 8, 16
# WebP's quality (0–100).
_QUALITY = 88


class Cancelled(Exception):  # noqa: N818 - nobody's mistake
    """Nobody waits for the work any more."""


@dataclass(frozen=True)
class DrawnIcon:
    """One icon: the ``number`` of its direction, ``pixels`` uint8 (size, size, 3), its ``cosine`` to the direction."""

    number: int
    pixels: NDArray[np.uint8]
    cosine: float

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON: ``picture``, a data URL of the icon as WebP; ``cosine``."""
        file = BytesIO()
        Image.fromarray(self.pixels).save(file, "WEBP", quality=_QUALITY)
        address = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
        return {"picture": address, "cosine": round(self.cosine, 4)}


def draw_icons(
    network: Network,
    layer: str,
    directions: Float32,
    order: Sequence[int],
    *,
    second_moment: NDArray[np.float64],
    size: int,
    steps: int = QUICK_STEPS,
    recipe: Recipe = ATLAS,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[DrawnIcon]:
    """Icons of ``directions`` (n, channels) in ``order``; those that are zero or not finite have none.

    All begin with the same noise, so that like ones look alike. Raises Cancelled within a few steps when
    ``cancelled()`` turns true; see draw for the rest.
    """
    drawable = [number for number in order if np.isfinite(directions[number]).all() and directions[number].any()]

    def stop_if_cancelled(_share: float) -> None:
        if cancelled():
            raise Cancelled

    first = 0
    while first < len(drawable):
        numbers = drawable[first : first + (_CHUNK if first else _FIRST)]
        first += len(numbers)
        stop_if_cancelled(0)
        targets = directions[numbers]
        icons = draw(
            network,
            layer,
            targets,
            second_moment=second_moment,
            size=size,
            steps=steps,
            recipe=recipe,
            progress=stop_if_cancelled,
        )
        scores = cosines(centre_activations(network, layer, icons.pixels, batch=len(numbers)), targets)
        for number, pixels, cosine in zip(numbers, icons.pixels, scores):
            yield DrawnIcon(number, pixels, float(cosine))

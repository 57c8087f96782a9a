"""Pictures of what was found: icons at their positions, effects and groups over the picture, dots on the atlas."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from atlas.arrays import Pixels

# What speaks for a class and against it, as on the page.
SUPPORT, OPPOSE = (217, 95, 2), (27, 108, 168)
_GROUND, _INK = (247, 247, 245), (28, 29, 31)
# How much of the picture is left under the strongest effect, and of its colours where there is none.
_UNDER, _COLOUR = 0.2, 0.35
# Icons smaller than this share of their square cannot be made out.
_SMALLEST = 0.15


def icon_grid(icons: Mapping[int, Pixels], magnitude: ArrayLike, rows: int, cols: int, *, side: int) -> Pixels:
    """The icons of a layer's positions, numbered row by row, each in a square of ``side`` pixels, its area by
    ``magnitude`` (rows · cols,) in [0, 1]: uint8 (rows · side, cols · side, 3)."""
    sheet = np.full((rows * side, cols * side, 3), _GROUND, np.uint8)
    shares = np.asarray(magnitude, np.float64).reshape(-1)
    for position, pixels in icons.items():
        width = max(1, round(side * max(_SMALLEST, float(np.sqrt(shares[position])))))
        small = Image.fromarray(pixels).resize((width, width), Image.Resampling.LANCZOS)
        top, left = position // cols * side + (side - width) // 2, position % cols * side + (side - width) // 2
        sheet[top : top + width, left : left + width] = np.asarray(small)
    return sheet


def overlay(view: Pixels, effects: NDArray[np.float32], *, side: int) -> Pixels:
    """``effects`` (H, W) over what the network saw, uint8 (side, side, 3): the stronger, the more of the colour that
    speaks for it or against it; a square is a position."""
    strength = np.abs(effects) / max(float(np.abs(effects).max()), 1e-12)
    colours = np.where(effects[..., None] >= 0, np.array(SUPPORT), np.array(OPPOSE))
    return _blend(_paled(view, side), _enlarged(colours, side), _enlarged(strength * (1 - _UNDER), side)[..., None])


def masked(view: Pixels, mask: NDArray[np.float32], *, side: int) -> Pixels:
    """What the network saw where ``mask`` (H, W) in [0, 1] is high, and the ground elsewhere: uint8 (side, side, 3)."""
    smooth = Image.fromarray(mask.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    large = np.asarray(Image.fromarray(view).resize((side, side), Image.Resampling.BICUBIC))
    return _blend(np.full_like(large, _GROUND), large, np.asarray(smooth)[..., None])


def dotted(picture: Image.Image, x: ArrayLike, y: ArrayLike, weight: ArrayLike, *, radius: float) -> Image.Image:
    """Dots on a picture of an atlas at ``x``, ``y`` (n,) in its pixels, NaN where there is none; their area by
    ``weight`` (n,) in [0, 1]; a dot of weight 1 has ``radius`` pixels."""
    large = picture.convert("RGB")
    pen = ImageDraw.Draw(large)
    for across, down, share in zip(np.asarray(x), np.asarray(y), np.asarray(weight)):
        if np.isfinite(across) and np.isfinite(down):
            reach = max(2.0, radius * float(np.sqrt(share)))
            box = (across - reach, down - reach, across + reach, down + reach)
            pen.ellipse(box, fill=_INK, outline=_GROUND, width=max(1, round(reach / 4)))
    return large


def _paled(view: Pixels, side: int) -> Pixels:
    large = Image.fromarray(view).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(Image.blend(large.convert("L").convert("RGB"), large, _COLOUR))


def _enlarged(values: NDArray[np.floating] | NDArray[np.integer], side: int) -> NDArray[np.float64]:
    """Values (H, W, …) at each of side × side pixels."""
    rows = np.arange(side) * values.shape[0] // side
    cols = np.arange(side) * values.shape[1] // side
    return values[rows][:, cols].astype(np.float64)


def _blend(below: NDArray[np.floating] | Pixels, above: NDArray[np.floating] | Pixels, share: ArrayLike) -> Pixels:
    """``share`` (h, w, 1) in [0, 1] of ``above`` on ``below``."""
    part = np.asarray(share, np.float64)
    return np.rint(below * (1 - part) + above * part).astype(np.uint8)

"""Views: square boxes of pictures as the network sees them.

A box is drawn from a hash of the seed, the picture's key and the view's number, so that it can be cut again
from its source at any time, by anyone who has the row.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atlas.config import Config
from atlas.images import PictureError, open_picture, unit_hash
from atlas.sources import Listing

# A view of a transparent picture should show this share of it, and is drawn so often at the most.
_COVER, _ATTEMPTS = 0.7, 8

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """One view ready for the network: where it comes from, and its pixels, uint8 (size, size, 3)."""

    image_id: int
    view: int
    box: Box
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Failure:
    """A picture (view None) or a view that gave no row, and why."""

    image: str
    view: int | None
    error: str


def cut_views(listing: Listing, image_id: int, config: Config, size: int, views: Sequence[int]) -> list[View] | Failure:
    """Decode one picture and cut the given views from it, or say why that cannot be done."""
    key = listing.keys[image_id]
    try:
        picture = open_picture(Path(listing.source) / key)
        alpha = np.asarray(picture.getchannel("A")) if picture.mode == "RGBA" else None
        cut = []
        for view in views:
            box = view_box(
                picture.size,
                crops=config.images.crops,
                scale=config.images.crop_scale,
                seed=config.seed,
                key=key,
                view=view,
                alpha=alpha,
            )
            cut.append(View(image_id, view, box, cut_view(picture, box, size, backdrop(config.seed, key, view))))
    except PictureError as error:
        return Failure(key, None, str(error))
    return cut


def view_box(
    size: tuple[int, int],
    *,
    crops: int,
    scale: tuple[float, float],
    seed: int,
    key: str,
    view: int,
    alpha: NDArray[np.uint8] | None = None,
) -> Box:
    """The square (x0, y0, x1, y1) of view number ``view`` in a picture of ``size`` (width, height), in source pixels.

    With one crop a picture it is the largest centred square; with more, a random square whose side is a share of the
    picture's shorter side, drawn evenly from ``scale``. With ``alpha`` (h, w), a square that shows mostly what is
    transparent is drawn anew, up to eight times; the fullest one counts.
    """
    if crops == 1:
        width, height = size
        side = float(min(width, height))
        left, top = (width - side) / 2, (height - side) / 2
        return (left, top, left + side, top + side)
    best, fullest = (0.0, 0.0, 0.0, 0.0), -1.0
    for attempt in range(1 if alpha is None else _ATTEMPTS):
        box = _random_square(size, scale, (seed, key, view, attempt))
        if alpha is None:
            return box
        x0, y0, x1, y1 = map(int, box)
        cover = float(alpha[y0:y1, x0:x1].mean()) / 255
        if cover > fullest:
            best, fullest = box, cover
        if cover >= _COVER:
            break
    return best


def _random_square(size: tuple[int, int], scale: tuple[float, float], draw: tuple[str | int, ...]) -> Box:
    width, height = size
    share, _ = unit_hash(*draw, "side")
    side = max(1.0, round(min(width, height) * (scale[0] + share * (scale[1] - scale[0]))))
    across, down = unit_hash(*draw, "corner")
    left, top = round(across * (width - side)), round(down * (height - side))
    return (float(left), float(top), left + side, top + side)


def backdrop(seed: int, key: str, view: int) -> tuple[int, int, int]:
    """The plain colour (RGB, 0–255) laid behind the transparent parts of a view: any hue, rarely loud."""
    hue, saturation = unit_hash(seed, key, view, "hue")
    lightness, _ = unit_hash(seed, key, view, "lightness")
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 * saturation, 0.3 + 0.7 * lightness)
    return round(255 * red), round(255 * green), round(255 * blue)


def cut_view(
    picture: Image.Image, box: Sequence[float], size: int, backdrop: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """The ``box`` of ``picture`` scaled to (size, size), uint8 RGB of shape (size, size, 3), laid over ``backdrop``."""
    x0, y0, x1, y1 = (float(value) for value in box)
    view = picture.resize((size, size), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1), reducing_gap=3.0)
    if view.mode == "RGBA":
        ground = Image.new("RGBA", view.size, (*backdrop, 255))
        view = Image.alpha_composite(ground, view).convert("RGB")
    return np.array(view)

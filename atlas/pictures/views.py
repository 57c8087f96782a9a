"""Views: square boxes of pictures as the network sees them.

A box is drawn from a hash of the seed, the picture's key and the view's number, so that it can be cropped again from
its source at any time, by anyone who has the row.
"""

from __future__ import annotations

import colorsys
import re
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from atlas.arrays import Pixels
from atlas.config.sections import ImagesConfig
from atlas.pictures.decode import Encoded, PictureError
from atlas.pictures.hashing import uniform_hash
from atlas.pictures.listing import Listing

# A view of a transparent picture should show this share of it, and is drawn so often at the most.
_COVER, _ATTEMPTS = 0.7, 8
# A JPEG is decoded at a reduced scale where that leaves views so many times the network's side; measured in
# scripts/benchmarks/jpegs.md.
SPARE = 2.5
# Of pictures with more pixels than this, a process decodes one at a time: its memory must not depend on chance.
LARGE_PIXELS = 16_000_000
ONE_LARGE = threading.Lock()
# From this shorter side on, boxes lie on a lattice of eight pixels.
_LARGE = 512

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


def failure_kind(failure: Failure) -> str:
    """The kind of a failure: its error without the numbers and names in which one picture differs from the next."""
    error = failure.error
    for name in (failure.image, Path(failure.image).name):
        if name.strip():
            error = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", error)
    return re.sub(r"\b0x[0-9a-f]+\b|\d+(\.\d+)?|'[^']*'|\"[^\"]*\"", "…", error)


def crop_views(
    listing: Listing, image_id: int, views: Sequence[int], *, size: int, images: ImagesConfig, seed: int
) -> list[View] | Failure:
    """Decode one picture and crop ``views`` (their numbers) from it at the network's ``size``, or the reason why that
    cannot be done."""
    key = listing.keys[image_id]
    try:
        encoded = Encoded(listing.read(image_id))
        with ONE_LARGE if encoded.pixels > LARGE_PIXELS else nullcontext():
            crops = _crop(encoded, key, views, size, images, seed)
        return [View(image_id, view, box, pixels) for view, (box, pixels) in zip(views, crops)]
    except PictureError as error:
        return Failure(key, None, str(error))


def _crop(
    encoded: Encoded, key: str, views: Sequence[int], size: int, images: ImagesConfig, seed: int
) -> list[tuple[Box, Pixels]]:
    if encoded.size is not None:  # a JPEG has no transparency: its boxes are known before it is decoded
        boxes = _boxes(encoded.size, images, seed, key, views)
        reduction = reduction_for(boxes, size, encoded.reductions)
        picture = encoded.decode(reduction)
    else:
        picture, reduction = encoded.decode(), 1
        alpha = picture[..., 3] if picture.shape[2] == 4 else None
        boxes = _boxes((picture.shape[1], picture.shape[0]), images, seed, key, views, alpha)
    return [
        (box, crop_view(picture, box, size, backdrop(seed, key, view), reduction)) for view, box in zip(views, boxes)
    ]


def reduction_for(boxes: Sequence[Box], size: int, allowed: Sequence[int]) -> int:
    """The first of the ``allowed`` reduced scales (one over it) at which each box is whole pixels, and SPARE times the
    network's side or more; else 1."""

    def fits(box: Box, reduction: int) -> bool:
        return box[2] - box[0] >= SPARE * size * reduction and not any(edge % reduction for edge in box)

    return next((reduction for reduction in allowed if all(fits(box, reduction) for box in boxes)), 1)


def _boxes(
    size: tuple[int, int],
    images: ImagesConfig,
    seed: int,
    key: str,
    views: Sequence[int],
    alpha: NDArray[np.uint8] | None = None,
) -> list[Box]:
    return [
        view_box(size, crops=images.crops, scale=images.crop_scale, seed=seed, key=key, view=view, alpha=alpha)
        for view in views
    ]


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
    picture's shorter side, drawn evenly from ``scale``. In large pictures edges are multiples of eight pixels. With
    ``alpha`` (h, w), a square that shows mostly what is transparent is drawn again, up to eight times; the fullest one
    counts.
    """
    if crops == 1:
        width, height = size
        step = _step(size)
        side = min(width, height) // step * step
        left, top = (float((length - side) // 2 // step * step) for length in size)
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
    share, _ = uniform_hash(*draw, "side")
    step = _step(size)
    exact = round(min(width, height) * (scale[0] + share * (scale[1] - scale[0])))
    side = max(1.0, exact // step * step)
    across, down = uniform_hash(*draw, "corner")
    left, top = round(across * (width - side)) // step * step, round(down * (height - side)) // step * step
    return (float(left), float(top), left + side, top + side)


def _step(size: tuple[int, int]) -> int:
    """What the edges of boxes are multiples of: where a picture is large, whole pixels at every reduced scale too."""
    return 8 if min(size) >= _LARGE else 1


def backdrop(seed: int, key: str, view: int) -> tuple[int, int, int]:
    """The plain colour (RGB, 0–255) laid behind the transparent parts of a view: any hue, rarely loud."""
    hue, saturation = uniform_hash(seed, key, view, "hue")
    lightness, _ = uniform_hash(seed, key, view, "lightness")
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 * saturation, 0.3 + 0.7 * lightness)
    return round(255 * red), round(255 * green), round(255 * blue)


def crop_view(
    picture: Pixels, box: Sequence[float], size: int, backdrop: tuple[int, int, int], reduction: int = 1
) -> NDArray[np.uint8]:
    """The ``box`` of ``picture``, uint8 (h, w, 3 or 4), scaled to (size, size) and laid over ``backdrop``: uint8 RGB of
    shape (size, size, 3).

    The box is in pixels of the source and is brought to whole pixels of ``picture``, which may be the source at
    1 / ``reduction`` of its scale. Bicubic with antialiasing: Pillow's but for the box's rim, four times as quick.
    """
    left, right = _whole_pixels(box[0] / reduction, box[2] / reduction, picture.shape[1])
    top, bottom = _whole_pixels(box[1] / reduction, box[3] / reduction, picture.shape[0])
    part = picture[top:bottom, left:right]
    factor = int(min(part.shape[:2]) / (SPARE * size))
    if factor >= 2:
        part = _shrunk(part, factor)
    else:
        part = np.require(part, requirements=["C", "W"])  # torch takes no other
        if part.shape[2] == 4:  # colours times their opacity: what is clear has none to bleed in
            part = np.array(Image.fromarray(part).convert("RGBa"))
    if part.shape[:2] == (size, size):
        view = part.copy()
    else:
        pixels = torch.from_numpy(part).permute(2, 0, 1)[None]
        scaled = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
        view = np.ascontiguousarray(scaled[0].permute(1, 2, 0).numpy())
    return view if part.shape[2] == 3 else _over(view, backdrop)


def over_backdrop(picture: Pixels, backdrop: tuple[int, int, int]) -> Pixels:
    """A whole picture, uint8 (h, w, 3 or 4), laid over ``backdrop`` as ``crop_view`` does: uint8 RGB (h, w, 3)."""
    return picture if picture.shape[2] == 3 else _over(np.asarray(Image.fromarray(picture).convert("RGBa")), backdrop)


def _over(premultiplied: Pixels, backdrop: tuple[int, int, int]) -> Pixels:
    """Colours times their opacity, and the opacity, uint8 (h, w, 4), over a plain colour: uint8 (h, w, 3)."""
    clear = 255 - premultiplied[..., 3:].astype(np.uint16)
    ground = (clear * np.array(backdrop, np.uint16) + 127) // 255
    return np.minimum(premultiplied[..., :3] + ground, 255).astype(np.uint8)


def _shrunk(part: Pixels, factor: int) -> Pixels:
    """The means of squares of ``factor`` pixels, uint8; of RGBA, the colours times their opacity. A few rows at a time:
    a picture may be as large as the memory."""
    height, width, channels = part.shape
    shrunk = np.empty((height // factor, width // factor, channels), np.uint8)
    for row in range(len(shrunk)):
        band = part[row * factor : (row + 1) * factor, : shrunk.shape[1] * factor].astype(np.float32)
        if channels == 4:
            band[..., :3] *= band[..., 3:] / 255
        shrunk[row] = np.rint(band.reshape(factor, -1, factor, channels).mean((0, 2)))
    return shrunk


def _whole_pixels(begin: float, end: float, length: int) -> tuple[int, int]:
    first = min(max(round(begin), 0), length - 1)
    return first, min(max(round(end), first + 1), length)

"""What is read of a picture's file: with limits, the centred square that a network sees."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atlas.errors import ConfigError, too_large
from atlas.pictures.decode import MOST_PIXELS, Encoded, PictureError
from atlas.pictures.views import LARGE_PIXELS, ONE_LARGE, Box, crop_view, reduction_for, view_box

# The ground behind transparent parts, as in a browser.
_WHITE = (255, 255, 255)
_FORMATS = "JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF"
# Offset and first bytes of files that are no pictures, and what to do about each; AVIF shares its container with MP4.
_OTHER_FORMATS = (
    (0, b"\x1aE\xdf\xa3", "is a video (Matroska or WebM); give one frame of it as a picture"),
    (8, b"AVI ", "is a video (AVI); give one frame of it as a picture"),
    (0, b"\x00\x00\x01\xba", "is a video (MPEG); give one frame of it as a picture"),
    (4, b"ftyphei", "is a HEIC picture; save it as JPEG or PNG"),
    (4, b"ftypmif1", "is a HEIC picture; save it as JPEG or PNG"),
    (4, b"ftypavi", ""),
    (4, b"ftyp", "is a video (MP4 or QuickTime); give one frame of it as a picture"),
    (0, b"%PDF", "is a PDF; save the picture in it as JPEG or PNG"),
    (0, b"<svg", "is a drawing (SVG); save it as PNG"),
    (0, b"<?xml", "is a drawing (SVG) or other XML; save it as PNG"),
)


@dataclass(frozen=True)
class Square:
    """The centred square of a picture, which is what networks see of it.

    ``width``, ``height``: of the whole picture, upright, in pixels; ``box``: (x0, y0, x1, y1) of the square in it;
    ``views``: for each side in pixels that was asked for, uint8 (side, side, 3).
    """

    width: int
    height: int
    box: Box
    views: dict[int, NDArray[np.uint8]]


def read_square(data: bytes, sizes: Iterable[int], *, name: str = "The picture", most: int = MOST_PIXELS) -> Square:
    """Decode ``data``, the bytes of a picture's file, and crop its centred square to each of ``sizes``; transparent
    parts are laid over white.

    Raises ConfigError, in a sentence that begins with ``name``, where it is no picture or has more than ``most``
    pixels.
    """
    try:
        encoded = Encoded(data)
        if encoded.pixels > most:
            raise ConfigError(too_large(name, f"{encoded.pixels:,} pixels", most))
        with ONE_LARGE if encoded.pixels > LARGE_PIXELS else nullcontext():
            return _crop(encoded, sorted(set(sizes)))
    except PictureError as error:
        raise ConfigError(f"{name} {_refusal(data, str(error))}.") from None


def _crop(encoded: Encoded, sizes: list[int]) -> Square:
    if encoded.size is not None:  # a JPEG's box is known before it is decoded
        width, height = encoded.size
        box = _box(width, height)
        reduction = reduction_for([box], sizes[-1], encoded.reductions)
        picture = encoded.decode(reduction)
    else:
        picture, reduction = encoded.decode(), 1
        height, width = picture.shape[:2]
        box = _box(width, height)
    return Square(width, height, box, {size: crop_view(picture, box, size, _WHITE, reduction) for size in sizes})


def _box(width: int, height: int) -> Box:
    """The box of the view where a run takes one view of a picture."""
    return view_box((width, height), crops=1, scale=(1.0, 1.0), seed=0, key="", view=0)


def _refusal(data: bytes, reason: str) -> str:
    for offset, start, sentence in _OTHER_FORMATS:
        if data[offset:].startswith(start):
            if sentence:
                return sentence
            break
    if not data:
        return "is empty; give the file of a picture"
    if reason.startswith("not a picture"):
        return f"is no picture in a known format; give {_FORMATS}"
    return f"cannot be read ({reason}); save it anew, as JPEG or PNG"

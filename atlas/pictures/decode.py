"""Pictures: decoded upright as RGB or RGBA, and PNG in both directions."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from atlas.arrays import Pixels

# What may be read, whatever a file is called; Pillow knows more, some of it handed to other programs.
Image.init()
_FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF") if name in Image.OPEN)
# The most pixels of a picture that is decoded: Pillow's own limit against decompression bombs.
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)


# Pillow warns of what it mends by itself (odd EXIF, large pictures): a million pictures would fill the workers' logs.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.ERROR)


class PictureError(Exception):
    """One picture cannot be read; the message says why. It becomes a row of failures.parquet."""


class Encoded:
    """A picture whose header has been read, to be decoded once.

    ``pixels`` is how many it has. ``size`` is (width, height) upright and ``reductions`` are the scales (8, 4, 2: one
    over it) at which it may be decoded; of pictures other than JPEGs they are None and (). Raises PictureError
    with the reason when the bytes are no picture, or one with too many pixels.
    """

    def __init__(self, data: bytes) -> None:
        if not data:
            raise PictureError("the file is empty")
        self._data = data
        self.pixels = 0
        self.size: tuple[int, int] | None = None
        self.reductions: tuple[int, ...] = ()
        try:
            self._image: Image.Image = Image.open(BytesIO(data), formats=_FORMATS)
            self.pixels = self._image.width * self._image.height
            if self._image.format in ("JPEG", "MPO") and self._image.mode in ("RGB", "L"):
                self._read_jpeg_header()
        except UnidentifiedImageError:
            raise PictureError("not a picture in a known format") from None
        except Image.DecompressionBombError:
            raise PictureError(f"more than {MOST_PIXELS:,} pixels, perhaps a decompression bomb") from None
        except Exception as error:  # decoders raise whatever they like; one bad picture never stops a run
            raise PictureError(_sentence(error)) from error

    def _read_jpeg_header(self) -> None:
        width, height = self._image.size
        info = self._image.info
        self._orientation = self._image.getexif().get(_ORIENTATION, 1) if "exif" in info or "xmp" in info else 1
        self.size = (height, width) if self._orientation in (5, 6, 7, 8) else (width, height)
        # In a rotated picture reduced pixels begin at another edge: they are the same only where they fill the picture.
        self.reductions = tuple(
            scale for scale in (8, 4, 2) if self._orientation == 1 or not (width % scale or height % scale)
        )

    def decode(self, reduction: int = 1) -> Pixels:
        """The picture upright, uint8 (h, w, 3), or (h, w, 4) where it has transparency; a JPEG at one of its
        ``reductions`` in sides rounded up. Raises PictureError with the reason."""
        try:
            pixels = self._decode_jpeg(reduction) if self.size is not None else None
            return self._decode_any(reduction) if pixels is None else pixels
        except PictureError:
            raise
        except Exception as error:  # as above
            raise PictureError(_sentence(error)) from error

    def _decode_jpeg(self, reduction: int) -> Pixels | None:
        """The pixels that Pillow gives, sooner; None where Pillow must decide what to make of the file."""
        if self._image.info.get("adobe_transform", 1) != 1:
            return None
        width, height = (-(-side // reduction) for side in self._image.size)
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                self._data, min_width=width, min_height=height, min_factor=reduction, strict=True
            )
        except ValueError:  # truncated or odd
            return None
        if pixels.shape != (height, width, 3) or self._orientation not in _UPRIGHT:
            return None
        return _UPRIGHT[self._orientation](pixels)

    def _decode_any(self, reduction: int) -> Pixels:
        if reduction > 1:
            width, height = self._image.size
            self._image.draft(None, (width // reduction, height // reduction))
        image, self._image = self._image, Image.new("L", (1, 1))  # a large one must not be in memory twice
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(_as_rgb(image))


_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


def open_picture(source: Path | bytes) -> Pixels:
    """Decode a file, or its bytes, upright and whole: uint8 (h, w, 3), or (h, w, 4) where it has transparency. Raises
    PictureError with the reason."""
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except FileNotFoundError:
        raise PictureError("the file is gone") from None
    except OSError as error:
        raise PictureError(_sentence(error)) from error
    return Encoded(data).decode()


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _as_rgb(upright: Image.Image) -> Image.Image:
    if upright.mode == "RGBA" or (upright.mode == "RGB" and "transparency" not in upright.info):
        return upright
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.mode in ("I", "F"):
        raise PictureError("32-bit pixels have no fixed range of brightness; expected 8 or 16 bits a channel")
    return upright.convert("RGBA" if upright.has_transparency_data else "RGB")


def encode_png(pixels: NDArray[np.uint8], *, level: int = 6) -> bytes:
    """uint8 RGB (h, w, 3) as PNG; ``level`` of compression from 0 (quick) to 9 (small)."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=level)
    return file.getvalue()


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """uint8 RGB (h, w, 3) of a PNG."""
    return np.array(Image.open(BytesIO(data)).convert("RGB"))

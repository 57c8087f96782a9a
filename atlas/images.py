"""Pictures: decoded upright as RGB or RGBA, and PNG in both directions; and the hash that everything is drawn from."""

from __future__ import annotations

import hashlib
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError


class PictureError(Exception):
    """One picture cannot be read; the message says why. It becomes a row of failures.parquet."""


def unit_hash(*parts: str | int) -> tuple[float, float]:
    """Two numbers in [0, 1) from a hash of ``parts``: the same on every machine, in any order of work."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogateescape"), digest_size=16).digest()
    first, second = struct.unpack("<QQ", digest)
    return (first >> 11) / 2**53, (second >> 11) / 2**53


def open_picture(path: Path) -> Image.Image:
    """Decode a picture upright, as RGB, or RGBA where it has transparency. Raises PictureError with the reason."""
    try:
        with Image.open(path) as image:
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError("the file is gone") from None
    except UnidentifiedImageError:
        reason = "the file is empty" if path.stat().st_size == 0 else "not a picture in a known format"
        raise PictureError(reason) from None
    except Exception as error:  # decoders raise whatever they like; one bad picture never stops a run
        raise PictureError(f"{type(error).__name__}: {error}") from error


def _as_rgb(upright: Image.Image) -> Image.Image:
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).astype(np.uint8))
    if upright.mode in ("I", "F"):
        raise PictureError("32-bit pixels have no fixed range of brightness; expected 8 or 16 bits a channel")
    transparent = "A" in upright.getbands() or "a" in upright.getbands() or "transparency" in upright.info
    return upright.convert("RGBA" if transparent else "RGB")


def encode_png(pixels: NDArray[np.uint8], *, level: int = 6) -> bytes:
    """uint8 RGB (h, w, 3) as PNG; ``level`` of compression from 0 (quick) to 9 (small)."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=level)
    return file.getvalue()


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """uint8 RGB (h, w, 3) of a PNG."""
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))

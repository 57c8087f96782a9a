"""Where pictures come from, and how views are cut from them.

A listing names every picture once, in the order in which they are worked on; it is kept in the run. A view is a square
box of a picture, drawn from a hash of the seed, the picture's key and the view's number, so that it can be cut again
from its source at any time, by anyone who has the row.
"""

from __future__ import annotations

import colorsys
import hashlib
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from atlas.config import ImagesConfig
from atlas.errors import ConfigError
from atlas.rundir import atomic, digest_values

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"})

# A view of a transparent picture should show this share of it, and is drawn so often at the most.
_COVER, _ATTEMPTS = 0.7, 8

Box = tuple[float, float, float, float]


class PictureError(Exception):
    """One picture cannot be read; the message says why. It becomes a row of failures.parquet."""


@dataclass(frozen=True)
class Listing:
    """Every picture once: its key (path below the source) and its label (None: no class folder)."""

    source: str
    keys: tuple[str, ...]
    labels: tuple[int | None, ...]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def digest(self) -> str:
        return digest_values(self.keys, self.labels, self.label_names)

    def save(self, path: Path) -> None:
        table = pa.table({"image": pa.array(self.keys, pa.string()), "label": pa.array(self.labels, pa.int32())})
        table = table.replace_schema_metadata({"source": self.source, "label_names": "\n".join(self.label_names)})
        with atomic(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Listing:
        table = pq.read_table(path)
        metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        names = tuple(metadata["label_names"].split("\n")) if metadata["label_names"] else ()
        return cls(metadata["source"], tuple(table["image"].to_pylist()), tuple(table["label"].to_pylist()), names)


def list_images(config: ImagesConfig, seed: int) -> Listing:
    """List the pictures of a folder, recursively; the class of a picture is its parent folder (ImageNet's way).

    Sorted by key, then shuffled by ``seed`` and cut to ``limit``. Raises ConfigError when the folder is not there,
    holds no picture, or has none of the classes asked for.
    """
    source = Path(config.source).expanduser()
    if not source.is_dir():
        raise ConfigError(
            f"images.source: there is no folder {source} (looked for {source.absolute()}). Point it at your pictures "
            f"with "
            "--set images.source=FOLDER."
        )
    found = (path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    paths = [path for path in found if not path.is_dir()]
    folders = {path: path.parent.relative_to(source).as_posix() for path in paths}
    if not paths:
        raise ConfigError(
            f"images.source: {source} holds no picture. Expected files ending in {', '.join(sorted(SUFFIXES))}."
        )
    strange = [path for path in paths if not _is_utf8(str(path))]
    if strange:
        shown = str(strange[0]).encode("utf-8", "backslashreplace").decode()
        raise ConfigError(
            f"images.source: names of {len(strange)} pictures are not UTF-8, such as {shown}. Rename them."
        )
    if config.classes is not None:
        known = sorted(set(folders.values()))
        missing = [name for name in config.classes if name not in known]
        if missing:
            raise ConfigError(
                f"images.classes: {source} has no folder {', '.join(missing)}. It has: {', '.join(known[:20])}."
            )
        paths = [path for path in paths if folders[path] in config.classes]
    paths.sort(key=lambda path: path.relative_to(source).as_posix())
    if config.shuffle:
        random.Random(seed).shuffle(paths)
    # Before the limit, so that a label keeps its number whatever the limit leaves out.
    names = sorted({folders[path] for path in paths} - {"."})
    paths = paths[: config.limit]
    numbers = {name: number for number, name in enumerate(names)}
    return Listing(
        source=str(source.absolute()),
        keys=tuple(path.relative_to(source).as_posix() for path in paths),
        labels=tuple(numbers.get(folders[path]) for path in paths),
        label_names=tuple(names),
    )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def encode_png(pixels: NDArray[np.uint8], *, level: int = 6) -> bytes:
    """uint8 RGB (h, w, 3) as PNG; ``level`` of compression from 0 (quick) to 9 (small)."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=level)
    return file.getvalue()


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """uint8 RGB (h, w, 3) of a PNG."""
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))

"""The small pictures of the tour, as WebP in the site's folder tour/."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from atlas.arrays import Pixels
from atlas.cells.icons import read_icons
from atlas.layout.lattice import morton
from atlas.pictures.decode import decode_png
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.site.tiles import encode_webp

Picture = bytes | Pixels

# The longer side of a grid's picture.
_GRID_SIDE = 720


class TourPictures:
    """Writes pictures below ``site``/tour; each method returns the address that tour.json holds."""

    SPRITE: ClassVar[int] = 96
    LARGE: ClassVar[int] = 256
    _QUALITY: ClassVar[int] = 82

    def __init__(self, site: Path) -> None:
        self._folder = site / "tour"
        self.files: list[Path] = []

    def sprite(self, name: str, picture: Picture) -> str:
        """A small square picture, of ``SPRITE`` pixels a side."""
        return self._write(name, _square(picture, self.SPRITE))

    def large(self, name: str, picture: Picture) -> str:
        """A large square picture, of ``LARGE`` pixels a side."""
        return self._write(name, _square(picture, self.LARGE))

    def whole(self, name: str, picture: Pixels) -> str:
        """A picture as it is, uint8 (h, w, 3 or 4)."""
        return self._write(name, np.asarray(Image.fromarray(picture).convert("RGBA")))

    def tidy(self) -> None:
        """Remove the pictures of an earlier tour."""
        for path in set(self._folder.glob("*.webp")) - set(self.files):
            path.unlink()

    def _write(self, name: str, pixels: Pixels) -> str:
        path = self._folder / f"{name}.webp"
        if path not in self.files:
            with atomic(path) as temporary:
                temporary.write_bytes(encode_webp(pixels, self._QUALITY))
            self.files.append(path)
        return f"tour/{path.name}"


def grid_picture(run: RunDirectory, layer: str, grid: int) -> Pixels | None:
    """The icons of one grid, transparent where no cell is drawn, cropped to those that are: uint8 (h, w, 4), no side
    longer than 720. None where none is drawn."""
    icons = read_icons(run, layer, grid, ["row", "col", "png"]).to_pylist()
    if not icons:
        return None
    top, left = min(icon["row"] for icon in icons), min(icon["col"] for icon in icons)
    height, width = (1 + max(icon[name] for icon in icons) - first for name, first in (("row", top), ("col", left)))
    size = max(4, _GRID_SIDE // max(height, width))
    picture = np.zeros((height * size, width * size, 4), np.uint8)
    for icon in icons:
        row, col = icon["row"] - top, icon["col"] - left
        picture[row * size : (row + 1) * size, col * size : (col + 1) * size] = _square(icon["png"], size)
    return picture


def varied_icons(run: RunDirectory, layer: str, grid: int, count: int) -> list[bytes]:
    """Up to ``count`` icons of a grid as PNGs, each from another part of the map: there the one of highest cosine."""
    icons = read_icons(run, layer, grid, ["row", "col", "cosine", "png"])
    if not len(icons):
        return []
    order = np.argsort(morton(icons["row"].to_numpy(), icons["col"].to_numpy()), kind="stable")
    cosine = icons["cosine"].to_numpy()
    parts = [part for part in np.array_split(order, count) if len(part)]
    return [icons["png"][int(part[cosine[part].argmax()])].as_py() for part in parts]


def icon_at(run: RunDirectory, layer: str, grid: int, row: int, col: int) -> Pixels | None:
    """The icon of one cell, uint8 (size, size, 3); None where it is not drawn."""
    filters = [("row", "=", row), ("col", "=", col)]
    for part in sorted(run.icons(layer, grid).glob("part-*.parquet")):
        pngs = pq.read_table(part, columns=["png"], filters=filters)["png"].to_pylist()
        if pngs:
            return decode_png(pngs[0])
    return None


def _square(picture: Picture, side: int) -> Pixels:
    image = Image.open(BytesIO(picture)) if isinstance(picture, bytes) else Image.fromarray(picture)
    return np.asarray(image.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS))

"""Icons → deep-zoom pyramids (DZI, WebP with alpha), two bands of tiles in memory at a time.

Two products share one way of working:

- a *grid pyramid* holds one grid: its top level shows every icon at its own size, the levels below are that
  picture at a half, a quarter, … of the size;
- a *combined pyramid* holds grids that double: the top level shows the finest grid's icons, the next lower one the
  icons of the grid with half as many cells, and so on; below the coarsest grid it is down-sampled.

Because the grids double, the icon size stays the same from level to level, and every tile holds whole icons. Cells
without an icon are fully transparent, and a tile without any icon is written all the same, so that a viewer never
asks for a file that is not there.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atlas.arrays import Pixels

ICON_SIZE = 80
TILE_SIZE = 640
TILE_QUALITY = 88
EFFORT = 2  # of WebP, 0–6: 4 made tiles 3 % smaller and took 1.8 times as long

Icons = Callable[[int, int], Pixels | None]
"""Gives the icon of (row, col), uint8 (icon_size, icon_size, 3), or None where the cell has none."""


@dataclass(frozen=True)
class Pyramid:
    """What was written: the side of the top level in pixels, the number of levels, tiles and bytes."""

    side: int
    levels: int
    tiles: int
    bytes: int


@dataclass(frozen=True)
class TileFormat:
    """Sizes in pixels, and WebP's quality (0–100) for colour; alpha is always lossless."""

    icon_size: int = ICON_SIZE
    tile_size: int = TILE_SIZE
    quality: int = TILE_QUALITY


def write_grid_pyramid(dzi: Path, icons: Icons, *, grid: int, form: TileFormat | None = None) -> Pyramid:
    """Write one grid as the pyramid `dzi` (a path ending in .dzi) and `…_files` beside it.

    icons: see `Icons`; asked once for every cell, row by row. The top level is grid · icon_size pixels square.
    Raises ValueError where an icon has another shape or dtype.
    """
    return _write(dzi, {grid: icons}, form or TileFormat())


def write_combined_pyramid(dzi: Path, grids: Mapping[int, Icons], *, form: TileFormat | None = None) -> Pyramid:
    """Write grids that double (10, 20, 40, …) as one pyramid, each zoom level showing its own grid's icons.

    grids: the icons of each grid, see `Icons`. A cell without an icon is empty at its level, also where its parent
    has one. Raises ValueError where the grids do not double, or an icon has another shape or dtype.
    """
    sizes = sorted(grids)
    if not sizes or any(fine != 2 * coarse for coarse, fine in pairwise(sizes)):
        raise ValueError(f"a combined pyramid needs grids that double, such as 10, 20, 40; it was given {sizes}")
    return _write(dzi, grids, form or TileFormat())


def level_sides(side: int) -> list[int]:
    """Sides in pixels of all levels of a square image, level 0 (one pixel) first, as the deep-zoom format has them."""
    sides = [side]
    while sides[-1] > 1:
        sides.append((sides[-1] + 1) // 2)
    return sides[::-1]


def _write(dzi: Path, grids: Mapping[int, Icons], form: TileFormat) -> Pyramid:
    """Build the pyramid in a temporary folder beside `dzi`, then rename: tiles first, the .dzi file last."""
    if dzi.suffix != ".dzi":
        raise ValueError(f"a pyramid's path ends in .dzi; it was given {dzi}")
    if form.tile_size % 2 or form.tile_size % form.icon_size:
        raise ValueError(f"a tile of {form.tile_size} px does not hold whole icons of {form.icon_size} px")
    dzi.parent.mkdir(parents=True, exist_ok=True)
    side = max(grids) * form.icon_size
    with tempfile.TemporaryDirectory(prefix=f".{dzi.stem}-", suffix=".tmp", dir=dzi.parent) as temporary:
        new_dzi = Path(temporary) / dzi.name
        with _TileWriter(_files(new_dzi), form) as writer:
            _write_levels(grids, form, writer)
        new_dzi.write_text(_descriptor(side, form))
        _replace(_files(new_dzi), _files(dzi))
        new_dzi.replace(dzi)
    return Pyramid(side=side, levels=len(level_sides(side)), tiles=writer.tiles, bytes=writer.bytes)


def _write_levels(grids: Mapping[int, Icons], form: TileFormat, writer: "_TileWriter") -> None:
    """One pass over each grid's bands: the coarsest grid feeds the levels under it, the others stand for themselves."""
    coarsest = min(grids)
    for grid, icons in grids.items():
        level = len(level_sides(grid * form.icon_size)) - 1
        bands = _icon_bands(icons, grid, form)
        if grid == coarsest:
            for _ in range(level):
                bands = _join_halves(_write_bands(bands, level, writer, halved=True), form.tile_size)
                level -= 1
        for _ in _write_bands(bands, level, writer, halved=False):
            pass


def _write_bands(bands: Iterator[Pixels], level: int, writer: "_TileWriter", *, halved: bool) -> Iterator[Pixels]:
    """Write each band as a row of tiles while the next one is being made; hand out the bands' halves, if ``halved``."""
    pending: list[Future[_Tile]] = []
    for row, band in enumerate(bands):
        tiles = writer.start_band(level, row, band, halved=halved)
        yield from writer.finish_band(pending)
        pending = tiles
    yield from writer.finish_band(pending)


def _icon_bands(icons: Icons, grid: int, form: TileFormat) -> Iterator[Pixels]:
    """The grid as bands of one tile's height, top first: uint8 (≤ tile_size, grid · icon_size, 4), RGBA."""
    size, per_tile = form.icon_size, form.tile_size // form.icon_size
    for top in range(0, grid, per_tile):
        rows = range(top, min(top + per_tile, grid))
        band = np.zeros((len(rows) * size, grid * size, 4), np.uint8)
        for row in rows:
            for col in range(grid):
                icon = icons(row, col)
                if icon is not None:
                    y, x = (row - top) * size, col * size
                    band[y : y + size, x : x + size, :3] = _checked(icon, row, col, size)
                    band[y : y + size, x : x + size, 3] = 255
        yield band


def _checked(icon: Pixels, row: int, col: int, size: int) -> Pixels:
    if icon.shape != (size, size, 3) or icon.dtype != np.uint8:
        raise ValueError(f"the icon of cell ({row}, {col}) is {icon.dtype} {icon.shape}, not uint8 ({size}, {size}, 3)")
    return icon


def _join_halves(halves: Iterator[Pixels], height: int) -> Iterator[Pixels]:
    """Bands of the level below: two halves joined until they are `height` rows high again."""
    waiting: list[Pixels] = []
    for half in halves:
        waiting.append(half)
        if sum(map(len, waiting)) == height:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def halve(pixels: Pixels) -> Pixels:
    """Half the size by the mean of 2 × 2 pixels, colours weighted by alpha so that empty ground does not darken edges.

    uint8 (height, width, 4) → uint8 (⌈height / 2⌉, ⌈width / 2⌉, 4); an odd last row or column is doubled first.
    """
    height, width, _ = pixels.shape
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    half = np.array(Image.fromarray(pixels).reduce(2))
    alpha = _sum_2x2(pixels[..., 3])
    edges = (alpha > 0) & (alpha < 4 * 255)
    if edges.any():  # Pillow weighs them too, but rounds twice
        half[edges, :3] = _weighted(pixels, edges)
    return half


def _weighted(pixels: Pixels, edges: NDArray[np.bool_]) -> Pixels:
    """The colours of the squares of 2 × 2 pixels that are partly transparent, by alpha: uint8 (count of `edges`, 3)."""
    corners = np.stack([pixels[y::2, x::2][edges] for y in (0, 1) for x in (0, 1)]).astype(np.uint32)
    alpha = corners[..., 3:]
    total = alpha.sum(0)
    colours: Pixels = (((corners[..., :3] * alpha).sum(0) + total // 2) // total).astype(np.uint8)
    return colours


def _sum_2x2(values: Pixels) -> NDArray[np.uint16]:
    wide = values.astype(np.uint16)
    rows = wide[0::2] + wide[1::2]
    return rows[:, 0::2] + rows[:, 1::2]


_Tile = tuple[int, Pixels | None]
"""Of a written tile: its bytes, and its half where that is wanted."""


class _TileWriter:
    """Splits bands into tiles, encodes and halves them on all cores (both release the interpreter's lock)."""

    def __init__(self, folder: Path, form: TileFormat) -> None:
        self.tiles = 0
        self.bytes = 0
        self._folder = folder
        self._form = form
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)
        self._empty: dict[tuple[int, int], bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def start_band(self, level: int, row: int, band: Pixels, *, halved: bool) -> list[Future[_Tile]]:
        """Begin to write a band, uint8 (≤ tile_size, level side, 4), as the tiles LEVEL/0_ROW.webp, 1_ROW.webp, …"""
        folder = self._folder / str(level)
        folder.mkdir(parents=True, exist_ok=True)
        size = self._form.tile_size
        return [
            self._pool.submit(
                self._write_tile, folder / f"{col}_{row}.webp", band[:, col * size : (col + 1) * size], halved
            )
            for col in range(-(-band.shape[1] // size))
        ]

    def finish_band(self, tiles: list[Future[_Tile]]) -> Iterator[Pixels]:
        """Wait for the tiles of a band, and hand out its half where that is wanted."""
        results = [future.result() for future in tiles]
        self.bytes += sum(size for size, _ in results)
        self.tiles += len(results)
        halves = [half for _, half in results if half is not None]
        if halves:
            yield np.concatenate(halves, axis=1)

    def _write_tile(self, path: Path, tile: Pixels, halved: bool) -> _Tile:
        return path.write_bytes(self._encoded(tile)), halve(tile) if halved else None

    def _encoded(self, tile: Pixels) -> bytes:
        """The tile as WebP; an empty one is encoded once for each size, since a sparse map has many."""
        if tile[..., 3].any():
            return encode_webp(tile, self._form.quality)
        shape = tile.shape[:2]
        if shape not in self._empty:
            self._empty[shape] = encode_webp(tile, self._form.quality)
        return self._empty[shape]


def encode_webp(pixels: Pixels, quality: int = TILE_QUALITY, alpha: int = 100) -> bytes:
    """uint8 (height, width, 4), RGBA, as WebP bytes: the same bytes for the same pixels. ``alpha``: quality of the
    alpha channel, 100 is lossless."""
    buffer = BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels), "RGBA")
    picture.save(buffer, "WEBP", quality=quality, alpha_quality=alpha, method=EFFORT)
    return buffer.getvalue()


def _descriptor(side: int, form: TileFormat) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008"'
        f' Format="webp" Overlap="0" TileSize="{form.tile_size}">'
        f'<Size Width="{side}" Height="{side}"/></Image>\n'
    )


def _files(dzi: Path) -> Path:
    return dzi.with_name(f"{dzi.stem}_files")


def _replace(new: Path, old: Path) -> None:
    """Put the folder `new` in the place of `old`; what stood there goes into the temporary folder and away with it."""
    if old.exists():
        old.rename(new.with_name(f"{new.name}.old"))
    new.rename(old)

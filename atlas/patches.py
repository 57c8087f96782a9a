"""Real pictures of cells: the nearest patch of each as a pyramid, and all exemplars as sheets of sprites.

A patch is what a position sees of its source picture: the square of the layer's effective receptive field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from atlas.config import Config
from atlas.details import cell_details
from atlas.grid import morton
from atlas.images import PictureError, decode_png, encode_png, open_picture
from atlas.maps import Map
from atlas.rundir import RunDirectory, atomic
from atlas.sources import Listing
from atlas.store import read_metadata
from atlas.tiles import TileFormat, write_grid_pyramid
from atlas.views import Box, backdrop, cut_view

# Side in pixels of a sprite, cells a side of a sheet, and WebP's quality (0–100).
SPRITE, BLOCK, QUALITY = 80, 4, 80
# Sheets that are made together: a picture is decoded once for all of them.
SHEETS = 64

Pixels = NDArray[np.uint8]
Key = tuple[int, int, int]
"""A row of the store: image_id, view, draw."""


@dataclass(frozen=True)
class _Row:
    """What is needed of a row of the store to cut its patch again, and what is told of it."""

    key: Key
    box: Box
    x: int
    y: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Sprites:
    """An exemplar's patch and its whole picture, as PNGs, and what is told of it."""

    patch: bytes
    whole: bytes
    facts: dict[str, Any]


def write_nearest(
    run: RunDirectory, config: Config, listing: Listing, each: Map, grid: int, form: TileFormat
) -> tuple[Path, int]:
    """A pyramid like the icons', whose cells show their nearest real patch; returns its .dzi file, and how many patches
    could not be cut again."""
    cells = _drawn(run, config, each, grid, "exemplars")
    nearest = {(cell["row"], cell["col"]): _key(cell["exemplars"][0]) for cell in cells}
    cut = _Cutter(run, config, listing, each)
    patches: dict[Key, bytes] = {}
    failed = 0
    for picture, rows in cut.pictures(set(nearest.values())):
        if picture is None:
            failed += len(rows)
            continue
        patches |= {row.key: encode_png(cut.patch(picture, row, form.icon_size), level=1) for row in rows}

    def patch_of(row: int, col: int) -> Pixels | None:
        data = patches.get(nearest.get((row, col), (-1, -1, -1)))
        return None if data is None else decode_png(data)

    pyramid = run.site_grid(each.name, grid) / "patches.dzi"
    write_grid_pyramid(pyramid, patch_of, grid=grid, form=form)
    return pyramid, failed


def sheets(run: RunDirectory, config: Config, each: Map, grid: int) -> list[list[tuple[int, int]]]:
    """The sheets of a grid, as (row, col) in blocks of BLOCK × BLOCK cells, those with any drawn cell; in parts of
    sheets that are made together, near each other on the map."""
    blocks = {_block(cell) for cell in _drawn(run, config, each, grid)}
    if not blocks:
        return []
    row, col = np.array(sorted(blocks)).T
    order = np.argsort(morton(row, col), kind="stable")
    ordered = list(zip(row[order].tolist(), col[order].tolist()))
    return [ordered[first : first + SHEETS] for first in range(0, len(ordered), SHEETS)]


def write_sheets(
    run: RunDirectory, config: Config, listing: Listing, each: Map, grid: int, blocks: Sequence[tuple[int, int]]
) -> tuple[list[Path], int]:
    """What is told of the cells of ``blocks``: for each block ``details/ROW-COL.webp`` and ``.json``; returns the
    files, and how many exemplars could not be cut again.

    A sheet has a line of sprites for each cell: first the patches, then as many whole pictures, fitted into the sprite.
    The JSON tells what they are, where in the whole picture's sprite the patch lies, in shares of its side, and what
    ``cell_details`` tells.
    """
    wanted = set(blocks)
    cells = [
        {**cell, "shown": cell["exemplars"] + cell["diverse_exemplars"]}
        for cell in _drawn(run, config, each, grid, "exemplars", "diverse_exemplars")
        if _block(cell) in wanted
    ]
    cut = _Cutter(run, config, listing, each)
    sprites: dict[Key, _Sprites] = {}
    failed = 0
    for picture, rows in cut.pictures({_key(exemplar) for cell in cells for exemplar in cell["shown"]}):
        if picture is None:
            failed += len(rows)
            continue
        small = _fitted(picture)
        for row in rows:
            facts = {"image": listing.keys[row.key[0]], "frame": _frame(picture, cut.box(row)), **row.facts}
            patch = encode_png(cut.patch(picture, row, SPRITE), level=1)
            sprites[row.key] = _Sprites(patch, small, facts)
    columns = config.cells.exemplars + config.cells.diverse_exemplars
    details = cell_details(run, config, each, grid, [(cell["row"], cell["col"]) for cell in cells])
    folder = run.site_grid(each.name, grid) / "details"
    files: list[Path] = []
    for block in blocks:
        mine = [{**cell, "told": details[cell["row"], cell["col"]]} for cell in cells if _block(cell) == block]
        files += _write_sheet(folder / f"{block[0]}-{block[1]}", mine, sprites, columns)
    return files, failed


@dataclass(frozen=True)
class Exemplar:
    """A real patch that lies in a cell: the patch, its whole picture, where it lies there (x0, y0, x1, y1 in pixels,
    which may reach over the edges), and how like the cell's mean its activation is (cosine).

    ``nearest``: one of the nearest to the mean, else one of those that show how much the cell holds. ``label``,
    ``predicted``: numbers of classes; ``confidence``: of the prediction, in [0, 1].
    """

    patch: Image.Image
    picture: Image.Image
    box: Box
    image: str
    cosine: float
    nearest: bool
    predicted: int
    confidence: float
    label: int | None


def exemplars_of(
    run: RunDirectory, config: Config, listing: Listing, each: Map, cell: dict[str, Any], size: int
) -> list[Exemplar]:
    """The exemplars of a row of cells/, nearest first, their patches ``size`` pixels wide, without those whose picture
    cannot be read any more."""
    shown = cell["exemplars"] + cell["diverse_exemplars"]
    cut = _Cutter(run, config, listing, each)
    found: dict[Key, tuple[Pixels, _Row]] = {}
    for picture, rows in cut.pictures({_key(exemplar) for exemplar in shown}):
        if picture is not None:
            found |= {row.key: (picture, row) for row in rows}
    exemplars = []
    for exemplar in shown:
        if _key(exemplar) in found:
            picture, row = found[_key(exemplar)]
            exemplars.append(
                Exemplar(
                    Image.fromarray(cut.patch(picture, row, size)), Image.fromarray(picture), cut.box(row),
                    listing.keys[row.key[0]], exemplar["cosine"], exemplar in cell["exemplars"], **row.facts,
                )
            )  # fmt: skip
    return exemplars


def _write_sheet(path: Path, cells: list[dict[str, Any]], sprites: dict[Key, _Sprites], columns: int) -> list[Path]:
    sheet = np.zeros((len(cells) * SPRITE, 2 * columns * SPRITE, 4), np.uint8)
    told: list[dict[str, Any]] = []
    for line, cell in enumerate(cells):
        entries = []
        for column, exemplar in enumerate([one for one in cell["shown"] if _key(one) in sprites]):
            of = sprites[_key(exemplar)]
            for place, data in ((column, of.patch), (columns + column, of.whole)):
                pixels = np.asarray(Image.open(BytesIO(data)).convert("RGBA"))
                sheet[line * SPRITE : (line + 1) * SPRITE, place * SPRITE : (place + 1) * SPRITE] = pixels
            nearest = exemplar in cell["exemplars"]
            entries.append({**of.facts, "cosine": round(exemplar["cosine"], 4), "nearest": nearest})
        told.append({"row": cell["row"], "col": cell["col"], **cell["told"], "exemplars": entries})
    buffer = BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=QUALITY, method=2)
    files = [path.with_suffix(".webp"), path.with_suffix(".json")]
    with atomic(files[0]) as temporary:
        temporary.write_bytes(buffer.getvalue())
    with atomic(files[1]) as temporary:
        facts = {"sprite": SPRITE, "columns": columns, "cells": told}
        temporary.write_text(json.dumps(facts, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
    return files


def _drawn(run: RunDirectory, config: Config, each: Map, grid: int, *columns: str) -> list[dict[str, Any]]:
    """The drawn cells of a grid: row, col and further ``columns``."""
    filters = [("grid", "=", grid), ("count", ">=", config.cells.min_count)]
    table = pq.read_table(run.cells(each.name), columns=["row", "col", *columns], filters=filters)
    cells: list[dict[str, Any]] = table.to_pylist()
    return cells


def _block(cell: dict[str, Any]) -> tuple[int, int]:
    return cell["row"] // BLOCK, cell["col"] // BLOCK


def _key(exemplar: dict[str, Any]) -> Key:
    return exemplar["image_id"], exemplar["view"], exemplar["draw"]


class _Cutter:
    """Cuts the patches of a layer's rows from their source pictures."""

    def __init__(self, run: RunDirectory, config: Config, listing: Listing, each: Map) -> None:
        self._shards, self._config, self._listing = run.shards(each.layer), config, listing
        self._metadata = read_metadata(self._shards[0])

    def pictures(self, wanted: set[Key]) -> Iterator[tuple[Pixels | None, list[_Row]]]:
        """The pictures of rows ``wanted``, each decoded once (None where it cannot be read any more), with its rows."""
        rows: dict[int, list[_Row]] = {}
        names = ["image_id", "view", "draw", "box", "x", "y", "label", "predicted", "confidence"]
        # Pictures stand in the order of their numbers, so most row groups are passed over unread.
        of_them = pc.field("image_id").isin(sorted({key[0] for key in wanted}))
        for shard in self._shards:
            for values in pq.read_table(shard, columns=names, filters=of_them).to_pylist():
                if (key := _key(values)) in wanted:
                    rows.setdefault(key[0], []).append(_row(key, values))
        for image_id, found in sorted(rows.items()):
            try:
                yield open_picture(self._listing.read(image_id)), found
            except PictureError:
                yield None, found

    def box(self, row: _Row) -> Box:
        return patch_box(row.box, row.x, row.y, self._metadata)

    def patch(self, picture: Pixels, row: _Row, size: int) -> Pixels:
        ground = backdrop(self._config.seed, self._listing.keys[row.key[0]], row.key[1])
        return cut_view(picture, self.box(row), size, ground)


def _row(key: Key, values: dict[str, Any]) -> _Row:
    x0, y0, x1, y1 = values["box"]
    facts = {**{name: values[name] for name in ("label", "predicted")}, "confidence": round(values["confidence"], 4)}
    return _Row(key, (x0, y0, x1, y1), values["x"], values["y"], facts)


def _fit(picture: Pixels) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size (width, height) and corner (left, top) of a whole picture in the middle of its sprite."""
    height, width = picture.shape[:2]
    scale = SPRITE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return size, ((SPRITE - size[0]) // 2, (SPRITE - size[1]) // 2)


def _fitted(picture: Pixels) -> bytes:
    """The whole picture in a sprite that is clear around it, as PNG."""
    size, corner = _fit(picture)
    sprite = Image.new("RGBA", (SPRITE, SPRITE))
    small = Image.fromarray(picture).convert("RGBA").resize(size, Image.Resampling.BICUBIC, reducing_gap=2)
    sprite.paste(small, corner)
    return encode_png(np.asarray(sprite), level=1)


def _frame(picture: Pixels, box: Box) -> list[float]:
    """Where ``box`` of the picture lies in the whole picture's sprite: x0, y0, x1, y1 in shares of its side."""
    (width, height), (left, top) = _fit(picture)
    lengths = picture.shape[1], picture.shape[0]
    sides = zip(box, lengths * 2, (width, height) * 2, (left, top) * 2)
    return [round((offset + edge / length * side) / SPRITE, 4) for edge, length, side, offset in sides]


def patch_box(box: Box, x: int, y: int, metadata: dict[str, Any]) -> Box:
    """The part of the source picture that position (y, x) sees: its effective receptive field, kept inside the view."""
    height, width = metadata["map_size"]
    share = min(1.0, metadata["effective_receptive_field"] / metadata["input_size"])
    x0, y0, x1, _ = box
    side = x1 - x0
    left = min(max((x + 0.5) / width - share / 2, 0), 1 - share)
    top = min(max((y + 0.5) / height - share / 2, 0), 1 - share)
    return (x0 + left * side, y0 + top * side, x0 + (left + share) * side, y0 + (top + share) * side)

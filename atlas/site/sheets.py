"""Real pictures of cells: the nearest patch of each as a pyramid, and all exemplars as sheets of sprites."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from atlas.arrays import Pixels
from atlas.cells.crops import Cropper, frame, whole_sprite
from atlas.config.sections import CellsConfig
from atlas.layout.lattice import drawn_filters, morton
from atlas.pictures.decode import decode_png, encode_png
from atlas.pictures.listing import Listing
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap
from atlas.site.details import cell_details
from atlas.site.tiles import TileFormat, write_grid_pyramid
from atlas.store.shards import RowKey, key_of

# Side in pixels of a sprite, cells a side of a sheet, and WebP's quality (0–100).
CELL_SPRITE, BLOCK, CELL_SPRITE_QUALITY = 80, 4, 80
# Sheets of one item of work: a picture is decoded once for all of them.
SHEETS = 64


@dataclass(frozen=True)
class _Sprites:
    """An exemplar's patch and its whole picture, as PNGs, and its facts."""

    patch: bytes
    whole: bytes
    facts: dict[str, Any]


def write_nearest(
    run: RunDirectory, listing: Listing, atlas_map: AtlasMap, grid: int, *, form: TileFormat, min_count: int, seed: int
) -> tuple[Path, int]:
    """A pyramid like the icons', whose cells show their nearest real patch; returns its .dzi file, and how many patches
    could not be cropped again."""
    cells = _drawn_cells(run, atlas_map, grid, min_count, "exemplars")
    nearest = {(cell["row"], cell["col"]): key_of(cell["exemplars"][0]) for cell in cells}
    cropper = Cropper(run, listing, atlas_map.layer, seed=seed)
    patches: dict[RowKey, bytes] = {}
    failed = 0
    for picture, rows in cropper.pictures(set(nearest.values())):
        if picture is None:
            failed += len(rows)
            continue
        patches |= {row.key: encode_png(cropper.patch(picture, row, form.icon_size), level=1) for row in rows}

    def patch_of(row: int, col: int) -> Pixels | None:
        data = patches.get(nearest.get((row, col), (-1, -1, -1)))
        return None if data is None else decode_png(data)

    pyramid = run.site_grid(atlas_map.name, grid) / "patches.dzi"
    write_grid_pyramid(pyramid, patch_of, grid=grid, form=form)
    return pyramid, failed


def sheets(run: RunDirectory, atlas_map: AtlasMap, grid: int, min_count: int) -> list[list[tuple[int, int]]]:
    """The sheets of a grid, as (row, col) in blocks of BLOCK × BLOCK cells, those with any drawn cell; in parts of
    SHEETS that are near each other on the map."""
    blocks = {_block(cell) for cell in _drawn_cells(run, atlas_map, grid, min_count)}
    if not blocks:
        return []
    row, col = np.array(sorted(blocks)).T
    order = np.argsort(morton(row, col), kind="stable")
    ordered = list(zip(row[order].tolist(), col[order].tolist()))
    return [ordered[first : first + SHEETS] for first in range(0, len(ordered), SHEETS)]


def write_sheets(
    run: RunDirectory,
    listing: Listing,
    atlas_map: AtlasMap,
    grid: int,
    blocks: Sequence[tuple[int, int]],
    *,
    layers: Sequence[str],
    settings: CellsConfig,
    seed: int,
) -> tuple[list[Path], int]:
    """The details of the cells of ``blocks``: for each block ``details/ROW-COL.webp`` and ``.json``; returns the files,
    and how many exemplars could not be cropped again.

    A sheet has a line of sprites for each cell: first the patches, then as many whole pictures, fitted into the sprite.
    The JSON holds what they are, where in the whole picture's sprite the patch lies, in shares of its side, and
    ``cell_details``.
    """
    block_set = set(blocks)
    cells = [
        {**cell, "all": cell["exemplars"] + cell["diverse_exemplars"]}
        for cell in _drawn_cells(run, atlas_map, grid, settings.min_count, "exemplars", "diverse_exemplars")
        if _block(cell) in block_set
    ]
    cropper = Cropper(run, listing, atlas_map.layer, seed=seed)
    sprites: dict[RowKey, _Sprites] = {}
    failed = 0
    for picture, rows in cropper.pictures({key_of(exemplar) for cell in cells for exemplar in cell["all"]}):
        if picture is None:
            failed += len(rows)
            continue
        small = encode_png(whole_sprite(picture, CELL_SPRITE), level=1)
        for row in rows:
            facts = {
                "image": listing.keys[row.key[0]],
                "frame": frame(picture, cropper.box(row), CELL_SPRITE),
                **row.facts,
            }
            patch = encode_png(cropper.patch(picture, row, CELL_SPRITE), level=1)
            sprites[row.key] = _Sprites(patch, small, facts)
    columns = settings.exemplars + settings.diverse_exemplars
    indices = [(cell["row"], cell["col"]) for cell in cells]
    details = cell_details(run, atlas_map, grid, indices, layers=layers, settings=settings)
    folder = run.site_grid(atlas_map.name, grid) / "details"
    files: list[Path] = []
    for block in blocks:
        own = [{**cell, "details": details[cell["row"], cell["col"]]} for cell in cells if _block(cell) == block]
        files += _write_sheet(folder / f"{block[0]}-{block[1]}", own, sprites, columns)
    return files, failed


def _write_sheet(path: Path, cells: list[dict[str, Any]], sprites: dict[RowKey, _Sprites], columns: int) -> list[Path]:
    sheet = np.zeros((len(cells) * CELL_SPRITE, 2 * columns * CELL_SPRITE, 4), np.uint8)
    facts: list[dict[str, Any]] = []
    for line, cell in enumerate(cells):
        entries = []
        for column, exemplar in enumerate([entry for entry in cell["all"] if key_of(entry) in sprites]):
            pair = sprites[key_of(exemplar)]
            for left, data in ((column, pair.patch), (columns + column, pair.whole)):
                pixels = np.asarray(Image.open(BytesIO(data)).convert("RGBA"))
                sheet[line * CELL_SPRITE : (line + 1) * CELL_SPRITE, left * CELL_SPRITE : (left + 1) * CELL_SPRITE] = (
                    pixels
                )
            nearest = exemplar in cell["exemplars"]
            entries.append({**pair.facts, "cosine": round(exemplar["cosine"], 4), "nearest": nearest})
        facts.append({"row": cell["row"], "col": cell["col"], **cell["details"], "exemplars": entries})
    buffer = BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=CELL_SPRITE_QUALITY, method=2)
    files = [path.with_suffix(".webp"), path.with_suffix(".json")]
    with atomic(files[0]) as temporary:
        temporary.write_bytes(buffer.getvalue())
    with atomic(files[1]) as temporary:
        sheet_facts = {"sprite": CELL_SPRITE, "columns": columns, "cells": facts}
        temporary.write_text(json.dumps(sheet_facts, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
    return files


def _drawn_cells(
    run: RunDirectory, atlas_map: AtlasMap, grid: int, min_count: int, *columns: str
) -> list[dict[str, Any]]:
    """The drawn cells of a grid: row, col and further ``columns``."""
    filters = drawn_filters(grid, min_count)
    table = pq.read_table(run.cells(atlas_map.name), columns=["row", "col", *columns], filters=filters)
    cells: list[dict[str, Any]] = table.to_pylist()
    return cells


def _block(cell: dict[str, Any]) -> tuple[int, int]:
    return cell["row"] // BLOCK, cell["col"] // BLOCK

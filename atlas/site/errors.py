"""Where a network errs, for the page: of each cell its accuracy, and the slices with their misclassified patches."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atlas.arrays import Pixels
from atlas.cells.crops import Cropper, frame, whole_sprite
from atlas.pictures.listing import Listing
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap
from atlas.site.sheets import CELL_SPRITE, CELL_SPRITE_QUALITY
from atlas.slices.tables import read_errors
from atlas.store.shards import RowKey, key_of, to_numpy

# Slices of a grid that have patches, and how many each.
SLICES, PATCHES = 24, 12
_DECIMALS = {"accuracy": 4, "expected": 4, "mean_rank": 2, "score": 3, "q": 5}


def write_errors(
    run: RunDirectory, listing: Listing, atlas_map: AtlasMap, grid: int, *, seed: int
) -> tuple[list[Path], int]:
    """``errors.json`` and ``errors.webp`` of one grid of a layer's map; returns the files, and how many patches could
    not be cropped again.

    The JSON has columns of the cells that hold labelled pictures (``row``, ``col``, ``pictures``, ``accuracy``,
    ``expected``, ``mean_rank``, ``score``, ``q``, ``slice``), and ``slices``, those that stand out, the largest score
    first, each with its ``confusions`` as [true class, predicted, pictures], ``others``, and ``wrong``, its
    misclassified rows, the surest first. The sheet has a line for each slice that is one of the first: its patches,
    then as many whole pictures, in the order of those of ``wrong`` that have a ``sprite``, the number of the patch in
    the line; their ``frame`` says where in the whole picture's sprite the patch lies, in shares of its side.
    """
    table = read_errors(run, atlas_map.layer, grid)
    cells = [cell for cell in table.to_pylist() if cell["slice"]]
    cells.sort(key=lambda cell: (-cell["score"], cell["row"], cell["col"]))
    keys = {key_of(entry) for cell in cells[:SLICES] for entry in cell["wrong"][:PATCHES]}
    sprites, failed = _sprites(run, listing, atlas_map.layer, keys, seed=seed)
    lines = min(len(cells), SLICES)
    sheet = np.zeros((max(lines, 1) * CELL_SPRITE, 2 * PATCHES * CELL_SPRITE, 4), np.uint8)
    slices = []
    for line, cell in enumerate(cells):
        rows = [{**entry, "image": listing.keys[entry["image_id"]]} for entry in cell["wrong"]]
        column = 0
        for entry in rows[:PATCHES] if line < SLICES else ():
            if key_of(entry) not in sprites:
                continue
            patch, whole, entry["frame"] = sprites[key_of(entry)]
            for pixels, left in ((patch, column), (whole, PATCHES + column)):
                top, side = line * CELL_SPRITE, left * CELL_SPRITE
                sheet[top : top + CELL_SPRITE, side : side + CELL_SPRITE] = pixels
            entry["sprite"] = column
            column += 1
        slices.append(_slice(cell, rows))
    content = {
        "grid": grid,
        **{name: table[name].to_pylist() for name in ("row", "col", "pictures")},
        **{
            name: [None if np.isnan(value) else round(float(value), decimals) for value in to_numpy(table[name])]
            for name, decimals in _DECIMALS.items()
        },
        "slice": [int(value) for value in table["slice"].to_pylist()],
        "sprite": CELL_SPRITE,
        "columns": PATCHES,
        "slices": slices,
    }
    folder = run.site_grid(atlas_map.name, grid)
    files = [folder / "errors.json", folder / "errors.webp"]
    with atomic(files[0]) as temporary:
        temporary.write_text(json.dumps(content, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
    buffer = BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=CELL_SPRITE_QUALITY, method=2)
    with atomic(files[1]) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return files, failed


def _slice(cell: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A slice as the page reads it, with its misclassified ``rows``."""
    return {
        **{name: cell[name] for name in ("row", "col", "pictures")},
        **{name: round(cell[name], decimals) for name, decimals in _DECIMALS.items()},
        "confusions": [[one["true_class"], one["predicted"], round(one["pictures"], 2)] for one in cell["confusions"]],
        "others": [
            {name: round(value, 2) if isinstance(value, float) else value for name, value in other.items()}
            for other in cell["others"]
        ],
        "wrong": [
            {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
            for row in rows
        ],
    }


def _sprites(
    run: RunDirectory, listing: Listing, layer: str, keys: set[RowKey], *, seed: int
) -> tuple[dict[RowKey, tuple[Pixels, Pixels, list[float]]], int]:
    """The patch and the whole picture of each row as RGBA sprites, with where the one lies in the other; and how many
    rows' pictures cannot be read any more."""
    cropper = Cropper(run, listing, layer, seed=seed)
    sprites: dict[RowKey, tuple[Pixels, Pixels, list[float]]] = {}
    failed = 0
    for picture, rows in cropper.pictures(keys):
        if picture is None:
            failed += len(rows)
            continue
        whole = whole_sprite(picture, CELL_SPRITE)
        for row in rows:
            patch = np.asarray(Image.fromarray(cropper.patch(picture, row, CELL_SPRITE)).convert("RGBA"))
            sprites[row.key] = patch, whole, frame(picture, cropper.box(row), CELL_SPRITE)
    return sprites, failed

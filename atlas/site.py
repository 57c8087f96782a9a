"""Cells, icons and the built page → the static site: pyramids, cell facts, real patches, atlas.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.config import Config
from atlas.errors import AtlasError
from atlas.images import PictureError, decode_png, encode_png, open_picture
from atlas.report import read_icons
from atlas.rundir import RunDirectory, atomic, digest_file, digest_values, write_json
from atlas.sources import Listing, name_of
from atlas.store import iterate, read_metadata, to_numpy
from atlas.tiles import Icons, TileFormat, write_combined_pyramid, write_grid_pyramid
from atlas.versions import versions
from atlas.views import Box, backdrop, cut_view

FORMAT = 1
TOP_CLASSES = 5
_TILE = 640

Pixels = NDArray[np.uint8]


def tile_format(config: Config) -> TileFormat:
    """Tiles of about 640 px that hold whole icons."""
    size = config.render.size
    return TileFormat(icon_size=size, tile_size=size * max(1, _TILE // size))


def icon_source(run: RunDirectory, layer: str, grid: int) -> Icons:
    """The icons of a grid by (row, col). PNGs are kept compressed and decoded when a tile asks for them."""
    table = read_icons(run, layer, grid, ["row", "col", "png"])
    if not table.num_rows:
        return lambda _row, _col: None
    found = {(icon["row"], icon["col"]): icon["png"] for icon in table.to_pylist()}

    def icon(row: int, col: int) -> Pixels | None:
        data = found.get((row, col))
        return None if data is None else decode_png(data)

    return icon


def write_combined(run: RunDirectory, config: Config, layer: str) -> list[Path]:
    """The pyramid whose zoom levels each show their own cells; returns its files."""
    sources = {grid: icon_source(run, layer, grid) for grid in config.cells.grids}
    pyramid = run.folder("publish") / layer / "atlas.dzi"
    write_combined_pyramid(pyramid, sources, form=tile_format(config))
    return _pyramid_files(pyramid)


def _pyramid_files(pyramid: Path) -> list[Path]:
    tiles = pyramid.with_name(f"{pyramid.stem}_files").rglob("*.webp")
    return [pyramid, *sorted(tiles)]


def write_grid(run: RunDirectory, config: Config, layer: str, grid: int) -> list[Path]:
    """One grid alone: its pyramid of icons, and cells.json; returns the files."""
    folder = run.site_grid(layer, grid)
    write_grid_pyramid(folder / "icons.dzi", icon_source(run, layer, grid), grid=grid, form=tile_format(config))
    facts = cell_facts(run, config, layer, grid)
    with atomic(folder / "cells.json") as temporary:
        temporary.write_text(json.dumps(facts, separators=(",", ":")), encoding="utf-8")
    return [folder / "cells.json", *_pyramid_files(folder / "icons.dzi")]


def cell_facts(run: RunDirectory, config: Config, layer: str, grid: int) -> dict[str, Any]:
    """What the page knows of each non-empty cell of a grid, in columns. Classes by attribution, or by prediction where
    the run took no attributions."""
    table = pq.read_table(
        run.cells(layer),
        columns=["row", "col", "count", "spread", "attribution", "predicted"],
        filters=[("grid", "=", grid)],
    )
    icons = read_icons(run, layer, grid, ["row", "col", "cosine", "flag"])
    scores = {(icon["row"], icon["col"]): icon for icon in icons.to_pylist()}
    cells = list(zip(table["row"].to_pylist(), table["col"].to_pylist()))
    classes, values = _top_classes(table, config)
    return {
        "grid": grid,
        "row": [row for row, _ in cells],
        "col": [col for _, col in cells],
        "count": table["count"].to_pylist(),
        "spread": np.round(to_numpy(table["spread"]).astype(np.float64), 4).tolist(),
        "drawn": [int(cell in scores) for cell in cells],
        "cosine": [round(scores[cell]["cosine"], 4) if cell in scores else None for cell in cells],
        "flag": [scores[cell]["flag"] if cell in scores else None for cell in cells],
        "classes": classes,
        "values": values,
    }


def _top_classes(table: Any, config: Config) -> tuple[list[list[int]], list[list[float]]]:
    if not config.collect.attributions:
        tops = [cell[:TOP_CLASSES] for cell in table["predicted"].to_pylist()]
        shares = [[entry["count"] / count for entry in cell] for cell, count in zip(tops, table["count"].to_pylist())]
        return [[entry["class"] for entry in cell] for cell in tops], shares
    attribution = to_numpy(table["attribution"])
    best = np.argsort(-attribution, axis=1, kind="stable")[:, :TOP_CLASSES]
    values = np.take_along_axis(attribution, best, 1).astype(np.float64)
    return best.tolist(), np.round(values, 5).tolist()


def write_patches(run: RunDirectory, config: Config, listing: Listing, layer: str, grid: int) -> tuple[list[Path], int]:
    """A pyramid like the icons', whose cells show their nearest real patch; returns its files, and how many patches
    could not be cut again."""
    table = pq.read_table(
        run.cells(layer),
        columns=["row", "col", "exemplars"],
        filters=[("grid", "=", grid), ("count", ">=", config.cells.min_count)],
    )
    nearest = {
        (cell["row"], cell["col"]): tuple(cell["exemplars"][0][name] for name in ("image_id", "view", "draw"))
        for cell in table.to_pylist()
    }
    patches: dict[tuple[int, int, int], bytes] = {}
    failed = 0
    wanted = _rows_of(run, layer, set(nearest.values()))
    metadata = read_metadata(run.shards(layer)[0])
    for image_id, rows in wanted:
        try:
            picture = open_picture(listing.read(image_id))
        except PictureError:
            failed += len(rows)
            continue
        for view, draw, box, x, y in rows:
            ground = backdrop(config.seed, listing.keys[image_id], view)
            cut = cut_view(picture, patch_box(box, x, y, metadata), config.render.size, ground)
            patches[image_id, view, draw] = encode_png(cut, level=1)

    def patch(row: int, col: int) -> Pixels | None:
        data = patches.get(nearest.get((row, col), (-1, -1, -1)))
        return None if data is None else decode_png(data)

    pyramid = run.site_grid(layer, grid) / "patches.dzi"
    write_grid_pyramid(pyramid, patch, grid=grid, form=tile_format(config))
    return _pyramid_files(pyramid), failed


def patch_box(box: Box, x: int, y: int, metadata: dict[str, Any]) -> Box:
    """The part of the source picture that position (y, x) sees: its effective receptive field, kept inside the view."""
    height, width = metadata["map_size"]
    share = min(1.0, metadata["effective_receptive_field"] / metadata["input_size"])
    x0, y0, x1, _ = box
    side = x1 - x0
    left = min(max((x + 0.5) / width - share / 2, 0), 1 - share)
    top = min(max((y + 0.5) / height - share / 2, 0), 1 - share)
    return (x0 + left * side, y0 + top * side, x0 + (left + share) * side, y0 + (top + share) * side)


def _rows_of(
    run: RunDirectory, layer: str, wanted: set[tuple[int, ...]]
) -> Iterator[tuple[int, list[tuple[int, int, Box, int, int]]]]:
    """The store's rows for keys (image_id, view, draw), picture by picture."""
    rows: dict[int, list[tuple[int, int, Box, int, int]]] = {}
    for block in iterate(run.shards(layer), ["image_id", "view", "draw", "box", "x", "y"]):
        keys = zip(block["image_id"].tolist(), block["view"].tolist(), block["draw"].tolist())
        for index, key in enumerate(keys):
            if key in wanted:
                x0, y0, x1, y1 = block["box"][index].tolist()
                found = (key[1], key[2], (x0, y0, x1, y1), int(block["x"][index]), int(block["y"][index]))
                rows.setdefault(key[0], []).append(found)
    yield from sorted(rows.items())


def viewer_folder() -> Path:
    """Where the built page lies. Raises AtlasError when it has not been built."""
    folder = Path(__file__).parent / "viewer" / "dist"
    if not (folder / "index.html").is_file():
        raise AtlasError(
            "The page has not been built. Run `python scripts/build_viewer.py` in the checkout, or install the wheel."
        )
    return folder


def viewer_digest() -> str:
    """sha256 of the built page: a page that was built anew is published anew."""
    folder = viewer_folder()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_values([[path.relative_to(folder).as_posix(), digest_file(path)] for path in files])


def write_page(run: RunDirectory, config: Config, report: dict[str, Any]) -> list[Path]:
    """Copy the built page and write atlas.json last: a site without it is not finished. Returns the page's files."""
    target = run.folder("publish")
    built, files = viewer_folder(), []
    for file in sorted(path for path in built.rglob("*") if path.is_file() and not path.name.startswith(".")):
        copy = target / file.relative_to(built)
        with atomic(copy) as temporary:
            shutil.copyfile(file, temporary)
        files.append(copy)
    write_json(target / "atlas.json", atlas_facts(run, config, report))
    return [*files, target / "atlas.json"]


def atlas_facts(run: RunDirectory, config: Config, report: dict[str, Any]) -> dict[str, Any]:
    """atlas.json: what there is."""
    layers, network = [], {}
    for layer in config.layers:
        metadata = read_metadata(run.shards(layer)[0])
        network = {"name": metadata["network"], "input_size": metadata["input_size"], "classes": metadata["classes"]}
        facts = report["layers"][layer]
        rows = pq.read_metadata(run.layout(layer)).num_rows
        layers.append(
            {
                "name": layer,
                "path": layer,
                "channels": metadata["channels"],
                "map_size": metadata["map_size"],
                "rows": rows,
                "dropped": sum(facts["layout"]["dropped"].values()),
                "grids": [_grid_facts(grid, facts) for grid in config.cells.grids],
            }
        )
    return {
        "format": FORMAT,
        "title": run.path.resolve().name,
        "network": network,
        "icon_size": config.render.size,
        "tile_size": tile_format(config).tile_size,
        "layers": layers,
        "provenance": {
            "images": name_of(config.images),
            "views": report["collect"]["views"],
            "seed": config.seed,
            "created": run.read_manifest().get("created"),
            "versions": versions(),
        },
        "report": report,
    }


def _grid_facts(grid: int, facts: dict[str, Any]) -> dict[str, Any]:
    icons, cells = facts["icons"][str(grid)], facts["cells"][str(grid)]
    return {
        "grid": grid,
        "cells": cells["n"],
        "drawn": icons["n"],
        "median_cosine": icons["median_cosine"],
        "flagged": round(icons["n"] * (icons["flagged_share"] or 0)),
    }

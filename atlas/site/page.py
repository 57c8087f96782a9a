"""The static site but for units and the tour: pyramids of icons and patches, cells.json, classes, the built page and
atlas.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.arrays import Pixels
from atlas.cells.icons import read_icons
from atlas.config.model import Config
from atlas.errors import AtlasError
from atlas.pictures.decode import decode_png
from atlas.pictures.listing import Listing
from atlas.pictures.sources import name_of
from atlas.rundir.atomic import atomic, write_json
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap
from atlas.rundir.markers import digest_file, digest_values
from atlas.rundir.versions import SITE_FORMAT, versions
from atlas.site.contents import SiteContents, making_facts
from atlas.site.heat import heat_maps
from atlas.site.neurons import neuron_facts
from atlas.site.sheets import write_nearest
from atlas.site.tiles import Icons, TileFormat, write_combined_pyramid, write_grid_pyramid
from atlas.store.classes import class_number
from atlas.store.shards import read_metadata, to_numpy

# Classes of each cell.
PAGE_CLASSES = 10
# The scores of an icon beside its cosine, the rank last.
SCORES = ("cosine_whitened", "cosine_robust", "percentile", "rank")
# Classes in one file of heat maps: a file of a level of 25,600 cells has 1.3 MB.
CLASSES_PER_FILE = 50
# About the side of a tile in pixels.
_TILE = 640


def tile_format(icon_size: int) -> TileFormat:
    """Tiles of about 640 px that hold whole icons."""
    return TileFormat(icon_size=icon_size, tile_size=icon_size * max(1, _TILE // icon_size))


def grid_folder(run: RunDirectory, map_name: str, grid: int, *, quick: bool = False) -> Path:
    """Where the icons of a grid and what depends on them lie: the quick ones have addresses of their own, as a browser
    may keep what it has seen."""
    folder = run.site_grid(map_name, grid)
    return folder / "quick" if quick else folder


def icon_source(run: RunDirectory, map_name: str, grid: int, *, quick: bool = False) -> Icons:
    """The icons of a grid by (row, col). They stay PNGs in memory, and are decoded where a tile holds them."""
    table = read_icons(run, map_name, grid, ["row", "col", "png"], quick=quick)
    if not table.num_rows:
        return lambda _row, _col: None
    pngs = {(icon["row"], icon["col"]): icon["png"] for icon in table.to_pylist()}

    def icon(row: int, col: int) -> Pixels | None:
        data = pngs.get((row, col))
        return None if data is None else decode_png(data)

    return icon


def write_patches(
    run: RunDirectory, listing: Listing, atlas_map: AtlasMap, grid: int, *, form: TileFormat, min_count: int, seed: int
) -> tuple[list[Path], int]:
    """The pyramid of nearest real patches; returns its files, and how many patches could not be cropped again."""
    pyramid, failed = write_nearest(run, listing, atlas_map, grid, form=form, min_count=min_count, seed=seed)
    return _pyramid_files(pyramid), failed


def write_combined(run: RunDirectory, atlas_map: AtlasMap, form: TileFormat) -> list[Path]:
    """The pyramid whose zoom levels each show their own cells; returns its files."""
    sources = {grid: icon_source(run, atlas_map.name, grid) for grid in atlas_map.grids}
    pyramid = run.folder("publish") / atlas_map.name / "atlas.dzi"
    write_combined_pyramid(pyramid, sources, form=form)
    return _pyramid_files(pyramid)


def _pyramid_files(pyramid: Path) -> list[Path]:
    tiles = pyramid.with_name(f"{pyramid.stem}_files").rglob("*.webp")
    return [pyramid, *sorted(tiles)]


def write_grid(
    run: RunDirectory, atlas_map: AtlasMap, grid: int, *, form: TileFormat, attributions: bool, quick: bool = False
) -> list[Path]:
    """One grid alone: its pyramid of icons, cells.json, scores.json, and its classes; returns the files.
    ``attributions``: whether the run has any; ``quick``: with the quick icons."""
    folder = grid_folder(run, atlas_map.name, grid, quick=quick)
    write_grid_pyramid(folder / "icons.dzi", icon_source(run, atlas_map.name, grid, quick=quick), grid=grid, form=form)
    table = pq.read_table(
        run.cells(atlas_map.name),
        columns=["row", "col", "count", "mean_cosine", "attribution", "predicted"],
        filters=[("grid", "=", grid)],
    )
    icons = read_icons(run, atlas_map.name, grid, ["row", "col", "cosine", "flag", *SCORES], quick=quick)
    facts, files = cell_facts(grid, table, icons), [folder / "classes.bin"]
    with atomic(files[0]) as temporary:
        temporary.write_bytes(_top_classes(run, atlas_map, table, attributions=attributions))
    if attributions:
        maps, scale = heat_maps(to_numpy(table["attribution"]), np.array(facts["drawn"], bool))
        facts["scale"] = [float(f"{value:.4g}") for value in scale]
        for first in range(0, len(maps), CLASSES_PER_FILE):
            files.append(folder / f"classes-{first // CLASSES_PER_FILE:03d}.bin")
            with atomic(files[-1]) as temporary:
                temporary.write_bytes(maps[first : first + CLASSES_PER_FILE].tobytes())
    for name, content in (("cells", facts), ("scores", score_facts(icons))):
        files.append(folder / f"{name}.json")
        with atomic(files[-1]) as temporary:
            temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    return [*files, *_pyramid_files(folder / "icons.dzi")]


def score_facts(icons: pa.Table) -> dict[str, Any]:
    """scores.json: columns of the further scores of the icons, in a file of their own, as only an open cell shows
    them."""
    if not icons.num_rows:
        return {name: [] for name in ("row", "col", *SCORES)}
    columns = {name: np.round(to_numpy(icons[name]).astype(np.float64), 4).tolist() for name in SCORES[:-1]}
    return {name: icons[name].to_pylist() for name in ("row", "col", SCORES[-1])} | columns


def cell_facts(grid: int, table: pa.Table, icons: pa.Table) -> dict[str, Any]:
    """cells.json: columns of facts of the non-empty cells of a grid, those of ``table``, with the scores of its
    ``icons``."""
    scores = {(icon["row"], icon["col"]): icon for icon in icons.to_pylist()}
    cells = list(zip(table["row"].to_pylist(), table["col"].to_pylist()))
    return {
        "grid": grid,
        "row": [row for row, _ in cells],
        "col": [col for _, col in cells],
        "count": table["count"].to_pylist(),
        "mean_cosine": np.round(to_numpy(table["mean_cosine"]).astype(np.float64), 4).tolist(),
        "drawn": [int(cell in scores) for cell in cells],
        "cosine": [round(scores[cell]["cosine"], 4) if cell in scores else None for cell in cells],
        "flag": [scores[cell]["flag"] if cell in scores else None for cell in cells],
    }


def _top_classes(run: RunDirectory, atlas_map: AtlasMap, table: pa.Table, *, attributions: bool) -> bytes:
    """The first classes of each cell: their values as float32 (cells, PAGE_CLASSES), then their numbers as uint16 of
    the same shape, 65535 where there are fewer. By attribution, those that the map is of before all others; or by
    shares of the predictions where the run took no attributions."""
    numbers = np.full((len(table), PAGE_CLASSES), 65535, np.uint16)
    values = np.zeros((len(table), PAGE_CLASSES), np.float32)
    if not attributions:
        for line, (cell, count) in enumerate(zip(table["predicted"].to_pylist(), table["count"].to_pylist())):
            for rank, entry in enumerate(cell[:PAGE_CLASSES]):
                numbers[line, rank], values[line, rank] = entry["class"], entry["count"] / count
    elif len(table):
        attribution = to_numpy(table["attribution"])
        names = read_metadata(run.shards(atlas_map.layer)[0])["classes"]
        ranked = attribution.copy()
        ranked[:, [class_number(name, names) for name in atlas_map.classes]] = np.inf
        best = np.argsort(-ranked, axis=1, kind="stable")[:, :PAGE_CLASSES]
        numbers[:, : best.shape[1]] = best
        values[:, : best.shape[1]] = np.take_along_axis(attribution, best, 1)
    return values.astype("<f4").tobytes() + numbers.astype("<u2").tobytes()


def viewer_folder() -> Path:
    """Where the built page lies. Raises AtlasError when it has not been built."""
    folder = Path(__file__).parents[1] / "viewer" / "dist"
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


def write_page(run: RunDirectory, config: Config, contents: SiteContents, report: dict[str, Any]) -> list[Path]:
    """Copy the built page and write atlas.json last: ``contents``, with the ``report`` of it. Returns the page's
    files."""
    target = run.folder("publish")
    viewer, files = viewer_folder(), []
    for file in sorted(path for path in viewer.rglob("*") if path.is_file() and not path.name.startswith(".")):
        copy = target / file.relative_to(viewer)
        with atomic(copy) as temporary:
            shutil.copyfile(file, temporary)
        files.append(copy)
    # By the digest an open page knows whether it was built anew itself.
    write_json(target / "atlas.json", {**atlas_facts(run, config, contents, report), "page": viewer_digest()})
    return [*files, target / "atlas.json"]


def atlas_facts(run: RunDirectory, config: Config, contents: SiteContents, report: dict[str, Any]) -> dict[str, Any]:
    """atlas.json: the maps, networks, classes and units of the site, the report of them, and while not all is there,
    what is still to come."""
    layers: list[dict[str, Any]] = []
    # All of them, whichever maps are there: pages and questions call them by their numbers.
    networks = {
        name: read_metadata(run.shards(network.layers[0])[0])
        for name, network in config.networks().items()
        if network.layers
    }
    for atlas_map in contents.maps:
        metadata = read_metadata(run.shards(atlas_map.layer)[0])
        facts = report["layers"][atlas_map.name]
        dropped = pq.read_table(run.layout(atlas_map.name), columns=["dropped"])["dropped"]
        layers.append(
            {
                "name": atlas_map.title,
                "path": atlas_map.name,
                "layer": atlas_map.layer,
                "network": list(networks).index(config.module_of(atlas_map.layer)[0]),
                "classes_shown": atlas_map.classes,
                "channels": metadata["channels"],
                "map_size": metadata["map_size"],
                "rows": len(dropped),
                "dropped": len(dropped) - dropped.null_count,
                **({"errors": True} if atlas_map.name in contents.error_layers else {}),
                "grids": [
                    _grid_facts(grid, facts, quick=(atlas_map.name, grid) in contents.quick_grids)
                    for grid in atlas_map.grids
                ],
            }
        )
    return {
        "format": SITE_FORMAT,
        "title": run.path.resolve().name,
        "networks": [
            {
                "name": metadata["network"],
                **{key: metadata[key] for key in ("input_size", "classes", "label_classes") if key in metadata},
            }
            for metadata in networks.values()
        ],
        "icon_size": config.render.size,
        "tile_size": tile_format(config.render.size).tile_size,
        "attributions": config.collect.attributions,
        "classes_per_file": CLASSES_PER_FILE,
        "labels": next(iter(networks.values()))["labels"],
        "opening_map": config.opening,
        "layers": layers,
        "neurons": neuron_facts(run, contents.unit_layers),
        "tour": contents.tour,
        **({} if contents.missing is None else {"making": making_facts(contents.missing, run)}),
        "provenance": {
            "images": name_of(config.images),
            "views": report["collect"]["views"],
            "seed": config.seed,
            "created": run.read_manifest().get("created"),
            "versions": versions(),
        },
        "report": report,
    }


def _grid_facts(grid: int, facts: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    icons, cells = facts["icons"][str(grid)], facts["cells"][str(grid)]
    return {
        "grid": grid,
        "cells": cells["n"],
        "drawn": icons["n"],
        "median_cosine": icons["median_cosine"],
        "flagged": round(icons["n"] * (icons["flagged_share"] or 0)),
        **({"quick": True} if quick else {}),
    }

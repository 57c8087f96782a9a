"""Stage render: cells → icons. An item is a batch of one grid's cells, after the items that draw their parents."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.cells.icons import drawn_cells, icon_table
from atlas.config.model import Config
from atlas.config.sections import RenderConfig
from atlas.pictures.decode import decode_png
from atlas.pictures.hashing import uniform_hash
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import find_map, maps_of
from atlas.rundir.markers import write_marker
from atlas.store.moments import Moments
from atlas.visualize import Recipe, draw, fitting_precision, measure_batch, score
from atlas.visualize.coarse_start import blend, coarser_cells
from atlas.visualize.recipe import ATLAS
from pipelines import worker
from pipelines.stage import Item, Summary

NAME = "render"
WORK = "icons"
REDO_DEPENDENTS = False
prepare_worker = None


def plan(config: Config, run: RunDirectory) -> list[Item]:
    """Batches of each grid's drawn cells, each after the batches that hold their parents."""
    items: list[Item] = []
    batch = config.render.icons_per_item
    for atlas_map in maps_of(config.layers, config.layout, config.cells):
        coarser: dict[tuple[int, int], str] = {}
        for grid in atlas_map.grids:
            level = drawn_cells(run.cells(atlas_map.name), grid, config.cells.min_count)
            row, col = level["row"], level["col"]
            finer: dict[tuple[int, int], str] = {}
            for first in range(0, len(row), batch):
                name = f"{atlas_map.name}/grid-{grid:03d}/part-{first // batch:05d}"
                cells = list(zip(row[first : first + batch].tolist(), col[first : first + batch].tolist()))
                after = {coarser[around] for r, c in cells for around in coarser_cells(r, c) if around in coarser}
                finer.update(dict.fromkeys(cells, name))
                items.append(Item(name, NAME, tuple(sorted(after)), str(run.path)))
            coarser = finer
    return items


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item, in the folder of its map's grid, beside the batch of icons that it vouches for."""
    return [run.folder(NAME) / f"{item.id}.json"]


def split(item: Item) -> tuple[str, int, int]:
    """The map's name, grid and batch number of an item."""
    name, grid, part = item.id.rsplit("/", 2)
    return name, int(grid.removeprefix("grid-")), int(part.removeprefix("part-"))


@lru_cache(maxsize=4)
def _level(path: Path, grid: int, min_count: int, _key: str) -> dict[str, NDArray[Any]]:
    """The drawn cells of one grid with their means, quantiles and norms, cached between the items of a level."""
    return drawn_cells(path, grid, min_count, "mean", "cosines", "norm")


def run_item(item: Item) -> Summary:
    """Draw one batch of icons, and score them."""
    run, config = item.open()
    name, grid, part = split(item)
    atlas_map = find_map(maps_of(config.layers, config.layout, config.cells), name)
    network_name, module = config.module_of(atlas_map.layer)
    network = worker.network(run, config.networks()[network_name], threads=config.cluster.threads)
    key = run.stage_key(NAME)
    level = _level(run.cells(name), grid, config.cells.min_count, key)
    row, col = level["row"], level["col"]
    cells = np.arange(part * config.render.icons_per_item, min((part + 1) * config.render.icons_per_item, len(row)))
    moments = Moments.load(run.moments(atlas_map.layer)).second_moment
    coarsest = grid == atlas_map.grids[0]
    parents = None if coarsest else _parents(run, item, row[cells], col[cells])
    settings, batch_settings = config.render, run.stage_facts(NAME)["batch_settings"][atlas_map.layer]
    icons = draw(
        network,
        module,
        level["mean"][cells],
        second_moment=moments,
        size=settings.size,
        recipe=recipe(settings),
        steps=None if settings.steps == "auto" else settings.steps,
        start=parents,
        precision=batch_settings["precision"],
        compile=settings.compile,
        batch=batch_settings["batch"],
        seeds=icon_seeds(config.seed, grid, row[cells], col[cells], coarsest=coarsest),
    )
    scores = score(
        network,
        module,
        icons.pixels,
        level["mean"][cells],
        second_moment=moments,
        all_means=level["mean"],
        own_index=cells,
        quantiles=level["cosines"][cells],
        norms=level["norm"][cells],
    )
    table = icon_table(grid, row[cells], col[cells], icons, scores)
    path = run.icons(name, grid) / f"part-{part:05d}.parquet"
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="none")  # PNGs do not shrink
    write_marker(path.with_suffix(".json"), key=key, files=[path], rows=len(cells))
    return Summary(len(cells))


def recipe(settings: RenderConfig) -> Recipe:
    """How the run's icons are drawn."""
    return replace(ATLAS, power=settings.power, ridge=settings.ridge)


def measure_batch_settings(path: str) -> dict[str, dict[str, Any]]:
    """Precision and batch of each layer of the run at ``path``: as configured, or as suits this worker."""
    run = RunDirectory(Path(path))
    config, settings = run.config(), run.config().render
    batch_settings: dict[str, dict[str, Any]] = {}
    for layer in config.layers:
        network_name, module = config.module_of(layer)
        network = worker.network(run, config.networks()[network_name], threads=config.cluster.threads)
        precision, batch = settings.precision, settings.batch
        if precision == "auto":
            precision = fitting_precision(network, module, settings.size)
        if batch == "auto":
            batch = measure_batch(network, module, settings.size, precision, settings.compile)
        batch_settings[layer] = {"precision": precision, "batch": batch}
    return batch_settings


def _parents(run: RunDirectory, item: Item, row: NDArray[np.int64], col: NDArray[np.int64]) -> NDArray[np.uint8]:
    """What the icons start from, uint8 (n, size, size, 3): the coarser pictures around."""
    pictures: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for name in item.after:
        table = pq.read_table(run.folder(NAME) / f"{name}.parquet", columns=["row", "col", "png"])
        for parent in table.to_pylist():
            pictures[parent["row"], parent["col"]] = decode_png(parent["png"])
    return np.stack([blend(pictures, r, c) for r, c in zip(row.tolist(), col.tolist())])


def icon_seeds(
    seed: int, grid: int, row: NDArray[np.int64], col: NDArray[np.int64], *, coarsest: bool
) -> NDArray[np.int64]:
    """The seeds (n,) of the icons' noise.

    On the coarsest grid all begin alike, so that neighbours look like neighbours; finer icons, which begin with the
    pictures around, have their own.
    """
    cells = [(0, 0) if coarsest else cell for cell in zip(row.tolist(), col.tolist())]
    return np.array([int(uniform_hash(seed, grid, *cell)[0] * 2**31) for cell in cells], dtype=np.int64)

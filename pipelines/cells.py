"""Stage cells: store + layout → the cells of every grid. An item is one map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from atlas.cells.build import build_cells
from atlas.config.model import Config
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import find_map, maps_of
from atlas.rundir.markers import write_marker
from atlas.store.shards import read_columns
from pipelines.stage import Item, Summary

NAME = "cells"
WORK = "rows"
REDO_DEPENDENTS = False
measure_batch_settings = prepare_worker = None


def plan(config: Config, run: RunDirectory) -> list[Item]:
    """An item for each map."""
    maps = maps_of(config.layers, config.layout, config.cells)
    return [Item(atlas_map.name, NAME, run=str(run.path)) for atlas_map in maps]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for a map, beside the table of its cells."""
    return [run.folder(NAME) / f"{item.id}.json"]


def run_item(item: Item) -> Summary:
    """Cut one map at all its levels."""
    run, config = item.open()
    atlas_map = find_map(maps_of(config.layers, config.layout, config.cells), item.id)
    coordinates = read_columns(run.layout(item.id), ["u", "v"])
    u, v = (coordinates[name].astype(np.float64) for name in ("u", "v"))
    table = build_cells(
        run.shards(atlas_map.layer),
        u,
        v,
        grids=atlas_map.grids,
        exemplars=config.cells.exemplars,
        diverse=config.cells.diverse_exemplars,
        attributions=config.collect.attributions,
    )
    path = run.cells(item.id)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    drawn_counts: dict[str, int] = {}
    for grid in atlas_map.grids:
        counts = table["count"].to_numpy()[table["grid"].to_numpy() == grid]
        drawn_counts[str(grid)] = int((counts >= config.cells.min_count).sum())
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=[path], drawn=drawn_counts)
    return Summary(len(u))

"""Stage cells: store + layout → the cells of every grid. An item is one map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from atlas.cells.build import build_cells
from atlas.config.model import Config
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap, find_map, maps_of
from atlas.rundir.markers import write_marker
from atlas.store.shards import read_columns
from pipelines import layout, rank
from pipelines.stage import Item, Part, Summary, part_id

NAME = "cells"
WORK = "rows"
REDO_DEPENDENTS = False
measure_batch_settings = prepare_worker = move_aside = None


def parts(config: Config) -> list[Part]:
    """One for each map, after its layout."""
    maps = maps_of(config.layers, config.layout, config.cells)

    def layout_of(atlas_map: AtlasMap) -> str:
        if atlas_map.classes:
            return part_id(layout.NAME, layout.part_of_classes(atlas_map.layer))
        return part_id(layout.NAME, layout.part_of_maps(atlas_map.layer, config.layers, config.layout))

    ranks = rank.of_maps(maps, config.opening)
    return [Part(NAME, one.name, (layout_of(one),), ranks[one.name]) for one in maps]


def plan(part: str, config: Config, run: RunDirectory) -> list[Item]:
    """The one item of a map."""
    atlas_map = find_map(maps_of(config.layers, config.layout, config.cells), part)
    rows = pq.read_metadata(run.layout(part)).num_rows
    of = layout.coordinates_digest(run, atlas_map, config.layers, config.layout)
    return [Item(part, NAME, run=str(run.path), of=of, work=rows)]


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
    write_marker(
        run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=[path], of=item.of, drawn=drawn_counts
    )
    return Summary(len(u))

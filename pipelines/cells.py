"""Stage cells: store + layout → the cells of every grid, and where on a layer's map the network errs. An item is one
map, or the errors of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from atlas.cells.build import build_cells
from atlas.config.model import Config, RunNetwork
from atlas.config.sections import CellsConfig
from atlas.errors import AtlasError
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap, find_map, maps_of
from atlas.rundir.markers import write_marker
from atlas.slices.accuracy import Verdicts, read_verdicts
from atlas.slices.errors import find_errors
from atlas.store.shards import count_rows, read_columns
from pipelines import layout, rank
from pipelines.stage import Item, Part, Summary, part_id

NAME = "cells"
WORK = "rows"
_ERRORS = "errors"
REDO_DEPENDENTS = False
measure_batch_settings = prepare_worker = move_aside = None


def parts(config: Config) -> list[Part]:
    """One for each map, after its layout, and one for the errors on each layer's own, after its cells: it comes behind
    the layer's icons."""
    maps = maps_of(config.layers, config.layout, config.cells)

    def layout_of(atlas_map: AtlasMap) -> str:
        return part_id(layout.NAME, layout.part_of_classes(atlas_map.layer) if atlas_map.classes else layout.MAPS)

    ranks = rank.of_maps(maps, config.opening)
    return [
        *(Part(NAME, one.name, (layout_of(one),), ranks[one.name]) for one in maps),
        *(
            Part(NAME, part_of_errors(layer), (part_id(NAME, layer),), rank.of_quality(ranks, layer))
            for layer in config.layers
        ),
    ]


def part_of_errors(layer: str) -> str:
    """The name of the part that finds where on a layer's map its network errs."""
    return f"{_ERRORS}/{layer}"


def plan(part: str, config: Config, run: RunDirectory) -> list[Item]:
    """The one item of a map; of a layer's errors none, where no label is a class of its network."""
    layer = _layer_of_errors(part, config.layers)
    if layer is not None:
        atlas_map = find_map(maps_of(config.layers, config.layout, config.cells), layer)
        of = layout.coordinates_digest(run, atlas_map)
        labelled = run.label_classes(config.module_of(layer)[0])
        return [Item(part, NAME, run=str(run.path), of=of)] if labelled else []
    atlas_map = find_map(maps_of(config.layers, config.layout, config.cells), part)
    rows = pq.read_metadata(run.layout(part)).num_rows
    return [Item(part, NAME, run=str(run.path), of=layout.coordinates_digest(run, atlas_map), work=rows)]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item, beside its table."""
    return [run.folder(NAME) / f"{item.id}.json"]


def run_item(item: Item) -> Summary:
    """Cut one map at all its levels, or count the errors in its cells."""
    run, config = item.open()
    layer = _layer_of_errors(item.id, config.layers)
    if layer is not None:
        _count_errors(item, layer, run, config.networks(), cells=config.cells, seed=config.seed)
        return Summary(0)
    atlas_map = find_map(maps_of(config.layers, config.layout, config.cells), item.id)
    coordinates = read_columns(run.layout(item.id), ["u", "v"])
    u, v = (coordinates[name].astype(np.float64) for name in ("u", "v"))
    if count_rows(run.shards(atlas_map.layer)) != len(u):
        raise AtlasError(
            f"cells: the store of {atlas_map.layer} has another number of rows than its layout, as pictures were lost "
            f"or came back when they were read again. Delete {run.folder(layout.NAME)} and give the same command again."
        )
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


def _layer_of_errors(name: str, layers: Sequence[str]) -> str | None:
    """The layer of whose errors a part or an item is; None of a map's cells."""
    return next((layer for layer in layers if name == part_of_errors(layer)), None)


def _count_errors(
    item: Item, layer: str, run: RunDirectory, networks: Mapping[str, RunNetwork], *, cells: CellsConfig, seed: int
) -> None:
    """Write the table of where on a layer's map its network errs, and how the other ``networks`` do there."""
    own = next(name for name, network in networks.items() if layer in network.layers)
    verdicts = read_verdicts(run.shards(layer))
    assert verdicts is not None, "the plan has no such item where no label is a class"
    others: dict[str, Verdicts] = {}
    for name, network in networks.items():
        if name != own and (other := read_verdicts(run.shards(network.layers[0]))) is not None:
            others[name] = other
    coordinates = read_columns(run.layout(layer), ["u", "v"])
    table, facts = find_errors(
        verdicts,
        others,
        coordinates["u"].astype(np.float64),
        coordinates["v"].astype(np.float64),
        grids=cells.grids,
        min_count=cells.min_count,
        seed=seed,
    )
    path = run.errors(layer)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    write_marker(path.with_suffix(".json"), key=run.stage_key(NAME), files=[path], of=item.of, facts=facts)

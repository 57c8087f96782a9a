"""Stage cells: store + layout → the cells of every grid, and what may be said of them.

An item is one map, cut at all its levels; then, for each of its grids, the words of the cells.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.cells.build import build_cells
from atlas.cells.icons import drawn_cells
from atlas.config.model import Config, RunNetwork
from atlas.config.sections import CellsConfig
from atlas.networks.network import Network
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap, find_map, maps_of
from atlas.rundir.markers import digest_values, write_marker
from atlas.store.moments import Moments
from atlas.store.shards import read_columns
from atlas.words.evidence import Evidence
from atlas.words.table import WORDS_FORMAT, level_words
from pipelines import layout, rank, worker
from pipelines.stage import Item, Part, Summary, part_id

NAME = "cells"
WORK = "rows"
REDO_DEPENDENTS = False
measure_batch_settings = prepare_worker = move_aside = None
_WORDS = "/words"


def parts(config: Config) -> list[Part]:
    """One for each map, after its layout; and one for its words."""
    maps = maps_of(config.layers, config.layout, config.cells)

    def layout_of(atlas_map: AtlasMap) -> str:
        if atlas_map.classes:
            return part_id(layout.NAME, layout.part_of_classes(atlas_map.layer))
        return part_id(layout.NAME, layout.part_of_maps(atlas_map.layer, config.layers, config.layout))

    ranks = rank.of_maps(maps, config.opening)
    return [
        part
        for one in maps
        for part in (
            Part(NAME, one.name, (layout_of(one),), ranks[one.name]),
            Part(NAME, part_of_words(one.name), (part_id(NAME, one.name),), ranks[one.name] + len(one.grids)),
        )
    ]


def part_of_words(map_name: str) -> str:
    """The name of the part that finds the words of a map's cells."""
    return f"{map_name}{_WORDS}"


def plan(part: str, config: Config, run: RunDirectory) -> list[Item]:
    """The one item of a map, or of the words of each of its grids."""
    name = part.removesuffix(_WORDS)
    atlas_map = find_map(maps_of(config.layers, config.layout, config.cells), name)
    of = layout.coordinates_digest(run, atlas_map, config.layers, config.layout)
    if part != name:
        of = digest_values(of, WORDS_FORMAT)
        return [Item(f"{part}/grid-{grid:03d}", NAME, run=str(run.path), of=of) for grid in atlas_map.grids]
    rows = pq.read_metadata(run.layout(name)).num_rows
    return [Item(name, NAME, run=str(run.path), of=of, work=rows)]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for a map, beside the table of its cells; one for the words of a grid, beside theirs."""
    if _WORDS in item.id:
        return [run.words(*_map_and_grid(item)).with_suffix(".json")]
    return [run.folder(NAME) / f"{item.id}.json"]


def run_item(item: Item) -> Summary:
    """Cut one map at all its levels, or find the words of one level."""
    run, config = item.open()
    maps = maps_of(config.layers, config.layout, config.cells)
    if _WORDS in item.id:
        name, grid = _map_and_grid(item)
        atlas_map = find_map(maps, name)
        run_network = config.networks()[config.module_of(atlas_map.layer)[0]]
        evidence = _evidence(run, atlas_map.layer, run_network, threads=config.cluster.threads)
        return _find_words(item, run, atlas_map, grid, evidence, min_count=config.cells.min_count, seed=config.seed)
    return _cut(item, run, find_map(maps, item.id), config.cells, attributions=config.collect.attributions)


def _map_and_grid(item: Item) -> tuple[str, int]:
    """Of which map and grid an item finds the words."""
    name, _, digits = item.id.rpartition(f"{_WORDS}/grid-")
    return name, int(digits)


def _coordinates(run: RunDirectory, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    columns = read_columns(run.layout(name), ["u", "v"])
    return columns["u"].astype(np.float64), columns["v"].astype(np.float64)


def _cut(item: Item, run: RunDirectory, atlas_map: AtlasMap, settings: CellsConfig, *, attributions: bool) -> Summary:
    u, v = _coordinates(run, item.id)
    table = build_cells(
        run.shards(atlas_map.layer),
        u,
        v,
        grids=atlas_map.grids,
        exemplars=settings.exemplars,
        diverse=settings.diverse_exemplars,
        attributions=attributions,
    )
    path = run.cells(item.id)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    drawn_counts: dict[str, int] = {}
    for grid in atlas_map.grids:
        counts = table["count"].to_numpy()[table["grid"].to_numpy() == grid]
        drawn_counts[str(grid)] = int((counts >= settings.min_count).sum())
    write_marker(
        run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=[path], of=item.of, drawn=drawn_counts
    )
    return Summary(len(u))


def _find_words(
    item: Item, run: RunDirectory, atlas_map: AtlasMap, grid: int, evidence: Evidence, *, min_count: int, seed: int
) -> Summary:
    u, v = _coordinates(run, atlas_map.name)
    level = drawn_cells(run.cells(atlas_map.name), grid, min_count)
    cells = list(zip(level["row"].tolist(), level["col"].tolist()))
    table = level_words(run.shards(atlas_map.layer), u, v, cells, grid=grid, evidence=evidence, seed=seed)
    path = run.words(atlas_map.name, grid)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    write_marker(path.with_suffix(".json"), key=run.stage_key(NAME), files=[path], of=item.of)
    return Summary(0)


def _evidence(run: RunDirectory, layer: str, run_network: RunNetwork, *, threads: int) -> Evidence:
    """What vectors of a layer push its network towards, for all of its levels on this worker."""
    network = worker.network(run, run_network, threads=threads)
    path = run.moments(layer)
    module = dict(zip(run_network.layers, run_network.modules))[layer]
    return _cached_evidence(network, module, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _cached_evidence(network: Network, module: str, path: Path, _mtime: int) -> Evidence:
    moments = Moments.load(path)
    return Evidence(network, module, (moments.total / max(moments.count, 1)).astype(np.float32))

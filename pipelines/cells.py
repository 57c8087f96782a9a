"""Stage cells: store + layout → the cells of every grid, what may be said of them, and where the network errs.

An item is one map, cut at all its levels; then the words of one level of it, or the errors on a layer's own map.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.cells.build import build_cells
from atlas.cells.icons import drawn_cells
from atlas.config.model import Config, RunNetwork
from atlas.config.sections import CellsConfig
from atlas.errors import AtlasError
from atlas.networks.network import Network
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap, find_map, maps_of
from atlas.rundir.markers import digest_values, write_marker
from atlas.slices.accuracy import Verdicts, read_verdicts
from atlas.slices.errors import find_errors
from atlas.store.moments import Moments
from atlas.store.shards import count_rows, read_columns
from atlas.words.evidence import Evidence
from atlas.words.table import WORDS_FORMAT, level_words
from pipelines import layout, rank, worker
from pipelines.stage import Item, Part, Summary, part_id

NAME = "cells"
WORK = "rows"
REDO_DEPENDENTS = False
measure_batch_settings = prepare_worker = move_aside = None
_ERRORS, _WORDS = "errors", "words"


def parts(config: Config) -> list[Part]:
    """One for each map, after its layout; one for its words, and on each layer's own map one for the errors, both after
    its cells. The errors come behind the layer's icons."""
    maps = maps_of(config.layers, config.layout, config.cells)

    def layout_of(atlas_map: AtlasMap) -> str:
        if atlas_map.classes:
            return part_id(layout.NAME, layout.part_of_classes(atlas_map.layer))
        return part_id(layout.NAME, layout.part_of_maps(atlas_map.layer, config.layers, config.layout))

    ranks = rank.of_maps(maps, config.opening)
    return [
        *(Part(NAME, one.name, (layout_of(one),), ranks[one.name]) for one in maps),
        *(
            Part(NAME, part_of_words(one.name), (part_id(NAME, one.name),), ranks[one.name] + len(one.grids))
            for one in maps
        ),
        *(
            Part(NAME, part_of_errors(layer), (part_id(NAME, layer),), rank.of_quality(ranks, layer))
            for layer in config.layers
        ),
    ]


def part_of_words(map_name: str) -> str:
    """The name of the part that finds the words of a map's cells."""
    return f"{_WORDS}/{map_name}"


def part_of_errors(layer: str) -> str:
    """The name of the part that finds where on a layer's map its network errs."""
    return f"{_ERRORS}/{layer}"


def plan(part: str, config: Config, run: RunDirectory) -> list[Item]:
    """The one item of a map, or of the words of each of its grids; of a layer's errors none, where no label is a class
    of its network."""
    kind, name = _kind_and_name(part)
    atlas_map = find_map(maps_of(config.layers, config.layout, config.cells), name)
    of = layout.coordinates_digest(run, atlas_map, config.layers, config.layout)
    if kind == _ERRORS:
        labelled = run.label_classes(config.module_of(name)[0])
        return [Item(part, NAME, run=str(run.path), of=of)] if labelled else []
    if kind == _WORDS:
        of = digest_values(of, WORDS_FORMAT)
        return [Item(f"{part}/grid-{grid:03d}", NAME, run=str(run.path), of=of) for grid in atlas_map.grids]
    rows = pq.read_metadata(run.layout(name)).num_rows
    return [Item(name, NAME, run=str(run.path), of=of, work=rows)]


def _kind_and_name(name: str) -> tuple[str, str]:
    """What a part or an item is of: errors, words, or nothing else than cells; and the rest of its name."""
    kind, separator, rest = name.partition("/")
    return (kind, rest) if separator else ("", name)


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item, beside its table."""
    return [run.folder(NAME) / f"{item.id}.json"]


def run_item(item: Item) -> Summary:
    """Cut one map at all its levels, find the words of one level, or count the errors in a layer's cells."""
    run, config = item.open()
    maps, networks = maps_of(config.layers, config.layout, config.cells), config.networks()
    kind, name = _kind_and_name(item.id)
    if kind == _ERRORS:
        _count_errors(item, name, run, networks, cells=config.cells, seed=config.seed)
        return Summary(0)
    if kind == _WORDS:
        name, _, digits = name.rpartition("/grid-")
        atlas_map = find_map(maps, name)
        run_network = networks[config.module_of(atlas_map.layer)[0]]
        evidence = _evidence(run, atlas_map.layer, run_network, threads=config.cluster.threads)
        min_count = config.cells.min_count
        return _find_words(item, run, atlas_map, int(digits), evidence, min_count=min_count, seed=config.seed)
    return _cut(item, run, find_map(maps, name), config.cells, attributions=config.collect.attributions)


def _coordinates(run: RunDirectory, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    columns = read_columns(run.layout(name), ["u", "v"])
    return columns["u"].astype(np.float64), columns["v"].astype(np.float64)


def _cut(item: Item, run: RunDirectory, atlas_map: AtlasMap, settings: CellsConfig, *, attributions: bool) -> Summary:
    u, v = _coordinates(run, atlas_map.name)
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
        exemplars=settings.exemplars,
        diverse=settings.diverse_exemplars,
        attributions=attributions,
    )
    path = run.cells(atlas_map.name)
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

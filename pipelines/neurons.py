"""Stage neurons: store + cells → tables of every unit of some layers.

Items of a layer: the statistics of its units; parts of 16 units with their pictures, rotated patches and classes; the
circuits that build the units; and which cells of earlier layers build its cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.config.model import Config, RunNetwork
from atlas.config.sections import CellsConfig, ImagesConfig, NeuronsConfig, RenderConfig
from atlas.networks.network import Network
from atlas.neurons.circuits import ReadViews, Source, cells_table, circuit_table, earlier_layers
from atlas.neurons.parts import UNITS_PER_PART, part_names, units_of_part
from atlas.neurons.statistics import unit_statistics
from atlas.neurons.tables import NEURONS_FORMAT
from atlas.neurons.tuning import DISC
from atlas.neurons.units import UnitDrawing, firing_rows, unit_table
from atlas.neurons.views import read_views
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of
from atlas.rundir.markers import digest_values, write_marker
from atlas.store.shards import read_metadata
from atlas.visualize.diverse import DIVERSITY, UNIT_RECIPE, picture_size
from pipelines import cells, collect, layout, rank, worker
from pipelines.batch_settings import measure_drawing
from pipelines.stage import Item, Part, Summary, part_id

NAME = "neurons"
WORK = "units"
REDO_DEPENDENTS = False
prepare_worker = move_aside = None


@dataclass(frozen=True)
class _OpenLayer:
    """A layer of the stage on a worker: its ``network`` there, the statistics of its units, and a function that reads
    the views of its rows."""

    run: RunDirectory
    source: Source
    run_network: RunNetwork
    network: Network
    statistics: pa.Table
    read: ReadViews


def parts(config: Config) -> list[Part]:
    """For each layer its statistics, then its units; and when the statistics of all and their maps are there, what
    builds those units, and the cells."""
    layers = config.neurons.layers if config.neurons else ()
    statistics = tuple(part_id(NAME, _part_of_statistics(layer)) for layer in layers)
    maps = tuple(part_id(cells.NAME, layer) for layer in layers)
    return [
        *(Part(NAME, _part_of_statistics(layer), (part_id(collect.NAME),), rank.UNITS) for layer in layers),
        *(Part(NAME, part_of_units(layer), (before,), rank.UNITS) for layer, before in zip(layers, statistics)),
        *(Part(NAME, part_of_circuits(layer), (*statistics, *maps), rank.UNITS) for layer in layers),
    ]


def _part_of_statistics(layer: str) -> str:
    return f"{layer}/statistics"


def part_of_units(layer: str) -> str:
    """The part that draws and measures a layer's units."""
    return f"{layer}/units"


def part_of_circuits(layer: str) -> str:
    """The part that finds what builds a layer's units and cells."""
    return f"{layer}/circuits"


def plan(part: str, config: Config, run: RunDirectory) -> list[Item]:
    """A layer's statistics; or its units, some together; or its circuits and what builds its cells."""
    settings = _settings(config.neurons)
    layer = part.rpartition("/")[0]
    if part == _part_of_statistics(layer):
        return [Item(part, NAME, run=str(run.path))]
    if part == part_of_units(layer):
        units = read_metadata(run.shards(layer)[0])["channels"]
        return [
            Item(f"{layer}/{name}", NAME, run=str(run.path), work=len(units_of_part(name, units)))
            for name in part_names(units)
        ]
    others = [source.name for source in _other_layers(settings.layers, layer)]
    own_maps = [one for one in maps_of(config.layers, config.layout, config.cells) if one.name in (layer, *others)]
    coordinates = [layout.coordinates_digest(run, atlas_map, config.layers, config.layout) for atlas_map in own_maps]
    # One more layer leaves all items but these as they are.
    return [
        Item(f"{layer}/circuit", NAME, (), str(run.path), digest_values(others, settings.sources)),
        Item(f"{layer}/cells", NAME, (), str(run.path), digest_values(others, run.stage_key(cells.NAME), coordinates)),
    ]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item, in its layer's folder, beside the one table that it vouches for."""
    return [run.folder(NAME) / f"{item.id}.json"]


def run_item(item: Item) -> Summary:
    """Make one table of a layer."""
    run, config = item.open()
    settings = _settings(config.neurons)
    layer, _, work = item.id.rpartition("/")
    facts: dict[str, Any] = {"of": item.of} if item.of else {}
    summary = Summary(0)
    if work == "statistics":
        table = unit_statistics(run.shards(layer), settings.patches)
        facts["firing"] = int((table["largest"].to_numpy() > 0).sum())
    else:
        run_network = config.networks()[config.module_of(layer)[0]]
        target = _open_layer(run, layer, run_network, config.images, seed=config.seed, threads=config.cluster.threads)
        others = _other_layers(settings.layers, layer)
        if work == "circuit":
            table, facts["notes"] = _circuit(target, others, settings.sources)
        elif work == "cells":
            table = _cells(target, others, config.cells)
        else:
            drawing = _drawing(run, layer, settings.pictures, config.render, seed=config.seed)
            attributions = config.collect.attributions
            table, failed = _units(target, work, drawing, settings.rotated_patches, attributions=attributions)
            facts["patches_failed"] = failed
            summary = Summary(table.num_rows, failed)
    path = run.folder(NAME) / f"{item.id}.parquet"
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    write_marker(path.with_suffix(".json"), key=run.stage_key(NAME), files=[path], rows=table.num_rows, **facts)
    return summary


def engine() -> dict[str, Any]:
    """What the stage's key holds beside the configuration: a version that does otherwise does all anew."""
    return {
        "format": NEURONS_FORMAT,
        "recipe": asdict(UNIT_RECIPE),
        "apart": DIVERSITY,
        "disc": DISC,
        "units": UNITS_PER_PART,
    }


def measure_batch_settings(path: str) -> dict[str, dict[str, Any]]:
    """Precision and batch of the pictures of each layer of the run at ``path``: as configured for the icons, or as
    suits this worker."""
    run = RunDirectory(Path(path))

    def size_of(run_network: RunNetwork, network: Network, layer: str) -> int:
        return picture_size(worker.layers(run, run_network)[layer], network)

    return measure_drawing(run, size_of)


def _settings(neurons: NeuronsConfig | None) -> NeuronsConfig:
    assert neurons is not None  # the stage runs only with this section
    return neurons


def _other_layers(layers: Sequence[str], layer: str) -> list[Source]:
    """The other ones of the stage's ``layers`` that belong to the same network."""
    network, _ = Config.module_of(layer)
    return [
        Source(name, Config.module_of(name)[1])
        for name in layers
        if name != layer and Config.module_of(name)[0] == network
    ]


def _statistics(run: RunDirectory, layer: str) -> pa.Table:
    path = run.neurons(layer) / "statistics.parquet"
    return _read_statistics(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_statistics(path: Path, _mtime: int) -> pa.Table:
    return pq.read_table(path)


def _open_layer(
    run: RunDirectory, layer: str, run_network: RunNetwork, images: ImagesConfig, *, seed: int, threads: int
) -> _OpenLayer:
    network = worker.network(run, run_network, threads=threads)
    read = partial(read_views, run.shards(layer), worker.listing(run), size=network.size, images=images, seed=seed)
    source = Source(layer, Config.module_of(layer)[1])
    return _OpenLayer(run, source, run_network, network, _statistics(run, layer), read)


def _drawing(run: RunDirectory, layer: str, pictures: int, render: RenderConfig, *, seed: int) -> UnitDrawing:
    """How the pictures of a layer's units are drawn: so many of each unit."""
    batch_settings = run.stage_facts(NAME)["batch_settings"][layer]
    return UnitDrawing(
        pictures=pictures,
        steps=None if render.steps == "auto" else render.steps,
        precision=batch_settings["precision"],
        batch=batch_settings["batch"],
        compile=render.compile,
        seed=seed,
    )


def _units(
    target: _OpenLayer, part: str, drawing: UnitDrawing, rotated_patches: int, *, attributions: bool
) -> tuple[pa.Table, int]:
    """The table of some units, so many patches of each rotated, and how many of their top patches could not be
    read."""
    units = units_of_part(part, target.statistics.num_rows)
    keys = firing_rows(target.statistics, units)
    views = target.read(keys)
    layer = worker.layers(target.run, target.run_network)[target.source.name]
    observer = worker.observer(target.run, target.run_network, target.source.module) if attributions else None
    table = unit_table(
        target.network, layer, target.statistics, units, views, drawing, observer, rotated_patches=rotated_patches
    )
    return table, sum(key not in views for key in keys)


def _circuit(target: _OpenLayer, others: list[Source], count: int) -> tuple[pa.Table, dict[str, str]]:
    """The table of the ``count`` units that build each unit, and for each layer without weights the sentence why."""
    module = target.source.module
    earlier = earlier_layers(target.network, module, others)
    return circuit_table(target.network, module, earlier, target.statistics, target.read, count)


def _cells(target: _OpenLayer, others: list[Source], settings: CellsConfig) -> pa.Table:
    """The table of which cells of earlier layers build the layer's cells."""
    earlier = earlier_layers(target.network, target.source.module, others)
    return cells_table(target.network, target.run, settings, target.source, earlier, target.statistics, target.read)

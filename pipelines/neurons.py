"""Stage neurons: store + cells → tables of every unit of some layers.

Items of a layer: the statistics of its units; parts of 16 units with their pictures, rotated patches and classes; the
circuits that build the units; and which cells of earlier layers build its cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.config.model import Config
from atlas.config.sections import NeuronsConfig
from atlas.neurons.circuits import Source, cells_table, circuit_table, earlier_layers
from atlas.neurons.parts import UNITS_PER_PART, part_names, units_of_part
from atlas.neurons.statistics import unit_statistics
from atlas.neurons.tables import NEURONS_FORMAT
from atlas.neurons.tuning import DISC
from atlas.neurons.units import ROTATED_PATCHES, UnitDrawing, firing_rows, unit_table
from atlas.neurons.views import PositionView, read_views
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import digest_values, write_marker
from atlas.store.shards import RowKey, read_metadata
from atlas.visualize import fitting_precision, measure_batch
from atlas.visualize.diverse import DIVERSITY, UNIT_RECIPE, picture_size
from pipelines import worker
from pipelines.stage import Item, Summary

NAME = "neurons"
WORK = "units"
REDO_DEPENDENTS = False
prepare_worker = None


def plan(config: Config, run: RunDirectory) -> list[Item]:
    """For each layer its statistics, parts of units, circuits, and what builds its cells."""
    settings = _settings(config)
    items: list[Item] = []
    circuits: list[Item] = []
    for layer in settings.layers:
        statistics = f"{layer}/statistics"
        items.append(Item(statistics, NAME, run=str(run.path)))
        units = read_metadata(run.shards(layer)[0])["channels"]
        items += [Item(f"{layer}/{part}", NAME, (statistics,), str(run.path)) for part in part_names(units)]
        others = [source.name for source in _other_layers(config, layer)]
        after = (statistics, *(f"{name}/statistics" for name in others))
        # One more layer leaves all items but these as they are.
        circuits += [
            Item(f"{layer}/circuit", NAME, after, str(run.path), digest_values(others, settings.sources)),
            Item(f"{layer}/cells", NAME, after, str(run.path), digest_values(others, run.stage_key("cells"))),
        ]
    return [*items, *circuits]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item, in its layer's folder, beside the one table that it vouches for."""
    return [run.folder(NAME) / f"{item.id}.json"]


def run_item(item: Item) -> Summary:
    """Make one table of a layer."""
    run, config = item.open()
    layer, _, work = item.id.rpartition("/")
    facts: dict[str, Any] = {"of": item.of} if item.of else {}
    if work == "statistics":
        table = unit_statistics(run.shards(layer), _settings(config).patches)
        facts["firing"] = int((table["largest"].to_numpy() > 0).sum())
        done = Summary(0)
    elif work == "circuit":
        table, notes = _circuit(run, config, layer)
        facts["notes"] = notes
        done = Summary(0)
    elif work == "cells":
        table, done = _cells(run, config, layer), Summary(0)
    else:
        table, failed = _units(run, config, layer, work)
        facts["patches_failed"] = failed
        done = Summary(table.num_rows, failed)
    path = run.folder(NAME) / f"{item.id}.parquet"
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    write_marker(path.with_suffix(".json"), key=run.stage_key(NAME), files=[path], rows=table.num_rows, **facts)
    return done


def engine() -> dict[str, Any]:
    """What the stage's key holds beside the configuration: a version that does otherwise does all anew."""
    return {
        "format": NEURONS_FORMAT,
        "recipe": asdict(UNIT_RECIPE),
        "apart": DIVERSITY,
        "disc": DISC,
        "rotated": ROTATED_PATCHES,
        "units": UNITS_PER_PART,
    }


def measure_batch_settings(path: str) -> dict[str, dict[str, Any]]:
    """Precision and batch of the pictures of each layer of the run at ``path``: as configured for the icons, or as
    suits this worker."""
    run = RunDirectory(Path(path))
    config, settings = run.config(), run.config().render
    batch_settings: dict[str, dict[str, Any]] = {}
    for layer in config.layers:  # all of them: a later start may ask for more, and this is measured once
        named, module = config.module_of(layer)
        network = worker.network(run, config, named)
        size = picture_size(worker.layers(run, config, named)[layer], network)
        precision, batch = settings.precision, settings.batch
        if precision == "auto":
            precision = fitting_precision(network, module, size)
        if batch == "auto":
            batch = measure_batch(network, module, size, precision, settings.compile)
        batch_settings[layer] = {"precision": precision, "batch": batch}
    return batch_settings


def _settings(config: Config) -> NeuronsConfig:
    assert config.neurons is not None  # the stage runs only with this section
    return config.neurons


def _other_layers(config: Config, layer: str) -> list[Source]:
    """The other layers of the stage that belong to the same network."""
    network, _ = config.module_of(layer)
    return [
        Source(name, config.module_of(name)[1])
        for name in _settings(config).layers
        if name != layer and config.module_of(name)[0] == network
    ]


def _statistics(run: RunDirectory, layer: str) -> pa.Table:
    path = run.neurons(layer) / "statistics.parquet"
    return _read_statistics(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_statistics(path: Path, _written: int) -> pa.Table:
    return pq.read_table(path)


def _reader(
    run: RunDirectory, config: Config, layer: str, size: int
) -> Callable[[Sequence[RowKey]], dict[RowKey, PositionView]]:
    return lambda keys: read_views(
        run.shards(layer), worker.listing(run), keys, size=size, images=config.images, seed=config.seed
    )


def _units(run: RunDirectory, config: Config, layer: str, part: str) -> tuple[pa.Table, int]:
    """The table of some units, and how many of their top patches could not be read."""
    named, module = config.module_of(layer)
    network, described = worker.network(run, config, named), worker.layers(run, config, named)[layer]
    statistics = _statistics(run, layer)
    units = units_of_part(part, statistics.num_rows)
    keys = firing_rows(statistics, units)
    views = _reader(run, config, layer, network.size)(keys)
    batch_settings = run.stage_facts(NAME)["batch_settings"][layer]
    drawing = UnitDrawing(
        pictures=_settings(config).pictures,
        steps=None if config.render.steps == "auto" else config.render.steps,
        precision=batch_settings["precision"],
        batch=batch_settings["batch"],
        compile=config.render.compile,
        seed=config.seed,
    )
    observer = worker.observer(run, config, named, module) if config.collect.attributions else None
    table = unit_table(network, described, statistics, units, views, drawing, observer)
    return table, sum(key not in views for key in keys)


def _earlier(run: RunDirectory, config: Config, layer: str) -> list[Source]:
    named, module = config.module_of(layer)
    return earlier_layers(worker.network(run, config, named), module, _other_layers(config, layer))


def _circuit(run: RunDirectory, config: Config, layer: str) -> tuple[pa.Table, dict[str, str]]:
    """The table of what builds the units, and for each layer without weights the sentence why."""
    named, module = config.module_of(layer)
    network = worker.network(run, config, named)
    read = _reader(run, config, layer, network.size)
    sources = _earlier(run, config, layer)
    return circuit_table(network, module, sources, _statistics(run, layer), read, _settings(config).sources)


def _cells(run: RunDirectory, config: Config, layer: str) -> pa.Table:
    named, module = config.module_of(layer)
    network = worker.network(run, config, named)
    read = _reader(run, config, layer, network.size)
    target, sources = Source(layer, module), _earlier(run, config, layer)
    return cells_table(network, run, config.cells, target, sources, _statistics(run, layer), read)

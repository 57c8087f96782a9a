"""What a run will cost, known before it starts: icons, seconds and bytes.

The costs of one view, one icon and one unit are measured on this machine; what they come to is arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from atlas.config.model import Config
from atlas.config.sections import (
    ClusterConfig,
    CollectConfig,
    ImagesConfig,
    LayoutConfig,
    NeuronsConfig,
    RenderConfig,
)
from atlas.networks.network import Layer, Network
from atlas.networks.observer import Observer
from atlas.neurons.units import seconds_a_unit
from atlas.rundir.maps import has_common_start, layout_groups
from atlas.visualize import step_seconds
from atlas.visualize.recipe import ATLAS
from pipelines.cluster import default_workers
from pipelines.collect import images_per_shard

# Measured on two cores: seconds that a layout takes for a row, and to begin with.
LAYOUT_ROW_SECONDS, LAYOUT_SECONDS = 2e-4, 5.0
# An icon and a unit in their folders and in the site; a row of a store beside its activation and attribution.
ICON_BYTES, UNIT_BYTES, ROW_BYTES = 40_000, 300_000, 40


@dataclass(frozen=True)
class Durations:
    """Seconds on one worker: of a ``view`` through all networks, of an ``icon`` (the mean of the layers), and of the
    ``units`` of the neurons stage, all of them together."""

    view: float
    icon: float
    units: float = 0.0


@dataclass(frozen=True)
class Work:
    """What a run has to do before it draws: ``views`` in so many ``shards``, ``rows`` of each layer, and ``layouts``
    with the start that they have in common."""

    views: int
    shards: int
    rows: int
    layouts: int


@dataclass(frozen=True)
class Expectation:
    """How much of its WORK a stage has, and the seconds that one takes on a worker."""

    work: float = 0.0
    seconds_each: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of a run, and what is expected of its stages, by name."""

    seconds: float
    bytes: float
    stages: dict[str, Expectation]


def expected_cells(grid: int, rows: int, min_count: int) -> int:
    """About how many cells of a ``grid`` × ``grid`` lattice are drawn: seven of ten at most, as a map does not fill its
    square, and no more than hold twice ``min_count`` of the map's ``rows`` each."""
    return round(min(0.7 * grid**2, rows / (2 * min_count)))


def count_work(
    pictures: int, layers: Sequence[str], images: ImagesConfig, collect: CollectConfig, layout: LayoutConfig
) -> Work:
    """What a run over so many ``pictures`` has to do before it draws."""
    views = pictures * images.crops
    return Work(
        views=views,
        shards=-(-pictures // images_per_shard(pictures, images, collect)),
        rows=views * collect.positions_per_image,
        layouts=len(layout_groups(layers, layout)) + has_common_start(layers, layout),
    )


def estimate(
    work: Work,
    icons: int,
    networks: Mapping[str, Network],
    layers: Mapping[str, Layer],
    *,
    collect: CollectConfig,
    render: RenderConfig,
    neurons: NeuronsConfig | None,
    cluster: ClusterConfig,
) -> Estimate:
    """What a run takes that draws so many ``icons``, on the workers that it asks for.

    ``networks`` and ``layers`` by their names in the run. A batch of views and a step of icons are computed for it.
    """
    durations = measure_durations(
        networks, layers, collect=collect, render=render, neurons=neurons, threads=cluster.threads
    )
    classes = {name: len(network.classes) for name, network in networks.items()} if collect.attributions else {}
    seconds = total_seconds(work, durations, icons=icons, workers=default_workers(cluster))
    units = sum(layers[name].channels for name in neurons.layers) if neurons else 0
    laid_out = work.rows * work.layouts
    stages = {
        "collect": Expectation(work.views, durations.view),
        "layout": Expectation(laid_out, LAYOUT_ROW_SECONDS + work.layouts * LAYOUT_SECONDS / max(laid_out, 1)),
        "render": Expectation(icons, durations.icon),
        "neurons": Expectation(units, durations.units / max(units, 1)),
    }
    return Estimate(seconds, total_bytes(work, layers, classes, icons=icons, neurons=neurons), stages)


def measure_durations(
    networks: Mapping[str, Network],
    layers: Mapping[str, Layer],
    *,
    collect: CollectConfig,
    render: RenderConfig,
    neurons: NeuronsConfig | None,
    threads: int,
) -> Durations:
    """Time a batch of views and a step of icons on each network, here and with so many ``threads``."""
    torch.set_num_threads(threads)
    view_seconds, icon_seconds = 0.0, []
    for name, network in networks.items():
        own_layers = [layer for layer_name, layer in layers.items() if Config.module_of(layer_name)[0] == name]
        view_seconds += Observer(network, [layer.name for layer in own_layers]).seconds_per_view(
            own_layers, draws=collect.positions_per_image, attributions=collect.attributions
        )
        icon_seconds += [_seconds_per_icon(network, layer.name, render) for layer in own_layers]
    unit_seconds = 0.0 if neurons is None else _unit_seconds(networks, layers, neurons, render)
    return Durations(view_seconds, float(np.mean(icon_seconds)), unit_seconds)


def total_seconds(work: Work, durations: Durations, *, icons: int, workers: int) -> float:
    """Seconds of a run on so many ``workers``: collecting, layouts, icons and units.

    Collecting has no more workers than shards; a layout has one.
    """
    return (
        work.views * durations.view / min(workers, work.shards)
        + work.layouts * (LAYOUT_SECONDS + work.rows * LAYOUT_ROW_SECONDS)
        + (icons * durations.icon + durations.units) / workers
    )


def total_bytes(
    work: Work,
    layers: Mapping[str, Layer],
    classes: Mapping[str, int],
    *,
    icons: int,
    neurons: NeuronsConfig | None,
) -> int:
    """Bytes of a run: the store (float16 activations and attributions), icons and units.

    ``layers`` by their names in the run; ``classes``: to how many classes each network attributes, by its name there,
    empty where the run takes no attributions.
    """
    row_bytes = 0
    for name, layer in layers.items():
        row_bytes += 2 * (layer.channels + classes.get(Config.module_of(name)[0], 0)) + ROW_BYTES
    units = sum(layers[name].channels for name in neurons.layers) if neurons else 0
    return work.rows * row_bytes + icons * ICON_BYTES + units * UNIT_BYTES


def _unit_seconds(
    networks: Mapping[str, Network], layers: Mapping[str, Layer], neurons: NeuronsConfig, render: RenderConfig
) -> float:
    """Seconds on one worker for all units of the neurons stage."""
    steps = None if render.steps == "auto" else render.steps
    return sum(
        layers[name].channels
        * seconds_a_unit(
            networks[Config.module_of(name)[0]],
            layers[name],
            pictures=neurons.pictures,
            steps=steps,
            precision=render.precision,
        )
        for name in neurons.layers
    )


def _seconds_per_icon(network: Network, layer: str, settings: RenderConfig) -> float:
    steps: float = 0.35 * ATLAS.steps + 0.65 * ATLAS.steps_from_start
    if settings.steps != "auto":
        steps = settings.steps
    # A third more for the transforms, the spectrum and the scores.
    return 1.3 * steps * step_seconds(network, layer, settings.size, settings.precision)

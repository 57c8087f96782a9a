"""What a run will cost, known before it starts: icons, seconds and bytes.

The costs of one view, one icon and one unit are measured on this machine; what they come to is arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from atlas.config.model import Config
from atlas.config.sections import RenderConfig
from atlas.networks.network import Layer, Network
from atlas.networks.observer import Observer
from atlas.neurons.units import seconds_a_unit
from atlas.pictures.listing import Listing
from atlas.rundir.maps import has_common_start, layout_groups
from atlas.visualize import step_seconds
from atlas.visualize.recipe import ATLAS
from pipelines import collect
from pipelines.cluster import default_workers

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


def expected_cells(grid: int, rows: int, min_count: int) -> int:
    """About how many cells of a ``grid`` × ``grid`` lattice are drawn: seven of ten at most, as a map does not fill its
    square, and no more than hold twice ``min_count`` of the map's ``rows`` each."""
    return round(min(0.7 * grid**2, rows / (2 * min_count)))


def estimate(
    config: Config,
    listing: Listing,
    networks: Mapping[str, Network],
    layers: Mapping[str, Layer],
    icons: int,
) -> tuple[float, float]:
    """Seconds and bytes of a run that draws so many ``icons``, on the workers that it asks for.

    ``networks`` and ``layers`` by their names in the run. A batch of views and a step of icons are computed for it.
    """
    durations = measure_durations(config, networks, layers)
    classes = {name: len(network.classes) for name, network in networks.items()}
    seconds = total_seconds(
        config, durations, pictures=len(listing), icons=icons, workers=default_workers(config.cluster)
    )
    return seconds, total_bytes(config, layers, classes, pictures=len(listing), icons=icons)


def measure_durations(config: Config, networks: Mapping[str, Network], layers: Mapping[str, Layer]) -> Durations:
    """Time a batch of views and a step of icons on each network, here and with ``cluster.threads`` threads."""
    torch.set_num_threads(config.cluster.threads)
    view_seconds, icon_seconds = 0.0, []
    for name, network in networks.items():
        observed = [layers[layer] for layer in config.layers_of(name)]
        view_seconds += Observer(network, [layer.name for layer in observed]).seconds_per_view(
            observed, draws=config.collect.positions_per_image, attributions=config.collect.attributions
        )
        icon_seconds += [_seconds_per_icon(network, layer.name, config.render) for layer in observed]
    return Durations(view_seconds, float(np.mean(icon_seconds)), _unit_seconds(config, networks, layers))


def total_seconds(config: Config, durations: Durations, *, pictures: int, icons: int, workers: int) -> float:
    """Seconds of a run over so many ``pictures`` on so many ``workers``: collecting, layouts, icons and units.

    Collecting has no more workers than shards; a layout has one.
    """
    views = pictures * config.images.crops
    shards = -(-pictures // collect.images_per_shard(pictures, config.images, config.collect))
    layouts = len(layout_groups(config.layers, config.layout)) + has_common_start(config.layers, config.layout)
    rows = views * config.collect.positions_per_image
    return (
        views * durations.view / min(workers, shards)
        + layouts * (LAYOUT_SECONDS + rows * LAYOUT_ROW_SECONDS)
        + (icons * durations.icon + durations.units) / workers
    )


def total_bytes(
    config: Config, layers: Mapping[str, Layer], classes: Mapping[str, int], *, pictures: int, icons: int
) -> int:
    """Bytes of a run: the store (float16 activations and attributions), icons and units.

    ``layers`` by their names in the run, ``classes`` the number of classes of each network by its name there.
    """
    rows = pictures * config.images.crops * config.collect.positions_per_image
    row_bytes = 0
    for name, layer in layers.items():
        attributions = classes[config.module_of(name)[0]] if config.collect.attributions else 0
        row_bytes += 2 * (layer.channels + attributions) + ROW_BYTES
    units = sum(layers[name].channels for name in config.neurons.layers) if config.neurons else 0
    return rows * row_bytes + icons * ICON_BYTES + units * UNIT_BYTES


def _unit_seconds(config: Config, networks: Mapping[str, Network], layers: Mapping[str, Layer]) -> float:
    """Seconds on one worker for all units of the neurons stage."""
    if config.neurons is None:
        return 0.0
    steps = None if config.render.steps == "auto" else config.render.steps
    return sum(
        layers[name].channels
        * seconds_a_unit(
            networks[config.module_of(name)[0]],
            layers[name],
            pictures=config.neurons.pictures,
            steps=steps,
            precision=config.render.precision,
        )
        for name in config.neurons.layers
    )


def _seconds_per_icon(network: Network, layer: str, settings: RenderConfig) -> float:
    steps: float = 0.35 * ATLAS.steps + 0.65 * ATLAS.steps_from_start
    if settings.steps != "auto":
        steps = settings.steps
    # A third more for the transforms, the spectrum and the scores.
    return 1.3 * steps * step_seconds(network, layer, settings.size, settings.precision)

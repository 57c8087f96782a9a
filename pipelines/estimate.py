"""What a run will cost, known before it starts: icons, seconds and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from atlas.config.model import Config
from atlas.networks.network import Layer, Network
from atlas.networks.observer import Observer
from atlas.neurons.units import seconds_a_unit
from atlas.pictures.listing import Listing
from atlas.rundir.maps import has_common_start, layout_groups
from atlas.visualize import step_seconds
from atlas.visualize.recipe import ATLAS
from pipelines import collect
from pipelines.cluster import default_workers

# For the estimate before a run, measured on two cores: seconds a row of layout, bytes of an icon and of a unit in their
# folders and the site.
_LAYOUT_SECONDS, _LAYOUT_START, _ICON_BYTES, _UNIT_BYTES = 2e-4, 5.0, 40_000, 300_000


def expected_cells(grid: int, rows: int, min_count: int) -> int:
    return round(min(0.7 * grid**2, rows / (2 * min_count)))


def estimate(
    config: Config,
    listing: Listing,
    networks: dict[str, Network],
    layers: dict[str, Layer],
    views: int,
    rows: int,
    icons: int,
) -> tuple[float, float]:
    """Seconds and bytes: one batch of views and one step of icons are timed, the rest is arithmetic."""
    torch.set_num_threads(config.cluster.threads)
    workers = default_workers(config.cluster)
    shards = -(-len(listing) // collect.images_per_shard(len(listing), config.images, config.collect))
    collecting = config.collect
    view_seconds, icon_seconds, store = 0.0, [], 0
    for name, network in networks.items():
        mine = [layers[layer] for layer in config.layers_of(name)]
        view_seconds += Observer(network, [layer.name for layer in mine]).seconds_per_view(
            mine, draws=collecting.positions_per_image, attributions=collecting.attributions
        )
        icon_seconds += [_seconds_per_icon(network, layer.name, config) for layer in mine]
        classes = len(network.classes) if config.collect.attributions else 0
        store += rows * sum(2 * (layer.channels + classes) + 40 for layer in mine)
    layouts = len(layout_groups(config.layers, config.layout)) + has_common_start(config.layers, config.layout)
    layout_seconds = layouts * (_LAYOUT_START + rows * _LAYOUT_SECONDS)
    collect_seconds = views * view_seconds / min(workers, shards)
    drawing = icons * float(np.mean(icon_seconds)) + _neuron_seconds(config, networks, layers)
    units = sum(layers[name].channels for name in config.neurons.layers) if config.neurons else 0
    seconds = collect_seconds + drawing / workers + layout_seconds
    return seconds, store + icons * _ICON_BYTES + units * _UNIT_BYTES


def _neuron_seconds(config: Config, networks: dict[str, Network], layers: dict[str, Layer]) -> float:
    """For all units that are looked at, on one worker."""
    if config.neurons is None:
        return 0.0
    steps = None if config.render.steps == "auto" else config.render.steps
    options: dict[str, Any] = {
        "pictures": config.neurons.pictures, "steps": steps, "precision": config.render.precision
    }  # fmt: skip
    return sum(
        layers[name].channels * seconds_a_unit(networks[config.module_of(name)[0]], layers[name], **options)
        for name in config.neurons.layers
    )


def _seconds_per_icon(network: Network, layer: str, config: Config) -> float:
    steps: float = 0.35 * ATLAS.steps + 0.65 * ATLAS.steps_from_start
    if config.render.steps != "auto":
        steps = config.render.steps
    # A third more for the moves, the spectrum and the scores.
    return 1.3 * steps * step_seconds(network, layer, config.render.size, config.render.precision)

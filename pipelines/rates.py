"""What one view, one step of an icon and one unit take on this machine, measured for the plan of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from atlas.config.model import Config
from atlas.config.sections import CollectConfig, ImagesConfig, NeuronsConfig, RenderConfig
from atlas.networks.network import Layer, Network
from atlas.networks.observer import Observer
from atlas.neurons.units import seconds_a_unit
from atlas.pictures.listing import Listing
from atlas.pictures.views import crop_views
from atlas.visualize import step_seconds
from atlas.visualize.score import score_seconds

# A row of one layer in the store, with what Python does for it.
ROW_SECONDS = 3e-4
# Pictures that are decoded to see how long it takes, and views in one pass of the network.
_PICTURES, _VIEWS = 3, 4


@dataclass(frozen=True)
class IconRate:
    """Seconds of one step of an icon, and of its scores."""

    step: float
    score: float


@dataclass(frozen=True)
class Rates:
    """Seconds on one worker, while all are at work: of a ``view`` through all networks, decoded and stored; of the
    ``icons`` of each layer, and of one unit of each layer of the neurons stage (``units``)."""

    view: float
    icons: Mapping[str, IconRate]
    units: Mapping[str, float]


def measure_rates(
    networks: Mapping[str, Network],
    layers: Mapping[str, Layer],
    listing: Listing,
    *,
    images: ImagesConfig,
    collect: CollectConfig,
    render: RenderConfig,
    neurons: NeuronsConfig | None,
    threads: int,
    beside: int,
) -> Rates:
    """Time a few views and steps on each network, here and with so many ``threads``, as they are while so many workers
    are at work ``beside`` each other on this machine (1: nothing else is)."""
    torch.set_num_threads(threads)
    view, slowing = 0.0, 1.0
    for name, network in networks.items():
        own_layers = [layer for layer_name, layer in layers.items() if Config.module_of(layer_name)[0] == name]
        observer = Observer(network, [layer.name for layer in own_layers])

        def pass_seconds(observer: Observer = observer, own_layers: list[Layer] = own_layers) -> float:
            return observer.seconds_per_view(
                own_layers, draws=collect.positions_per_image, attributions=collect.attributions, views=_VIEWS
            )

        alone = pass_seconds()
        if beside > 1 and slowing == 1:
            slowing = min(float(beside), max(1.0, _side_by_side(pass_seconds, beside, threads) / alone))
        view += alone + _decoding_seconds(listing, network.size, images)
    view += ROW_SECONDS * len(layers) * collect.positions_per_image
    icons, units = {}, {}
    steps = None if render.steps == "auto" else render.steps
    for name, layer in layers.items():
        network = networks[Config.module_of(name)[0]]
        step = step_seconds(network, layer.name, render.size, render.precision)
        icons[name] = IconRate(slowing * step, slowing * score_seconds(network, layer.name, render.size))
        if neurons is not None and name in neurons.layers:
            units[name] = slowing * seconds_a_unit(
                network,
                layer,
                pictures=neurons.pictures,
                rotated_patches=neurons.rotated_patches,
                steps=steps,
                precision=render.precision,
            )
    return Rates(slowing * view, icons, units)


def _side_by_side(seconds: Callable[[], float], count: int, threads: int) -> float:
    """The mean of ``seconds()`` in so many threads at once, each with ``threads`` of torch's."""
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        return sum(pool.map(lambda _: seconds(), range(count))) / count


def _decoding_seconds(listing: Listing, size: int, images: ImagesConfig) -> float:
    """Seconds of a core for a view of ``size`` pixels; what a disk or a server takes is not counted."""
    pictures = min(len(listing), _PICTURES)
    if not pictures:
        return 0.0
    started = time.thread_time()
    for image_id in range(pictures):
        crop_views(listing, image_id, range(images.crops), size=size, images=images, seed=0)
    return (time.thread_time() - started) / (pictures * images.crops)

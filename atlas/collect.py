"""Pictures and a network → rows of the store.

Each view gives the activation of every layer at the position that holds one *place*, and its attribution to all
classes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from atlas.config import Config
from atlas.errors import ConfigError
from atlas.images import unit_hash
from atlas.networks import Layer
from atlas.observe import Observer, Precision
from atlas.operations import bfloat16_pays
from atlas.sources import Listing
from atlas.store import ShardWriter, schema
from atlas.views import Failure, View, cut_views

# The outer sixth on each side is left out: there the zeros around the picture speak.
MARGIN = 1 / 6

Given = TypeVar("Given")
Made = TypeVar("Made")


def place(seed: int, key: str, view: int, draw: int) -> tuple[float, float]:
    """The place (x, y) in the unit square: the same for all layers, whoever works on it."""
    x, y = unit_hash(seed, key, view, draw)
    return MARGIN + (1 - 2 * MARGIN) * x, MARGIN + (1 - 2 * MARGIN) * y


def position(place: NDArray[np.float64], layer: Layer) -> NDArray[np.int64]:
    """Places (n, 2) as (x, y) → positions (n, 2) as (y, x) of the layer's map."""
    x = np.minimum((place[:, 0] * layer.width).astype(np.int64), layer.width - 1)
    y = np.minimum((place[:, 1] * layer.height).astype(np.int64), layer.height - 1)
    return np.stack([y, x], axis=1)


def prefetch(
    function: Callable[[Given], Made],
    items: Iterable[Given],
    *,
    threads: int,
    ahead: int,
    start: Callable[[], None] | None = None,
) -> Iterator[Made]:
    """``function`` of each item, in order, worked out in threads at most ``ahead`` items before they are wanted.

    ``start`` is called once in each thread.
    """
    with ThreadPoolExecutor(threads, initializer=start) as pool:
        remaining = iter(items)
        waiting: deque[Future[Made]] = deque(pool.submit(function, item) for item in islice(remaining, ahead))
        try:
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()


def shard_views(shard: int, images: int, crops: int, images_per_shard: int) -> dict[int, list[int]]:
    """The views of a shard: image_id → view numbers. A picture's views stay in one shard, so it is decoded once."""
    first = shard * images_per_shard
    return {image: list(range(crops)) for image in range(first, min(first + images_per_shard, images))}


@dataclass(frozen=True)
class Pace:
    """How a run goes through its views: so many in one pass, computed in this precision, with so many threads that read
    and decode pictures.

    Measured once and kept: activations depend on batch and precision in their last bits.
    """

    batch: int
    precision: Precision = "float32"
    decoders: int = 2


def fitting_precision(device: torch.device, asked: Literal["auto"] | Precision) -> Precision:
    """What ``asked`` comes to on ``device``: "auto" is float32 on a CPU, on a GPU the half precision that suits it."""
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "float32"
    return "bfloat16" if bfloat16_pays(device) else "float16"


def measure_pace(observer: Observer, layers: Sequence[Layer], listing: Listing, config: Config, *, cores: int) -> Pace:
    """The quickest batch here for the network, as configured or measured, and as many decoders as keep it busy.

    Raises ConfigError when not even the smallest batch fits into the device's memory.
    """
    device, precision = observer.network.device, observer.precision
    draws, attributions = config.collect.positions_per_image, config.collect.attributions
    batches: tuple[int, ...] = (1, 2, 4, 8, 16) if device.type == "cpu" else (16, 32, 64, 128, 256)
    if config.collect.batch != "auto":
        batches = (config.collect.batch,)
    lanes, threads = _lanes(observer), torch.get_num_threads()
    seconds: dict[int, float] = {}
    torch.set_num_threads(1)
    try:
        for batch in batches:
            seconds[batch] = observer.seconds_per_view(layers, draws=draws, attributions=attributions, views=batch)
    except torch.OutOfMemoryError:
        if not seconds:
            raise ConfigError(
                f"collect.batch: {batches[0]} views at a time do not fit into the memory of {device}. Give a smaller "
                "batch."
            ) from None
    finally:
        torch.set_num_threads(threads)
    batch = min(seconds, key=seconds.__getitem__)
    started, decoded = time.perf_counter(), 0
    for image_id in range(min(len(listing), 8)):
        cut_views(listing, image_id, config, observer.network.size, range(min(config.images.crops, 8)))
        decoded += min(config.images.crops, 8)
    decoding = (time.perf_counter() - started) / decoded
    # A thread that waits for a server needs no core.
    most = max(cores, listing.threads)
    return Pace(batch, precision, max(2, min(most, math.ceil(1.25 * decoding * lanes / seconds[batch]))))


def _lanes(observer: Observer) -> int:
    """Batches in flight: on a CPU one for each thread that torch has here; on a GPU two, so that copies overlap."""
    return torch.get_num_threads() if observer.network.device.type == "cpu" else 2


def collect_shard(
    observer: Observer,
    layers: Sequence[Layer],
    listing: Listing,
    config: Config,
    views: dict[int, list[int]],
    paths: dict[str, Path],
    metadata: dict[str, dict[str, Any]],
    pace: Pace,
) -> tuple[int, list[Failure]]:
    """Write one shard of every layer to ``paths[layer]``; returns the rows of each and what failed, in order.

    ``metadata[layer]`` goes into the file. Views whose activation is not finite in float16 leave all layers.
    Batches go through the network side by side, each in a thread of its own, while others are decoded and written.
    """
    failures: list[tuple[int, Failure]] = []
    size, device = observer.network.size, observer.network.device
    lanes, threads = _lanes(observer), torch.get_num_threads()

    def ready() -> Iterator[View]:
        cutting = prefetch(
            lambda item: (item[0], cut_views(listing, item[0], config, size, item[1])),
            views.items(),
            threads=pace.decoders,
            ahead=2 * pace.decoders,
        )
        for image_id, cut in cutting:
            if isinstance(cut, Failure):
                failures.append((image_id, cut))
            else:
                yield from cut

    def start() -> None:
        torch.set_num_threads(1)  # a thread's own setting
        if device.type == "cuda":
            torch.cuda.set_stream(torch.cuda.Stream(device))

    stream = ready()
    with ExitStack() as stack:
        writers = {
            layer.name: stack.enter_context(
                ShardWriter(paths[layer.name], schema(config.collect.attributions, metadata[layer.name]))
            )
            for layer in layers
        }
        stack.callback(torch.set_num_threads, threads)
        observed = prefetch(
            lambda batch: observe_views(observer, layers, listing, config, batch, pace.batch),
            iter(lambda: list(islice(stream, pace.batch)), []),
            threads=lanes,
            ahead=lanes + 1,
            start=start,
        )
        for rows, lost in observed:
            failures += lost
            for layer in layers:
                writers[layer.name].append(rows[layer.name])
    failures.sort(key=lambda failure: (failure[0], failure[1].view or 0))
    return next(iter(writers.values())).rows, [failure for _, failure in failures]


def observe_views(
    observer: Observer, layers: Sequence[Layer], listing: Listing, config: Config, batch: Sequence[View], padded: int
) -> tuple[dict[str, dict[str, Any]], list[tuple[int, Failure]]]:
    """The store's columns for a batch of views, layer by layer; and image_id and reason of views that are not finite.

    The pass is made with ``padded`` views, so that the last batch of a shard is computed as all others are.
    """
    draws = config.collect.positions_per_image
    keys = [listing.keys[view.image_id] for view in batch]
    places = np.array(
        [[place(config.seed, key, view.view, draw) for draw in range(draws)] for key, view in zip(keys, batch)]
    )
    positions = {layer.name: position(places.reshape(-1, 2), layer).reshape(len(batch), draws, 2) for layer in layers}
    size = observer.network.size
    pixels = torch.zeros(padded, size, size, 3, dtype=torch.uint8, pin_memory=observer.network.device.type == "cuda")
    np.stack([view.pixels for view in batch], out=pixels[: len(batch)].numpy())
    observation = observer.observe(
        observer.network.from_bytes(pixels),
        {name: torch.from_numpy(_padded(where, padded)) for name, where in positions.items()},
        attributions=config.collect.attributions,
    )
    count = len(batch)
    vectors = {("activation", name): values[:count].half().numpy() for name, values in observation.activations.items()}
    vectors |= {
        ("attribution", name): values[:count].half().numpy() for name, values in observation.attributions.items()
    }
    finite = np.logical_and.reduce([np.isfinite(values).all((1, 2)) for values in vectors.values()])
    failures = [
        (view.image_id, Failure(key, view.view, "an activation or attribution is not finite in float16"))
        for key, view, good in zip(keys, batch, finite)
        if not good
    ]
    chosen: list[int] = np.flatnonzero(finite).tolist()
    confidence, predicted = observation.logits[:count].softmax(1).max(1)

    def repeat(values: Any) -> NDArray[Any]:
        return np.repeat(np.asarray(values)[chosen], draws, axis=0)

    shared: dict[str, Any] = {
        "image": [keys[index] for index in chosen for _ in range(draws)],
        "image_id": repeat([view.image_id for view in batch]),
        "view": repeat([view.view for view in batch]),
        "draw": np.tile(np.arange(draws), len(chosen)),
        "box": repeat([view.box for view in batch]),
        "place_x": places[chosen, :, 0].reshape(-1),
        "place_y": places[chosen, :, 1].reshape(-1),
        "label": [listing.labels[batch[index].image_id] for index in chosen for _ in range(draws)],
        "predicted": repeat(predicted.numpy()),
        "confidence": repeat(confidence.numpy()),
    }
    columns: dict[str, dict[str, Any]] = {}
    for layer in layers:
        where = positions[layer.name][chosen].reshape(-1, 2)
        columns[layer.name] = {**shared, "y": where[:, 0], "x": where[:, 1]}
        for kind in ("activation", "attribution"):
            if (kind, layer.name) in vectors:
                values = vectors[kind, layer.name][chosen]
                columns[layer.name][kind] = values.reshape(-1, values.shape[-1])
    return columns, failures


def _padded(values: NDArray[Any], length: int) -> NDArray[Any]:
    """``values`` with zeros behind, up to ``length`` rows."""
    return np.concatenate([values, np.zeros((length - len(values), *values.shape[1:]), values.dtype)])

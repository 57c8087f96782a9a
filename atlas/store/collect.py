"""Pictures and networks → rows of the store.

A view is read at one or several *places*: each gives a row, with the activation of every layer at the position that
holds the place, and its attribution to all classes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from atlas.config.sections import CollectConfig, ImagesConfig
from atlas.errors import ConfigError
from atlas.networks.network import Layer
from atlas.networks.observer import Observer
from atlas.networks.precision import Precision, bfloat16_pays
from atlas.pictures.hashing import uniform_hash
from atlas.pictures.listing import Listing
from atlas.pictures.views import Failure, View, crop_views
from atlas.rundir.versions import versions
from atlas.store.shards import SCHEMA_VERSION, ShardWriter, schema

# The outer sixth on each side is left out: activations there come mostly from the zeros around the picture.
EDGE_MARGIN = 1 / 6

Input = TypeVar("Input")
Output = TypeVar("Output")


def random_place(seed: int, key: str, view: int, draw: int) -> tuple[float, float]:
    """The place (x, y) in the unit square that a row is read at: the same for all layers, on every machine."""
    x, y = uniform_hash(seed, key, view, draw)
    return EDGE_MARGIN + (1 - 2 * EDGE_MARGIN) * x, EDGE_MARGIN + (1 - 2 * EDGE_MARGIN) * y


def positions_of(places: NDArray[np.float64], layer: Layer) -> NDArray[np.int64]:
    """Places (n, 2) as (x, y) → positions (n, 2) as (y, x) of the layer's map."""
    x = np.minimum((places[:, 0] * layer.width).astype(np.int64), layer.width - 1)
    y = np.minimum((places[:, 1] * layer.height).astype(np.int64), layer.height - 1)
    return np.stack([y, x], axis=1)


def prefetch(
    function: Callable[[Input], Output],
    items: Iterable[Input],
    *,
    threads: int,
    ahead: int,
    start: Callable[[], None] | None = None,
) -> Iterator[Output]:
    """``function`` of each item, in order, computed in threads at most ``ahead`` items before they are asked for.

    ``start`` is called once in each thread.
    """
    with ThreadPoolExecutor(threads, initializer=start) as pool:
        remaining = iter(items)
        waiting: deque[Future[Output]] = deque(pool.submit(function, item) for item in islice(remaining, ahead))
        try:
            while waiting:
                output = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield output
        finally:
            for future in waiting:
                future.cancel()


def shard_views(shard: int, images: int, crops: int, images_per_shard: int) -> dict[int, list[int]]:
    """The views of a shard: image_id → view numbers. A picture's views stay in one shard, so it is decoded once."""
    first = shard * images_per_shard
    return {image: list(range(crops)) for image in range(first, min(first + images_per_shard, images))}


@dataclass(frozen=True)
class Reader:
    """One network of a run, and which of its layers are read, by their names in the run. ``label_classes``: for each
    label of the listing the number of its class, or None; empty where no label is one."""

    observer: Observer
    layers: Mapping[str, Layer]
    label_classes: Sequence[int | None] = ()


@dataclass(frozen=True)
class BatchSettings:
    """The views in one pass, the precision that they are computed in, and the threads that read and decode pictures.

    Measured once in a run and then fixed: activations depend on batch and precision in their last bits.
    """

    batch: int
    precision: Precision = "float32"
    decoders: int = 2


def choose_precision(device: torch.device, requested: Literal["auto"] | Precision) -> Precision:
    """``requested``, where "auto" is float32 on a CPU and on a GPU the half precision that suits it."""
    if requested != "auto":
        return requested
    if device.type == "cpu":
        return "float32"
    return "bfloat16" if bfloat16_pays(device) else "float16"


def measure_batch_settings(
    readers: Sequence[Reader],
    listing: Listing,
    *,
    images: ImagesConfig,
    collect: CollectConfig,
    seed: int,
    cores: int,
) -> BatchSettings:
    """The quickest batch here for all networks, as configured or measured, and as many decoders as keep them busy.

    Raises ConfigError when not even the smallest batch fits into the device's memory.
    """
    device, precision = readers[0].observer.network.device, readers[0].observer.precision
    draws, attributions = collect.positions_per_image, collect.attributions
    batches: tuple[int, ...] = (1, 2, 4, 8, 16) if device.type == "cpu" else (16, 32, 64, 128, 256)
    if collect.batch != "auto":
        batches = (collect.batch,)
    lanes, threads = _lanes(device), torch.get_num_threads()
    seconds: dict[int, float] = {}
    torch.set_num_threads(1)
    try:
        for batch in batches:
            seconds[batch] = sum(
                reader.observer.seconds_per_view(
                    list(reader.layers.values()), draws=draws, attributions=attributions, views=batch
                )
                for reader in readers
            )
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
        views = range(min(images.crops, 8))
        _crop(readers, listing, image_id, views, images=images, seed=seed)
        decoded += len(views)
    decoding = (time.perf_counter() - started) / decoded
    # A thread that waits for a server needs no core.
    most = max(cores, listing.threads)
    return BatchSettings(batch, precision, max(2, min(most, math.ceil(1.25 * decoding * lanes / seconds[batch]))))


def _lanes(device: torch.device) -> int:
    """Batches in flight: on a CPU one for each thread that torch has here; on a GPU two, so that copies overlap."""
    return torch.get_num_threads() if device.type == "cpu" else 2


def _crop(
    readers: Sequence[Reader], listing: Listing, image_id: int, views: Sequence[int], *, images: ImagesConfig, seed: int
) -> list[tuple[View, ...]] | Failure:
    """The views of one picture, each in the size of every network: the same squares of the picture."""
    sizes = [reader.observer.network.size for reader in readers]
    of_size: dict[int, list[View]] = {}
    for size in dict.fromkeys(sizes):
        crops = crop_views(listing, image_id, views, size=size, images=images, seed=seed)
        if isinstance(crops, Failure):
            return crops
        of_size[size] = crops
    return list(zip(*(of_size[size] for size in sizes)))


def collect_shard(
    readers: Sequence[Reader],
    listing: Listing,
    views: dict[int, list[int]],
    paths: Mapping[str, Path],
    metadata: Mapping[str, Mapping[str, Any]],
    *,
    images: ImagesConfig,
    collect: CollectConfig,
    seed: int,
    settings: BatchSettings,
) -> tuple[int, list[Failure]]:
    """Write one shard of every layer to ``paths[layer]``; returns the rows of each and what failed, in order.

    ``metadata[layer]`` goes into the file. Views whose activation is not finite in float16 leave all layers.
    Batches go through the networks side by side, each in a thread of its own, while others are decoded and written.
    """
    failures: list[tuple[int, Failure]] = []
    device, names = readers[0].observer.network.device, [name for reader in readers for name in reader.layers]
    lanes, threads = _lanes(device), torch.get_num_threads()

    def decoded_views() -> Iterator[tuple[View, ...]]:
        cropping = prefetch(
            lambda item: (item[0], _crop(readers, listing, *item, images=images, seed=seed)),
            views.items(),
            threads=settings.decoders,
            ahead=2 * settings.decoders,
        )
        for image_id, crops in cropping:
            if isinstance(crops, Failure):
                failures.append((image_id, crops))
            else:
                yield from crops

    def start() -> None:
        torch.set_num_threads(1)  # a thread's own setting
        if device.type == "cuda":
            torch.cuda.set_stream(torch.cuda.Stream(device))

    stream = decoded_views()
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(ShardWriter(paths[name], schema(collect.attributions, metadata[name])))
            for name in names
        }
        stack.callback(torch.set_num_threads, threads)
        batches = prefetch(
            lambda batch: observe_views(readers, listing, batch, collect=collect, seed=seed, padded=settings.batch),
            iter(lambda: list(islice(stream, settings.batch)), []),
            threads=lanes,
            ahead=lanes + 1,
            start=start,
        )
        for rows, batch_failures in batches:
            failures += batch_failures
            for name in names:
                writers[name].append(rows[name])
    failures.sort(key=lambda failure: (failure[0], failure[1].view or 0))
    return next(iter(writers.values())).rows, [failure for _, failure in failures]


def observe_views(
    readers: Sequence[Reader],
    listing: Listing,
    batch: Sequence[tuple[View, ...]],
    *,
    collect: CollectConfig,
    seed: int,
    padded: int,
) -> tuple[dict[str, dict[str, Any]], list[tuple[int, Failure]]]:
    """The store's columns for a batch of views, layer by layer; and image_id and reason of views that are not finite.

    A view of the ``batch`` is given once for each network, in its size. Passes are made with ``padded`` views, so that
    the last batch of a shard is computed as all others are.
    """
    draws = collect.positions_per_image
    views = [sizes[0] for sizes in batch]
    keys = [listing.keys[view.image_id] for view in views]
    places = np.array(
        [[random_place(seed, key, view.view, draw) for draw in range(draws)] for key, view in zip(keys, views)]
    )
    labels = [listing.labels[view.image_id] for view in views]
    columns: dict[str, dict[str, Any]] = {}
    for number, reader in enumerate(readers):
        pixels = [sizes[number].pixels for sizes in batch]
        columns |= _observe(reader, pixels, places, labels, attributions=collect.attributions, padded=padded)
    vectors = [column[kind] for column in columns.values() for kind in ("activation", "attribution") if kind in column]
    finite = np.logical_and.reduce([np.isfinite(values).all((1, 2)) for values in vectors])
    failures = [
        (view.image_id, Failure(key, view.view, "an activation or attribution is not finite in float16"))
        for key, view, good in zip(keys, views, finite)
        if not good
    ]
    finite_views: list[int] = np.flatnonzero(finite).tolist()

    def repeat(values: Any) -> NDArray[Any]:
        return np.repeat(np.asarray(values)[finite_views], draws, axis=0)

    shared: dict[str, Any] = {
        "image": [keys[index] for index in finite_views for _ in range(draws)],
        "image_id": repeat([view.image_id for view in views]),
        "view": repeat([view.view for view in views]),
        "draw": np.tile(np.arange(draws), len(finite_views)),
        "box": repeat([view.box for view in views]),
        "place_x": places[finite_views, :, 0].reshape(-1),
        "place_y": places[finite_views, :, 1].reshape(-1),
        "label": [labels[index] for index in finite_views for _ in range(draws)],
    }
    rows = {
        name: {
            **shared,
            **{
                key: repeat(values) if values.ndim == 1 else values[finite_views].reshape(-1, *values.shape[2:])
                for key, values in column.items()
            },
        }
        for name, column in columns.items()
    }
    return rows, failures


def _observe(
    reader: Reader,
    pixels: Sequence[NDArray[np.uint8]],
    places: NDArray[np.float64],
    labels: Sequence[int | None],
    *,
    attributions: bool,
    padded: int,
) -> dict[str, dict[str, NDArray[Any]]]:
    """The columns of n views that depend on the network, layer by layer: (n,) or, of places, (n, draws, …)."""
    observer, count = reader.observer, len(pixels)
    draws, size = places.shape[1], observer.network.size
    positions = {
        name: positions_of(places.reshape(-1, 2), layer).reshape(count, draws, 2)
        for name, layer in reader.layers.items()
    }
    inputs = torch.zeros(padded, size, size, 3, dtype=torch.uint8, pin_memory=observer.network.device.type == "cuda")
    np.stack(pixels, out=inputs[:count].numpy())
    observation = observer.observe(
        observer.network.from_bytes(inputs),
        {layer.name: torch.from_numpy(_padded(positions[name], padded)) for name, layer in reader.layers.items()},
        attributions=attributions,
    )
    confidence, predicted = observation.logits[:count].softmax(1).max(1)
    of_views = true_class_columns(observation.logits[:count], reader.label_classes, labels)
    columns: dict[str, dict[str, NDArray[Any]]] = {}
    for name, layer in reader.layers.items():
        columns[name] = {
            **of_views,
            "predicted": predicted.numpy(),
            "confidence": confidence.numpy(),
            "y": positions[name][..., 0],
            "x": positions[name][..., 1],
            "activation": observation.activations[layer.name][:count].half().numpy(),
        }
        if layer.name in observation.attributions:
            columns[name]["attribution"] = observation.attributions[layer.name][:count].half().numpy()
    return columns


def true_class_columns(
    logits: torch.Tensor, label_classes: Sequence[int | None], labels: Sequence[int | None]
) -> dict[str, NDArray[Any]]:
    """The columns of the class that a view's label is, (n,), None where it is none: its rank among the ``logits``
    (n, classes), 1 where none is larger, and its softmax. No columns where ``label_classes`` is empty."""
    if not label_classes:
        return {}
    ranks, probabilities = (np.full(len(labels), None, object) for _ in range(2))
    softmax = logits.softmax(1)
    for row, label in enumerate(labels):
        number = None if label is None else label_classes[label]
        if number is not None:
            ranks[row] = 1 + int((logits[row] > logits[row, number]).sum())
            probabilities[row] = float(softmax[row, number])
    return {"label_rank": ranks, "label_probability": probabilities}


def _padded(values: NDArray[Any], length: int) -> NDArray[Any]:
    """``values`` with zeros behind, up to ``length`` rows."""
    return np.concatenate([values, np.zeros((length - len(values), *values.shape[1:]), values.dtype)])


def shard_metadata(
    reader: Reader, name: str, listing: Listing, seed: int, settings: BatchSettings
) -> dict[str, object]:
    """What an outside reader of a shard needs to know; no clock and no host, so that equal work gives equal bytes."""
    network, layer = reader.observer.network, reader.layers[name]
    return {
        "format": SCHEMA_VERSION,
        "network": network.name,
        "network_sha256": network.digest,
        "layer": name,
        "channels": layer.channels,
        "map_size": [layer.height, layer.width],
        "stride": layer.stride,
        "receptive_field": layer.receptive_field,
        "effective_receptive_field": layer.effective_receptive_field,
        "input_size": network.size,
        "mean": list(network.mean),
        "std": list(network.std),
        "precision": settings.precision,
        "batch": settings.batch,
        "source_kind": listing.kind,
        "listing_sha256": listing.digest,
        "classes": list(network.classes),
        "labels": list(listing.label_names),
        **({"label_classes": list(reader.label_classes)} if reader.label_classes else {}),
        "seed": seed,
        "versions": versions(),
    }

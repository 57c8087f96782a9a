"""Pictures and a network → rows of the store.

Each view gives the activation of every layer at the position that holds one *place*, and its attribution to all
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from atlas.config import Config
from atlas.images import unit_hash
from atlas.networks import Layer
from atlas.observe import Observer
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


def prefetch(function: Callable[[Given], Made], items: Sequence[Given], *, threads: int, ahead: int) -> Iterator[Made]:
    """``function`` of each item, in order, worked out in threads at most ``ahead`` items before they are wanted."""
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        remaining = iter(items)
        waiting: list[Future[Made]] = [pool.submit(function, item) for item in islice(remaining, ahead)]
        try:
            while waiting:
                made = waiting.pop(0).result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()


def shard_views(shard: int, images: int, crops: int, images_per_shard: int) -> dict[int, list[int]]:
    """The views of a shard: image_id → view numbers. A picture's views stay in one shard, so it is decoded once."""
    first = shard * images_per_shard
    return {image: list(range(crops)) for image in range(first, min(first + images_per_shard, images))}


def collect_shard(
    observer: Observer,
    layers: Sequence[Layer],
    listing: Listing,
    config: Config,
    views: dict[int, list[int]],
    paths: dict[str, Path],
    metadata: dict[str, dict[str, Any]],
) -> tuple[int, list[Failure]]:
    """Write one shard of every layer to ``paths[layer]``; returns the rows of each and what failed.

    ``metadata[layer]`` goes into the file. Views whose activation is not finite in float16 leave all layers.
    """
    failures: list[Failure] = []
    size = observer.network.size

    def ready() -> Iterator[View]:
        for cut in prefetch(
            lambda item: cut_views(listing, item[0], config, size, item[1]), list(views.items()), threads=2, ahead=4
        ):
            if isinstance(cut, Failure):
                failures.append(cut)
            else:
                yield from cut

    with ExitStack() as stack:
        writers = {
            layer.name: stack.enter_context(
                ShardWriter(paths[layer.name], schema(config.collect.attributions, metadata[layer.name]))
            )
            for layer in layers
        }
        stream = ready()
        while batch := list(islice(stream, config.collect.batch)):
            rows = observe_views(observer, layers, listing, config, batch, failures)
            for layer in layers:
                writers[layer.name].append(rows[layer.name])
    return next(iter(writers.values())).rows, failures


def observe_views(
    observer: Observer,
    layers: Sequence[Layer],
    listing: Listing,
    config: Config,
    batch: Sequence[View],
    failures: list[Failure],
) -> dict[str, dict[str, Any]]:
    """The store's columns for a batch of views, layer by layer; views that are not finite go to ``failures``."""
    draws = config.collect.positions_per_image
    keys = [listing.keys[view.image_id] for view in batch]
    places = np.array(
        [[place(config.seed, key, view.view, draw) for draw in range(draws)] for key, view in zip(keys, batch)]
    )
    positions = {layer.name: position(places.reshape(-1, 2), layer).reshape(len(batch), draws, 2) for layer in layers}
    inputs = observer.network.from_bytes(torch.from_numpy(np.stack([view.pixels for view in batch])))
    observation = observer.observe(
        inputs,
        {name: torch.from_numpy(where) for name, where in positions.items()},
        attributions=config.collect.attributions,
    )
    vectors = {("activation", name): tensor.half().numpy() for name, tensor in observation.activations.items()}
    vectors |= {("attribution", name): tensor.half().numpy() for name, tensor in observation.attributions.items()}
    finite = np.logical_and.reduce([np.isfinite(values).all((1, 2)) for values in vectors.values()])
    for key, view, good in zip(keys, batch, finite):
        if not good:
            failures.append(Failure(key, view.view, "an activation or attribution is not finite in float16"))
    chosen: list[int] = np.flatnonzero(finite).tolist()
    confidence, predicted = observation.logits.softmax(1).max(1)

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
    return columns

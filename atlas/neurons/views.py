"""The views of rows of the store, cropped again from their source pictures, with the position that each row is of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from atlas.arrays import Pixels
from atlas.config.sections import ImagesConfig
from atlas.networks.network import Network
from atlas.pictures.listing import Listing
from atlas.pictures.views import Failure, crop_views
from atlas.store.shards import RowKey, key_of


@dataclass(frozen=True)
class PositionView:
    """A view as the network gets it, uint8 (size, size, 3), and the ``position`` (y, x) of a row on the layer's map."""

    pixels: Pixels
    position: tuple[int, int]


def read_views(
    shards: Sequence[Path],
    listing: Listing,
    keys: Iterable[RowKey],
    *,
    size: int,
    images: ImagesConfig,
    seed: int,
) -> dict[RowKey, PositionView]:
    """The views of the rows of ``keys`` of a layer's ``shards``, without those whose picture cannot be read any more.
    Each picture is decoded once."""
    positions = _positions(shards, set(keys))
    numbers: dict[int, set[int]] = {}
    for image_id, view, _ in positions:
        numbers.setdefault(image_id, set()).add(view)
    pixels: dict[tuple[int, int], Pixels] = {}
    for image_id, of_picture in sorted(numbers.items()):
        views = crop_views(listing, image_id, sorted(of_picture), size=size, images=images, seed=seed)
        if not isinstance(views, Failure):
            pixels |= {(image_id, view.view): view.pixels for view in views}
    return {
        key: PositionView(pixels[key[0], key[1]], position)
        for key, position in positions.items()
        if (key[0], key[1]) in pixels
    }


def _positions(shards: Sequence[Path], keys: set[RowKey]) -> dict[RowKey, tuple[int, int]]:
    names = ["image_id", "view", "draw", "y", "x"]
    of_pictures = pc.field("image_id").isin(sorted({key[0] for key in keys}))
    positions: dict[RowKey, tuple[int, int]] = {}
    for shard in shards:
        for row in pq.read_table(shard, columns=names, filters=of_pictures).to_pylist():
            if (key := key_of(row)) in keys:
                positions[key] = row["y"], row["x"]
    return positions


def as_inputs(views: Sequence[PositionView], network: Network) -> tuple[Tensor, Tensor]:
    """Normalised views float32 (n, 3, size, size) on the network's device, and positions int64 (n, 2) as (y, x)."""
    if not views:
        size = network.size
        return torch.zeros(0, 3, size, size, device=network.device), torch.zeros(0, 2, dtype=torch.int64)
    pixels = torch.from_numpy(np.stack([view.pixels for view in views]))
    return network.from_bytes(pixels), torch.tensor([view.position for view in views])

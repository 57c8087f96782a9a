"""The views in which units answered: cut again from their source pictures, with the position that answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.config.model import Config
from atlas.networks.network import Network
from atlas.pictures.listing import Listing
from atlas.pictures.views import Failure, crop_views

Key = tuple[int, int, int]
"""A row of the store: image_id, view, draw."""


@dataclass(frozen=True)
class Seen:
    """A view as the network saw it, uint8 (size, size, 3), and the ``position`` (y, x) of the layer's map that is
    meant."""

    pixels: NDArray[np.uint8]
    position: tuple[int, int]


def read_views(
    shards: Sequence[Path], config: Config, listing: Listing, size: int, wanted: Iterable[Key]
) -> dict[Key, Seen]:
    """The views of the rows ``wanted`` of a layer's ``shards``, without those whose picture cannot be read any more;
    each picture is decoded once."""
    positions = _positions(shards, set(wanted))
    views: dict[int, set[int]] = {}
    for image_id, view, _ in positions:
        views.setdefault(image_id, set()).add(view)
    pixels: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for image_id, numbers in sorted(views.items()):
        found = crop_views(listing, image_id, sorted(numbers), size=size, images=config.images, seed=config.seed)
        if not isinstance(found, Failure):
            pixels |= {(image_id, view.view): view.pixels for view in found}
    return {
        key: Seen(pixels[key[0], key[1]], position) for key, position in positions.items() if (key[0], key[1]) in pixels
    }


def _positions(shards: Sequence[Path], wanted: set[Key]) -> dict[Key, tuple[int, int]]:
    names = ["image_id", "view", "draw", "y", "x"]
    of_them = pc.field("image_id").isin(sorted({key[0] for key in wanted}))
    found: dict[Key, tuple[int, int]] = {}
    for shard in shards:
        for row in pq.read_table(shard, columns=names, filters=of_them).to_pylist():
            key = row["image_id"], row["view"], row["draw"]
            if key in wanted:
                found[key] = row["y"], row["x"]
    return found


def as_inputs(seen: Sequence[Seen], network: Network) -> tuple[Tensor, Tensor]:
    """Normalised views float32 (n, 3, size, size) on the network's device, and positions int64 (n, 2) as (y, x)."""
    if not seen:
        size = network.size
        return torch.zeros(0, 3, size, size, device=network.device), torch.zeros(0, 2, dtype=torch.int64)
    pixels = torch.from_numpy(np.stack([each.pixels for each in seen]))
    return network.from_bytes(pixels), torch.tensor([each.position for each in seen])

"""What a worker process keeps between items: the network, its layers, the pictures' listing."""

from __future__ import annotations

import json
import warnings
from functools import lru_cache
from pathlib import Path

import torch

from atlas.allocator import keep_memory
from atlas.collect import Observer
from atlas.config import Config
from atlas.images import Listing
from atlas.networks import Layer, Network, describe_layer, load


def network(config: Config) -> Network:
    """The run's network, loaded once a process and given ``cluster.threads`` threads."""
    torch.set_num_threads(config.cluster.threads)
    return _network(config.network.model_dump_json(), config.layers)


@lru_cache(maxsize=1)
def _network(settings: str, keep: tuple[str, ...]) -> Network:
    keep_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(**json.loads(settings), keep=keep)


def layers(config: Config) -> list[Layer]:
    return list(_layers(config.network.model_dump_json(), config.layers))


@lru_cache(maxsize=1)
def _layers(settings: str, names: tuple[str, ...]) -> tuple[Layer, ...]:
    loaded = _network(settings, names)
    return tuple(describe_layer(loaded, name) for name in names)


@lru_cache(maxsize=1)
def observer(settings: str, names: tuple[str, ...]) -> Observer:
    return Observer(_network(settings, names), names)


@lru_cache(maxsize=1)
def listing(path: Path) -> Listing:
    return Listing.load(path)

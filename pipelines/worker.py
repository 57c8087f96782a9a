"""What a worker process caches between items: the network, its layers, the pictures' listing.

Workers of a standing cluster outlive a run, so a cache's key holds a digest, never the path alone.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch

from atlas.config.model import RunNetwork
from atlas.errors import AtlasError
from atlas.networks.allocator import keep_memory
from atlas.networks.network import Layer, Network, describe_layer, load
from atlas.networks.observer import Observer
from atlas.networks.precision import Precision
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.store.collect import Reader

# Cached at a time: those of one run.
_NETWORKS = 4


def network(run: RunDirectory, run_network: RunNetwork, *, threads: int) -> Network:
    """One of the run's networks, loaded once a process and given so many ``threads``."""
    torch.set_num_threads(threads)
    return _network(*_cache_key(run, run_network))


def layers(run: RunDirectory, run_network: RunNetwork) -> dict[str, Layer]:
    """The layers of one of the run's networks, described, by their names in the run."""
    return dict(zip(run_network.layers, _layers(*_cache_key(run, run_network))))


def readers(
    run: RunDirectory, run_networks: Iterable[RunNetwork], precision: Precision, *, threads: int
) -> list[Reader]:
    """The run's networks and the layers that are read of them, computing in ``precision`` with so many ``threads``."""
    torch.set_num_threads(threads)
    return [
        Reader(
            _observer(*_cache_key(run, run_network), precision),
            layers(run, run_network),
            run.label_classes(run_network.name),
        )
        for run_network in run_networks
    ]


def observer(run: RunDirectory, run_network: RunNetwork, module: str) -> Observer:
    """The observer of one layer, by its module, of one of the run's networks, in float32."""
    settings, modules, digest = _cache_key(run, run_network)
    return _observer_of(settings, modules, digest, module)


def listing(run: RunDirectory) -> Listing:
    """The run's listing."""
    return _listing(run.listing, run.listing.stat().st_mtime_ns)


def _cache_key(run: RunDirectory, run_network: RunNetwork) -> tuple[str, tuple[str, ...], str]:
    digest = run.network_facts(run_network.name)["sha256"]
    return run_network.settings.model_dump_json(), run_network.modules, digest


@lru_cache(maxsize=_NETWORKS)
def _network(settings: str, keep: tuple[str, ...], digest: str) -> Network:
    keep_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded_network = load(**json.loads(settings), keep=keep)
    if loaded_network.digest != digest:
        raise AtlasError(
            f"network: a worker loads other weights for {loaded_network.name} than this process did. Give all "
            "machines the same checkpoint and versions, and restart the workers."
        )
    return loaded_network


@lru_cache(maxsize=_NETWORKS)
def _layers(settings: str, names: tuple[str, ...], digest: str) -> tuple[Layer, ...]:
    loaded_network = _network(settings, names, digest)
    return tuple(describe_layer(loaded_network, name) for name in names)


@lru_cache(maxsize=_NETWORKS)
def _observer(settings: str, names: tuple[str, ...], digest: str, precision: Precision) -> Observer:
    return Observer(_network(settings, names, digest), names, precision)


@lru_cache(maxsize=_NETWORKS)
def _observer_of(settings: str, names: tuple[str, ...], digest: str, module: str) -> Observer:
    return Observer(_network(settings, names, digest), (module,))


@lru_cache(maxsize=1)
def _listing(path: Path, _mtime: int) -> Listing:
    return Listing.load(path)

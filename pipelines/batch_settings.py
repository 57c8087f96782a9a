"""Precision and batch in which the pictures of each layer are drawn: as configured, or measured once on a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atlas.config.model import RunNetwork
from atlas.networks.network import Network
from atlas.rundir.directory import RunDirectory
from atlas.visualize import fitting_precision, measure_batch
from pipelines import worker

# The side in pixels of the pictures of a layer, by its network and its name in the run.
SizeOf = Callable[[RunNetwork, Network, str], int]


def measure_drawing(run: RunDirectory, size_of: SizeOf) -> dict[str, dict[str, Any]]:
    """``precision`` and ``batch`` of each layer of the run, by the section render: as it has them, or where it says
    "auto" as suits this worker for pictures of the size that ``size_of`` gives."""
    config, settings = run.config(), run.config().render
    batch_settings: dict[str, dict[str, Any]] = {}
    for layer in config.layers:  # all of them: a later start may ask for more, and this is measured once
        network_name, module = config.module_of(layer)
        run_network = config.networks()[network_name]
        network = worker.network(run, run_network, threads=config.cluster.threads)
        size = size_of(run_network, network, layer)
        precision, batch = settings.precision, settings.batch
        if precision == "auto":
            precision = fitting_precision(network, module, size)
        if batch == "auto":
            batch = measure_batch(network, module, size, precision, settings.compile)
        batch_settings[layer] = {"precision": precision, "batch": batch}
    return batch_settings

"""Config → Dask client. The memory, thread and allocator settings of workers are set here, all on purpose."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

import dask
from distributed import Client, LocalCluster

from atlas.allocator import ENVIRONMENT
from atlas.config import ClusterConfig
from atlas.errors import AtlasError, ConfigError
from atlas.networks import has_gpu


@contextmanager
def connect(config: ClusterConfig) -> Iterator[Client]:
    """A client of the cluster that ``config`` asks for; a local one is shut down at the end.

    Raises ConfigError when the address does not answer.
    """
    if config.kind == "address":
        try:
            client = Client(config.address, timeout=10)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(
                f"cluster.address: no scheduler answers at {config.address} ({error}). Start one with `dask "
                f"scheduler`, and "
                "workers with `dask worker ADDRESS --nthreads 1`."
            ) from error
        with client:
            if not client.scheduler_info()["workers"]:
                raise AtlasError(
                    f"The scheduler at {config.address} has no workers. Start some with `dask worker {config.address} "
                    f"--nthreads 1`."
                )
            yield client
        return
    workers = default_workers(config)
    # A worker works on one item at a time; inside it, torch uses ``threads`` threads. No memory limit: a worker that
    # Dask kills in the middle of an item only starts the item again.
    settings = dask.config.set(_local_settings(config.threads))
    with settings, _start_workers(workers) as cluster, Client(cluster) as client:
        yield client


def _start_workers(workers: int) -> LocalCluster:
    """Start processes that a Ctrl-C in the terminal does not reach: the client ends them, once, in order."""
    resource_tracker.ensure_running()  # multiprocessing's helper; starting it later would unblock the signal again
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by Dask's thread and its processes
    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def default_workers(config: ClusterConfig) -> int:
    """Processes of a local cluster: as asked, else one where torch has a GPU, else one for each core."""
    if config.workers is not None:
        return config.workers
    return 1 if has_gpu() else max(1, available_cores() // config.threads)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _local_settings(threads: int) -> dict[str, object]:
    return {
        # Dask's own defaults (one OMP thread, a trim threshold of 64 KiB) would override what we want.
        "distributed.nanny.pre-spawn-environ": {
            **ENVIRONMENT,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
        },
        "distributed.worker.memory.terminate": False,
        # an item may hold the GIL for a while; a slow worker is not a lost one
        "distributed.scheduler.worker-ttl": None,
        "distributed.comm.timeouts.connect": "60s",
        "distributed.scheduler.allowed-failures": 3,
    }

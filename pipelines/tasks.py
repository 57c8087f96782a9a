"""What Dask's workers are given to do, and what comes back of it."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from atlas.command import write_traceback
from atlas.errors import AtlasError
from pipelines.stage import Item, Summary

# A worker with several threads gets several items, but hooks on one network, and numba under UMAP, bear only one.
_ONE_AT_A_TIME = threading.Lock()

Work = TypeVar("Work")


@dataclass(frozen=True)
class Timed:
    """A summary with the times at which the item began and ended, in seconds since 1970 by the worker's clock."""

    summary: Summary
    began: float
    ended: float


def results(
    client: Client, batch: list[tuple[Future, Work]], name: Callable[[Work], tuple[str, str | None]]
) -> Iterator[tuple[Work, Any]]:
    """What came of finished work, fetched together; then the error of the first that failed, as AtlasError that names
    the item. ``name`` gives the stage of some work, and the item's id; None for what a stage measures before its items,
    whose error is raised as it is.

    A future is let go when its result has arrived. Were futures held, or given to the items after them, Dask would run
    finished items again to have their summaries back when it loses the worker that holds them.
    """
    failed = [(future, work) for future, work in batch if future.status in ("error", "cancelled")]
    finished_pairs = [(future, work) for future, work in batch if (future, work) not in failed]
    first: AtlasError | None = None
    for (_future, work), result in zip(finished_pairs, client.gather([future for future, _work in finished_pairs])):
        if isinstance(result, AtlasError):
            first = first or result
        else:
            yield work, result
    if first is not None:
        raise first
    for future, work in failed:
        stage, item = name(work)
        try:
            future.result()
        except KilledWorker as error:
            raise AtlasError(
                f"{stage}: the workers that worked on {item or 'its batch settings'} died again and again; most often "
                "they ran out of memory. Give them more, or have fewer workers on a machine."
            ) from error
        except CancelledError:
            raise  # the scheduler was lost: pipelines.cluster has the sentence
        except Exception as error:
            if item is None:
                raise
            raise AtlasError(
                f"{stage}: item {item} failed ({type(error).__name__}: {error}).\nThe full traceback is in "
                f"{write_traceback(error)}"
            ) from error


def do_nothing(_number: int) -> None:
    """No work."""


def work_on(run_item: Callable[[Item], Summary], item: Item) -> Timed | AtlasError:
    """Run an item on a worker. A user's mistake comes back as a value: it would be the same at every retry."""
    try:
        with _ONE_AT_A_TIME:
            began = time.time()
            summary = run_item(item)
    except AtlasError as error:
        return error
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Timed(replace(summary, peak_mb=peak_mb), began, time.time())


def prepare(function: Callable[[str], None], path: str) -> None:
    """Prepare a worker for a stage's items, when it is not at work."""
    with _ONE_AT_A_TIME:
        function(path)


def measure_settings(measure: Callable[[str], dict[str, Any]], path: str) -> dict[str, Any] | AtlasError:
    """Measure a stage's batch settings on a worker."""
    try:
        with _ONE_AT_A_TIME:
            return measure(path)
    except AtlasError as error:
        return error

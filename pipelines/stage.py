"""One stage: plan → what is missing → run it on workers → markers.

A stage is a module with ``plan(config, run) -> list[Item]`` and ``run_item(item) -> Summary``. Items write their own
output and return a few numbers; no vector travels through the scheduler. An item is done when its markers stand.
"""

from __future__ import annotations

import resource
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Protocol

from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from atlas.command import write_traceback
from atlas.config.model import Config
from atlas.errors import AtlasError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import read_marker

# A worker with several threads gets several items, but hooks on one network, and numba under UMAP, bear only one.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Item:
    """A piece of work of one stage: ``after`` names the items that must be done before it; ``run`` is the run's
    folder; ``of`` is what it depends on beyond the stage's key, and stands in its markers.
    """

    id: str
    stage: str
    after: tuple[str, ...] = ()
    run: str = ""
    of: str = ""

    def open(self) -> tuple[RunDirectory, Config]:
        """The run directory and configuration, on a worker."""
        run = RunDirectory(Path(self.run))
        return run, run.config()


@dataclass(frozen=True)
class Summary:
    """What came of an item: how many of the stage's WORK it did (views, rows, icons …), failures among them, and the
    worker's peak memory so far.
    """

    count: int
    failures: int = 0
    peak_mb: int = 0


class Stage(Protocol):
    """What a stage module offers. What is optional is False or None in a module that does without it."""

    NAME: str
    # What an item's Summary counts, such as views.
    WORK: str
    # Whether an item that is done again has those that come after it done again too.
    REDO_DEPENDENTS: bool

    @property
    def measure_batch_settings(self) -> Callable[[str], dict[str, Any]] | None:
        """Called on one worker with the run's folder before the stage's first item: batch and precision that suit the
        worker, for run.json, where the stage's items find them. A run that goes on keeps them."""

    @property
    def prepare_worker(self) -> Callable[[str], None] | None:
        """Called with the run's folder on every worker that is there before the stage's items, such as to load the
        network."""

    def plan(self, config: Config, run: RunDirectory) -> list[Item]:
        """The items of the stage, in order. Pure but for listing: same configuration and inputs, same items."""

    def markers(self, item: Item, run: RunDirectory, config: Config) -> list[Path]:
        """The markers that vouch for an item: it is done when all of them stand, with its key."""

    def run_item(self, item: Item) -> Summary:
        """Do an item on a worker: write its output, the markers last. Raises AtlasError where it cannot be done."""


@dataclass(frozen=True)
class Outcome:
    """How a stage went: items in all, items done now, how many of the stage's WORK and failures in those, seconds,
    highest peak of a worker.
    """

    items: int
    done_now: int
    count: int
    failures: int
    seconds: float
    peak_mb: int


def missing(stage: Stage, items: list[Item], run: RunDirectory, config: Config) -> list[Item]:
    """The items whose markers do not all stand with the stage's present key, and what the item itself depends on."""
    key = run.stage_key(stage.NAME)

    def done(item: Item) -> bool:
        markers = [read_marker(path, key) for path in stage.markers(item, run, config)]
        return all(marker is not None and marker.get("of", "") == item.of for marker in markers)

    return [item for item in items if not done(item)]


def _with_dependents(
    stage: Stage, items: list[Item], todo: list[Item], run: RunDirectory, config: Config
) -> list[Item]:
    """``todo`` and the items that come after those. The markers of the latter are removed first: a second fit has other
    coordinates, and what was placed in the first does not fit it, even if this start is killed in between."""
    again = {item.id for item in todo}
    for item in items:  # a plan names items after those that they wait for
        if again & set(item.after):
            again.add(item.id)
            for path in stage.markers(item, run, config):
                path.unlink(missing_ok=True)
    return [item for item in items if item.id in again]


def run_stage(
    stage: Stage,
    client: Client,
    run: RunDirectory,
    config: Config,
    *,
    on_plan: Callable[[int, int], None],
    on_item: Callable[[Item, Summary], None],
) -> Outcome:
    """Run what is missing of ``stage``. ``on_plan(items, missing)`` is called once with their numbers, ``on_item`` for
    each finished item.

    Raises AtlasError naming the item when one fails for good; what was finished stays finished.
    """
    items = stage.plan(config, run)
    todo = missing(stage, items, run, config)
    if stage.REDO_DEPENDENTS:
        todo = _with_dependents(stage, items, todo, run, config)
    on_plan(len(items), len(todo))
    started = time.monotonic()
    count = failures = peak_mb = 0
    for item, summary in _finished(stage, client, todo, config.cluster.retries):
        count += summary.count
        failures += summary.failures
        peak_mb = max(peak_mb, summary.peak_mb)
        on_item(item, summary)
    return Outcome(len(items), len(todo), count, failures, time.monotonic() - started, peak_mb)


def _finished(stage: Stage, client: Client, todo: list[Item], retries: int) -> Iterator[tuple[Item, Summary]]:
    """Run items on workers, each when those before it are done, and yield them as they finish.

    An item's future is released when its summary has arrived. Were futures held, or given to the items after them, Dask
    would run finished items again to have their summaries back when it loses the worker that holds them.
    """
    items = {item.id: item for item in todo}
    order = TopologicalSorter({item.id: [name for name in item.after if name in items] for item in todo})
    order.prepare()
    # One name before the key's comma makes one task group: Dask then knows the items as alike, learns how long they
    # take, and hands them out one by one instead of all at the start.
    group = f"{stage.NAME}-{uuid.uuid4().hex}"
    futures: dict[Future, Item] = {}

    def submit() -> list[Future]:
        ready = [items[name] for name in order.get_ready()]
        keys = [(group, item.id) for item in ready]
        new = client.map(partial(_work, stage.run_item), ready, key=keys, pure=False, retries=retries) if ready else []
        futures.update(zip(new, ready))
        return new

    try:
        finished = as_completed(submit())
        while futures:
            for item, summary in _results(
                stage, client, [(future, futures.pop(future)) for future in finished.next_batch()]
            ):
                order.done(item.id)
                yield item, summary
            finished.update(submit())
    finally:
        with suppress(CancelledError, OSError):  # the scheduler may be gone
            client.cancel(list(futures), force=True)


def _results(stage: Stage, client: Client, batch: list[tuple[Future, Item]]) -> Iterator[tuple[Item, Summary]]:
    """The summaries of finished items, fetched together; then the error of the first that failed, as AtlasError."""
    failed = [(future, item) for future, item in batch if future.status in ("error", "cancelled")]
    finished_pairs = [(future, item) for future, item in batch if (future, item) not in failed]
    first: AtlasError | None = None
    for (_future, item), summary in zip(finished_pairs, client.gather([future for future, _item in finished_pairs])):
        if isinstance(summary, AtlasError):
            first = first or summary
        else:
            yield item, summary
    if first is not None:
        raise first
    for future, item in failed:
        try:
            future.result()
        except KilledWorker as error:
            raise AtlasError(
                f"{stage.NAME}: the workers that worked on {item.id} died again and again; most often they ran out of "
                "memory. Give them more, or have fewer workers on a machine."
            ) from error
        except CancelledError:
            raise  # the scheduler was lost: pipelines.cluster has the sentence
        except Exception as error:
            raise AtlasError(
                f"{stage.NAME}: item {item.id} failed ({type(error).__name__}: {error}).\nThe full traceback is in "
                f"{write_traceback(error)}"
            ) from error


def _work(run_item: Callable[[Item], Summary], item: Item) -> Summary | AtlasError:
    """Run an item on a worker. A user's mistake comes back as a value: it would be the same at every retry."""
    try:
        with _ONE_AT_A_TIME:
            summary = run_item(item)
    except AtlasError as error:
        return error
    return replace(summary, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

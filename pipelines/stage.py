"""One stage: plan → what is missing → run it on workers → markers.

A stage is a module with ``plan(config, run) -> list[Item]`` and ``run_item(item) -> Summary``. Items write their own
output and return a few numbers; no vector travels through the scheduler. An item is done when its markers stand.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from atlas.config import Config
from atlas.errors import AtlasError
from atlas.rundir import RunDirectory, read_marker

# A worker with several threads gets several items, but hooks on one network, and numba under UMAP, bear only one.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Item:
    """A piece of work of one stage: ``after`` names the items that must be done before it; ``run`` is the run's
    folder.
    """

    id: str
    stage: str
    after: tuple[str, ...] = ()
    run: str = ""

    def open(self) -> tuple[RunDirectory, Config]:
        """The run directory and configuration, on a worker."""
        run = RunDirectory(Path(self.run))
        return run, run.config()


@dataclass(frozen=True)
class Summary:
    """What came of an item: units done (views, rows, icons …), failures among them, and the worker's peak memory so
    far.
    """

    units: int
    failures: int = 0
    peak_mb: int = 0


class Stage(Protocol):
    """What a stage module offers."""

    NAME: str
    UNIT: str

    def plan(self, config: Config, run: RunDirectory) -> list[Item]: ...

    def markers(self, item: Item, run: RunDirectory, config: Config) -> list[Path]: ...

    def run_item(self, item: Item) -> Summary: ...


@dataclass(frozen=True)
class Outcome:
    """How a stage went: items in all, items done now, units and failures of those, seconds, highest peak of a
    worker.
    """

    items: int
    done_now: int
    units: int
    failures: int
    seconds: float
    peak_mb: int


def missing(stage: Stage, items: list[Item], run: RunDirectory, config: Config) -> list[Item]:
    """The items whose markers do not all stand with the stage's present key."""
    key = run.stage_key(stage.NAME)
    return [item for item in items if any(read_marker(path, key) is None for path in stage.markers(item, run, config))]


def run_stage(
    stage: Stage,
    client: Client,
    run: RunDirectory,
    config: Config,
    *,
    on_plan: Callable[[int, int], None],
    on_item: Callable[[Item, Summary], None],
) -> Outcome:
    """Run what is missing of ``stage``. ``on_plan(items, missing)`` is told once, ``on_item`` for each finished item.

    Raises AtlasError naming the item when one fails for good; what was finished stays finished.
    """
    items = stage.plan(config, run)
    todo = missing(stage, items, run, config)
    on_plan(len(items), len(todo))
    started = time.monotonic()
    futures: dict[str, Future] = {}
    names: dict[Future, Item] = {}
    for item in todo:
        waits = [futures[name] for name in item.after if name in futures]
        future = client.submit(
            _work,
            stage.run_item,
            item,
            waits,
            key=f"{stage.NAME}:{item.id}:{time.time_ns()}",
            pure=False,
            retries=config.cluster.retries,
        )
        futures[item.id] = future
        names[future] = item
    units = failures = peak_mb = 0
    try:
        for future in as_completed(list(names)):
            item = names.pop(future)
            try:
                summary = future.result()
            except KilledWorker as error:
                raise AtlasError(
                    f"{stage.NAME}: the workers that worked on {item.id} died again and again; most often they ran "
                    f"out of memory. Give them more, or fewer workers with --set cluster.workers=1."
                ) from error
            except Exception as error:
                raise AtlasError(f"{stage.NAME}: item {item.id} failed ({type(error).__name__}: {error}).") from error
            if isinstance(summary, AtlasError):
                raise summary
            units += summary.units
            failures += summary.failures
            peak_mb = max(peak_mb, summary.peak_mb)
            on_item(item, summary)
    finally:
        client.cancel(list(names), force=True)
    return Outcome(len(items), len(todo), units, failures, time.monotonic() - started, peak_mb)


def _work(run_item: Callable[[Item], Summary], item: Item, after: list[Summary | AtlasError]) -> Summary | AtlasError:
    """Run an item on a worker. A user's mistake comes back as a value: it would be the same at every retry."""
    for earlier in after:
        if isinstance(earlier, AtlasError):
            return earlier
    try:
        with _ONE_AT_A_TIME:
            summary = run_item(item)
    except AtlasError as error:
        return error
    return replace(summary, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

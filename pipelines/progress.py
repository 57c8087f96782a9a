"""How far a run is: what is done of each stage, how fast, how long the rest takes, and who works on it.

Before anything is measured, the plan's estimate says what is expected; what was really done takes its place as it
comes. The state is written to progress.json in the run's folder every few seconds, for whoever looks from elsewhere.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from atlas.errors import AtlasError
from atlas.rundir.atomic import write_json
from atlas.rundir.directory import RunDirectory
from pipelines.estimate import Expectation
from pipelines.stage import Item, Part, Stage
from pipelines.tasks import Timed

# Seconds between two states on disk, and between two looks at the clock.
WRITE_SECONDS, TICK_SECONDS = 5.0, 1.0
# The estimate's rate weighs as much as so large a share of a stage's work. The first items are no measure alone: they
# may be tiny, and each worker's first one loads the network.
_WEIGHT = 0.1


@dataclass
class StageState:
    """How far one stage is. ``parts_left``: its ``parts`` that are not planned yet; ``planned`` and ``finished_work``
    count its WORK, of earlier starts too, ``planned_seconds`` and ``finished_seconds`` what the plan expected that this
    takes; ``count``, ``expected_seconds`` and ``busy_seconds`` are of this start: its WORK, what the plan expected it
    to take, and what it took, from ``work_began`` to ``work_ended``, in seconds since 1970."""

    work_name: str
    expected: Expectation
    parts: int
    parts_left: int = field(init=False)
    items: int = 0
    items_done: int = 0
    planned: float = 0.0
    finished_work: float = 0.0
    planned_seconds: float = 0.0
    finished_seconds: float = 0.0
    count: int = 0
    failures: int = 0
    expected_seconds: float = 0.0
    busy_seconds: float = 0.0
    work_began: float = float("inf")
    work_ended: float = 0.0
    began: float | None = None
    ended: bool = False

    def __post_init__(self) -> None:
        self.parts_left = self.parts

    @property
    def total(self) -> float:
        """How much work the stage has: as planned, and while not all of it is, no less than expected."""
        return max(self.planned, self.expected.work) if self.parts_left else self.planned

    @property
    def share(self) -> float:
        """The share of the work that is done, in [0, 1], under 1 while there are parts that are not planned; by items
        and parts where items do no work that is counted."""
        if self.ended:
            return 1.0
        if self.total > 0:
            return min(0.99 if self.parts_left else 1.0, self.finished_work / self.total)
        return self.items_done / self.items * (1 - self.parts_left / self.parts) if self.items else 0.0

    @property
    def worker_seconds_left(self) -> float:
        """What is left, in seconds of one worker: by the estimate's rate, and more and more by this start's own."""
        if self.ended:
            return 0.0
        whole = self.expected.work * self.expected.seconds_each
        total = max(self.planned_seconds, whole) if self.parts_left else self.planned_seconds
        slowing = (self.busy_seconds + _WEIGHT * whole) / max(self.expected_seconds + _WEIGHT * whole, 1e-9)
        return max(0.0, total - self.finished_seconds) * slowing + self.expected.seconds * (1 - self.share)

    def seconds_of(self, items: Iterable[Item]) -> float:
        """What the plan expected that ``items`` take on one worker; one second for each WORK where it expected
        nothing."""
        return sum(item.work * (self._seconds_each(item) or 1.0) for item in items)

    def _seconds_each(self, item: Item) -> float:
        layers = [layer for layer in self.expected.by_layer if item.id.startswith(layer)]
        longest = max(layers, key=len, default=None)  # _blocks.1 is the beginning of _blocks.10 too
        return self.expected.seconds_each if longest is None else self.expected.by_layer[longest]


class RunProgress:
    """The state of all stages of a run that is at work. ``workers`` counts the workers that are there."""

    def __init__(
        self,
        parts: Sequence[Part],
        work_names: Mapping[str, str],
        expectations: Mapping[str, Expectation],
        workers: Callable[[], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.started = clock()
        self.workers = 1
        self._clock, self._count_workers = clock, workers
        self.stages = {
            name: StageState(work_name, expectations.get(name, Expectation()), sum(one.stage == name for one in parts))
            for name, work_name in work_names.items()
        }
        self.at_work = 0

    def plan_part(self, stage: Stage, items: Sequence[Item], todo: Sequence[Item]) -> None:
        """The items of a part are named; all but ``todo`` are done."""
        state = self.stages[stage.NAME]
        state.parts_left -= 1
        state.items += len(items)
        state.items_done += len(items) - len(todo)
        state.planned += sum(item.work for item in items)
        state.finished_work += sum(item.work for item in items) - sum(item.work for item in todo)
        state.planned_seconds += state.seconds_of(items)
        state.finished_seconds += state.seconds_of(items) - state.seconds_of(todo)
        self.at_work += len(todo)
        if todo and state.began is None:
            state.began = self._clock()

    def finish_item(self, stage: Stage, item: Item, timed: Timed) -> None:
        """An item is done."""
        state = self.stages[stage.NAME]
        state.items_done += 1
        state.finished_work += item.work
        state.finished_seconds += state.seconds_of([item])
        state.count += timed.summary.count
        state.failures += timed.summary.failures
        if timed.summary.count:  # quick icons are not counted, and cost less than those that are
            state.busy_seconds += timed.ended - timed.began
            state.expected_seconds += state.seconds_of([item])
            state.work_began = min(state.work_began, timed.began)
            state.work_ended = max(state.work_ended, timed.ended)
        self.at_work -= 1

    def finish_stage(self, stage: Stage) -> None:
        """All parts of a stage are done."""
        self.stages[stage.NAME].ended = True

    def rate(self, name: str) -> float:
        """How much of its work a stage did in a second, from its first item in this start to its last that is done: it
        may have waited for other stages before, and others may be at work since."""
        state = self.stages[name]
        return state.count / max(state.work_ended - state.work_began, 1e-3) if state.count else 0.0

    def seconds_left(self) -> float:
        """How long the rest of the run takes, if all workers share in all of it."""
        return sum(state.worker_seconds_left for state in self.stages.values()) / max(1, self.workers)

    def count_workers(self) -> None:
        """Count the workers that are there now. It may wait for a scheduler that does not answer."""
        with suppress(Exception):  # of any kind while a connection breaks; the number stays as it was
            self.workers = self._count_workers()

    def facts(self) -> dict[str, Any]:
        """The state, ready for JSON."""
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self.started,
            "updated": self._clock(),
            "workers": self.workers,
            "idle": max(0, self.workers - self.at_work),
            "seconds_left": round(self.seconds_left(), 1),
            "stages": {
                name: {
                    "share": round(state.share, 4),
                    "done": round(state.finished_work),
                    "total": round(state.total),
                    "work": state.work_name,
                    "items": state.items_done,
                    "per_second": round(self.rate(name), 4),
                    "failures": state.failures,
                    "begun": state.began is not None or state.items_done > 0,
                }
                for name, state in self.stages.items()
            },
        }


@dataclass
class Heartbeat:
    """While it is open: ``tick`` is called every second, and the state is written to progress.json; in the end with how
    the run ended: done, or stopped and why."""

    run: RunDirectory
    progress: RunProgress
    tick: Callable[[], None]
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.progress.count_workers()
        self._write("running")
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(timeout=TICK_SECONDS)  # it may be waiting for a scheduler that is gone
        if kind is None:
            self._write("done")
        elif isinstance(error, AtlasError):
            self._write("failed", str(error))
        else:
            self._write("stopped")

    def _beat(self) -> None:
        last_write = time.monotonic()
        while not self._stop.wait(TICK_SECONDS):
            self.tick()
            if time.monotonic() - last_write >= WRITE_SECONDS:
                self.progress.count_workers()
                if not self._stop.is_set():
                    self._write("running")
                last_write = time.monotonic()

    def _write(self, state: str, sentence: str = "") -> None:
        if not self.run.manifest.exists():
            return  # the folder was moved away: it must not come back
        with suppress(OSError, AtlasError):  # a full disk is the run's own matter
            write_json(self.run.progress, {"state": state, "sentence": sentence, **self.progress.facts()})

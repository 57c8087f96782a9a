"""One graph of the items of all stages: each starts when what it reads is done, not when a stage has ended.

The parts of the stages are known from the start; the items of a part are named when the parts before it are done, as
their number may depend on what those wrote. Of all items that could start, those of the lowest rank do first: the
opening layer's coarsest pictures before its finer ones, before other layers, before single units.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from itertools import count
from typing import Any

from distributed import Client, Future, as_completed

from atlas.config.model import Config
from atlas.rundir.directory import RunDirectory
from pipelines.stage import Item, Part, Stage, missing
from pipelines.tasks import Timed, do_nothing, measure_settings, prepare, results, work_on

# Beyond all ranks.
_LAST = 10**12


@dataclass
class Outcome:
    """How a stage went: items in all, items done now, how many of the stage's WORK and failures in those, the highest
    peak of a worker, and when each item was worked on."""

    items: int = 0
    done_now: int = 0
    count: int = 0
    failures: int = 0
    peak_mb: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """For how long at least one item was worked on."""
        total, until = 0.0, 0.0
        for began, ended in sorted(self.spans):
            total += max(0.0, ended - max(began, until))
            until = max(until, ended)
        return total

    @property
    def busy_seconds(self) -> float:
        """Seconds of work, of all workers together."""
        return sum(ended - began for began, ended in self.spans)


class Hooks:
    """What is done beside the items, by the process that hands them out. Each does nothing unless overridden."""

    def begin_stage(self, stage: Stage) -> None:
        """Called once before the first part of a stage is planned."""

    def plan_part(self, stage: Stage, part: Part, items: Sequence[Item], todo: Sequence[Item]) -> None:
        """Called when a part is planned: its items, and those that are not done."""

    def finish_item(self, stage: Stage, item: Item, timed: Timed) -> None:
        """Called for each finished item. An error raised here ends the run; what was finished stays finished."""

    def finish_refresh(self, stage: Stage, item: Item) -> None:
        """Called for each finished item of a part that will be planned again."""

    def finish_stage(self, stage: Stage, outcome: Outcome) -> None:
        """Called when all parts of a stage are done."""


def run_graph(
    stages: Sequence[Stage], client: Client, run: RunDirectory, config: Config, hooks: Hooks | None = None
) -> dict[str, Outcome]:
    """Run what is missing of ``stages``; how each went, by its name.

    Raises AtlasError naming the item when one fails for good; what was finished stays finished.
    """
    return _Graph(stages, client, run, config, hooks or Hooks()).execute()


@dataclass
class _Progress:
    """Of one stage: how many parts are not done, whether it has begun, and what came of its items so far. ``queue``:
    the parts that wait until the batch settings are measured."""

    open_parts: int = 0
    begun: bool = False
    prepared: bool = False
    queue: list[Part] | None = None
    outcome: Outcome = field(default_factory=Outcome)


@dataclass(eq=False)
class _Turn:
    """One planning of a part, under way: how many of its items are not done. ``refresh``: others will follow it."""

    part: Part
    refresh: bool
    left: int


@dataclass(eq=False)
class _Waiting:
    """An item that is not done, and how many of those that it waits for are not."""

    item: Item
    turn: _Turn
    left: int = 0
    dependents: list[_Waiting] = field(default_factory=list)

    @property
    def rank(self) -> int:
        return self.turn.part.rank


@dataclass(frozen=True)
class _Measurement:
    """A stage's batch settings, to be measured by a worker."""

    stage: Stage
    rank: int


class _Graph:
    def __init__(
        self, stages: Sequence[Stage], client: Client, run: RunDirectory, config: Config, hooks: Hooks
    ) -> None:
        self._stages = {stage.NAME: stage for stage in stages}
        self._client, self._run, self._config, self._hooks = client, run, config, hooks
        self._progress = {name: _Progress() for name in self._stages}
        self._order: TopologicalSorter[str] = TopologicalSorter()
        self._parts: dict[str, Part] = {}
        self._refreshed: dict[str, list[str]] = defaultdict(list)  # the parts to refresh when one is done
        for part in (part for stage in stages for part in stage.parts(config)):
            self._parts[part.id] = part
            self._progress[part.stage].open_parts += 1
            for name in part.refreshed_by:
                self._refreshed[name].append(part.id)
        for part in self._parts.values():
            self._order.add(part.id, *(name for name in part.after if name in self._parts))
        self._order.prepare()
        self._measured_later = [one for one in self._parts.values() if self._stages[one.stage].measure_batch_settings]
        self._begun: set[str] = set()
        self._to_refresh: set[str] = set()
        # One name before the key's comma makes one task group. Dask learns from a group how long its tasks take, so
        # those without work have their own.
        self._group, self._probes = (f"{name}-{uuid.uuid4().hex}" for name in ("items", "probes"))
        self._number = count()
        self._turns: dict[str, _Turn] = {}  # by the part's id
        self._next_turns: dict[str, bool] = {}  # of parts with a turn under way: whether the next one is a refresh
        self._waiting: dict[tuple[str, str], _Waiting] = {}  # by stage and the item's id
        self._startable: list[_Waiting | _Measurement] = []
        self._ranks: Counter[int] = Counter()  # of what is at work
        self._workers = 0
        self._futures: dict[Future, _Waiting | _Measurement] = {}
        self._probe: Future | None = None  # without work: the first worker that has none does it
        self._unwatched: list[Future] = []

    def execute(self) -> dict[str, Outcome]:
        finished = as_completed()
        # Only of a group that is larger than twice the threads, Dask keeps the tasks in one queue and hands them out by
        # priority, one by one; those of a small one it gives to workers at once. So the group is made large first.
        threads = self._count_workers()
        keys = [(group, "", number) for group in (self._group, self._probes) for number in range(2 * threads + 1)]
        ballast = self._client.map(do_nothing, range(len(keys)), key=keys)
        try:
            self._plan_ready()
            self._submit(finished)
            while self._futures:
                self._finish_batch(finished)
                self._plan_ready()
                self._submit(finished)
        finally:
            with suppress(CancelledError, OSError):  # the scheduler may be gone
                probes = [] if self._probe is None else [self._probe]
                self._client.cancel([*self._futures, *ballast, *probes], force=True)
        return {name: progress.outcome for name, progress in self._progress.items()}

    # Parts

    def _plan_ready(self) -> None:
        """Plan every part whose turn has come; one without work ends at once, and others may come after it. Then those
        that show what is there so far."""
        while ready := self._order.get_ready():
            for name in ready:
                self._begin(self._parts[name])
        for part in (self._parts[name] for name in sorted(self._to_refresh)):
            progress = self._progress[part.stage]
            if part.id not in self._begun and progress.begun and progress.queue is None:
                self._take_turn(part, refresh=True)
        self._to_refresh.clear()

    def _begin(self, part: Part) -> None:
        progress = self._progress[part.stage]
        self._begun.add(part.id)
        self._begin_stage(self._stages[part.stage], part.rank)
        if progress.queue is not None:
            progress.queue.append(part)
        else:
            self._take_turn(part, refresh=False)

    def _begin_stage(self, stage: Stage, rank: int) -> None:
        """Have the stage's batch settings measured, unless they are in run.json: a run that goes on computes in the
        same batches. Its parts wait for them."""
        progress = self._progress[stage.NAME]
        if progress.begun:
            return
        progress.begun = True
        self._hooks.begin_stage(stage)
        measure = stage.measure_batch_settings
        if measure is not None and "batch_settings" not in self._run.stage_facts(stage.NAME):
            progress.queue = []
            self._startable.append(_Measurement(stage, rank))

    def _begin_later_stages(self) -> None:
        """Once the first items are handed out: what other stages measure is done by workers without work, long before
        their first items come. One after the other as well, so that an item that comes next finds a worker."""
        for part in sorted(self._measured_later, key=lambda part: part.rank):
            self._begin_stage(self._stages[part.stage], part.rank)
        self._measured_later.clear()

    def _settle(self, stage: Stage, settings: dict[str, Any]) -> None:
        """Note a stage's batch settings in run.json, and plan the parts that waited for them."""
        facts = self._run.stage_facts(stage.NAME)
        self._run.update_manifest(stages={stage.NAME: {**facts, "batch_settings": settings}})
        progress = self._progress[stage.NAME]
        queue, progress.queue = progress.queue, None
        for part in queue or ():
            self._take_turn(part, refresh=False)

    def _take_turn(self, part: Part, *, refresh: bool) -> None:
        """Plan a part and make its items wait for each other. While it has a turn under way, it takes the next one
        after that: two of them would write the same files."""
        if part.id in self._turns:
            self._next_turns[part.id] = refresh and self._next_turns.get(part.id, True)
            return
        stage, progress = self._stages[part.stage], self._progress[part.stage]
        items = stage.plan(part.name, self._config, self._run)
        if stage.move_aside is not None:
            stage.move_aside(part.name, items, self._run)
        todo = missing(stage, items, self._run, self._config)
        if not refresh:
            progress.outcome.items += len(items)
            self._hooks.plan_part(stage, part, items, todo)
        if todo and not progress.prepared and stage.prepare_worker is not None:
            progress.prepared = True
            # On all workers at once; an error on one of them is raised again by its first item.
            self._client.run(prepare, stage.prepare_worker, str(self._run.path), on_error="ignore")
        turn = self._turns[part.id] = _Turn(part, refresh, len(todo))
        for item in todo:
            waiting = self._waiting[stage.NAME, item.id] = _Waiting(item, turn)
            for name in item.after:
                before = self._waiting.get((stage.NAME, name))
                if before is not None:
                    before.dependents.append(waiting)
                    waiting.left += 1
            if not waiting.left:
                self._startable.append(waiting)
        if not todo:
            self._end_turn(turn)

    def _end_turn(self, turn: _Turn) -> None:
        part = turn.part
        del self._turns[part.id]
        if not turn.refresh:
            stage, progress = self._stages[part.stage], self._progress[part.stage]
            self._order.done(part.id)
            progress.open_parts -= 1
            if not progress.open_parts:
                self._hooks.finish_stage(stage, progress.outcome)
            self._to_refresh.update(self._refreshed[part.id])
        elif part.id in self._next_turns:
            self._take_turn(part, refresh=self._next_turns.pop(part.id))

    # Items

    def _submit(self, finished: as_completed) -> None:
        """Hand out what can start, and have ``finished`` watch it."""
        by_rank: dict[tuple[str, int], list[_Waiting]] = defaultdict(list)
        for ready in self._take_startable():
            if isinstance(ready, _Measurement):
                self._measure(ready)
            else:
                by_rank[ready.item.stage, ready.rank].append(ready)
        for (name, rank), works in by_rank.items():
            futures = self._client.map(
                partial(work_on, self._stages[name].run_item),
                [work.item for work in works],
                key=[(self._group, f"{name}/{work.item.id}", next(self._number)) for work in works],
                pure=False,
                retries=self._config.cluster.retries,
                priority=-rank,
            )
            self._futures.update(zip(futures, works))
            self._unwatched += futures
        if by_rank:
            self._begin_later_stages()
        if self._startable and self._probe is None:
            key = (self._probes, "", next(self._number))
            self._probe = self._client.submit(do_nothing, 0, key=key, priority=-_LAST)
            self._unwatched.append(self._probe)
        finished.update(self._unwatched)
        self._unwatched.clear()

    def _measure(self, measurement: _Measurement) -> None:
        """Have a worker measure a stage's batch settings."""
        stage = measurement.stage
        assert stage.measure_batch_settings is not None
        settings = self._client.submit(
            measure_settings,
            stage.measure_batch_settings,
            str(self._run.path),
            key=(self._group, f"{stage.NAME}: batch settings", next(self._number)),
            priority=-measurement.rank,
        )
        self._futures[settings] = measurement
        self._unwatched.append(settings)

    def _finish_batch(self, finished: as_completed) -> None:
        """Wait for what ends next, and take what came of it. No future of it outlives this call: while the next one
        waits, perhaps for long, it would be wanted, and done again when its worker is lost."""
        batch = []
        for future in finished.next_batch():
            if future is self._probe:  # a worker has nothing to do: it may have joined just now
                self._probe = None
                self._count_workers()
            else:
                batch.append((future, self._futures.pop(future)))
        for work, result in results(self._client, batch, _name_of):
            if isinstance(work, _Waiting):
                self._finish(work, result)
            else:
                self._end_work(work.rank)
                self._settle(work.stage, result)

    def _take_startable(self) -> list[_Waiting | _Measurement]:
        """What to hand out now, of what can start: all of the lowest rank that is not done, and of higher ones as many
        items as workers are without. The others stay here: a worker that ends takes at once what lies in Dask's queue,
        and what waited for its item would find it at a long one of a high rank, such as units."""
        self._startable.sort(key=lambda waiting: waiting.rank)
        lowest = min([*self._ranks, *(waiting.rank for waiting in self._startable[:1])], default=0)
        count = sum(waiting.rank == lowest for waiting in self._startable)
        count = max(count, min(len(self._startable), self._workers - len(self._futures)))
        ready, self._startable = self._startable[:count], self._startable[count:]
        self._ranks.update(waiting.rank for waiting in ready)
        return ready

    def _count_workers(self) -> int:
        """Count the threads of the workers that are there. More items than those that the configuration asks for are
        handed out in any case, so that the cluster sees that there is work for them."""
        cluster, threads = self._config.cluster, sum(self._client.nthreads().values())
        self._workers = max(threads, cluster.workers or 0, *(cluster.adaptive or (0,)))
        return threads

    def _end_work(self, rank: int) -> None:
        self._ranks[rank] -= 1
        if not self._ranks[rank]:
            del self._ranks[rank]

    def _finish(self, waiting: _Waiting, timed: Timed) -> None:
        """Count a finished item, and start what waited for it."""
        item, turn, summary = waiting.item, waiting.turn, timed.summary
        stage, outcome = self._stages[item.stage], self._progress[item.stage].outcome
        del self._waiting[item.stage, item.id]
        self._end_work(waiting.rank)
        outcome.peak_mb = max(outcome.peak_mb, summary.peak_mb)
        outcome.spans.append((timed.began, timed.ended))
        if turn.refresh:
            self._hooks.finish_refresh(stage, item)
        else:
            outcome.done_now += 1
            outcome.count += summary.count
            outcome.failures += summary.failures
            self._hooks.finish_item(stage, item, timed)
        for dependent in waiting.dependents:
            dependent.left -= 1
            if not dependent.left:
                self._startable.append(dependent)
        turn.left -= 1
        if not turn.left:
            self._end_turn(turn)


def _name_of(work: _Waiting | _Measurement) -> tuple[str, str | None]:
    """The stage of an item or of batch settings, and the item's id."""
    return (work.item.stage, work.item.id) if isinstance(work, _Waiting) else (work.stage.NAME, None)

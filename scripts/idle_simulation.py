"""How long a run's items take on so many workers, by simulation: items that are a plan with known durations.

A plan is what a run is made of: its parts, as the stages name them, and their items with the seconds that each takes.
It comes from a record of a run (``idle.py``), or is that of a run whose durations are published.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from typing import Any

from atlas.config.model import Config
from atlas.neurons.parts import part_names, units_of_part
from atlas.rundir.maps import has_common_start
from atlas.visualize.recipe import ATLAS
from pipelines import cells, collect, layout, neurons, publish, render
from pipelines.stage import Part, Stage

MODULES: tuple[Stage, ...] = (collect, layout, cells, render, neurons, publish)
PAGE = "publish:page"
CHANNELS = {"_blocks.4": 40, "_blocks.7": 80, "_blocks.10": 112}
STATISTICS_SECONDS = 16 / 988_000  # a row, benchmarks/neurons.md


@dataclass(frozen=True)
class Rates:
    """Seconds on one worker, of two on two cores: of a ``view``, of one ``layout`` and of one map's ``cells``, of an
    ``icon``, of the same in the site, and of a ``unit``; and how many ``icons`` each grid of a map has."""

    view: float
    layout: float
    cells: float
    icon: float
    published_icon: float
    unit: float
    icons: Mapping[int, int]


@dataclass(frozen=True)
class Published:
    """A run whose durations are published: its ``settings`` beside the configuration of its name, how many pictures it
    had, and the rates."""

    settings: tuple[str, ...]
    pictures: int
    rates: Rates


# As benchmarks/demo.md and benchmarks/million.md have them, which are of two workers.
PUBLISHED = {
    "demo": Published(
        (
            "layers=[_blocks.4,_blocks.7,_blocks.10]", "images.crops=20", "cells.grids=[10,20,40]",
            "neurons={layers: [_blocks.4,_blocks.7,_blocks.10]}", "publish.opens=_blocks.10",
            "render.icons_per_item=64",
        ),
        549,
        Rates(
            2 * 109 / 10_980, 24 / 3, 1 / 3, 2 * 206 / 2_309, 2 * 33 / 2_309, 2 * 290 / 232,
            {10: 66, 20: 193, 40: 511},
        ),
    ),
    "million": Published(
        (),
        40_000,
        Rates(
            2 * 1_324 / 1_000_000, 159, 13, 2 * 460 / 4_588, 2 * 69 / 4_588, 2 * 290 / 232,
            {10: 54, 20: 216, 40: 864, 80: 3_454},
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """An item of a part: ``after`` names those of the same stage that must be done before it; ``amount`` is how much of
    the stage's WORK it is."""

    part: str
    id: str
    seconds: float
    after: tuple[str, ...] = ()
    amount: float = 0

    @property
    def stage(self) -> str:
        return self.part.partition(":")[0]


@dataclass(frozen=True)
class Plan:
    """The parts of a run, in the order of the stages, and all items."""

    parts: tuple[Part, ...]
    items: tuple[Work, ...]

    @property
    def seconds(self) -> float:
        """Of all items."""
        return sum(item.seconds for item in self.items)


@dataclass(frozen=True)
class Schedule:
    """When a plan ends on so many workers, when the page first shows a level, and for how long workers worked."""

    seconds: float
    first_page: float
    busy_seconds: float
    workers: int

    @property
    def idle_share(self) -> float:
        """The share of the workers' time in which they had nothing to do."""
        return 1 - self.busy_seconds / (self.workers * self.seconds)


def with_walls(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The same parts where a stage begins when the one before it has ended, and the page is written once."""
    by_stage: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        by_stage[part.stage].append(part)
    walls: dict[str, tuple[str, ...]] = {}
    for before, stage in pairwise(by_stage):
        walls[stage] = tuple(part.id for part in by_stage[before])
    return tuple(replace(part, after=(*part.after, *walls.get(part.stage, ())), refreshed_by=()) for part in parts)


@dataclass
class _State:
    """Of a part: how many parts and items are not done, and whether the next refresh is wanted."""

    parts_left: int
    items_left: int
    refreshing: bool = False
    stale: bool = False
    dependents: list[str] = field(default_factory=list)


class Simulation:
    """A plan on so many workers. Of what could start, the lowest rank does. ``overtaking``: a worker that ends takes
    what could start before, as from a queue, even where what waited for its item is of a lower rank."""

    def __init__(self, plan: Plan, workers: int, *, overtaking: bool = False) -> None:
        self._workers, self._overtaking = workers, overtaking
        self._parts = {part.id: part for part in plan.parts}
        self._items: dict[str, list[Work]] = defaultdict(list)
        for item in plan.items:
            self._items[item.part].append(item)
        self._states = {
            part.id: _State(sum(name in self._parts for name in set(part.after)), len(self._items[part.id]))
            for part in plan.parts
        }
        for part in plan.parts:
            for name in set(part.after) & self._parts.keys():
                self._states[name].dependents.append(part.id)
        self._refreshed = [part for part in plan.parts if part.refreshed_by]
        self._left: dict[tuple[str, str], int] = {}
        self._waiting: dict[tuple[str, str], list[Work]] = defaultdict(list)
        self._finished: set[tuple[str, str]] = set()
        self._startable: list[tuple[int, int, Work, bool]] = []  # rank, number, item, whether it is a refresh
        self._number = count()

    def run(self) -> Schedule:
        """Work through the plan."""
        now, busy, first_page, free = 0.0, 0.0, 0.0, self._workers
        at_work: list[tuple[float, int, Work, bool]] = []

        def hand_out() -> None:
            nonlocal free, busy
            while free and self._startable:
                _, number, item, refresh = heapq.heappop(self._startable)
                heapq.heappush(at_work, (now + item.seconds, number, item, refresh))
                free, busy = free - 1, busy + item.seconds

        for name, state in self._states.items():
            if not state.parts_left:
                self._plan(name)
        hand_out()
        while at_work:
            now, _, item, refresh = heapq.heappop(at_work)
            free += 1
            if self._overtaking:
                hand_out()
            if item.part == PAGE and not first_page:
                first_page = now
            self._finish(item, refresh)
            hand_out()
        unfinished = [name for name, state in self._states.items() if state.items_left or state.parts_left]
        assert not unfinished, f"these parts wait for each other: {unfinished}"
        return Schedule(now, first_page, busy, self._workers)

    def _plan(self, name: str) -> None:
        items = self._items[name]
        own = {(item.stage, item.id) for item in items}
        for item in items:
            before = [(item.stage, other) for other in item.after]
            # Items of parts that are planned later do not come before this one.
            left = [one for one in before if one not in self._finished and (one in own or one in self._left)]
            self._left[item.stage, item.id] = len(left)
            for one in left:
                self._waiting[one].append(item)
            if not left:
                self._push(item)
        if not items:
            self._end(name)

    def _push(self, item: Work, *, refresh: bool = False) -> None:
        heapq.heappush(self._startable, (self._parts[item.part].rank, next(self._number), item, refresh))

    def _finish(self, item: Work, refresh: bool) -> None:
        state = self._states[item.part]
        if refresh:
            state.refreshing = False
            if state.parts_left and state.stale:
                self._refresh(self._parts[item.part])
            elif not state.parts_left:  # its own turn had to wait
                self._plan(item.part)
            return
        self._finished.add((item.stage, item.id))
        for waiting in self._waiting.pop((item.stage, item.id), ()):
            self._left[waiting.stage, waiting.id] -= 1
            if not self._left[waiting.stage, waiting.id]:
                self._push(waiting)
        state.items_left -= 1
        if not state.items_left:
            self._end(item.part)

    def _end(self, name: str) -> None:
        for dependent in self._states[name].dependents:
            state = self._states[dependent]
            state.parts_left -= 1
            if not state.parts_left and not state.refreshing:
                self._plan(dependent)
        for part in self._refreshed:
            if name in part.refreshed_by and self._states[part.id].parts_left:
                self._refresh(part)

    def _refresh(self, part: Part) -> None:
        state = self._states[part.id]
        state.stale = state.refreshing
        if not state.refreshing:
            state.refreshing = True
            for item in self._items[part.id]:
                self._push(item, refresh=True)


def simulate(plan: Plan, workers: int, *, overtaking: bool = False) -> Schedule:
    """Work through ``plan`` on so many ``workers``."""
    return Simulation(plan, workers, overtaking=overtaking).run()


def least_seconds(plan: Plan, workers: int) -> float:
    """What no order could be quicker than: the longest chain of items, or all work shared evenly."""
    return max(simulate(plan, len(plan.items) + 1).seconds, plan.seconds / workers)


def plan_of_record(record: Mapping[str, Any]) -> Plan:
    """What a record holds."""
    parts = [
        {**part, "after": tuple(part["after"]), "refreshed_by": tuple(part["refreshed_by"])} for part in record["parts"]
    ]
    items = [{**item, "after": tuple(item["after"])} for item in record["items"]]
    return Plan(tuple(Part(**part) for part in parts), tuple(Work(**item) for item in items))


def published_plan(config: Config, pictures: int, rates: Rates) -> Plan:
    """The plan of a run of so many ``pictures``, as ``config`` has it, at published ``rates``."""
    parts = tuple(part for module in MODULES for part in module.parts(config))
    views = pictures * config.images.crops
    works = {
        "collect": _collect_items, "layout": _layout_items, "cells": _cells_items, "render": _render_items,
        "neurons": _unit_items, "publish": _site_items,
    }  # fmt: skip
    # The published runs have no labels that are classes, and so no items of errors.
    with_items = [part for part in parts if "errors" not in part.name.split("/")]
    items = [item for part in with_items for item in works[part.stage](part, config, rates, views)]
    return Plan(parts, tuple(items))


def _collect_items(part: Part, config: Config, rates: Rates, views: int) -> Iterator[Work]:
    pictures = views // config.images.crops
    size = collect.images_per_shard(pictures, config.images, config.collect) * config.images.crops
    shards = [Work(part.id, f"part-{first}", rates.view * min(size, views - first)) for first in range(0, views, size)]
    yield from shards
    yield Work(part.id, "failures", 1, tuple(item.id for item in shards))


def _layout_items(part: Part, config: Config, rates: Rates, _: int) -> Iterator[Work]:
    if part.name != layout.part_of_maps(config.opening, config.layers, config.layout):  # the layers are aligned
        yield from (Work(part.id, f"{part.name}-{layer}", 1) for layer in config.layers)
        return
    common = ("common-start",) if has_common_start(config.layers, config.layout) else ()
    yield from (Work(part.id, name, rates.layout) for name in common)
    order = sorted(config.layers, key=lambda layer: layer != config.opening)
    yield from (Work(part.id, f"fit-{layer}", rates.layout, common) for layer in order)
    yield Work(part.id, "box", 1, tuple(f"fit-{layer}" for layer in order))


def _cells_items(part: Part, _config: Config, rates: Rates, _: int) -> Iterator[Work]:
    yield Work(part.id, part.name, rates.cells)


def _grid_of(part: Part) -> tuple[str, int, str]:
    """The map, the grid and the kind (such as quick; empty: in full) of a part that is of one grid."""
    name, _, rest = part.name.rpartition("/grid-")
    digits, _, kind = rest.partition("/")
    return name, int(digits), kind


def _render_items(part: Part, config: Config, rates: Rates, _: int) -> Iterator[Work]:
    """Batches of icons; those of a finer grid wait for the coarser ones that cover their rows."""
    name, grid, kind = _grid_of(part)
    grids, size = config.cells.grids, config.render.icons_per_item
    steps = 0.35 * ATLAS.steps + 0.65 * ATLAS.steps_from_start
    seconds = rates.icon * (config.render.quick_steps / steps if kind else 1)
    batches = {own: -(-rates.icons[own] // size) for own in grids}
    for number in range(batches[grid]):
        after: tuple[str, ...] = ()
        if grid != grids[0]:
            coarser = grids[grids.index(grid) - 1]
            low, high = number / batches[grid] - 1 / coarser, (number + 1) / batches[grid] + 1 / coarser
            after = tuple(
                f"{name}/{coarser}/{kind}-{other}"
                for other in range(batches[coarser])
                if other / batches[coarser] < high and (other + 1) / batches[coarser] > low
            )
        count = min(size, rates.icons[grid] - number * size)
        yield Work(part.id, f"{name}/{grid}/{kind}-{number}", seconds * count, after, count)


def _unit_items(part: Part, config: Config, rates: Rates, views: int) -> Iterator[Work]:
    """A tenth of a unit's time goes to its circuits."""
    layer, _, work = part.name.rpartition("/")
    units = CHANNELS[layer]
    if work == "statistics":
        yield Work(part.id, part.name, STATISTICS_SECONDS * views * config.collect.positions_per_image)
    elif part.name == neurons.part_of_units(layer):
        for name in part_names(units):
            yield Work(part.id, f"{layer}/{name}", 0.9 * rates.unit * len(units_of_part(name, units)))
    else:
        yield from (Work(part.id, f"{layer}/{name}", 0.05 * rates.unit * units) for name in ("circuit", "cells"))


def _site_items(part: Part, config: Config, rates: Rates, _: int) -> Iterator[Work]:
    """Nearly all is cutting patches: the details of a grid. The tiles of icons come quick and in full, and once more
    for all grids."""
    if "/grid-" in part.name:
        _, grid, kind = _grid_of(part)
        share, count = (0.8, -(-rates.icons[grid] // config.render.icons_per_item)) if kind == "details" else (0.07, 1)
        seconds = rates.published_icon * rates.icons[grid] * share / count
        yield from (Work(part.id, f"{part.name}-{number}", seconds) for number in range(count))
    elif part.name.endswith("/atlas"):
        yield Work(
            part.id, part.name, 0.06 * rates.published_icon * sum(rates.icons[grid] for grid in config.cells.grids)
        )
    else:
        yield Work(part.id, part.name, 1)

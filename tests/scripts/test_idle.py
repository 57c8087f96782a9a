"""scripts/idle.py: what it notes of a run, and what it says of other numbers of workers."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from checkout import CHECKOUT
from planned import MODULES
from tiny_run import GRIDS, configure

from atlas.config.reading import load_config
from atlas.rundir.directory import RunDirectory
from pipelines.stage import Part


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))
    return importlib.import_module("idle")


def plan_of(idle: ModuleType, *works: tuple[Part, list[float]]) -> object:
    items = [
        idle.Work(part.id, f"{part.name}{number}", seconds)
        for part, durations in works
        for number, seconds in enumerate(durations)
    ]
    return idle.Plan(tuple(part for part, _ in works), tuple(items))


def test_a_wall_makes_workers_wait_and_the_graph_does_not(idle: ModuleType) -> None:
    plan = plan_of(
        idle,
        (Part("layout", "quick"), [1]),
        (Part("layout", "slow"), [6]),
        (Part("cells", "quick", ("layout:quick",), 1), [5]),
    )
    graph, walls = idle.simulate(plan, 2), idle.simulate(replace(plan, parts=idle.with_walls(plan.parts)), 2)
    assert (graph.seconds, graph.busy_seconds, graph.idle_share) == (6, 12, 0)
    assert (walls.seconds, walls.busy_seconds) == (11, 12)
    assert walls.idle_share == pytest.approx(10 / 22)
    assert idle.least_seconds(plan, 2) == 6
    assert idle.least_seconds(plan, 1) == 12
    assert idle.simulate(plan, 1).seconds == 12


def test_items_wait_for_those_that_they_name_and_low_ranks_come_first(idle: ModuleType) -> None:
    part, urgent = Part("render", "a", rank=5), Part("render", "b", rank=1)
    items = (idle.Work(part.id, "a0", 2), idle.Work(urgent.id, "b0", 3), idle.Work(part.id, "a1", 4, ("b0",)))
    plan = idle.Plan((urgent, part), items)
    assert idle.simulate(plan, 1).seconds == 9
    assert idle.simulate(plan, 2).seconds == 7, "a1 begins when b0 has ended"
    assert idle.least_seconds(plan, 9) == 7


def test_the_page_is_written_whenever_a_level_is_whole(idle: ModuleType) -> None:
    """And first of all where what is less urgent does not overtake it."""
    grid, units = Part("publish", "grid", ("render:grid",), 10), Part("neurons", "units", rank=99)
    page = Part("publish", "page", (grid.id, units.id), 2, (grid.id,))
    plan = plan_of(idle, (Part("render", "grid", rank=10), [1]), (units, [20, 20, 20]), (grid, [1]), (page, [0.5]))
    assert idle.simulate(plan, 1).first_page == 2.5
    assert idle.simulate(plan, 1, overtaking=True).first_page == 42.5, "after each item of the chain one of units"
    assert idle.simulate(plan, 1).busy_seconds == 63, "the page twice"
    walls = idle.simulate(replace(plan, parts=idle.with_walls(plan.parts)), 1)
    assert (walls.first_page, walls.busy_seconds) == (62.5, 62.5)


def test_a_run_is_noted_item_by_item(
    idle: ModuleType, workshop: Path, scheduler: str, undisturbed: RunDirectory
) -> None:
    facts = idle.record(configure(workshop, scheduler, "idle"), walls=False)
    plan = idle.plan_of_record(facts)
    by_stage = {stage: [item for item in plan.items if item.stage == stage] for stage in ("collect", "cells", "render")}
    assert sum(item.amount for item in by_stage["collect"]) == 25 * 12
    assert {item.part for item in by_stage["cells"]} == {
        f"cells:{name}" for layer in ("middle", "last") for name in (layer, f"words/{layer}")
    }
    icons = sum(path.name.endswith(".json") for path in undisturbed.folder("render").rglob("part-*"))
    assert len(by_stage["render"]) == icons
    fine = [item for item in by_stage["render"] if f"grid-{GRIDS[1]:03d}" in item.part]
    assert all(set(item.after) <= {one.id for one in by_stage["render"]} for item in fine)
    assert all(item.after for item in fine)
    schedule = idle.Schedule(**facts["schedule"])
    assert schedule.busy_seconds >= plan.seconds - 0.1, "refreshes of the page count too"
    assert 0 < schedule.first_page < schedule.seconds
    assert 0 < schedule.idle_share < 1
    simulated = idle.simulate(plan, 1)
    assert simulated.seconds == pytest.approx(simulated.busy_seconds)
    assert plan.seconds <= simulated.seconds < schedule.seconds * 1.5


def test_a_published_run_has_the_parts_of_the_real_one_and_its_published_durations(idle: ModuleType) -> None:
    published = idle.PUBLISHED["demo"]
    config = load_config("demo", [*published.settings])
    plan = idle.published_plan(config, published.pictures, published.rates)
    assert plan.parts == tuple(part for module in MODULES for part in module.parts(config))
    sums = {stage: sum(item.seconds for item in plan.items if item.stage == stage) for stage in ("collect", "neurons")}
    assert sums["collect"] == pytest.approx(2 * 109 + 1), "on two workers 109 s, and what gathers the failures"
    assert sums["neurons"] == pytest.approx(2 * 290, rel=0.01)
    icons = [item for item in plan.items if item.stage == "render" and "/quick" not in item.part]
    assert sum(item.amount for item in icons) == pytest.approx(2_309, rel=0.01)
    fine = [item for item in icons if item.part == "render:_blocks.10/grid-020"]
    coarse = {item.id for item in icons if item.part == "render:_blocks.10/grid-010"}
    assert len(fine) == 4
    assert all(item.after and set(item.after) <= coarse for item in fine)
    shards = [item for item in plan.items if item.part == "collect:"]
    assert len(shards) == 46 + 1
    assert shards[-1].after == tuple(item.id for item in shards[:-1])
    rows = list(idle.rows_of(plan, [4, 64]))
    assert [row[:2] for row in rows[::3]] == [["4", "walls between the stages"], ["64", "walls between the stages"]]
    seconds = [[float(row[place].replace(",", "")) for row in rows] for place in (2, 4, 5)]
    for walls, _, graph in (seconds[0][:3], seconds[0][3:]):
        assert graph < walls
    assert all(least <= whole for whole, least in zip(seconds[0], seconds[2]))
    assert seconds[1][2] < seconds[1][1] < seconds[1][0] / 2, "the page is there the earliest where nothing overtakes"
    assert len(idle.table(rows).splitlines()) == 2 + 6


def test_with_walls_a_run_goes_stage_by_stage(idle: ModuleType, workshop: Path, scheduler: str) -> None:
    facts = idle.record(configure(workshop, scheduler, "walls"), walls=True)
    stages = [item["part"].partition(":")[0] for item in facts["items"]]
    assert list(dict.fromkeys(stages)) == ["collect", "layout", "cells", "render", "publish"]
    assert stages == sorted(stages, key=["collect", "layout", "cells", "render", "publish"].index)
    schedule = idle.Schedule(**facts["schedule"])
    assert schedule.first_page > schedule.seconds * 0.9, "the page comes last"

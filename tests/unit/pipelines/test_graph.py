"""One graph of items: on workers, in their order, and what is said when one fails."""

import pickle
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cluster_sections import section
from distributed import Client
from number_stage import NumberStage, PartStage, wait_and_measure
from planned import MODULES

from atlas.config.reading import validate
from atlas.errors import AtlasError
from atlas.rundir.directory import RunDirectory
from pipelines import cluster
from pipelines.graph import Hooks, Outcome, run_graph
from pipelines.stage import Item, Part, Stage, Summary
from pipelines.tasks import Timed


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with cluster.connect(section(workers=2)) as client:
        yield client


@pytest.fixture
def two_workers(client: Client) -> Client:
    """Both are there, also where the test before this one lost one."""
    client.wait_for_workers(2, timeout=60)
    return client


class Listener(Hooks):
    """Claims stages, notes what is called, and hands finished items to ``on_item``."""

    def __init__(self, run: RunDirectory, on_item: Any = lambda item, summary: None) -> None:
        self.run, self.on_item, self.calls = run, on_item, list[tuple[str, ...]]()

    def begin_stage(self, stage: Stage) -> None:
        self.run.claim(stage.NAME, "0" * 64)
        self.calls.append(("begin", stage.NAME))

    def plan_part(self, stage: Stage, part: Part, items: Sequence[Item], todo: Sequence[Item]) -> None:
        self.calls.append(("plan", part.id))

    def finish_item(self, stage: Stage, item: Item, timed: Timed) -> None:
        self.calls.append(("item", stage.NAME, item.id))
        self.count(stage, item)
        self.on_item(item, timed.summary)

    def finish_refresh(self, stage: Stage, item: Item) -> None:
        self.calls.append(("refresh", stage.NAME, item.id))
        self.count(stage, item)

    def count(self, stage: Stage, item: Item) -> None:
        (self.run.path / f"{stage.NAME}-{item.id.replace('/', '-')}.counted").touch()

    def finish_stage(self, stage: Stage, outcome: Outcome) -> None:
        self.calls.append(("finish", stage.NAME))


def go_all(
    stages: list[Any], client: Client, folder: Path, on_item: Any = lambda item, summary: None
) -> tuple[dict[str, Outcome], list[tuple[str, ...]]]:
    values = {"network": {"name": "n"}, "layers": ["a"], "images": {"source": "p"}, "out": str(folder)}
    run = RunDirectory(folder)
    hooks = Listener(run, on_item)
    return run_graph(stages, client, run, validate(values, "x"), hooks), hooks.calls


def go(stage: NumberStage, client: Client, folder: Path, on_item: Any = lambda item, summary: None) -> Outcome:
    return go_all([stage], client, folder, on_item)[0][stage.NAME]


def test_hundreds_of_items_are_numbers_only(two_workers: Client, tmp_path: Path) -> None:
    summaries: list[tuple[str, int]] = []
    stage = NumberStage(400)
    outcome = go(stage, two_workers, tmp_path, lambda item, summary: summaries.append((item.id, summary.count)))
    assert (outcome.items, outcome.done_now, outcome.count, outcome.failures) == (400, 400, sum(range(400)), 0)
    assert sorted(summaries) == [(f"{number:04d}", number) for number in range(400)]
    assert summaries[-1] == ("0399", 399), "the last item waits for all others"
    item = Item("part-00001", "collect", (), "/a/folder/with/a/longer/name/runs/imagenet")
    assert len(pickle.dumps(item)) < 200
    assert len(pickle.dumps(Summary(65_536, 12, 1_900))) < 120
    assert outcome.peak_mb > 10
    deadline = time.monotonic() + 10
    while two_workers.futures:  # the last is let go in the background
        assert time.monotonic() < deadline, "summaries are kept on the workers"
        time.sleep(0.01)


def test_an_item_starts_when_those_before_it_are_done(two_workers: Client, tmp_path: Path) -> None:
    after = {number: {number // 2} for number in range(1, 60)}
    numbers: list[int] = []
    go(NumberStage(60, after), two_workers, tmp_path, lambda item, summary: numbers.append(int(item.id)))
    assert sorted(numbers) == list(range(60))
    started = {path.stem: path.stat().st_mtime_ns for path in tmp_path.glob("*.started")}
    ended = {path.stem: path.stat().st_mtime_ns for path in tmp_path.glob("*.ended")}
    for number in range(1, 60):
        assert started[f"{number:04d}"] >= ended[f"{number // 2:04d}"]


def test_a_lost_worker_costs_its_item_and_no_finished_one(two_workers: Client, tmp_path: Path) -> None:
    """One item kills its worker after others have finished there: it goes to another worker, and they stay finished."""
    outcome = go(NumberStage(40, {39: {38}}, deadly=20), two_workers, tmp_path)
    assert outcome.count == sum(range(40))
    runs = {path.stem: path.read_text().count("|") for path in tmp_path.glob("*.started")}
    assert runs.pop("0020") == 2
    assert set(runs.values()) == {1}
    assert len(runs) == 39


def test_an_error_in_on_item_stops_the_stage_and_cancels_the_rest(two_workers: Client, tmp_path: Path) -> None:
    finished: list[str] = []

    def stop(item: Item, summary: Summary) -> None:
        finished.append(item.id)
        if len(finished) == 5:
            raise AtlasError("enough")

    with pytest.raises(AtlasError, match="enough"):
        go(NumberStage(300, seconds=0.01), two_workers, tmp_path, stop)
    time.sleep(0.5)  # what was under way may end
    count = len(list(tmp_path.glob("*.ended")))
    assert 5 <= count < 150
    time.sleep(0.3)
    assert len(list(tmp_path.glob("*.ended"))) == count


def test_a_failing_item_is_named_after_its_retries(two_workers: Client, tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match=re.escape("collect: item 0007 failed (OSError: no space left).")):
        go(NumberStage(9, failing=7), two_workers, tmp_path)
    assert (tmp_path / "0007.started").read_text().count("|") == 3  # cluster.retries: 2


# Parts


def moment(folder: Path, name: str) -> int:
    return int((folder / name).read_text())


def test_a_part_starts_when_those_before_it_are_done_not_when_a_stage_is(two_workers: Client, tmp_path: Path) -> None:
    slow, quick = Part("layout", "slow"), Part("layout", "quick")
    layout = PartStage("layout", slow, quick, waits={"slow": ["cells-early1.ended"], "quick": [""]})
    cells = PartStage("cells", Part("cells", "early", (quick.id,)), waits={"early": ["", ""]})
    outcomes, calls = go_all([layout, cells], two_workers, tmp_path)
    assert moment(tmp_path, "cells-early0.began") > moment(tmp_path, "layout-quick0.ended")
    assert (
        calls.index(("item", "layout", "quick0"))
        < calls.index(("begin", "cells"))
        < calls.index(("plan", "cells:early"))
        < calls.index(("item", "layout", "slow0"))
    )
    assert {name: (one.items, one.done_now, one.count) for name, one in outcomes.items()} == {
        "layout": (2, 2, 2), "cells": (2, 2, 2)
    }  # fmt: skip
    span = moment(tmp_path, "layout-slow0.ended") - moment(tmp_path, "layout-slow0.began")
    assert outcomes["layout"].seconds >= span / 1e9


def test_what_is_done_is_not_done_again_and_its_part_ends_at_once(two_workers: Client, tmp_path: Path) -> None:
    first, second = Part("layout", "a"), Part("layout", "b", ("layout:a",))
    stage = PartStage("layout", first, second, waits={"a": ["", ""], "b": [""]})
    go_all([stage], two_workers, tmp_path)
    (tmp_path / "layout-a1.json").unlink()
    outcomes, calls = go_all([stage], two_workers, tmp_path)
    assert [call for call in calls if call[0] == "item"] == [("item", "layout", "a1")]
    assert (outcomes["layout"].items, outcomes["layout"].done_now) == (3, 1)
    outcomes, calls = go_all([stage], two_workers, tmp_path)
    assert calls == [
        ("begin", "layout"), ("plan", "layout:a"), ("plan", "layout:b"), ("finish", "layout")
    ]  # fmt: skip
    assert outcomes["layout"].seconds == 0


def test_of_what_could_start_the_lowest_rank_does(tmp_path: Path) -> None:
    """On one worker, which is at work until the others are handed out."""
    waits = {"wait": ["handed-out"], "last": [""], "first": [""], "middle": ["", ""]}
    ranks = {"wait": 0, "last": 1_000_000, "first": 1, "middle": 20}
    stage = PartStage("layout", *(Part("layout", name, rank=rank) for name, rank in ranks.items()), waits=waits)
    with cluster.connect(section(workers=1)) as client:
        threading.Timer(1.0, (tmp_path / "handed-out").touch).start()
        go_all([stage], client, tmp_path)
    began = {name: moment(tmp_path, f"layout-{name}0.began") for name in waits}
    assert sorted(began, key=began.__getitem__) == ["wait", "first", "middle", "last"]


def test_what_waits_for_an_item_is_not_overtaken_by_what_is_less_urgent(tmp_path: Path) -> None:
    """The one worker is not given units between an item and what waits for it, though these come a moment later."""
    chain = [Part("layout", "a", rank=1), Part("layout", "b", ("layout:a",), 1), Part("layout", "c", ("layout:b",), 10)]
    units = PartStage("neurons", Part("neurons", "units", rank=10**9), waits={"units": ["", "", ""]})
    with cluster.connect(section(workers=1)) as client:
        _, calls = go_all([PartStage("layout", *chain), units], client, tmp_path)
    items = [call[2] for call in calls if call[0] == "item"]
    assert items == ["a0", "b0", "c0", "units0", "units1", "units2"]


def test_workers_that_would_wait_are_given_what_is_less_urgent(two_workers: Client, tmp_path: Path) -> None:
    layout = PartStage("layout", Part("layout", "a", rank=1), waits={"a": ["neurons-units1.ended"]})
    units = PartStage("neurons", Part("neurons", "units", rank=10**9), waits={"units": ["", "", "layout-a0.ended"]})
    _, calls = go_all([layout, units], two_workers, tmp_path)
    assert [call[2] for call in calls if call[0] == "item"] == ["units0", "units1", "a0", "units2"]


def test_a_worker_that_joins_has_work_at_once(tmp_path: Path) -> None:
    """The item under way ends when that of the other worker has: it must not have to end before that is handed out."""
    layout = PartStage("layout", Part("layout", "a", rank=1), waits={"a": ["neurons-units0.ended"]})
    units = PartStage("neurons", Part("neurons", "units", rank=10**9))
    with cluster.connect(section(workers=1)) as client:

        def join() -> None:
            while not (tmp_path / "layout-a0.began").exists():
                time.sleep(0.01)
            client.cluster.scale(2)

        joining = threading.Thread(target=join)
        joining.start()
        _, calls = go_all([layout, units], client, tmp_path)
        joining.join()
    assert [call[2] for call in calls if call[0] == "item"] == ["units0", "a0"]


def test_a_whole_run_goes_coarse_to_fine_then_to_other_layers_and_to_units_last(tmp_path: Path) -> None:
    """All parts of the real stages, with an item each, on one worker."""
    values = {
        "network": {"name": "n"}, "layers": ["early", "late"], "images": {"source": "p"}, "out": "x",
        "layout": {"class_atlas": ["a"], "class_layers": ["late"]}, "cells": {"grids": [10, 20]},
        "neurons": {"layers": ["early"]}, "publish": {"opens": "late"},
    }  # fmt: skip
    config = validate(values, "x")
    stages = [PartStage(module.NAME, *module.parts(config)) for module in MODULES]
    with cluster.connect(section(workers=1)) as client:
        _, calls = go_all(stages, client, tmp_path)
    order = [f"{stage}:{item.removesuffix('0')}" for kind, stage, *item_id in calls if item_id for item in item_id]
    page = "publish:page"
    # Of two parts that end together the page may be made once or twice.
    order = [one for one, before in zip(order, ["", *order]) if not one == before == page]
    assert order == [
        "collect:", "layout:maps",
        "cells:late",
        "render:late/grid-010/quick", "publish:late/grid-010/details", "publish:late/grid-010/quick", page,
        "render:late/grid-020/quick", "publish:late/grid-020/details", "publish:late/grid-020/quick", page,
        "cells:words/late", "render:late/grid-010", "publish:late/grid-010", page,
        "render:late/grid-020", "publish:late/grid-020", page,
        "publish:late/atlas", page,
        "layout:quality", "cells:errors/late",
        "publish:late/grid-010/errors", "publish:late/grid-020/errors", page,
        "cells:early",
        "cells:words/early", "render:early/grid-010", "publish:early/grid-010/details", "publish:early/grid-010", page,
        "render:early/grid-020", "publish:early/grid-020/details", "publish:early/grid-020", page,
        "publish:early/atlas", page,
        "cells:errors/early",
        "publish:early/grid-010/errors", "publish:early/grid-020/errors", page,
        "layout:classes-late",
        "cells:late--a",
        "cells:words/late--a",
        "render:late--a/grid-008", "publish:late--a/grid-008/details", "publish:late--a/grid-008", page,
        "render:late--a/grid-016", "publish:late--a/grid-016/details", "publish:late--a/grid-016", page,
        "publish:late--a/atlas", page,
        "neurons:early/statistics", "neurons:early/units", "neurons:early/circuits", "publish:neurons/early", page,
        "publish:tour", page,
    ]  # fmt: skip


def test_a_part_is_refreshed_with_what_is_there_and_done_once_more_at_the_end(
    two_workers: Client, tmp_path: Path
) -> None:
    early, late = Part("render", "early"), Part("render", "late", ("render:early",))
    render = PartStage("render", early, late, waits={"early": [""], "late": ["publish-page0.ended"]})
    page = Part("publish", "page", (early.id, late.id), refreshed_by=(early.id, late.id))
    publish = PartStage("publish", Part("publish", "other"), page, waits={"other": [""], "page": [""]})
    outcomes, calls = go_all([render, publish], two_workers, tmp_path)
    assert calls.count(("refresh", "publish", "page0")) == 1, "the page is there before all is"
    assert calls.index(("item", "publish", "page0")) > calls.index(("item", "render", "late0"))
    assert (outcomes["publish"].items, outcomes["publish"].done_now, outcomes["publish"].count) == (2, 2, 2)
    assert calls[-2:] == [("item", "publish", "page0"), ("finish", "publish")]


def test_batch_settings_are_measured_once_before_the_stages_items(two_workers: Client, tmp_path: Path) -> None:
    """And while the stages before it work."""
    first = PartStage("layout", Part("layout", "a"), waits={"a": ["settings"]})
    second = PartStage("render", Part("render", "b", ("layout:a",)), waits={"b": [""]}, settings=True)
    for _ in range(2):
        go_all([first, second], two_workers, tmp_path)
        (tmp_path / "render-b0.json").unlink()
    assert (tmp_path / "settings").read_text() == "|"
    assert RunDirectory(tmp_path).stage_facts("render")["batch_settings"] == {"batch": 5}


def test_what_is_measured_for_later_leaves_a_worker_to_what_comes_next(two_workers: Client, tmp_path: Path) -> None:
    """One item of two is done, and its worker measures; when the other is, its worker does what waited for both."""
    side_by_side = {"a": ["layout-a1.began", "layout-a0.began"]}
    stage = PartStage("layout", Part("layout", "a"), Part("layout", "b", ("layout:a",), 1), waits=side_by_side)
    later = [PartStage(name, Part(name, "c", ("layout:b",), 2), settings=True) for name in ("render", "neurons")]
    for one in later:
        one.measure_batch_settings = wait_and_measure
    go_all([stage, *later], two_workers, tmp_path)
    for one in later:
        assert RunDirectory(tmp_path).stage_facts(one.NAME)["batch_settings"] == {"batch": 5}


# Faults


@pytest.mark.parametrize("deadly", ["a0", "b1", "page0", "settings"])
def test_a_worker_lost_in_any_kind_of_work_costs_that_work_alone(
    deadly: str, two_workers: Client, tmp_path: Path
) -> None:
    """In an item, in one of a later part, while a part is refreshed, while batch settings are measured."""
    first = PartStage("layout", Part("layout", "a"), waits={"a": ["", ""]}, deadly=deadly)
    parts = [Part("render", "b", ("layout:a",)), Part("render", "c", ("render:b",))]
    # The last part waits for the page of the one before it.
    waits = {"b": ["", ""], "c": ["publish-page0.ended"]}
    second = PartStage("render", *parts, waits=waits, settings=True, deadly=deadly)
    page = Part("publish", "page", tuple(part.id for part in parts), refreshed_by=("render:b",))
    third = PartStage("publish", Part("publish", "grid", ("layout:a",)), page, deadly=deadly)
    outcomes, calls = go_all([first, second, third], two_workers, tmp_path)
    assert (tmp_path / "killed").exists()
    assert [one.done_now for one in outcomes.values()] == [2, 3, 2]
    assert calls.count(("refresh", "publish", "page0")) == 1
    starts = {path.stem.partition("-")[2]: path.read_text().count("|") for path in tmp_path.glob("*.starts")}
    starts["settings"] = (tmp_path / "settings").read_text().count("|")
    usual = {"a0": 1, "a1": 1, "b0": 1, "b1": 1, "c0": 1, "grid0": 1, "page0": 2, "settings": 1}
    assert starts == usual | {deadly: usual[deadly] + 1}


def test_what_fails_for_good_is_named_and_the_same_command_does_the_rest(two_workers: Client, tmp_path: Path) -> None:
    """What was finished stays, also of stages after the one that failed."""
    first = PartStage("layout", Part("layout", "a"), Part("layout", "b"), waits={"b": ["render-c0.json"]}, failing="b0")
    second = PartStage("render", Part("render", "c", ("layout:a",)), Part("render", "d", ("layout:b",)))
    (tmp_path / "broken").touch()
    with pytest.raises(AtlasError, match=re.escape("layout: item b0 failed (OSError: no space left).")):
        go_all([first, second], two_workers, tmp_path)
    assert (tmp_path / "layout-b0.starts").read_text() == "|||", "cluster.retries: 2"
    assert not (tmp_path / "render-d0.starts").exists()
    (tmp_path / "broken").unlink()
    _, calls = go_all([first, second], two_workers, tmp_path)
    assert [call for call in calls if call[0] == "item"] == [("item", "layout", "b0"), ("item", "render", "d0")]
    assert [(tmp_path / f"{name}.starts").read_text() for name in ("layout-a0", "render-c0", "render-d0")] == ["|"] * 3

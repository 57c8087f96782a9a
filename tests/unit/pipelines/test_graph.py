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
from number_stage import NumberStage, PartStage

from atlas.config.reading import validate
from atlas.errors import AtlasError
from atlas.rundir.directory import RunDirectory
from pipelines import cluster
from pipelines.graph import Hooks, Outcome, run_graph
from pipelines.stage import Item, Part, Stage, Summary
from pipelines.tasks import Timed


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Client]:
    with cluster.connect(section(workers=2)) as client:
        yield client


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
        self.on_item(item, timed.summary)

    def finish_refresh(self, stage: Stage, item: Item) -> None:
        self.calls.append(("refresh", stage.NAME, item.id))

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

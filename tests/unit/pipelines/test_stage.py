"""A stage: its items on workers, in their order, and what is said when one fails."""

import pickle
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster_sections import section
from distributed import Client, Future
from number_stage import NumberStage

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.errors import AtlasError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker
from pipelines import cluster
from pipelines.stage import Item, Outcome, Summary, missing, run_stage


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Client]:
    with cluster.connect(section(workers=2)) as client:
        yield client


def go(stage: NumberStage, client: Client, folder: Path, on_item: Any = lambda item, summary: None) -> Outcome:
    values = {"network": {"name": "n"}, "layers": ["a"], "images": {"source": "p"}, "out": str(folder)}
    run = RunDirectory(folder)
    run.claim(stage.NAME, "0" * 64)
    return run_stage(stage, client, run, validate(values, "x"), on_plan=lambda items, todo: None, on_item=on_item)


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


# What is done before


class ThreeItems:
    """Items a, b after a, and c; one marker each."""

    NAME, UNIT, REDO_DEPENDENTS = "cells", "rows", True
    measure_batch_settings = prepare_worker = None

    def plan(self, config: Config, run: RunDirectory) -> list[Item]:
        return [Item("a", self.NAME), Item("b", self.NAME, ("a",), of="more"), Item("c", self.NAME)]

    def markers(self, item: Item, run: RunDirectory, config: Config) -> list[Path]:
        return [run.folder(self.NAME) / f"{item.id}.json"]

    def run_item(self, item: Item) -> Summary:
        raise AtlasError(f"{item.id} cannot be done")


@pytest.fixture
def begun(tmp_path: Path, config: Config) -> tuple[ThreeItems, RunDirectory, list[Item]]:
    """The stage of three items, with all their markers."""
    stage, run = ThreeItems(), RunDirectory(tmp_path)
    run.claim(stage.NAME, "0" * 64)
    items = stage.plan(config, run)
    for item in items:
        write_marker(stage.markers(item, run, config)[0], key="0" * 64, files=[], of=item.of)
    return stage, run, items


def test_an_item_is_done_when_its_marker_stands_with_all_that_it_depends_on(
    begun: tuple[ThreeItems, RunDirectory, list[Item]], config: Config
) -> None:
    stage, run, items = begun
    assert missing(stage, items, run, config) == []
    (run.folder("cells") / "c.json").unlink()
    assert missing(stage, items, run, config) == [items[2]]
    other = replace(items[1], of="other")
    assert missing(stage, [items[0], other], run, config) == [other]
    run.update_manifest(stages={"cells": {"key": "1" * 64}})
    assert missing(stage, items, run, config) == items


def test_what_comes_after_an_item_is_done_again_where_the_stage_says_so(
    begun: tuple[ThreeItems, RunDirectory, list[Item]], config: Config
) -> None:
    """And its marker goes at once: killed in between, the next start does it too."""
    stage, run, _ = begun
    (run.folder("cells") / "a.json").unlink()
    plans: list[tuple[int, int]] = []

    class Refusing:
        def map(self, *_: object, **__: object) -> list[Future]:
            raise AtlasError("enough")

        def cancel(self, *_: object, **__: object) -> None:
            pass

    def start() -> None:
        run_stage(stage, Refusing(), run, config, on_plan=lambda *n: plans.append(n), on_item=print)  # type: ignore[arg-type]

    for redo, numbers in ((False, (3, 1)), (True, (3, 2))):
        stage.REDO_DEPENDENTS = redo  # type: ignore[misc]
        with pytest.raises(AtlasError, match="enough"):
            start()
        assert plans[-1] == numbers
    assert not (run.folder("cells") / "b.json").exists()
    assert (run.folder("cells") / "c.json").exists()


def test_an_item_opens_its_run(made_run: RunDirectory) -> None:
    run, config = Item("a", "cells", run=str(made_run.path)).open()
    assert run == made_run
    assert config == made_run.config()

"""A stage: which of its items are done."""

from dataclasses import replace
from pathlib import Path

import pytest

from atlas.config.model import Config
from atlas.errors import AtlasError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker
from pipelines.stage import Item, Part, Summary, missing


class ThreeItems:
    """Items a, b after a, and c; one marker each."""

    NAME, WORK, REDO_DEPENDENTS = "cells", "rows", True
    measure_batch_settings = prepare_worker = move_aside = None

    def parts(self, config: Config) -> list[Part]:
        return [Part(self.NAME)]

    def plan(self, part: str, config: Config, run: RunDirectory) -> list[Item]:
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
    items = stage.plan("", config, run)
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
    stage, run, items = begun
    (run.folder("cells") / "a.json").unlink()
    stage.REDO_DEPENDENTS = False
    assert missing(stage, items, run, config) == items[:1]
    stage.REDO_DEPENDENTS = True
    assert missing(stage, items, run, config) == items[:2]
    assert not (run.folder("cells") / "b.json").exists()
    assert (run.folder("cells") / "c.json").exists()


def test_an_item_opens_its_run(made_run: RunDirectory) -> None:
    run, config = Item("a", "cells", run=str(made_run.path)).open()
    assert run == made_run
    assert config == made_run.config()

"""What a stage is: parts, each a list of items whose markers tell whether they are done.

A stage is a module with ``parts(config) -> list[Part]``, ``plan(part, config, run) -> list[Item]`` and
``run_item(item) -> Summary``. Items write their own output and return a few numbers; no vector travels through the
scheduler. An item is done when its markers stand. ``pipelines/graph.py`` runs the items of all stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from atlas.config.model import Config
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import read_marker


@dataclass(frozen=True)
class Part:
    """Items of one stage that can be named as soon as the parts ``after`` (by their ids) are done, such as the icons of
    one grid. Of all items that could start, those of the lowest ``rank`` do. Until then, whenever one of the parts
    ``refreshed_by`` is done, the part is planned and run with what is there so far.
    """

    stage: str
    name: str = ""
    after: tuple[str, ...] = ()
    rank: int = 0
    refreshed_by: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Its name among the parts of all stages."""
        return part_id(self.stage, self.name)


def part_id(stage: str, name: str = "") -> str:
    """The id of a stage's part, for the ``after`` of others."""
    return f"{stage}:{name}"


@dataclass(frozen=True)
class Item:
    """A piece of work of one stage: ``after`` names the items of the same stage that must be done before it; ``run`` is
    the run's folder; ``of`` is what it depends on beyond the stage's key, and stands in its markers; ``work`` is how
    much of the stage's WORK it is, as far as a plan can know.
    """

    id: str
    stage: str
    after: tuple[str, ...] = ()
    run: str = ""
    of: str = ""
    work: int = 0

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
    # Whether an item that is done again has those of its part that come after it done again too.
    REDO_DEPENDENTS: bool

    @property
    def measure_batch_settings(self) -> Callable[[str], dict[str, Any]] | None:
        """Called on one worker with the run's folder before the stage's first item: batch and precision that suit the
        worker, for run.json, where the stage's items find them. A run that goes on keeps them."""

    @property
    def prepare_worker(self) -> Callable[[str], None] | None:
        """Called with the run's folder on every worker that is there before the stage's items, such as to load the
        network."""

    @property
    def move_aside(self) -> Callable[[str, list[Item], RunDirectory], None] | None:
        """Called with a part's name and its items before any of them is done: moves away what an earlier start made of
        something else, where the items would not overwrite all of it."""

    def parts(self, config: Config) -> list[Part]:
        """The parts of the stage, known before anything is done: each after those that it reads."""

    def plan(self, part: str, config: Config, run: RunDirectory) -> list[Item]:
        """The items of the part of that name, in order, once the parts before it are done. Pure but for reading what
        those wrote: same configuration and inputs, same items."""

    def markers(self, item: Item, run: RunDirectory, config: Config) -> list[Path]:
        """The markers that vouch for an item: it is done when all of them stand, with its key."""

    def run_item(self, item: Item) -> Summary:
        """Do an item on a worker: write its output, the markers last. Raises AtlasError where it cannot be done."""


def is_done(item: Item, markers: Iterable[Path], key: str) -> bool:
    """Whether all ``markers`` of an item stand with the stage's ``key``, and with what the item depends on itself."""
    return all(
        marker is not None and marker.get("of", "") == item.of
        for marker in (read_marker(path, key) for path in markers)
    )


def missing(stage: Stage, items: list[Item], run: RunDirectory, config: Config) -> list[Item]:
    """The items whose markers do not all stand with the stage's present key, and what the item itself depends on. Where
    the stage says so, those that come after such an item are missing too; the markers of these are removed at once: a
    second fit has other coordinates, and what was placed in the first does not fit it, even if this start is killed in
    between."""
    key = run.stage_key(stage.NAME)
    todo = {item.id for item in items if not is_done(item, stage.markers(item, run, config), key)}
    if stage.REDO_DEPENDENTS:
        for item in items:  # a plan names items after those that they wait for
            if todo & set(item.after):
                todo.add(item.id)
                for path in stage.markers(item, run, config):
                    path.unlink(missing_ok=True)
    return [item for item in items if item.id in todo]

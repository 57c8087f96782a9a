"""Stages whose items do nothing but say that they ran; workers import them by name."""

import os
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from atlas.config.model import Config
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker
from pipelines.stage import Item, Part, Summary


class NumberStage:
    """``count`` items, item n of n units. ``after`` names the items before an item; by default the last waits for all.

    The ``deadly`` item ends its worker process, once; the ``failing`` item raises OSError each time.
    """

    NAME, WORK, REDO_DEPENDENTS = "collect", "units", False
    measure_batch_settings = prepare_worker = move_aside = None

    def __init__(
        self,
        count: int,
        after: Mapping[int, Set[int]] | None = None,
        *,
        deadly: int | None = None,
        failing: int | None = None,
        seconds: float = 0,
    ) -> None:
        self.count, self.deadly, self.failing, self.seconds = count, deadly, failing, seconds
        self.after = {count - 1: set(range(count - 1))} if after is None else dict(after)

    def parts(self, config: Config) -> list[Part]:
        return [Part(self.NAME)]

    def plan(self, part: str, config: Config, run: RunDirectory) -> list[Item]:
        return [
            Item(name(number), self.NAME, tuple(map(name, sorted(self.after.get(number, ())))), str(run.path))
            for number in range(self.count)
        ]

    def markers(self, item: Item, run: RunDirectory, config: Config) -> list[Path]:
        return [run.path / f"{item.id}.json"]

    def run_item(self, item: Item) -> Summary:
        folder = Path(item.run)
        with (folder / f"{item.id}.started").open("a") as log:
            log.write("|")
        number = int(item.id)
        if number == self.failing:
            raise OSError("no space left")
        if number == self.deadly and not (folder / "killed").exists():
            while len(list(folder.glob("*.ended"))) < self.count - 3:  # but for itself and those that wait
                time.sleep(0.01)
            time.sleep(0.5)  # their summaries arrive
            (folder / "killed").touch()
            os._exit(9)
        time.sleep(self.seconds)
        (folder / f"{item.id}.ended").touch()
        return Summary(number)


def name(number: int) -> str:
    return f"{number:04d}"


class PartStage:
    """A stage of parts, whose items write when they ran, in nanoseconds. ``waits``: for each item of each part the file
    of the run that it waits for before it ends; empty for none, as of a part that is not named there with its one item.

    The item whose id is ``deadly`` ends its worker process, once, and so does what measures, where it is "settings";
    the ``failing`` item raises OSError in the end while the file "broken" lies in the run's folder.
    """

    WORK, REDO_DEPENDENTS = "units", False
    prepare_worker = move_aside = None

    def __init__(
        self,
        stage: str,
        *parts: Part,
        waits: Mapping[str, Sequence[str]] | None = None,
        settings: bool = False,
        deadly: str = "",
        failing: str = "",
    ) -> None:
        self.NAME, self._parts = stage, list(parts)
        self.waits = {part.name: [""] for part in parts} | dict(waits or {})
        self.deadly, self.failing = deadly, failing
        measure = die_and_measure if deadly == "settings" else note_and_measure
        self.measure_batch_settings = measure if settings else None

    def parts(self, config: Config) -> list[Part]:
        return self._parts

    def plan(self, part: str, config: Config, run: RunDirectory) -> list[Item]:
        of = "" if not self._refreshed(part) else str(len(list(run.path.glob("*.ended"))))
        return [Item(f"{part}{number}", self.NAME, run=str(run.path), of=of) for number in range(len(self.waits[part]))]

    def _refreshed(self, part: str) -> bool:
        return any(one.name == part and one.refreshed_by for one in self._parts)

    def markers(self, item: Item, run: RunDirectory, config: Config) -> list[Path]:
        return [run.path / f"{self._file(item)}.json"]

    def _file(self, item: Item) -> str:
        return f"{self.NAME}-{item.id.replace('/', '-')}"

    def run_item(self, item: Item) -> Summary:
        run, file = RunDirectory(Path(item.run)), self._file(item)
        part, number = item.id[:-1], int(item.id[-1])
        with (run.path / f"{file}.starts").open("a") as log:
            log.write("|")
        (run.path / f"{file}.began").write_text(str(time.time_ns()))
        if item.id == self.deadly:
            die_once(run.path)
        deadline = time.monotonic() + 60
        while not (run.path / self.waits[part][number]).exists():  # the run's folder itself where it waits for none
            assert time.monotonic() < deadline, f"{self.waits[part][number]} did not come"
            time.sleep(0.01)
        if item.id == self.failing and (run.path / "broken").exists():
            raise OSError("no space left")
        (run.path / f"{file}.ended").write_text(str(time.time_ns()))
        write_marker(run.path / f"{file}.json", key=run.stage_key(self.NAME), files=[], of=item.of)
        return Summary(1)


def die_once(folder: Path) -> None:
    """End the process, once: when the summaries of what it did before have arrived, of which "counted" files tell."""
    if not (folder / "killed").exists():
        while {path.stem for path in folder.glob("*.ended")} - {path.stem for path in folder.glob("*.counted")}:
            time.sleep(0.01)
        (folder / "killed").touch()
        os._exit(9)


def note_and_measure(path: str) -> dict[str, int]:
    with (Path(path) / "settings").open("a") as log:
        log.write("|")
    return {"batch": 5}


def wait_and_measure(path: str) -> dict[str, int]:
    """Measure only when the item b0 of the stage layout is done."""
    deadline = time.monotonic() + 30
    while not (Path(path) / "layout-b0.ended").exists():
        assert time.monotonic() < deadline, "b0 found no worker"
        time.sleep(0.01)
    return {"batch": 5}


def die_and_measure(path: str) -> dict[str, int]:
    settings = note_and_measure(path)
    die_once(Path(path))
    return settings

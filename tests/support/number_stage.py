"""A stage whose items do nothing but say that they ran; workers import it by name."""

import os
import time
from collections.abc import Mapping, Set
from pathlib import Path

from atlas.config.model import Config
from atlas.rundir.directory import RunDirectory
from pipelines.stage import Item, Summary


class NumberStage:
    """``count`` items, item n of n units. ``after`` names the items before an item; by default the last waits for all.

    The ``deadly`` item ends its worker process, once; the ``failing`` item raises OSError each time.
    """

    NAME, WORK, REDO_DEPENDENTS = "collect", "units", False
    measure_batch_settings = prepare_worker = None

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

    def plan(self, config: Config, run: RunDirectory) -> list[Item]:
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

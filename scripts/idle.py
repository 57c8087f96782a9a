#!/usr/bin/env python3
"""For how long workers have nothing to do: one graph of all items, beside walls between the stages.

    scripts/idle.py record million --set cluster.workers=4 --json graph.json
    scripts/idle.py record million --set cluster.workers=4 --walls --json walls.json
    scripts/idle.py simulate graph.json --workers 1 4 16 64
    scripts/idle.py published million --set "neurons={layers: [_blocks.10]}" --workers 64

``record`` runs a configuration, as ``atlas run`` does, and notes of every item when it was worked on; with --walls a
stage begins when the one before it has ended, as it was before there was one graph. ``simulate`` works through the
items of a record on other numbers of workers, with and without walls; ``published`` through those of the demo or of the
million views, with their published durations (``idle_simulation.py``). Tables are Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

from distributed import Client
from idle_simulation import (  # beside this file
    PAGE,
    PUBLISHED,
    Plan,
    Schedule,
    Work,
    least_seconds,
    plan_of_record,
    published_plan,
    simulate,
    with_walls,
)

from atlas.config.model import Config
from atlas.config.reading import load_config
from atlas.errors import AtlasError
from atlas.rundir.atomic import write_json
from atlas.rundir.directory import RunDirectory
from pipelines import graph, pipeline
from pipelines.graph import Hooks, Outcome
from pipelines.stage import Item, Part, Stage
from pipelines.tasks import Timed


class Walled:
    """A stage with other parts."""

    def __init__(self, stage: Stage, parts: Sequence[Part]) -> None:
        self._stage, self._parts = stage, list(parts)

    def parts(self, config: Config) -> list[Part]:
        return self._parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)


class Recorder(Hooks):
    """Notes of every item when it was worked on, and when the page was first there, in seconds since 1970; all else
    does ``hooks``."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._part_of: dict[tuple[str, str], str] = {}
        self.items: list[Work] = []
        self.spans: list[tuple[float, float]] = []
        self.first_page: float | None = None

    def begin_stage(self, stage: Stage) -> None:
        self._hooks.begin_stage(stage)

    def plan_part(self, stage: Stage, part: Part, items: Sequence[Item], todo: Sequence[Item]) -> None:
        self._part_of.update({(stage.NAME, item.id): part.id for item in items})
        self._hooks.plan_part(stage, part, items, todo)

    def finish_item(self, stage: Stage, item: Item, timed: Timed) -> None:
        part, seconds = self._part_of[stage.NAME, item.id], timed.ended - timed.began
        self.items.append(Work(part, item.id, round(seconds, 4), item.after, timed.summary.count))
        self.spans.append((timed.began, timed.ended))
        if part == PAGE:
            self._note_page()
        self._hooks.finish_item(stage, item, timed)

    def finish_refresh(self, stage: Stage, item: Item) -> None:
        self._note_page()
        self._hooks.finish_refresh(stage, item)

    def finish_stage(self, stage: Stage, outcome: Outcome) -> None:
        self._hooks.finish_stage(stage, outcome)

    def _note_page(self) -> None:
        self.first_page = self.first_page or time.time()


def record(config: Config, *, walls: bool) -> dict[str, Any]:
    """Run a configuration; its parts and items, and how long workers worked, from the first item to the end."""
    facts: dict[str, Any] = {}

    def run_graph(
        stages: Sequence[Stage], client: Client, run: RunDirectory, config: Config, hooks: Hooks
    ) -> dict[str, Outcome]:
        parts = [part for stage in stages for part in stage.parts(config)]
        recorder, workers = Recorder(hooks), sum(client.nthreads().values())
        if walls:
            stages = [
                Walled(stage, [part for part in with_walls(parts) if part.stage == stage.NAME]) for stage in stages
            ]
        outcomes = graph.run_graph(stages, client, run, config, recorder)
        assert recorder.first_page is not None, "the run was finished before"
        began, busy = min(recorder.spans)[0], sum(one.busy_seconds for one in outcomes.values())
        seconds = time.time() - began
        facts.update(
            workers=workers,
            walls=walls,
            schedule=asdict(Schedule(seconds, recorder.first_page - began, busy, workers)),
            parts=[asdict(part) for part in parts],
            items=[asdict(item) for item in recorder.items],
        )
        return outcomes

    with mock.patch.object(pipeline, "run_graph", run_graph):
        pipeline.run(config)
    return facts


def rows_of(plan: Plan, workers: Sequence[int]) -> Iterator[list[str]]:
    """For each number of workers what walls, the graph as a queue, and the graph as it is come to."""
    walled = replace(plan, parts=with_walls(plan.parts))
    for count in workers:
        least = least_seconds(plan, count)
        kinds = {
            "walls between the stages": simulate(walled, count),
            "one graph, less urgent items overtake": simulate(plan, count, overtaking=True),
            "one graph": simulate(plan, count),
        }
        for name, schedule in kinds.items():
            yield [str(count), name, *cells_of(schedule), f"{least:,.0f}"]


def cells_of(schedule: Schedule) -> list[str]:
    return [f"{schedule.seconds:,.0f}", f"{schedule.idle_share:.0%}", f"{schedule.first_page:,.0f}"]


def table(rows: Sequence[Sequence[str]]) -> str:
    """The figures as Markdown."""
    head = ["workers", "order", "seconds", "idle", "first page after", "no order is quicker than"]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def record_command(options: argparse.Namespace) -> None:
    facts = record(load_config(options.config, options.set), walls=options.walls)
    write_json(options.json, facts)
    schedule = Schedule(**facts["schedule"])
    print(table([[str(facts["workers"]), "walls" if options.walls else "one graph", *cells_of(schedule), ""]]))


def simulate_command(options: argparse.Namespace) -> None:
    print_plan(plan_of_record(json.loads(options.record.read_text(encoding="utf-8"))), options.workers)


def published_command(options: argparse.Namespace) -> None:
    published = PUBLISHED[options.config]
    config = load_config(options.config, [*published.settings, *options.set])
    print_plan(published_plan(config, published.pictures, published.rates), options.workers)


def print_plan(plan: Plan, workers: Sequence[int]) -> None:
    print(f"{len(plan.items):,} items of {plan.seconds:,.0f} seconds of work\n")
    print(table(list(rows_of(plan, workers))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run a configuration and note when its items are worked on")
    recording.add_argument("config", help="as for atlas run")
    recording.add_argument("--walls", action="store_true", help="a stage begins when the one before it has ended")
    recording.add_argument("--json", type=Path, required=True, help="where the record goes")
    recording.set_defaults(call=record_command)
    simulating = commands.add_parser("simulate", help="work through the items of a record on other workers")
    simulating.add_argument("record", type=Path, help="what record wrote")
    simulating.set_defaults(call=simulate_command)
    published = commands.add_parser("published", help="work through the items of a run whose durations are published")
    published.add_argument("config", choices=PUBLISHED, help="which")
    published.set_defaults(call=published_command)
    for command in (recording, published):
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for atlas run")
    for command in (simulating, published):
        command.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64], help="how many (1 4 16 64)")
    options = parser.parse_args()
    try:
        options.call(options)
    except AtlasError as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())

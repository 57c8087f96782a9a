"""What a person sees of a run: the plan with an estimate, progress, and what came of it."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from atlas.command import duration, items_before, pace
from atlas.config.model import Config
from atlas.config.sections import NeuronsConfig
from atlas.networks.network import Layer, Network
from atlas.pictures.listing import Listing
from atlas.pictures.views import Failure, failure_kind
from atlas.report import build_report
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import FEWEST_MAP_ROWS, AtlasMap, maps_of, published_maps
from atlas.rundir.markers import parse_marker
from atlas.rundir.remote import is_remote
from atlas.rundir.stages import STAGES
from atlas.slices.labels import LabelMatch, describe_match
from atlas.slices.text import accuracy_sentences, slice_sentence
from atlas.store.shards import read_metadata
from pipelines import render
from pipelines.estimate import Estimate, count_icons, count_work, estimate
from pipelines.graph import Outcome
from pipelines.progress import RunProgress
from pipelines.stage import Item
from pipelines.tasks import Timed

# Seconds after which a log gets a line, whatever happens.
LINE_SECONDS = 60.0


class ProgressScreen:
    """What a person sees of a run at work: a bar for each stage; where there is no terminal, a line a minute and at
    each tenth of a stage. ``verbose``: a line for each item too."""

    def __init__(
        self,
        console: Console,
        progress: RunProgress,
        clock: Callable[[], float] = time.monotonic,
        *,
        verbose: bool = False,
    ) -> None:
        self.console = console
        self._verbose = verbose
        self._progress, self._clock = progress, clock
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rate]:>18}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}
        self._last_line = clock()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, stage: str) -> None:
        """Something of a stage was planned or finished."""
        state = self._progress.stages[stage]
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=1.0, rate="", left="")
        seconds = state.worker_seconds_left / max(1, self._progress.workers)
        self._bars.update(
            self._tasks[stage],
            completed=state.share,
            rate=f"{self._progress.rate(stage):,.1f} {state.work_name}/s" if state.count else "",
            left=f"{duration(seconds)} left" if state.count and not state.ended else "",
        )
        tenth = int(10 * state.share)
        if state.began is not None and tenth > self._tenths.get(stage, 0):
            self._tenths[stage] = tenth
            self._line(stage)

    def finish_item(self, stage: str, item: Item, timed: Timed) -> None:
        """An item is done."""
        if self._verbose:
            work = f"{timed.summary.count:,} {self._progress.stages[stage].work_name}"
            failures = f", {timed.summary.failures:,} failed" if timed.summary.failures else ""
            self._print(f"{stage}/{item.id}: {work}{failures} in {timed.ended - timed.began:.1f} s")
        self.update(stage)

    def tick(self) -> None:
        """Called every second or so: a minute without a line is long enough."""
        if self._clock() - self._last_line >= LINE_SECONDS:
            under_way = [name for name, state in self._progress.stages.items() if state.began and not state.ended]
            self._line(*under_way)

    def finish(self, stage: str, outcome: Outcome) -> None:
        """All parts of the stage are done."""
        state = self._progress.stages[stage]
        self.update(stage)
        if not outcome.done_now:
            self._bars.update(self._tasks[stage], rate="done before")
        if not self.console.is_terminal:
            figures = f"{outcome.done_now} of {outcome.items} items now, {outcome.count:,} {state.work_name}"
            now = f"{figures} in {outcome.seconds:.0f} s"
            self._print(f"{stage}: {now if outcome.done_now else f'all {outcome.items} items were done before'}")

    def _line(self, *stages: str) -> None:
        """How far these stages are, and the whole, on one line of a log."""
        if self.console.is_terminal or not stages:
            return
        left = duration(self._progress.seconds_left())
        self._print(f"{'; '.join(map(self._figures, stages))}; about {left} left in all")

    def _figures(self, stage: str) -> str:
        state = self._progress.stages[stage]
        total = f"{state.total:,.0f}" if not state.parts_left else f"about {state.total:,.0f}"
        failures = f", {state.failures:,} failed" if state.failures else ""
        work = (
            f"{state.finished_work:,.0f} of {total} {state.work_name}" if state.total else f"{state.items_done:,} items"
        )
        if state.total and not state.finished_work and state.items_done:  # quick icons, say
            work += f", {items_before(state.items_done)}"
        rate = f", {pace(self._progress.rate(stage))}" if state.total and state.count else ""
        return f"{stage} {state.share:.0%}: {work}{rate}{failures}"

    def _print(self, line: str) -> None:
        self._last_line = self._clock()
        print_sentence(self.console, f"{datetime.now():%H:%M:%S} {line}")


def show_plan(
    config: Config,
    directory: RunDirectory,
    listing: Listing,
    networks: dict[str, Network],
    layers: dict[str, Layer],
    matches: Mapping[str, LabelMatch],
    console: Console,
) -> Estimate:
    """Print what will be done, and about how long it will take; the estimate."""
    rows = len(listing) * config.images.crops * config.collect.positions_per_image
    maps = maps_of(config.layers, config.layout, config.cells)
    quick = render.quick_map(config.opening, config.render, config.out)
    work = count_work(
        len(listing),
        config.layers,
        count_icons(maps, rows, config.cells, config.layout, quick),
        images=config.images,
        collect=config.collect,
        layout=config.layout,
    )
    plan = estimate(
        work,
        networks,
        layers,
        listing,
        images=config.images,
        collect=config.collect,
        render=config.render,
        neurons=config.neurons,
        cluster=config.cluster,
    )
    crops = f"{config.images.crops} view{'s' if config.images.crops > 1 else ''} each"
    lines = [
        ("pictures", f"{len(listing):,} in {listing.source}, {crops}: {work.views:,} views"),
        *(
            (
                "network" if not name else f"@{name}",
                f"{network.name}, {network.size} px, {len(network.classes):,} classes, {len(network.folded)} batch "
                f"norms folded, on {network.device.type}",
            )
            for name, network in networks.items()
        ),
    ]
    for name, match in matches.items():
        if sentences := describe_match(match, listing.label_counts):
            lines.append((f"labels{f'@{name}' if name else ''}", "; ".join(sentences)))
    if unreadable := [error for error in listing.errors if error]:
        lines.insert(
            1, ("not read", f"{len(unreadable):,} of them: {unreadable[0]}" + (", …" if len(unreadable) > 1 else ""))
        )
    lines += [
        (
            "layer",
            f"{name}: {layer.channels} channels, {layer.height}×{layer.width} map, sees "
            f"{layer.effective_receptive_field} px of {networks[config.module_of(name)[0]].size}",
        )
        for name, layer in layers.items()
    ]
    lines += [
        ("map", f"{atlas_map.title}, grids of {', '.join(map(str, atlas_map.grids))}")
        for atlas_map in maps
        if atlas_map.classes
    ]
    lines.append(
        ("cells", f"grids of {', '.join(map(str, config.cells.grids))} a side; about {work.icon_count:,} icons")
    )
    if config.neurons is not None:
        units = ", ".join(f"{layers[name].channels:,} units of {name}" for name in config.neurons.layers)
        lines.append(("neurons", f"{units}, {config.neurons.pictures} pictures each"))
    size = f"{plan.bytes / 1e9:.1f} GB" if plan.bytes > 1e9 else f"{max(1, round(plan.bytes / 1e6))} MB"
    lines.append(("estimate", f"about {max(1, round(plan.seconds / 60))} min and {size}, as this machine is now"))
    stage_names = [name for name in STAGES if (directory.folder(name)).exists()]
    if stage_names:
        reuse = "what fits this configuration is kept and gone on with, the rest is moved aside"
        lines.append(("found", f"{', '.join(stage_names)} of an earlier run; {reuse}"))
    if console.is_terminal:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for line in lines:
            table.add_row(*map(escape, line))
        console.print(table)
    else:  # rich takes a log for a terminal of 80 columns, and cuts paths
        for name, text in lines:
            print_sentence(console, f"{name:<10}{text}")
    return plan


def show_times(outcomes: Mapping[str, Outcome], console: Console) -> None:
    """Print where the time went: of each stage how long it was at work, and all workers' seconds in it."""
    busy = {name: outcome for name, outcome in outcomes.items() if outcome.done_now}
    if not busy:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("stage", "at work", "of workers", "items"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for name, outcome in busy.items():
        table.add_row(name, duration(outcome.seconds), duration(outcome.busy_seconds), f"{outcome.done_now:,}")
    console.print(table)


def print_sentence(console: Console, sentence: str) -> None:
    """Print a line for the person; a terminal may wrap it, a log does not."""
    console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def show_failures(directory: RunDirectory, console: Console) -> None:
    """Print how many pictures and views gave no row, the commonest reason, and the file that lists all of them."""
    rows = pq.read_table(directory.failures).to_pylist()
    if not rows:
        return
    reasons = Counter(failure_kind(Failure(**row)) for row in rows)
    commonest, count = reasons.most_common(1)[0]
    example = next(row for row in rows if failure_kind(Failure(**row)) == commonest)
    print_sentence(
        console,
        f"{len(rows):,} pictures or views gave no row. The commonest reason: {example['error']} ({count:,}×, such as "
        f"{example['image']}). All of them: {directory.failures}",
    )


def show_neurons(layers: Sequence[str], report: dict[str, Any], directory: RunDirectory, console: Console) -> None:
    """Print a line for each layer with a table of units, and why some layers before it gave no weights."""
    for layer in layers:
        facts = report["layers"][layer]["neurons"]
        share = facts["invariant_share"]
        invariance = "none can be turned" if share is None else f"{share:.0%} of them answer alike to all angles"
        print_sentence(console, f"{layer}: {facts['units']:,} units, {facts['firing']:,} fire, {invariance}")
        marker = parse_marker(directory.neurons(layer) / "circuit.json") or {}
        for source, sentence in marker.get("notes", {}).items():
            print_sentence(console, f"{layer}: no weights from {source}. {sentence}")


def _too_few_rows(classes: Sequence[str], class_by: str, min_count: int, rows: int) -> str:
    """Why no cell of a map of ``classes``, which has so many ``rows``, is drawn."""
    what = "predicted for" if class_by == "predicted" else "supported by"
    number = {0: "No row is", 1: "1 row is"}.get(rows, f"{rows:,} rows are")
    rows_of_classes = f"{number} {what} {' or '.join(classes)}"
    if rows < max(FEWEST_MAP_ROWS, min_count):
        return f"{rows_of_classes}, and a map needs {max(FEWEST_MAP_ROWS, min_count)}. Take more pictures."
    return (
        f"{rows_of_classes}, but no cell has {min_count} of them. Give coarser layout.class_grids, or take more "
        "pictures."
    )


def show_scores(
    directory: RunDirectory,
    maps: Sequence[AtlasMap],
    console: Console,
    *,
    class_by: str,
    min_count: int,
    neurons: NeuronsConfig | None,
) -> None:
    """Print the scores of the icons, how true the ``maps`` are, and of the units that ``neurons`` asks for."""
    report = build_report(directory, maps, min_count=min_count, neurons=neurons)
    table = Table(title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("layer", "grid", "icons", "cosine", "whitened", "robust", "rank 1", "flagged", "words"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for layer, facts in report["layers"].items():
        for grid, icons in facts["icons"].items():
            if icons["n"]:
                table.add_row(
                    layer, grid, f"{icons['n']:,}",
                    *(f"{icons[name]:.3f}" for name in ("median_cosine", "median_cosine_whitened",
                    "median_cosine_robust")), f"{icons['rank1_share']:.0%}", f"{icons['flagged_share']:.1%}",
                    _words(facts["words"][grid]),
                )  # fmt: skip
    console.print(table)
    published = {atlas_map.name for atlas_map in published_maps(directory, maps)}
    for atlas_map in maps:
        name, facts = atlas_map.name, report["layers"][atlas_map.name]["layout"]
        if name in published:
            rows = (
                f"{facts['chosen']:,} rows"
                if atlas_map.classes
                else f"{facts['dropped_share']:.1%} of the rows left off"
            )
            quality = "too few rows to measure the map"
            if facts["trustworthiness"] is not None:
                quality = f"trustworthiness {facts['trustworthiness']:.3f}, neighbour recall {facts['recall']:.2f}"
            print_sentence(console, f"{name}: {quality}, {rows}")
        else:
            reason = _too_few_rows(atlas_map.classes, class_by, min_count, facts["chosen"])
            print_sentence(console, f"{name}: not in the site. {reason}")
    if not any(icons["n"] for facts in report["layers"].values() for icons in facts["icons"].values()):
        print_sentence(
            console,
            f"No icon was drawn: no cell has cells.min_count = {min_count} rows. Take more pictures or "
            "images.crops, coarser cells.grids, or a lower cells.min_count.",
        )
    show_errors(directory, report, maps, console)
    if neurons is not None:
        show_neurons(neurons.layers, report, directory, console)


def _words(facts: dict[str, Any] | None) -> str:
    """In how many cells of a level a class stands out."""
    return "" if facts is None else f"{facts['cells']:,}" if facts["cells"] else "none"


def show_errors(directory: RunDirectory, report: dict[str, Any], maps: Sequence[AtlasMap], console: Console) -> None:
    """Print how often each network is right where labels are classes, its commonest confusions, and of each layer the
    cells that hold more errors than their classes let expect."""
    for name, facts in report.get("accuracy", {}).items():
        layer = next(one.layer for one in maps if Config.module_of(one.layer)[0] == name)
        classes = read_metadata(directory.shards(layer)[0])["classes"]
        for sentence in accuracy_sentences(facts, classes):
            print_sentence(console, f"{f'@{name}: ' if name else ''}{sentence}")
        for atlas_map in maps:
            errors = report["layers"][atlas_map.name].get("errors")
            if errors is not None and Config.module_of(atlas_map.layer)[0] == name:
                print_sentence(console, f"{atlas_map.name}: {slice_sentence(errors, classes)}")


def show_end(directory: RunDirectory, until: str, out: str, console: Console, *, served: bool = False) -> None:
    """Print that the run is done ``until`` a stage, and how to look at the atlas, unless it is ``served`` already."""
    if until != "publish":
        print_sentence(console, f"Done until {until}: {directory.folder(until)}")
    elif served:
        print_sentence(console, "Done.")
    else:
        folder = os.path.relpath(directory.path) if is_remote(out) else out
        print_sentence(console, f"Done. Open the atlas with:  atlas serve {shlex.quote(folder)}")

"""What a person sees of a run: the plan with an estimate, progress, and what came of it."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from atlas.config.model import Config
from atlas.networks.network import Layer, Network
from atlas.pictures.listing import Listing
from atlas.pictures.views import Failure, reason
from atlas.report import build_report
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import FEWEST_ROWS, Map, maps_of, shown_maps
from atlas.rundir.markers import parse_marker
from atlas.rundir.remote import is_remote
from atlas.rundir.stages import STAGES
from pipelines.estimate import estimate, expected_cells
from pipelines.stage import Item, Summary


def told_by(progress: Progress, line: Any, unit: str) -> Callable[[Item, Summary], None]:
    """What moves a stage's ``line`` on by an item, with the rate of its units since now."""
    started, units = time.monotonic(), 0

    def advance(_item: Item, summary: Summary) -> None:
        nonlocal units
        units += summary.units
        rate = units / max(time.monotonic() - started, 1e-3)
        progress.update(line, advance=1, rate=f"{rate:,.1f} {unit}/s" if units else "")

    return advance


def progress_bars(console: Console) -> Progress:
    """The bars of the stages; an item is a step."""
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>18}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,
    )


def show_plan(
    config: Config,
    directory: RunDirectory,
    listing: Listing,
    networks: dict[str, Network],
    layers: dict[str, Layer],
    console: Console,
) -> None:
    """What will be done, and about how long it will take."""
    views = len(listing) * config.images.crops
    rows = views * config.collect.positions_per_image
    maps = maps_of(config)
    most = {each.name: min(rows, config.layout.class_rows) if each.classes else rows for each in maps}
    icons = sum(expected_cells(grid, most[each.name], config.cells.min_count) for each in maps for grid in each.grids)
    seconds, disk = estimate(config, listing, networks, layers, views, rows, icons)
    lines = [
        ("pictures", f"{len(listing):,} in {listing.source}, {config.images.crops} views each: {views:,} views"),
        *(
            (
                "network" if not name else f"@{name}",
                f"{network.name}, {network.size} px, {len(network.classes):,} classes, {len(network.folded)} batch "
                f"norms folded, on {network.device.type}",
            )
            for name, network in networks.items()
        ),
    ]
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
    lines += [("map", f"{each.title}, grids of {', '.join(map(str, each.grids))}") for each in maps if each.classes]
    lines.append(("cells", f"grids of {', '.join(map(str, config.cells.grids))} a side; about {icons:,} icons"))
    if config.neurons is not None:
        counted = {name: layers[name].channels for name in config.neurons.layers}
        told = ", ".join(f"{count:,} units of {name}" for name, count in counted.items())
        lines.append(("neurons", f"{told}, {config.neurons.pictures} pictures each"))
    size = f"{disk / 1e9:.1f} GB" if disk > 1e9 else f"{max(1, round(disk / 1e6))} MB"
    lines.append(("estimate", f"about {max(1, round(seconds / 60))} min and {size}, as this machine is now"))
    done = [name for name in STAGES if (directory.folder(name)).exists()]
    if done:
        kept = "what fits this configuration is kept and gone on with, the rest is moved aside"
        lines.append(("found", f"{', '.join(done)} of an earlier run; {kept}"))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for line in lines:
        table.add_row(*map(escape, line))
    console.print(table)


def say(console: Console, sentence: str) -> None:
    """A line for the person; a terminal may wrap it, a log does not."""
    console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def tell_failures(directory: RunDirectory, console: Console) -> None:
    """How many pictures and views gave nothing, the commonest reason, and where all are told."""
    rows = pq.read_table(directory.failures).to_pylist()
    if not rows:
        return
    reasons = Counter(reason(Failure(**row)) for row in rows)
    commonest, count = reasons.most_common(1)[0]
    example = next(row for row in rows if reason(Failure(**row)) == commonest)
    say(
        console,
        f"{len(rows):,} pictures or views gave no row. The commonest reason: {example['error']} ({count:,}×, such as "
        f"{example['image']}). All of them: {directory.failures}",
    )


def tell_neurons(layers: Sequence[str], report: dict[str, Any], directory: RunDirectory, console: Console) -> None:
    """A line for each layer whose units were looked at, and why some say nothing of what builds them."""
    for layer in layers:
        facts = report["layers"][layer]["neurons"]
        share = facts["invariant_share"]
        told = "none can be turned" if share is None else f"{share:.0%} of them answer alike to all angles"
        say(console, f"{layer}: {facts['units']:,} units, {facts['firing']:,} fire, {told}")
        marker = parse_marker(directory.neurons(layer) / "circuit.json") or {}
        for source, sentence in marker.get("notes", {}).items():
            say(console, f"{layer}: no weights from {source}. {sentence}")


def _too_few(each: Map, config: Config, facts: dict[str, Any]) -> str:
    """Why no cell of a map of classes is drawn."""
    chosen, fewest = facts["chosen"], config.cells.min_count
    what = "predicted for" if config.layout.class_by == "predicted" else "supported by"
    rows = {0: "No row is", 1: "1 row is"}.get(chosen, f"{chosen:,} rows are")
    of = f"{rows} {what} {' or '.join(each.classes)}"
    if chosen < max(FEWEST_ROWS, fewest):
        return f"{of}, and a map needs {max(FEWEST_ROWS, fewest)}. Take more pictures."
    return f"{of}, but no cell has {fewest} of them. Give coarser layout.class_grids, or take more pictures."


def show_end(config: Config, directory: RunDirectory, until: str, console: Console) -> None:
    """What a person is told at the end: the icons' scores, how true the maps are, and how to look at the atlas."""
    if STAGES.index(until) < STAGES.index("render"):
        say(console, f"Done until {until}: {directory.folder(until)}")
        return
    report = build_report(directory, config)
    table = Table(title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("layer", "grid", "icons", "cosine", "whitened", "robust", "rank 1", "flagged"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for layer, facts in report["layers"].items():
        for grid, icons in facts["icons"].items():
            if icons["n"]:
                table.add_row(
                    layer, grid, f"{icons['n']:,}",
                    *(f"{icons[name]:.3f}" for name in ("median_cosine", "median_cosine_whitened",
                    "median_cosine_robust")), f"{icons['rank1_share']:.0%}", f"{icons['flagged_share']:.1%}",
                )  # fmt: skip
    console.print(table)
    in_site = {each.name for each in shown_maps(directory, config)}
    for each in maps_of(config):
        facts = report["layers"][each.name]["layout"]
        if each.name in in_site:
            rows = f"{facts['chosen']:,} rows" if each.classes else f"{facts['dropped_share']:.1%} of the rows left off"
            quality = "too few rows to measure the map"
            if facts["trustworthiness"] is not None:
                quality = f"trustworthiness {facts['trustworthiness']:.3f}, neighbour recall {facts['recall']:.2f}"
            say(console, f"{each.name}: {quality}, {rows}")
        else:
            say(console, f"{each.name}: not in the site. {_too_few(each, config, facts)}")
    if not any(icons["n"] for facts in report["layers"].values() for icons in facts["icons"].values()):
        say(
            console,
            f"No icon was drawn: no cell has cells.min_count = {config.cells.min_count} rows. Take more pictures or "
            "images.crops, coarser cells.grids, or a lower cells.min_count.",
        )
    if config.neurons is not None and STAGES.index(until) >= STAGES.index("neurons"):
        tell_neurons(config.neurons.layers, report, directory, console)
    if until == "publish":
        shown = os.path.relpath(directory.path) if is_remote(config.out) else config.out
        say(console, f"Done. Open the atlas with:  python -m atlas.serve {shlex.quote(shown)}")
    else:
        say(console, f"Done until {until}: {directory.folder(until)}")

"""The order of the stages, and what the person sees while they run."""

from __future__ import annotations

import os
import shlex
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from distributed import Client
from rich.console import Console
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

from atlas.config import Config
from atlas.errors import AtlasError, ConfigError
from atlas.files import is_remote
from atlas.mirror import Mirror, working_folder
from atlas.networks import Layer, Network, describe_layer, load
from atlas.observe import Observer
from atlas.report import build_report
from atlas.rundir import STAGES, RunDirectory, digest_values, read_marker, write_json
from atlas.site import viewer_digest, viewer_folder
from atlas.sources import Listing, list_images, sources_of
from atlas.store import SCHEMA_VERSION
from atlas.versions import versions
from atlas.visualize import step_seconds
from atlas.visualize.recipe import ATLAS
from pipelines import cells, collect, layout, publish, render
from pipelines.cluster import connect, default_workers
from pipelines.stage import Item, Outcome, Stage, Summary, run_stage
from pipelines.tracking import Tracking, require

_MODULES: dict[str, ModuleType] = {
    "collect": collect, "layout": layout, "cells": cells, "render": render, "publish": publish
}  # fmt: skip
# For the estimate before a run, measured on two cores: seconds a row of layout, bytes an icon in the store and the
# site.
_LAYOUT_SECONDS, _LAYOUT_START, _ICON_BYTES = 6e-4, 15.0, 24_000


@dataclass(frozen=True)
class Prepared:
    """What is known before work starts: the pictures, the network and its layers."""

    listing: Listing
    network: Network
    layers: list[Layer]


def run(
    config: Config, *, until: str = "publish", dry_run: bool = False, console: Console | None = None
) -> RunDirectory:
    """Run the stages up to ``until``, going on where an earlier run of the same configuration stopped.

    Raises ConfigError for what cannot be done, AtlasError for what failed and can be resumed.
    """
    console = console or Console()
    directory = RunDirectory(working_folder(config.out))
    with Mirror(config.out, config.out_options, directory) if is_remote(config.out) else nullcontext() as mirror:
        _say(console, f"[bold]{config.out}[/bold]: reading the pictures' names and loading the network …")
        if mirror:
            _say(console, f"The working copy is {directory.path}; what is finished is copied to {config.out}.")
            mirror.begin()
        prepared = prepare(config, directory)
        if until == "publish":
            viewer_folder()
        _show_plan(config, directory, prepared, console)
        if dry_run:
            _say(console, "Nothing was run (--dry-run).")
            return directory
        with directory.lock():
            _write_start(config, directory, prepared)
            if mirror:
                mirror.send_state(directory.listing)
            _run_stages(config, directory, prepared, STAGES[: STAGES.index(until) + 1], console, mirror)
            _show_end(config, directory, until, console)
    return directory


def prepare(config: Config, directory: RunDirectory) -> Prepared:
    """List the pictures (or take the kept listing) and load the network. Raises ConfigError with all that is wrong."""
    problems: list[str] = []
    listing: Listing | None = None
    try:
        require(config)
    except ConfigError as error:
        problems.append(str(error))
    try:
        listing = _listing(config, directory)
    except ConfigError as error:
        problems.append(str(error))
    network: Network | None = None
    layers: list[Layer] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = load(**config.network.model_dump(), keep=config.layers)
    except ConfigError as error:
        problems.append(str(error))
    if network is not None:
        for name in config.layers:
            try:
                layers.append(describe_layer(network, name))
            except ConfigError as error:
                problems.append(f"layers: {error}")
    if problems or network is None or listing is None:
        raise ConfigError("\n".join(problems))
    return Prepared(listing, network, layers)


def _request(config: Config) -> dict[str, Any]:
    """The part of the configuration that decides the listing."""
    return {
        **config.images.model_dump(mode="json", exclude={"crops", "crop_scale", "source"}),
        "source": sources_of(config.images),
        "seed": config.seed,
    }


def _listing(config: Config, directory: RunDirectory) -> Listing:
    """A listing is made once and kept: resuming must not see a folder that grew in the meantime."""
    if directory.listing.exists() and directory.read_manifest().get("listing") == _request(config):
        try:
            return Listing.load(directory.listing)
        except (ValueError, KeyError, TypeError) as error:  # Arrow's errors are ValueErrors
            raise AtlasError(
                f"{directory.listing} is cut off or overwritten ({error}). Delete it and give the same command again: "
                f"the pictures are listed anew, and what was collected is kept if they are the same."
            ) from error
    return list_images(config.images, config.seed)


def _write_start(config: Config, directory: RunDirectory, prepared: Prepared) -> None:
    if directory.read_manifest().get("listing") != _request(config):
        directory.update_manifest(listing=None)  # were it to end here, the next start would list anew
    prepared.listing.save(directory.listing)
    created = directory.read_manifest().get("created") or datetime.now(UTC).isoformat(timespec="seconds")
    directory.update_manifest(
        config=config.plain(),
        listing=_request(config),
        created=created,
        versions=versions(),
        network={"name": prepared.network.name, "sha256": prepared.network.digest, "folded": prepared.network.folded},
    )


def stage_keys(config: Config, directory: RunDirectory, prepared: Prepared, stage: str) -> str:
    """The key of a stage: the part of the configuration that it depends on, and the key above it.

    The coordinates of a layout are an artifact that a second fit does not reproduce, so the cells' key also holds the
    digest of the coordinates that they were cut from.
    """
    values = config.plain()
    if stage == "collect":
        network = {key: value for key, value in values["network"].items() if key != "checkpoint"}
        network["classes"] = list(prepared.network.classes)
        collecting = {key: value for key, value in values["collect"].items() if key != "max_failure_share"}
        views = {key: values["images"][key] for key in ("crops", "crop_scale")}
        return digest_values(
            SCHEMA_VERSION,
            config.seed,
            network,
            prepared.network.digest,
            values["layers"],
            views,
            collecting,
            prepared.listing.digest,
        )
    above = directory.stage_key(STAGES[STAGES.index(stage) - 1])
    if stage == layout.NAME:
        return digest_values(stage, above, values["layout"], layout.FORMAT)
    if stage == "cells":
        marker = read_marker(directory.folder("layout") / "box.json", above) or {}
        return digest_values(stage, above, values["cells"], marker.get("files"))
    if stage == render.NAME:
        # The engine's own numbers too: a version that draws otherwise draws anew.
        return digest_values(stage, above, values["render"], asdict(render.recipe(config)))
    return digest_values(stage, above, values.get(stage), viewer_digest() if stage == "publish" else None)


def _run_stages(
    config: Config,
    directory: RunDirectory,
    prepared: Prepared,
    stages: tuple[str, ...],
    console: Console,
    mirror: Mirror | None,
) -> None:
    claim = mirror.claim if mirror else directory.claim
    tracking = Tracking(config, directory, lambda sentence: _say(console, sentence))
    with connect(config.cluster) as client, tracking, _progress(console) as progress:
        progress.console.print(f"Dask dashboard: {client.dashboard_link}")
        for name in stages:
            stage = cast(Stage, _MODULES[name])
            claim(name, stage_keys(config, directory, prepared, name))
            if measure := getattr(stage, "measure", None):
                _measure_pace(client, directory, name, measure)
            line = progress.add_task(name, total=None, rate="")
            advance = _advance(progress, line, stage.UNIT)
            watch = collect.watch_failures(config, directory) if name == collect.NAME else None

            def finished(
                item: Item, summary: Summary, advance: Any = advance, watch: Any = watch, stage: Stage = stage
            ) -> None:
                advance(item, summary)
                if mirror:
                    mirror.send(stage.markers(item, directory, config))
                if watch:
                    watch(summary)

            def begin(items: int, todo: int, line: Any = line) -> None:
                progress.update(line, total=items, completed=items - todo)

            outcome = run_stage(stage, client, directory, config, on_plan=begin, on_item=finished)
            directory.sweep(name)  # a worker that was killed left its temporary files
            if not outcome.done_now:
                progress.update(line, rate="done before")
            else:
                _note(directory, name, outcome)
            if not console.is_terminal:
                done = f"{outcome.done_now} of {outcome.items} items now, {outcome.units:,} {stage.UNIT}"
                console.print(f"{name}: {done} in {outcome.seconds:.0f} s")
            if name == "render":
                write_json(directory.report, build_report(directory, config))
            if mirror:
                mirror.wait()
                mirror.send_state(*(path for path in [directory.report] if path.exists()))
            tracking.stage(name)


def _measure_pace(client: Client, directory: RunDirectory, name: str, measure: Callable[[str], dict[str, Any]]) -> None:
    """Have one worker measure batches and precision of a stage, once: a resumed run goes on with the same."""
    facts = directory.read_manifest()["stages"][name]
    if "pace" not in facts:
        facts["pace"] = client.submit(measure, str(directory.path), pure=False).result()
        directory.update_manifest(stages={name: facts})


def _note(directory: RunDirectory, stage: str, outcome: Outcome) -> None:
    """Seconds and rates go into run.json, never into an output."""
    facts = directory.stage_facts(stage)
    facts["seconds"] = round(facts.get("seconds", 0) + outcome.seconds, 1)
    facts["units"] = facts.get("units", 0) + outcome.units
    facts[f"{_MODULES[stage].UNIT}_per_second"] = round(facts["units"] / max(facts["seconds"], 0.1), 2)
    facts["worker_peak_mb"] = max(facts.get("worker_peak_mb", 0), outcome.peak_mb)
    directory.update_manifest(stages={stage: facts})


def _advance(progress: Progress, line: Any, unit: str) -> Callable[[Item, Summary], None]:
    started, units = time.monotonic(), 0

    def advance(_item: Item, summary: Summary) -> None:
        nonlocal units
        units += summary.units
        rate = units / max(time.monotonic() - started, 1e-3)
        progress.update(line, advance=1, rate=f"{rate:,.1f} {unit}/s" if units else "")

    return advance


def _progress(console: Console) -> Progress:
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


def _show_plan(config: Config, directory: RunDirectory, prepared: Prepared, console: Console) -> None:
    views = len(prepared.listing) * config.images.crops
    rows = views * config.collect.positions_per_image
    icons = sum(_expected_cells(grid, rows, config.cells.min_count) for grid in config.cells.grids) * len(config.layers)
    seconds, disk = _estimate(config, prepared, views, rows, icons)
    network = prepared.network
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row(
        "pictures",
        f"{len(prepared.listing):,} in {prepared.listing.source}, {config.images.crops} views each: {views:,} views",
    )
    table.add_row(
        "network",
        f"{network.name}, {network.size} px, {len(network.classes):,} classes, {network.folded} batch norms folded, "
        f"on {network.device.type}",
    )
    for layer in prepared.layers:
        table.add_row(
            "layer",
            f"{layer.name}: {layer.channels} channels, {layer.height}×{layer.width} map, sees "
            f"{layer.effective_receptive_field} px of {network.size}",
        )
    table.add_row("cells", f"grids of {', '.join(map(str, config.cells.grids))} a side; about {icons:,} icons")
    size = f"{disk / 1e9:.1f} GB" if disk > 1e9 else f"{max(1, round(disk / 1e6))} MB"
    table.add_row("estimate", f"about {max(1, round(seconds / 60))} min and {size}, as this machine is now")
    done = [name for name in STAGES if (directory.folder(name)).exists()]
    if done:
        kept = "what fits this configuration is kept and gone on with, the rest is moved aside"
        table.add_row("found", f"{', '.join(done)} of an earlier run; {kept}")
    console.print(table)


def _say(console: Console, sentence: str) -> None:
    """A line for the person; a terminal may wrap it, a log does not."""
    console.print(sentence, soft_wrap=True, highlight=False)


def _expected_cells(grid: int, rows: int, min_count: int) -> int:
    return round(min(0.7 * grid**2, rows / (2 * min_count)))


def _estimate(config: Config, prepared: Prepared, views: int, rows: int, icons: int) -> tuple[float, float]:
    """Seconds and bytes: one batch of views and one step of icons are timed, the rest is arithmetic."""
    torch.set_num_threads(config.cluster.threads)
    workers = default_workers(config.cluster)
    shards = -(-len(prepared.listing) // collect.images_per_shard(config, len(prepared.listing)))
    network, names = prepared.network, config.layers
    collecting = config.collect
    view_seconds = Observer(network, names).seconds_per_view(
        prepared.layers, draws=collecting.positions_per_image, attributions=collecting.attributions
    )
    icon_seconds = float(np.mean([_icon_seconds(network, name, config) for name in names]))
    classes = len(network.classes) if config.collect.attributions else 0
    store = rows * sum(2 * (layer.channels + classes) + 40 for layer in prepared.layers)
    layout_seconds = len(names) * (_LAYOUT_START + rows * _LAYOUT_SECONDS)
    collect_seconds = views * view_seconds / min(workers, shards)
    return collect_seconds + icons * icon_seconds / workers + layout_seconds, store + icons * _ICON_BYTES


def _icon_seconds(network: Network, layer: str, config: Config) -> float:
    steps: float = 0.35 * ATLAS.steps + 0.65 * ATLAS.steps_from_start
    if config.render.steps != "auto":
        steps = config.render.steps
    # A third more for the moves, the spectrum and the scores.
    return 1.3 * steps * step_seconds(network, layer, config.render.size, config.render.precision)


def _show_end(config: Config, directory: RunDirectory, until: str, console: Console) -> None:
    if STAGES.index(until) < STAGES.index("render"):
        _say(console, f"Done until {until}: {directory.folder(until)}")
        return
    report = build_report(directory, config)
    failed = report["collect"]["failures"]
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
    for layer, facts in report["layers"].items():
        layout_facts = facts["layout"]
        _say(
            console,
            f"{layer}: trustworthiness {layout_facts['trustworthiness']:.3f}, neighbour recall "
            f"{layout_facts['recall']:.2f}, "
            f"{layout_facts['dropped_share']:.1%} of the rows left off the map",
        )
    if failed:
        _say(console, f"{failed:,} of {report['collect']['views']:,} views failed; see {directory.failures}")
    if not any(icons["n"] for facts in report["layers"].values() for icons in facts["icons"].values()):
        _say(
            console,
            f"No icon was drawn: no cell has cells.min_count = {config.cells.min_count} rows. Take more pictures or "
            "images.crops, coarser cells.grids, or a lower cells.min_count.",
        )
    if until == "publish":
        shown = os.path.relpath(directory.path) if is_remote(config.out) else config.out
        _say(console, f"Done. Open the atlas with:  [bold]python -m atlas.serve {shlex.quote(shown)}[/bold]")
    else:
        _say(console, f"Done until {until}: {directory.folder(until)}")

"""The stages in their order: what is prepared before them, their keys, and how each is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from atlas.config.model import Config
from atlas.errors import ConfigError
from atlas.report import build_report
from atlas.rundir.atomic import write_json
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of
from atlas.rundir.markers import digest_values
from atlas.rundir.mirror import Mirror
from atlas.rundir.remote import is_remote, working_folder
from atlas.rundir.stages import ABOVE, STAGES, stages_of
from atlas.rundir.versions import RUN_FORMAT, SITE_FORMAT, refuse_other_format, versions
from atlas.site.page import viewer_digest, viewer_folder
from atlas.slices.tables import ERRORS_FORMAT
from atlas.store.shards import SCHEMA_VERSION
from pipelines import cells, collect, layout, neurons, publish, render
from pipelines.cluster import connect, dashboard
from pipelines.estimate import Estimate
from pipelines.graph import Hooks, Outcome, run_graph
from pipelines.prepare import Prepared, listing_request, prepare
from pipelines.progress import Heartbeat, RunProgress
from pipelines.screen import (
    ProgressScreen,
    print_sentence,
    show_end,
    show_failures,
    show_plan,
    show_scores,
    show_times,
)
from pipelines.stage import Item, Part, Stage, Summary
from pipelines.tasks import Timed
from pipelines.tracking import Tracking

_STAGES: dict[str, Stage] = {
    "collect": collect, "layout": layout, "cells": cells, "render": render, "neurons": neurons, "publish": publish
}  # fmt: skip


@dataclass(frozen=True)
class Output:
    """Where a run tells how it goes. ``verbose``: a line for each item too. ``on_site`` is called once with the run's
    folder, as soon as its site shows something: whoever asks for it serves it."""

    console: Console = field(default_factory=Console)
    verbose: bool = False
    on_site: Callable[[Path], None] | None = None


def run(config: Config, *, until: str = "publish", dry_run: bool = False, output: Output | None = None) -> RunDirectory:
    """Run the stages up to ``until``, going on where an earlier run of the same configuration stopped.

    Raises ConfigError for what cannot be done, AtlasError for what failed and can be resumed.
    """
    output = output or Output()
    console = output.console
    stages = stages_of(config.neurons)
    if until not in stages:
        raise ConfigError(
            f"--until {until}: the configuration asks for no {until}. Give it some of its layers, such as --set "
            f"'{until}={{layers: [{config.layers[-1]}]}}'."
        )
    directory = RunDirectory(working_folder(config.out))
    refuse_other_format(directory.read_manifest(), directory.manifest)
    with ExitStack() as stack:
        mirror = (
            stack.enter_context(Mirror(config.out, config.out_options, directory)) if is_remote(config.out) else None
        )
        print_sentence(console, f"{config.out}: reading the pictures' names and loading the network …")
        if mirror:
            print_sentence(
                console, f"The working copy is {directory.path}; what is finished is copied to {config.out}."
            )
            if not dry_run:
                stack.enter_context(directory.lock())
                mirror.begin()
        if until == "publish":
            viewer_folder()
        prepared = prepare(config, directory)
        plan = show_plan(
            config, directory, prepared.listing, prepared.networks, prepared.layers, prepared.matches, console
        )
        if dry_run:
            print_sentence(console, "Nothing was run (--dry-run).")
            return directory
        if not mirror:
            stack.enter_context(directory.lock())
        _write_start(config, directory, prepared)
        if mirror:
            mirror.send_state(directory.listing)
        _run_stages(config, directory, prepared, plan, stages[: stages.index(until) + 1], output, mirror)
        if STAGES.index(until) >= STAGES.index(render.NAME):
            show_scores(
                directory,
                maps_of(config.layers, config.layout, config.cells),
                console,
                class_by=config.layout.class_by,
                min_count=config.cells.min_count,
                neurons=None if until == render.NAME else config.neurons,
            )
        show_end(directory, until, config.out, console, served=output.on_site is not None)
    return directory


def _write_start(config: Config, directory: RunDirectory, prepared: Prepared) -> None:
    request = listing_request(config.images, config.seed)
    if directory.read_manifest().get("listing") != request:
        directory.update_manifest(listing=None)  # if it ends here, the next start lists the pictures again
    prepared.listing.save(directory.listing)
    facts = {
        name: {"name": network.name, "sha256": network.digest, "folded": len(network.folded)}
        for name, network in prepared.networks.items()
    }
    created = directory.read_manifest().get("created") or datetime.now(UTC).isoformat(timespec="seconds")
    directory.update_manifest(
        format=RUN_FORMAT,
        config=config.plain(),
        listing=request,
        created=created,
        versions=versions(),
        label_classes={name: _label_classes(prepared, name) for name in prepared.networks},
        network=facts.pop(""),
        compare=facts,
    )


def _label_classes(prepared: Prepared, network: str) -> list[int | None] | None:
    """The class of each label in a network, where any is one."""
    match = prepared.matches[network]
    return list(match.classes) if match.has_classes else None


def _rows_key(config: Config, prepared: Prepared) -> str:
    """What the rows of the store depend on, but for the ranks of the classes that the labels are."""
    values = config.plain()
    networks = []
    for name, run_network in config.networks().items():
        network = run_network.settings.model_dump(mode="json", exclude={"checkpoint"})
        network["classes"] = list(prepared.networks[name].classes)
        networks += [network, prepared.networks[name].digest, *([name] if name else [])]
    collecting = {key: value for key, value in values["collect"].items() if key != "max_failure_share"}
    views = {key: values["images"][key] for key in ("crops", "crop_scale")}
    return digest_values(
        SCHEMA_VERSION,
        config.seed,
        *networks,
        values["layers"],
        views,
        collecting,
        prepared.listing.digest,
    )


def stage_key_of(config: Config, directory: RunDirectory, prepared: Prepared, stage: str) -> str:
    """The key of a stage: the part of the configuration that it depends on, and the key above it.

    The coordinates of a layout are an artifact that a second fit does not reproduce: what is made from them also notes
    the digest of those of its own map, item by item.
    """
    values = config.plain()
    classes = {name: _label_classes(prepared, name) for name in prepared.networks}
    labelled = any(classes.values())
    if stage == collect.NAME:
        rows_key = _rows_key(config, prepared)
        return digest_values(rows_key, classes) if labelled else rows_key
    # Activations do not depend on what the labels are: with others, layouts, icons and units stay.
    collected = directory.stage_facts(collect.NAME)
    rows_key = collected.get("rows_key", collected["key"])
    if stage == neurons.NAME:
        # Not the layers: what an item depends on beyond this stands in the item itself.
        counts = {
            key: value for key, value in values["neurons"].items() if key in ("pictures", "patches", "rotated_patches")
        }
        drawing = {key: values["render"][key] for key in ("steps", "precision", "compile")}
        return digest_values(stage, rows_key, counts, drawing, neurons.engine())
    above = rows_key if stage == layout.NAME else directory.stage_key(ABOVE[stage])
    if stage == render.NAME:
        # Icons do not depend on the exemplars of their cells. The numbers of the recipe count too: a version
        # with others draws all icons again.
        levels = {key: values["cells"][key] for key in ("grids", "min_count")}
        above = digest_values(cells.NAME, directory.stage_key(layout.NAME), levels)
        drawing = {key: value for key, value in values["render"].items() if key != "quick_steps"}
        return digest_values(stage, above, drawing, asdict(render.recipe(config.render)))
    if stage == layout.NAME:
        # What a map of classes depends on stands in its name: one more map leaves the others as they are.
        common = {key: value for key, value in values["layout"].items() if not key.startswith("class_")}
        return digest_values(stage, above, common, layout.LAYOUT_FORMAT)
    if stage == cells.NAME:
        return digest_values(stage, above, values["cells"], *([classes, ERRORS_FORMAT] if labelled else []))
    return digest_values(stage, above, directory.stage_key(cells.NAME), SITE_FORMAT, viewer_digest())


class _RunHooks(Hooks):
    """What a run does beside its items: claims the stages' folders, shows progress, copies what is finished to the
    run's address, stops when too many views fail, and reports."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        prepared: Prepared,
        mirror: Mirror | None,
        tracking: Tracking,
        progress: RunProgress,
        screen: ProgressScreen,
        on_site: Callable[[Path], None] | None,
    ) -> None:
        self._config, self._directory, self._prepared = config, directory, prepared
        self._mirror, self._tracking, self._progress, self._screen = mirror, tracking, progress, screen
        self._on_site = on_site
        self._claimed: set[str] = set()
        self._finished: set[str] = set()
        self._check_failures: Callable[[Summary], None] | None = None

    def begin_stage(self, stage: Stage) -> None:
        self._claim(stage.NAME)
        if stage.NAME == collect.NAME:
            self._check_failures = collect.watch_failures(
                self._directory,
                self._config.layers,
                crops=self._config.images.crops,
                max_share=self._config.collect.max_failure_share,
            )
        self._look_for_site(stage)

    def _look_for_site(self, stage: Stage) -> None:
        """Once its folder is this run's own, see whether there is a site to look at."""
        if stage.NAME == publish.NAME and self._on_site and self._directory.has_site:
            self._on_site(self._directory.path)
            self._on_site = None

    def _claim(self, stage: str) -> None:
        """Claim a stage's folder, after those of the stages above it: its key holds theirs."""
        if stage in self._claimed:
            return
        self._claimed.add(stage)
        if stage in ABOVE:
            self._claim(ABOVE[stage])
        claim = self._mirror.claim if self._mirror else self._directory.claim
        claim(stage, stage_key_of(self._config, self._directory, self._prepared, stage))
        if stage == collect.NAME:
            _take_batch_settings(self._directory, _rows_key(self._config, self._prepared))

    def plan_part(self, stage: Stage, part: Part, items: Sequence[Item], todo: Sequence[Item]) -> None:
        self._progress.plan_part(stage, items, todo)
        self._screen.update(stage.NAME)

    def finish_item(self, stage: Stage, item: Item, timed: Timed) -> None:
        self._progress.finish_item(stage, item, timed)
        self._screen.finish_item(stage.NAME, item, timed)
        self.finish_refresh(stage, item)
        if stage.NAME == collect.NAME and self._check_failures:
            self._check_failures(timed.summary)

    def finish_refresh(self, stage: Stage, item: Item) -> None:
        if self._mirror:
            self._mirror.send(stage.markers(item, self._directory, self._config))
        self._look_for_site(stage)

    def finish_stage(self, stage: Stage, outcome: Outcome) -> None:
        config, directory, name = self._config, self._directory, stage.NAME
        self._finished.add(name)
        directory.sweep(name)  # a worker that was killed left its temporary files
        if outcome.done_now:
            _note(directory, name, outcome)
        self._progress.finish_stage(stage)
        self._screen.finish(name, outcome)
        if name == collect.NAME:
            show_failures(directory, self._screen.console)
        reported = {layout.NAME, cells.NAME, render.NAME}
        if name != publish.NAME and self._finished >= reported:
            maps = maps_of(config.layers, config.layout, config.cells)
            report = build_report(directory, maps, min_count=config.cells.min_count, neurons=config.neurons)
            write_json(directory.report, report)
        if self._mirror:
            self._mirror.finish(name, directory.stage_key(name))
            self._mirror.send_state(*(path for path in [directory.report] if path.exists()))
        self._tracking.stage(name)
        if name in reported and self._finished >= reported:
            self._tracking.report()


def _run_stages(
    config: Config,
    directory: RunDirectory,
    prepared: Prepared,
    plan: Estimate,
    stages: tuple[str, ...],
    output: Output,
    mirror: Mirror | None,
) -> None:
    console = output.console
    say = partial(print_sentence, console)
    tracking = Tracking(config, directory, say)
    modules = [_STAGES[name] for name in stages]
    with connect(config.cluster, say) as client, tracking:
        progress = RunProgress(
            [part for stage in modules for part in stage.parts(config)],
            {stage.NAME: stage.WORK for stage in modules},
            plan.stages,
            lambda: len(client.nthreads()),
        )
        screen = ProgressScreen(console, progress, verbose=output.verbose)
        with screen, Heartbeat(directory, progress, screen.tick):
            if dask_page := dashboard(client):
                say(f"Dask dashboard: {dask_page}")
            hooks = _RunHooks(config, directory, prepared, mirror, tracking, progress, screen, output.on_site)
            outcomes = run_graph(modules, client, directory, config, hooks)
            if publish in modules:
                publish.remove_quick(directory, config.opening, config.cells.grids)
                render.remove_quick(directory, config.opening, config.cells.grids)
    show_times(outcomes, console)


def _take_batch_settings(directory: RunDirectory, rows_key: str) -> None:
    """Note what the rows depend on, and collect as it was done before where only the labels' classes have changed:
    activations depend on the batch in their last bits, and what was made from them stays."""
    facts = {**directory.stage_facts(collect.NAME), "rows_key": rows_key}
    past = [one for one in directory.read_manifest().get("past", {}).values() if one.get("rows_key") == rows_key]
    if settings := [one["batch_settings"] for one in past if "batch_settings" in one]:
        facts.setdefault("batch_settings", settings[-1])
    directory.update_manifest(stages={collect.NAME: facts})


def _note(directory: RunDirectory, stage: str, outcome: Outcome) -> None:
    """Seconds and rates go into run.json, never into an output."""
    facts = directory.stage_facts(stage)
    facts["seconds"] = round(facts.get("seconds", 0) + outcome.seconds, 1)
    facts["units"] = facts.get("units", 0) + outcome.count  # the word that runs and trackers have for it
    facts[f"{_STAGES[stage].WORK}_per_second"] = round(facts["units"] / max(facts["seconds"], 0.1), 2)
    facts["worker_peak_mb"] = max(facts.get("worker_peak_mb", 0), outcome.peak_mb)
    directory.update_manifest(stages={stage: facts})

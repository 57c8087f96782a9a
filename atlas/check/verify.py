"""What is whole in a run directory and what is not, read from its files alone.

Every marker is held against run.json, every file against its marker, and the tables of the stages against each other
(``atlas.check.rows`` and ``tables``). A run that is unfinished is not wrong. Each problem says how it is cured; a cure
never asks for more than deleting files and giving the run's command again.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from atlas.check.findings import Findings, size
from atlas.check.rows import compare_rows
from atlas.check.tables import compare_tables
from atlas.errors import AtlasError, ConfigError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import layout_boxes, maps_of
from atlas.rundir.markers import digest_file, marked_key, parse_marker
from atlas.rundir.stages import ABOVE, FOLDERS, STAGES, stages_of

_LAYOUTS = ("fit-*", "place-*", "index-*", "class-*", "quality-*")
# Where the markers of a stage lie below its folder.
_MARKERS = {
    "collect": ("*/part-*.json", "failures.json"),
    "layout": tuple(f"{name}.json" for name in ("common-start", *_LAYOUTS, "box", "box-*")),
    "cells": ("*.json", "words/*/*.json", "errors/*.json"),
    "render": ("*/grid-*/part-*.json",),
    "neurons": ("*/*.json",),
    "publish": (".markers/*.json",),
}


def verify(run: RunDirectory, *, quick: bool = False, console: Console | None = None) -> Findings:
    """Check the run; ``quick`` compares sizes instead of sha256. Raises ConfigError where there is no run."""
    console = console or Console(quiet=True)
    if not run.path.is_dir():
        raise ConfigError(f"There is no folder {run.path}. Expected the folder of a run, such as runs/demo.")
    findings = Findings(run)
    _notes(findings)
    try:
        manifest = run.read_manifest()
    except AtlasError:
        findings.wrong(run.manifest, "cut off or overwritten: it is no JSON of a run", run.manifest)
        return findings
    if "config" not in manifest:
        what = "holds no configuration" if run.manifest.exists() else "missing"
        if not any(run.folder(stage).exists() for stage in STAGES):
            reason = "its run.json holds no configuration" if run.manifest.exists() else "it has no run.json"
            raise ConfigError(f"{run.path} is no run: {reason}. Expected the folder that atlas run wrote.")
        findings.wrong(run.manifest, f"{what}, so the stages cannot be held against their configuration")
        return findings
    config = run.config()
    findings.layout_boxes = layout_boxes(config.layers, config.layout)
    findings.maps = maps_of(config.layers, config.layout, config.cells)
    _read_markers(findings, stages_of(config.neurons), manifest.get("stages", {}))
    _check_files(findings, quick=quick, console=console)
    crops, draws = config.images.crops, config.collect.positions_per_image
    compare_rows(findings, config.layers, crops=crops, draws=draws, console=console)
    compare_tables(findings, config.cells, config.neurons, has_tour=config.tour is not None)
    return findings


def summary_lines(findings: Findings, *, quick: bool) -> Iterator[str]:
    """The findings in lines: how far each stage is, notes, problems, and the sum."""
    for stage, state in findings.stages.items():
        yield f"  {stage:<8} {state}"
    for note in findings.notes:
        yield f"  note     {note}"
    for problem in findings.problems:
        yield f"  WRONG    {problem}"
    how = "by size" if quick else "by sha256"
    checked = f"{findings.files:,} files, {size(findings.bytes)}, compared {how}"
    count = len(findings.problems)
    if count:
        yield f"{count} {'thing is' if count == 1 else 'things are'} wrong with {findings.run.path} ({checked})."
    else:
        yield f"Nothing is wrong with {findings.run.path} ({checked})."


def _read_markers(findings: Findings, stages: Iterable[str], facts_of: dict[str, Any]) -> None:
    """Parse every marker and hold it against its stage's key in run.json, which has ``facts_of`` each stage."""
    keys: dict[str, str | None] = {}
    for stage in stages:
        folder, facts = findings.run.folder(stage), facts_of.get(stage, {})
        key, above = facts.get("key"), ABOVE.get(stage, "")
        left_behind = key is not None and facts.get("above") not in (None, keys.get(above))
        if key is not None and (left_behind or above in findings.stale):
            findings.stale.add(stage)
        if key is None and folder.exists():
            findings.notes.append(f"{folder.name}/ is unknown to run.json; the run takes it up, or moves it aside")
            findings.stale.add(stage)
            key = marked_key(folder)
        keys[stage] = key
        paths = sorted(path for pattern in _MARKERS[stage] for path in folder.glob(pattern))
        findings.markers[stage] = {}
        for path in paths:
            marker = parse_marker(path)
            if marker is None:
                findings.wrong(path, "a marker that is cut off or overwritten", *findings.with_it(stage, path))
            elif marker["key"] != key:
                what = f"a marker of another configuration (key {marker['key'][:8]}, run.json has {str(key)[:8]})"
                findings.wrong(path, what, *findings.with_it(stage, path))
            else:
                findings.markers[stage][path] = marker


def _check_files(findings: Findings, *, quick: bool, console: Console) -> None:
    """Hold every file that a marker lists against its size and, unless ``quick``, its sha256."""
    jobs: list[tuple[str, Path, dict[str, Any]]] = []
    for stage, markers in findings.markers.items():
        for path, marker in markers.items():
            for name, facts in marker["files"].items():
                jobs.append((stage, Path(os.path.normpath(path.parent / name)), facts))

    def look(stage: str, path: Path, facts: dict[str, Any]) -> str | None:
        try:
            if path.stat().st_size != facts["bytes"]:
                return f"{path.stat().st_size:,} bytes long, its marker says {facts['bytes']:,}"
            if not quick and digest_file(path) != facts["sha256"]:
                return "changed since it was written: its sha256 is not that of its marker"
        except FileNotFoundError:
            return "missing, though its marker stands"
        except OSError as error:
            return f"cannot be read ({os.strerror(error.errno or 0)})"
        return None

    findings.files, findings.bytes = len(jobs), sum(facts["bytes"] for _, _, facts in jobs)
    columns = TextColumn("files"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress, ThreadPoolExecutor() as pool:
        line = progress.add_task("files", total=findings.bytes)
        damaged: dict[Path, tuple[str, str]] = {}
        for batch in _batches(jobs, 1024):
            futures = {pool.submit(look, *job): job for job in batch}
            for future in as_completed(futures):
                stage, path, facts = futures[future]
                what = future.result()
                if what is not None:
                    damaged[path] = stage, what
                progress.advance(line, facts["bytes"])
    for path, (stage, what) in sorted(damaged.items()):
        if what.startswith("cannot be read"):
            findings.wrong(path, what, remedy="make it readable and check again")
        else:
            findings.wrong(path, what, *findings.with_it(stage, path))


def _batches(jobs: list[Any], count: int) -> Iterator[list[Any]]:
    for first in range(0, len(jobs), count):
        yield jobs[first : first + count]


def _notes(findings: Findings) -> None:
    """What is worth knowing but not wrong: a process at work, temporary files of killed ones, folders moved aside."""
    folder = findings.run.path
    if _at_work(folder / ".lock"):
        findings.notes.append("a process is at work in this run: what it is writing may look wrong; check again later")
    left = sorted(folder.rglob(".*.tmp"))
    if left:
        findings.notes.append(
            f"{len(left)} temporary files of killed processes, {size(_total_size(left))}, such as "
            f"{findings.name(left[0])}; the run removes them when it comes by"
        )
    folders = "|".join(FOLDERS.values())
    for aside in sorted(path for path in folder.iterdir() if path.is_dir()):
        if re.fullmatch(rf"({folders})\.[0-9a-z]+(-\d+)?", aside.name):
            weight = size(_total_size(aside.rglob("*")))
            findings.notes.append(
                f"{aside.name}/ was moved aside when the configuration changed, {weight}; it comes back with its "
                "configuration, and may be deleted"
            )


def _total_size(paths: Iterable[Path]) -> int:
    return sum(path.lstat().st_size for path in paths if not path.is_dir())


def _at_work(lock: Path) -> bool:
    """Whether another process holds the run's lock."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False

#!/usr/bin/env python3
"""How a run's time and disk grow with the number of views: configs/million.yaml at several sizes.

    scripts/scaling.py --views 10000 30000 100000     # run these, note their figures, draw
    scripts/scaling.py                                # draw again what is noted

Each size is a run of its own in --out, by `atlas run`, and goes on where it stopped when the command is given
again. While it runs, the memory of every process is looked at every two seconds (proportional set sizes). Figures go to
scripts/scaling.json after each run, the picture (log-log, with the slope of each stage) to atlas/docs/pictures;
the table is printed as Markdown.
Needs pip install -e ".[bench]".
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from bench_rows import BenchRow  # beside this file
from PIL import Image

from atlas.rundir.atomic import write_json
from atlas.rundir.directory import RunDirectory
from atlas.rundir.stages import FOLDERS

try:
    import matplotlib
except ImportError:
    sys.exit('scaling.py draws with matplotlib, which is not installed. Install it: pip install -e ".[bench]".')
matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
FIGURES_FILE, PICTURE_FILE = HERE / "scaling.json", HERE.parent / "atlas/docs/pictures/scaling.webp"
CONFIG_NAME, CROPS = "million", 25
WATCHED_SECONDS = 2.0

# Told apart by colour-blind people too, and by their marks.
STYLES = {
    "collect": ("#d95f02", "o"),
    "layout": ("#1b6ca8", "s"),
    "cells": ("#7a7a7a", "^"),
    "render": ("#66a61e", "D"),
    "publish": ("#a6761d", "v"),
}
DRAWN_STAGES = tuple(STYLES)


def measured_run(views: int, out: Path) -> BenchRow:
    """Run million.yaml over ``views`` views in ``out``, or go on with it, and tell its figures.

    Raises SystemExit where the run fails, or is finished and nothing is noted of how it went.
    """
    run, note_path = RunDirectory(out / f"views-{views}"), out / f"views-{views}.json"
    watched: BenchRow | None = json.loads(note_path.read_text(encoding="utf-8")) if note_path.exists() else None
    if under_way(run) is None:
        if watched is None:
            raise SystemExit(f"{run.path} is finished, and was not watched. Delete it to measure it anew.")
        return row_of_run(run, views, watched)
    command = [sys.executable, "-m", "atlas.run", CONFIG_NAME, "--set", f"images.limit={views // CROPS}"]
    command += ["--set", f"out={run.path}"]
    started = time.monotonic()
    process = psutil.Popen(command, cwd=HERE.parent)
    now, spent = _watch(process, run)
    failed, stage = process.wait() != 0, under_way(run)
    now |= {"seconds_of_starts": round(time.monotonic() - started), "starts": 1}
    # What a killed stage had spent stands in no manifest.
    now["lost"] = {stage: spent[stage]} if failed and stage in spent else {}
    watched = merged(watched, now)
    write_json(note_path, watched)
    if failed:
        raise SystemExit(f"The run of {views:,} views stopped; give the same command again, and it goes on.")
    return row_of_run(run, views, watched)


def _watch(process: psutil.Popen, run: RunDirectory) -> tuple[BenchRow, dict[str, float]]:
    """The memory of a command in MB while it runs: the client's own at a tenth of the time, in the middle and at the
    end; the most of any process under it, and of all together. And the seconds during which each stage was the next to
    be finished."""
    client: list[float] = []
    spent: dict[str, float] = {}
    largest = together = 0.0
    last = time.monotonic()
    while process.poll() is None:
        last, since = time.monotonic(), last
        if stage := under_way(run):
            spent[stage] = spent.get(stage, 0.0) + last - since
        sizes = []
        for member in [process, *process.children(recursive=True)]:
            try:
                sizes.append(member.memory_full_info().pss / 1e6)
            except psutil.Error:  # it has just ended
                continue
        if sizes:
            client.append(sizes[0])
            largest, together = max(largest, *sizes), max(together, sum(sizes))
        time.sleep(WATCHED_SECONDS)
    at = {f"client_mb_at_{share}": round(client[int(share / 100 * (len(client) - 1))]) for share in (10, 50, 90)}
    return {**at, "peak_mb_of_a_process": round(largest), "peak_mb_of_all": round(together)}, spent


def under_way(run: RunDirectory) -> str | None:
    """The first stage that a run has not finished."""
    stages = run.read_manifest().get("stages", {})
    return next((stage for stage in DRAWN_STAGES if "seconds" not in stages.get(stage, {})), None)


def row_of_run(run: RunDirectory, views: int, watched: BenchRow) -> BenchRow:
    """What a finished run tells: seconds of each stage (with those that were lost when it was killed), the bytes of its
    folder and the most memory of a worker; how many icons there are; and what was ``watched``."""
    stages = run.read_manifest()["stages"]
    report = json.loads(run.report.read_text(encoding="utf-8"))
    row: BenchRow = {"views": views}
    for stage in DRAWN_STAGES:
        files = [path for path in (run.path / FOLDERS[stage]).rglob("*") if path.is_file()]
        row[stage] = {
            "seconds": round(stages[stage]["seconds"] + watched["lost"].get(stage, 0.0), 1),
            "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
            "worker_peak_mb": stages[stage]["worker_peak_mb"],
        }
    row["icons"] = sum(grid["n"] for layer in report["layers"].values() for grid in layer["icons"].values())
    return row | watched


def slope(rows: list[BenchRow], stage: str, figure: str) -> float | None:
    """The exponent with which a stage's ``figure`` grows with the views: the least-squares line through the logarithms,
    or None where there are fewer than two sizes."""
    points = [(row["views"], row[stage][figure]) for row in rows if row[stage][figure] > 0]
    if len(points) < 2:
        return None
    views, values = np.log(np.array(points, float)).T
    return float(np.polyfit(views, values, 1)[0])


def draw_figure(rows: list[BenchRow]) -> Image.Image:
    """Seconds and bytes of each stage against the number of views, both axes logarithmic."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), constrained_layout=True)
    for axis, name, label in zip(axes, ("seconds", "megabytes"), ("seconds", "megabytes on disk")):
        for stage, (colour, mark) in STYLES.items():
            values = [max(row[stage][name], 0.1) for row in rows]
            exponent = slope(rows, stage, name)
            legend = stage if exponent is None else f"{stage}, exponent {exponent:.2f}"
            axis.plot([row["views"] for row in rows], values, color=colour, marker=mark, label=legend, linewidth=1.6)
        axis.set(xscale="log", yscale="log", xlabel="views", ylabel=label)
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def table(rows: list[BenchRow]) -> str:
    """The figures as Markdown."""
    head = ["views", *(f"{stage}, s (MB)" for stage in DRAWN_STAGES), "all, s (GB)", "most of a process"]
    head.append("client at 10, 50, 90 %")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        cells = [f"{row[stage]['seconds']:,.0f} ({row[stage]['megabytes']:,.0f})" for stage in DRAWN_STAGES]
        gigabytes = sum(row[stage]["megabytes"] for stage in DRAWN_STAGES) / 1000
        client = ", ".join(str(row[f"client_mb_at_{share}"]) for share in (10, 50, 90))
        starts = f" in {row['starts']} starts" if row["starts"] > 1 else ""
        whole = [f"{row['views']:,}{starts}", *cells, f"{row['seconds_of_starts']:,} ({gigabytes:.2f})"]
        whole += [f"{row['peak_mb_of_a_process']:,} MB", f"{client} MB"]
        lines.append(f"| {' | '.join(whole)} |")
    return "\n".join(lines)


def merged(before: BenchRow | None, now: BenchRow) -> BenchRow:
    """What was watched of a run over several starts: the most of all, the seconds together (in all, and lost in each
    stage), and the client's memory in the longest of them."""
    if before is None:
        return now
    longest = before if before["seconds_of_starts"] > now["seconds_of_starts"] else now
    most = {name: max(before[name], now[name]) for name in ("peak_mb_of_a_process", "peak_mb_of_all")}
    sums = {name: before[name] + now[name] for name in ("seconds_of_starts", "starts")}
    lost_seconds = {
        stage: before["lost"].get(stage, 0.0) + now["lost"].get(stage, 0.0) for stage in before["lost"] | now["lost"]
    }
    return longest | most | sums | {"lost": lost_seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, nargs="*", default=[], help=f"how many; whole multiples of {CROPS}")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"), help="where the runs go (runs/scaling)")
    options = parser.parse_args()
    wrong = [views for views in options.views if views < CROPS or views % CROPS]
    if wrong:
        sys.exit(f"--views {wrong[0]}: a picture gives {CROPS} views, so expected a multiple of {CROPS}.")
    rows: list[BenchRow] = json.loads(FIGURES_FILE.read_text(encoding="utf-8")) if FIGURES_FILE.exists() else []
    for views in options.views:
        now = measured_run(views, options.out.absolute())
        by_views = {row["views"]: row for row in rows}
        by_views[views] = now
        rows = [by_views[count] for count in sorted(by_views)]
        write_json(FIGURES_FILE, rows)
    if not rows:
        sys.exit("Nothing was measured yet. Give --views 10000, for instance.")
    draw_figure(rows).save(PICTURE_FILE, quality=90)
    print(table(rows))


if __name__ == "__main__":
    main()

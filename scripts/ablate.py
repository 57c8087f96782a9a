#!/usr/bin/env python3
"""Measure what each setting of the icon engine is worth: the same directions with one setting changed at a time.

    scripts/ablate.py --run runs/demo --json ablation.json --sheet ablation.webp

The directions are those of scripts/bench.py for the same run, layer, grid, count and seed; scores are the product's
own. Speed is in icons per second of CPU time, over all threads: other work on the machine hardly changes it (on a GPU
look at the seconds in the rows of --json instead). --sheet shows the first icons of every variant, for the eye.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bench  # beside this file, as the next four
import bench_render
import bench_task
import numpy as np
import torch
from bench_rows import BenchRow, rounded_figures
from bench_task import DrawnIcons, Task
from PIL import Image, ImageDraw, ImageFont
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from atlas.arrays import Pixels
from atlas.errors import ConfigError
from atlas.rundir.atomic import atomic, write_json
from atlas.rundir.directory import RunDirectory
from atlas.visualize import Recipe
from atlas.visualize.score import centre_activations, cosines
from atlas.visualize.transform import Moves

Values = dict[str, Any]

# What each group varies: the variant's name, and the keyword arguments of drawn in which it differs from the default.
DEFAULT, STARTS = "default", "starts"
GROUPS: dict[str, dict[str, Values]] = {
    "objective": {
        "power 8": {"recipe": Recipe(power=8)},
        "power 32": {"recipe": Recipe(power=32)},
        "power whitened 0": {"recipe": Recipe(power_whitened=0)},
        "power whitened 2.5": {"recipe": Recipe(power_whitened=2.5)},
        "power whitened 10": {"recipe": Recipe(power_whitened=10)},
        "dot 0": {"recipe": Recipe(dot=0)},
        "dot 2": {"recipe": Recipe(dot=2)},
        "dot 4": {"recipe": Recipe(dot=4)},
        "floor 0.01": {"recipe": Recipe(floor=0.01)},
        "floor 0.3": {"recipe": Recipe(floor=0.3)},
    },
    # What the same settings come to with other noise: a difference smaller than this is none.
    "seeds": {
        "other noise 1": {"apart": 1},
        "other noise 2": {"apart": 2},
        "other noise 3": {"apart": 3},
    },
    "whitening": {
        "whitening 0": {"recipe": Recipe(whitening=0.0)},
        "whitening 0.5": {"recipe": Recipe(whitening=0.5)},
        "ridge 0.01": {"recipe": Recipe(ridge=1e-2)},
        "ridge 0.1": {"recipe": Recipe(ridge=1e-1)},
        "ridge 1": {"recipe": Recipe(ridge=1.0)},
    },
    "optimiser": {
        "rate 0.05": {"recipe": Recipe(rate=0.05)},
        "rate 0.2": {"recipe": Recipe(rate=0.2)},
        "betas 0.5, 0.95": {"recipe": Recipe(betas=(0.5, 0.95))},
        "betas 0.9, 0.99": {"recipe": Recipe(betas=(0.9, 0.99))},
        "relaxed 0": {"recipe": Recipe(relaxed=0)},
    },
    "moves": {
        "none": {"recipe": Recipe(moves=Moves(shift=0, turn=0, scale=0))},
        "4 px, 4°, 4 %": {"recipe": Recipe(moves=Moves(shift=4, turn=4, scale=0.04))},
        "10 px, 15°, 15 %": {"recipe": Recipe(moves=Moves(shift=10, turn=15, scale=0.15))},
        "fade 0.8": {"recipe": Recipe(fade=0.8)},
        "fade 1": {"recipe": Recipe(fade=1.0)},
    },
    # The positions around the centre get 1 − min(1, wide · field / size)² of the weight: none where the field is wide.
    "around": {
        "wide 0.7": {"recipe": Recipe(wide=0.7)},
        "wide 1": {"recipe": Recipe(wide=1.0)},
        "centre only": {"recipe": Recipe(wide=1e9)},
    },
    "spectrum": {
        "decay 1": {"recipe": Recipe(decay=1.0)},
        "decay 1.5": {"recipe": Recipe(decay=1.5)},
        "decay 2": {"recipe": Recipe(decay=2.0)},
        "phases only": {"recipe": Recipe(phase_only=True)},
        "phases only, decay 1": {"recipe": Recipe(phase_only=True, decay=1.0)},
        "smooth 10": {"recipe": Recipe(smooth=10.0)},
        "smooth 50": {"recipe": Recipe(smooth=50.0)},
    },
    "colour": {
        "chroma 1": {"recipe": Recipe(chroma=1.0)},
        "chroma 4": {"recipe": Recipe(chroma=4.0)},
        "gain 0.5": {"recipe": Recipe(gain=0.5)},
        "gain 3": {"recipe": Recipe(gain=3.0)},
    },
    "steps": {
        "32 steps": {"steps": 32},
        "64 steps": {"steps": 64},
        "96 steps": {"steps": 96},
        "128 steps": {"steps": 128},
        "320 steps": {"steps": 320},
    },
    "precision": {
        "float32": {"precision": "float32"},
    },
    # Its default begins with the parents' pictures too; only tasks that have some can be asked.
    STARTS: {
        DEFAULT: {"start": bench_render.PARENTS},
        "contrast 1, noise 0": {"start": bench_render.PARENTS, "recipe": Recipe(contrast=1.0, noise=0.0)},
        "contrast 0.5": {"start": bench_render.PARENTS, "recipe": Recipe(contrast=0.5)},
        "noise 0": {"start": bench_render.PARENTS, "recipe": Recipe(noise=0.0)},
        "48 steps": {"start": bench_render.PARENTS, "recipe": Recipe(steps_from_start=48)},
        "64 steps": {"start": bench_render.PARENTS, "recipe": Recipe(steps_from_start=64)},
        "128 steps": {"start": bench_render.PARENTS, "recipe": Recipe(steps_from_start=128)},
        "no parents, 92 steps": {"recipe": Recipe(steps=92)},
    },
    "tries": {
        "best of 2": {"tries": 2},
        "best of 4": {"tries": 4},
    },
}
# Added to the seeds from one of several tries to the next.
TRY_APART = 1_000_003

# The table's columns: heading, name of the figure, how it is written.
COLUMNS = (
    ("raw", "median_cosine", "{:.3f}"),
    ("lowest", "lowest_cosine", "{:.3f}"),
    ("whitened", "median_cosine_whitened", "{:.3f}"),
    ("robust", "median_cosine_robust", "{:.3f}"),
    ("rank 1", "rank1_share", "{:.0%}"),
    ("flagged", "flagged_share", "{:.0%}"),
    ("icons per CPU second", "icons_per_cpu_second", "{:.2f}"),
)

# The sheet, in pixels.
SHEET_ICONS = 12  # icons of a variant
MARGIN, GAP, LABEL_GAP, LABEL_SIZE = 20, 4, 14, 17
HEADING, HEADING_SIZE = 52, 22  # height of the line with a group's name, and its letters
SHEET_QUALITY = 80
WHITE, INK, RULE = (255, 255, 255), (30, 30, 30), (190, 190, 190)


@dataclass(frozen=True)
class Measurement:
    """What one variant came to: ``row``, its figures with their names, and ``pixels`` of its first icons, uint8
    (at most SHEET_ICONS, size, size, 3)."""

    row: BenchRow
    pixels: Pixels


# The variants


def variants(group: str) -> dict[str, Values]:
    """The variants of a group with its default in front."""
    return {DEFAULT: {}} | GROUPS[group]


def choose_groups(task: Task, names: list[str] | None) -> list[str]:
    """The groups to measure: ``names``, or all that ``task`` has what it takes for. Raises ConfigError when it lacks
    what was asked for."""
    if task.parents is not None:
        return names or list(GROUPS)
    if names and STARTS in names:
        raise ConfigError(
            f"The group {STARTS} needs the icons of a grid half as fine, and the run does not have them all. Leave the "
            "group out, or choose another --grid."
        )
    return names or [group for group in GROUPS if group != STARTS]


def draw_variant(task: Task, *, tries: int = 1, steps: int | None = None, apart: int = 0, **values: Any) -> DrawnIcons:
    """The icons of ``task`` with ``values`` as keyword arguments of atlas.visualize.draw, from noise ``apart``.

    Of several ``tries``, each with noise and moves of its own, every icon is kept as the try made it whose clean cosine
    is the best.
    """
    drawings = [
        bench_render.our_icons(replace(task, seeds=task.seeds + attempt * TRY_APART), steps, **values)
        for attempt in range(apart, apart + tries)
    ]
    if tries == 1:
        return drawings[0]
    clean_cosines = [
        cosines(centre_activations(task.network, task.layer, drawing.pixels), task.means) for drawing in drawings
    ]
    best = np.argmax(clean_cosines, axis=0)
    pixels = np.stack([drawing.pixels for drawing in drawings])[best, np.arange(len(best))]
    return replace(drawings[0], pixels=pixels)


# The measurement


def ablate(task: Task, groups: list[str]) -> Iterator[Measurement]:
    """Every variant of ``groups`` as it is done. A default is drawn once, and repeated in each group."""
    measurements: dict[str, Measurement] = {}
    for group in groups:
        for variant, values in variants(group).items():
            key = repr(values)
            if key not in measurements:
                print(f"{group}, {variant}: {len(task.own)} icons …", file=sys.stderr)
                measurements[key] = measure_variant(task, values)
            labels = {"bench": "ablate", "group": group, "variant": variant, "layer": task.layer}
            yield replace(measurements[key], row=labels | measurements[key].row)


def measure_variant(task: Task, values: Values) -> Measurement:
    """Draw and score one variant; shares are in [0, 1]."""
    # warm up in batches of the size that is timed
    draw_variant(task, **values | {"steps": bench_render.WARM_UP_STEPS, "tries": 1})
    started, started_cpu = time.perf_counter(), time.process_time()
    drawing = draw_variant(task, **values)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    scores, icons = bench_render.scores_of(task, drawing.pixels), len(task.own)
    figures = {
        "icons_per_cpu_second": icons / cpu_seconds,
        "icons_per_second": icons / seconds,
        **bench_render.score_figures(task, scores),
        "lowest_cosine": float(scores.cosine.min()),
        "cpu_seconds": cpu_seconds,
        "seconds": seconds,
        "icons": icons,
        "steps": round(drawing.steps),
        "threads": torch.get_num_threads(),
    }
    return Measurement(rounded_figures(figures), drawing.pixels[:SHEET_ICONS])


# What is shown


def print_variants(title: str, rows: list[BenchRow]) -> None:
    """The rows as one table, a group under its name."""
    table = Table(title=title, box=SIMPLE, title_justify="left")
    table.add_column("variant", no_wrap=True)
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            table.add_section()
            table.add_row(group, style="bold")
        table.add_row("  " + row["variant"], *[template.format(row[name]) for _, name, template in COLUMNS])
    Console(width=max(Console().width, 100)).print(table)


def make_sheet(measurements: list[Measurement]) -> Image.Image:
    """The first icons of every variant, a row each behind its name, the groups under headings of their own."""
    label, heading = ImageFont.load_default(size=LABEL_SIZE), ImageFont.load_default(size=HEADING_SIZE)
    count, size = measurements[0].pixels.shape[:2]
    first = MARGIN + round(max(label.getlength(entry.row["variant"]) for entry in measurements)) + LABEL_GAP
    groups = len({entry.row["group"] for entry in measurements})
    pitch = max(size, LABEL_SIZE) + GAP
    width = first + count * (size + GAP) - GAP + MARGIN
    sheet = Image.new("RGB", (width, 2 * MARGIN + groups * HEADING + len(measurements) * pitch), WHITE)
    pen = ImageDraw.Draw(sheet)
    y, group = MARGIN, None
    for entry in measurements:
        if entry.row["group"] != group:
            group = entry.row["group"]
            pen.text((MARGIN, y + HEADING - 16), group, INK, heading, anchor="ls")
            pen.line((MARGIN, y + HEADING - 8, width - MARGIN, y + HEADING - 8), RULE)
            y += HEADING
        pen.text((MARGIN, y + (pitch - GAP) // 2), entry.row["variant"], INK, label, anchor="lm")
        for column, icon in enumerate(entry.pixels):
            sheet.paste(Image.fromarray(icon), (first + column * (size + GAP), y))
        y += pitch
    return sheet


# The command


def command(options: argparse.Namespace) -> None:
    task = bench_task.read_task(
        RunDirectory(options.run), layer=options.layer, grid=options.grid, count=options.count, seed=options.seed
    )
    groups = choose_groups(task, options.groups)
    torch.set_num_threads(options.threads)  # after loading, which sets the run's own
    measurements: list[Measurement] = []
    try:
        for entry in ablate(task, groups):
            measurements.append(entry)
            if options.json:  # after each row: the whole may take an hour
                write_json(options.json, [measurement.row for measurement in measurements])
    finally:
        if options.sheet and measurements:
            with atomic(options.sheet) as temporary:
                sheet = make_sheet(measurements)
                kind = options.sheet.suffix.lower()[1:].upper()
                sheet.save(temporary, format=kind, **({"quality": SHEET_QUALITY} if kind == "WEBP" else {}))
    print_variants(
        f"{task.network.name} {task.layer}, {len(task.own)} icons of grid {options.grid}, {task.size} px, "
        f"{options.threads} threads",
        [entry.row for entry in measurements],
    )


def group_names(text: str) -> list[str]:
    """Names of groups, parted by commas."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not known; expected some of {','.join(GROUPS)}")
    return list(dict.fromkeys(names))


def sheet_file(text: str) -> Path:
    """The path of a PNG or WebP."""
    path = Path(text)
    if path.suffix.lower() not in (".png", ".webp"):
        raise argparse.ArgumentTypeError(f"the sheet is a PNG or WebP, and {text!r} ends in neither .png nor .webp")
    return path


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/ablate.py", description="Measure what each setting of the icon engine is worth."
    )
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="its folder, by default runs/demo")
    parser.add_argument("--layer", help="by default the middle one of the run")
    parser.add_argument("--grid", type=bench.positive, default=20)
    parser.add_argument("--count", type=bench.positive, default=32, help="how many cells, at most")
    parser.add_argument("--seed", type=bench.natural, default=0, help="chooses the cells")
    parser.add_argument("--groups", type=group_names, metavar="NAME,…", help=f"some of {','.join(GROUPS)}")
    parser.add_argument(
        "--sheet", type=sheet_file, metavar="FILE.webp", help=f"show {SHEET_ICONS} icons of each variant here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well")
    parser.add_argument("--threads", type=bench.positive, default=os.cpu_count() or 1, help="by default one a core")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    return bench.status_of(command, options, "What was done is in the files given with --json and --sheet.")


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Measure the parts of activation-atlas beside what others have made of the same task.

    scripts/bench.py render --run runs/demo --json render.json
    scripts/bench.py collect --count 2000 --repeat 3 --json collect.json
    scripts/bench.py layout --run runs/million --rows 1000000 --json layout.json
    scripts/bench.py tiles --run runs/demo --repeat 3 --json tiles.json
    scripts/bench.py viewer --repeat 3 --json viewer.json
    scripts/bench.py explain --run runs/demo --repeat 3 --json explain.json
    scripts/bench.py decode --repeat 7
    scripts/bench.py schedule --items 10000
    scripts/bench.py first --pictures screens --json first.json
    scripts/bench.py slices --json slices.json
    scripts/bench.py words --run runs/demo --json words.json
    scripts/bench.py all --run runs/demo --large runs/million --json all.json

Ours and the peers work on the same data in the same process, one after another, with as many threads and the allocator
of the product's workers. The peers come with ``pip install -e ".[bench]"``; ``--json`` writes the table's rows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from bench_peers import import_peers  # beside this file, as the next three
from bench_render import SYSTEMS, bench_render
from bench_rows import BenchRow, print_table
from bench_task import known_layer, read_task
from bench_words import add_words

from atlas.arrays import Pixels
from atlas.cells.icons import read_icons
from atlas.errors import AtlasError, ConfigError
from atlas.networks.allocator import keep_memory
from atlas.pictures.decode import decode_png
from atlas.rundir.atomic import write_json
from atlas.rundir.directory import RunDirectory
from atlas.serve.site_files import find_site
from atlas.site.tiles import ICON_SIZE

# What scripts/benchmarks was measured with: the arguments of each bench in the first command of its file there, which
# is collecting.md, layout.md, icons.md, tiles.md, page.md, one-picture.md, jpegs.md and scheduling.md.
PUBLISHED = {
    "collect": "--count 1500",
    "layout": "--run {large} --layer {layer} --rows {rows} --systems ours umap-learn",
    "render": "--run {run} --layer {layer} --repeat 3 --slow-count 1",
    "tiles": "--run {run} --layer {layer} --repeat 3",
    "viewer": "--repeat 3",
    "explain": "--run {run} --layer {layer} --repeat 3",
    "decode": "--repeat 7",
    "schedule": "--items 10000 --workers 2",
}
PUBLISHED_LAYER = "_blocks.10"


def render_command(options: argparse.Namespace) -> None:
    """Icons for the cells of a finished run, by each of the systems."""
    import_peers(options.systems)
    task = read_task(
        RunDirectory(options.run), layer=options.layer, grid=options.grid, count=options.count, seed=options.seed
    )
    torch.set_num_threads(options.threads)  # after loading, which sets the run's own
    rows: list[BenchRow] = []
    for row in bench_render(task, options.systems, repeat=options.repeat, slow_count=options.slow_count):
        rows.append(row)
        if options.json:  # after each row: the whole may take an hour
            write_json(options.json, rows)
    peak = rows[0]["peak_gflop_per_second"]
    print_table(
        f"{task.network.name} {task.layer}, grid {options.grid}, {task.size} px, "
        f"{options.threads} threads, peak {peak:.0f} GFLOP/s",
        rows,
    )


def collect_command(options: argparse.Namespace) -> None:
    """Pictures through the network: ours, its parts, the bound that they set, and a plain loop."""
    from bench_collect import bench_collect, make_pictures  # beside this file

    rows: list[BenchRow] = []
    with tempfile.TemporaryDirectory() as temporary:
        make_pictures(Path(temporary), options.count, options.seed)
        for row in bench_collect(Path(temporary), options.layers, options.processes, options.repeat):
            rows.append(row)
            if options.json:
                write_json(options.json, rows)
    print_table(f"{options.count} JPEGs, layers {', '.join(options.layers)}, a core for each process", rows)


def layout_command(options: argparse.Namespace) -> None:
    """Rows of a collected layer laid out: ours and umap-learn, each in a process of its own."""
    from bench_layout import bench_layout  # beside this file

    rows: list[BenchRow] = []
    layer = options.layer or RunDirectory(options.run).config().layers[0]
    for row in bench_layout(
        RunDirectory(options.run), layer, options.rows, options.systems, options.threads, options.fit_rows
    ):
        rows.append(row)
        if options.json:
            write_json(options.json, rows)
    print_table(f"{options.run}, layer {layer}, {options.threads} threads", rows)


def tiles_command(options: argparse.Namespace) -> None:
    """Grids of icons cut into tiles: ours and libvips, each in a process of its own."""
    from bench_tiles import bench_tiles, made_icons  # beside this file

    import_peers(options.systems)
    grids = [options.grid]
    while grids[0] % 2 == 0 and grids[0] >= 20:
        grids.insert(0, grids[0] // 2)
    pool = made_icons(options.seed) if options.run is None else icons_of_run(RunDirectory(options.run), options.layer)
    rows: list[BenchRow] = []
    for row in bench_tiles(
        pool, grids, options.systems, threads=options.threads, repeat=options.repeat, seed=options.seed
    ):
        rows.append(row)
        if options.json:
            write_json(options.json, rows)
    source = "made icons" if options.run is None else f"icons of {options.run}"
    print_table(f"{len(pool):,} {source}, grids {', '.join(map(str, grids))}, {options.threads} threads", rows)


def viewer_command(options: argparse.Namespace) -> None:
    """The page in a browser, on a made level of 160 × 160 cells."""
    from bench_viewer import bench_viewer  # beside this file; Playwright

    rows = [bench_viewer(options.repeat)]
    if options.json:
        write_json(options.json, rows)
    print_table("a made site, served on loopback, read by Chromium", rows)


def explain_command(options: argparse.Namespace) -> None:
    """One picture, asked of the server over loopback."""
    from bench_explain import bench_explain  # beside this file

    rows = [bench_explain(options.run, options.layer, options.repeat)]
    if options.json:
        write_json(options.json, rows)
    print_table(f"{options.run}, served on loopback, photographs of scikit-image", rows)


def decode_command(options: argparse.Namespace) -> None:
    """Decoders of JPEGs beside each other, and what a reduced scale costs."""
    from bench_decode import bench_decode  # beside this file

    rows = bench_decode(options.repeat)
    if options.json:
        write_json(options.json, rows)
    for bench, title in (("decode", "JPEGs of quality 90, one thread"), ("spare", "views from reduced pictures")):
        print_table(title, [row for row in rows if row["bench"] == bench])


def schedule_command(options: argparse.Namespace) -> None:
    """What handing out an item costs."""
    from bench_schedule import bench_schedule  # beside this file, by its name: workers find its functions so

    rows = [bench_schedule(options.items, options.workers)]
    if options.json:
        write_json(options.json, rows)
    print_table("items of no work, scheduler and workers on this machine", rows)


def first_command(options: argparse.Namespace) -> None:
    """A whole run of the demo, from the command to what a browser shows."""
    from bench_first import bench_first  # beside this file; Playwright

    words = [word for value in options.overrides for word in ("--set", value)]
    with tempfile.TemporaryDirectory() as temporary:
        rows = [bench_first(options.config, [*words, "--set", f"out={temporary}/demo"], options.pictures)]
    if options.json:
        write_json(options.json, rows)
    print_table(f"{options.config}, read by Chromium", rows)


def slices_command(options: argparse.Namespace) -> None:
    """Planted errors: which are among the first slices, beside k-means."""
    from bench_slices import bench_slices  # beside this file, by its name: workers find its network so

    rows: list[BenchRow] = []
    for row in bench_slices(options.plants, options.epochs, options.seed):
        rows.append(row)
        if options.json:
            write_json(options.json, rows)
    print_table("planted errors, by the place of the slice that holds them", rows)


def all_command(options: argparse.Namespace) -> None:
    """Each bench as it is published, one after another. One that fails is named in a sentence, and the others go on."""
    benches = published(options)
    rows: list[BenchRow] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, bench_options in benches.items():
            bench_options.json = Path(temporary) / f"{name}.json"
            try:
                bench_options.command(bench_options)
            except Exception as error:  # whatever it is, the others can still be measured
                failed.append(name)
                print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
            finally:
                if bench_options.json.exists():
                    rows += json.loads(bench_options.json.read_text(encoding="utf-8"))
                    if options.json:  # after each: the whole takes most of an hour
                        write_json(options.json, rows)
    if failed:
        raise AtlasError(f"{len(failed)} of {len(benches)} benches failed: {', '.join(failed)}.")


def published(options: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """The options of each bench, by its name: those of PUBLISHED, and of ``options`` what acts on it. Raises AtlasError
    where a run is not as it must be, so that this is told before anything is measured."""
    run, large = RunDirectory(options.run), RunDirectory(options.large or options.run)
    layer = known_layer(run, options.layer)
    find_site(run.path)
    words = {"run": run.path, "large": large.path, "layer": layer, "rows": rows_of(large, layer)}
    benches = {}
    for name, arguments in PUBLISHED.items():
        bench_options = make_parser().parse_args([name, *(word.format(**words) for word in arguments.split())])
        for shared in ("threads", "seed"):
            if shared in bench_options:
                setattr(bench_options, shared, getattr(options, shared))
        if "repeat" in bench_options:
            bench_options.repeat = max(bench_options.repeat, options.repeat)
        benches[name] = bench_options
    return benches


def rows_of(run: RunDirectory, layer: str) -> int:
    """How many rows a layer of a collected run has. Raises AtlasError where there are none."""
    count = sum(pq.read_metadata(path).num_rows for path in run.shards(known_layer(run, layer)))
    if not count:
        raise AtlasError(f"{run.path} has no rows yet. Finish its stage collect first: atlas run CONFIG.")
    return count


def icons_of_run(run: RunDirectory, layer: str | None) -> Pixels:
    """All icons of one layer's finest grid, uint8 (n, 80, 80, 3). Raises AtlasError when there are none."""
    config = run.config()
    layer = layer or config.layers[len(config.layers) // 2]
    icons = read_icons(run, layer, config.cells.grids[-1], ["png"]).to_pylist()
    if not icons:
        raise AtlasError(f"{run.path} has no icons of layer {layer}. Finish the run first: atlas run CONFIG.")
    if config.render.size != ICON_SIZE:
        raise ConfigError(f"The icons of {run.path} have {config.render.size} px; those of a run with {ICON_SIZE} fit.")
    return np.stack([decode_png(icon["png"]) for icon in icons])


def natural(text: str) -> int:
    """A whole number from 0 on."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = natural(text)
    if number == 0:
        raise ValueError
    return number


def system_names(text: str) -> list[str]:
    """Names of systems, parted by commas."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not known; expected some of {','.join(SYSTEMS)}")
    return names


def make_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="scripts/bench.py", description="Measure ours and the peers side by side.")
    benches = top.add_subparsers(required=True, metavar="BENCH")

    def shared(name: str, **values: Any) -> argparse.ArgumentParser:
        parent = argparse.ArgumentParser(add_help=False)
        parent.add_argument(name, **values)
        return parent

    # A bench has those that act on it.
    file = shared("--json", type=Path, metavar="FILE", help="write the rows here as well")
    threads = shared("--threads", type=positive, default=os.cpu_count() or 1, help="by default one for each core")
    repeat = shared("--repeat", type=positive, default=1, help="how often to measure; the median counts")
    seed = shared("--seed", type=natural, default=0, help="of what is chosen or made at random")
    render = benches.add_parser(
        "render", parents=[file, threads, repeat, seed], help="icons for the cells of a finished run"
    )
    render.add_argument("--run", type=Path, default=Path("runs/demo"), help="its folder, by default runs/demo")
    render.add_argument("--layer", help="by default the middle one of the run")
    render.add_argument("--grid", type=positive, default=20)
    render.add_argument("--count", type=positive, default=64, help="how many cells, at most")
    render.add_argument("--systems", type=system_names, default=list(SYSTEMS), help=f"some of {','.join(SYSTEMS)}")
    render.add_argument("--slow-count", type=positive, default=2, help="how many of them Horama draws (2)")
    render.set_defaults(command=render_command)
    collect = benches.add_parser(
        "collect", parents=[file, repeat, seed], help="pictures through the network into the store"
    )
    collect.add_argument("--count", type=positive, default=2000, help="pictures to make and push through")
    collect.add_argument("--layers", nargs="+", default=["_blocks.10"])
    collect.add_argument("--processes", nargs="+", type=positive, default=[1, 2])
    collect.set_defaults(command=collect_command)
    layout = benches.add_parser("layout", parents=[file, threads], help="a layer's rows on a map")
    layout.add_argument("--run", type=Path, required=True, help="a run whose stage collect is finished")
    layout.add_argument("--layer", help="by default its first")
    layout.add_argument("--rows", nargs="+", type=positive, default=[1_000_000], help="how many rows to lay out")
    layout.add_argument(
        "--systems",
        nargs="+",
        choices=("ours", "ours, deterministic", "ours, placed", "umap-learn"),
        default=["ours", "umap-learn"],
    )
    layout.add_argument("--fit-rows", type=positive, default=1_000_000, help="of ours, placed: how many are laid out")
    layout.set_defaults(command=layout_command)
    tiles = benches.add_parser(
        "tiles", parents=[file, threads, repeat, seed], help="grids of icons into deep-zoom tiles"
    )
    tiles.add_argument("--run", type=Path, help="take the icons of this run, by default made ones")
    tiles.add_argument("--layer", help="of the run, by default its middle one")
    tiles.add_argument("--grid", type=positive, default=160, help="the finest (160)")
    tiles.add_argument("--systems", nargs="+", choices=("ours", "pyvips", "bound"), default=["ours", "pyvips", "bound"])
    tiles.set_defaults(command=tiles_command)
    viewer = benches.add_parser("viewer", parents=[file, repeat], help="the page in a browser, on 160 x 160 cells")
    viewer.set_defaults(command=viewer_command)
    explain = benches.add_parser("explain", parents=[file, repeat], help="one picture, asked of the server")
    explain.add_argument("--run", type=Path, default=Path("runs/demo"), help="its folder, by default runs/demo")
    explain.add_argument("--layer", help="by default the middle one of the run")
    explain.set_defaults(command=explain_command)
    decode = benches.add_parser("decode", parents=[file, repeat], help="JPEGs into pixels, by several decoders")
    decode.set_defaults(command=decode_command)
    schedule = benches.add_parser("schedule", parents=[file], help="what handing out an item costs")
    schedule.add_argument("--items", type=positive, default=10_000)
    schedule.add_argument("--workers", type=positive, default=2)
    schedule.set_defaults(command=schedule_command)
    first = benches.add_parser("first", parents=[file], help="a run of the demo, until there is something to see")
    first.add_argument("--config", default="demo", help="another configuration")
    first.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="a key of it")
    first.add_argument("--pictures", type=Path, metavar="FOLDER", help="for screenshots, one whenever more is there")
    first.set_defaults(command=first_command)
    add_words(benches, file)

    slices = benches.add_parser("slices", parents=[file, seed], help="planted errors among the first slices")
    slices.add_argument("--plants", type=positive, choices=range(1, 11), default=10, metavar="1…10")
    slices.add_argument("--epochs", type=positive, default=20, help="how long the network learns (20)")
    slices.set_defaults(command=slices_command)
    every = benches.add_parser(
        "all",
        parents=[file, threads, seed],
        help="each of them as it is published, one after another",
        description="Each bench with the settings that scripts/benchmarks.md was measured with, one after another. Not "
        "held, since they take long or have commands of their own there: first, the demo, slices, words, the sizes of "
        "a run (scaling), the ablation, and the rows of layout that are marked placed or deterministic.",
    )
    every.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished run, by default runs/demo")
    every.add_argument("--large", type=Path, help="a run of many rows, which are laid out; by default those of --run")
    every.add_argument("--layer", default=PUBLISHED_LAYER, help=f"of both runs, by default {PUBLISHED_LAYER}")
    every.add_argument("--repeat", type=positive, default=1, help="at least so often; by default as often as published")
    every.set_defaults(command=all_command)
    return top


def status_of(command: Callable[[argparse.Namespace], None], options: argparse.Namespace, left: str) -> int:
    """The exit status of a command: 2 with a sentence for what a person can mend, 3 where it was stopped, with what is
    ``left`` of it."""
    keep_memory()
    try:
        command(options)
    except (AtlasError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except ImportError as error:
        print(f'{error}. The benches need more than the product: pip install -e ".[bench]".', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped. {left}", file=sys.stderr)
        return 3
    return 0


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    return status_of(options.command, options, "Rows that were done are in the file given with --json.")


if __name__ == "__main__":
    sys.exit(main())

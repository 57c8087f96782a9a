#!/usr/bin/env python3
"""Whether a run that is killed ends with the bytes of one that is not.

    scripts/kill.py                                          # a small run of photos, through all stages
    scripts/kill.py million --set images.limit=400 --rounds 5
    scripts/kill.py --set cluster.workers=4 --seed 7

The run is made once in one go. Then, in each round, it is made anew: after a random time all of its processes get
SIGKILL at once (the command, Dask's scheduler and workers), and the same command is given again, until it ends; what
goes on after a kill may be killed again. The first kills of all rounds are spread over the time that the run takes in
one go. In the end every file of the run is held against that of the run in one go, byte by byte; of the few files that
say how long something took, all but that. Exit code 1 where something differs.

What a run chooses by measuring is settled (SETTLED below), as two runs may choose differently; --set comes after it.
Photos and runs go to --out, where a run that differs stays.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from sample_photos import main as write_photos  # beside this file

from atlas.rundir.markers import digest_file, digest_values, parse_marker
from atlas.rundir.stages import FOLDERS

TREE = Path(__file__).resolve().parent.parent
LAYER, UNIT_LAYER = "_blocks.10", "_blocks.2"
SMALL: dict[str, Any] = {
    "network": {"name": "efficientnet_lite0", "size": 112},
    "layers": [UNIT_LAYER, LAYER],
    "images": {"crops": 16},
    "collect": {"rows_per_shard": 32},
    "layout": {"neighbors": 10, "class_atlas": "espresso", "class_layers": [LAYER], "class_grids": [4]},
    "cells": {"grids": [4, 8], "min_count": 4, "exemplars": 3, "diverse_exemplars": 2},
    "render": {"size": 48, "steps": 8, "quick_steps": 2, "icons_per_item": 8},
    "neurons": {"layers": [UNIT_LAYER], "pictures": 2, "patches": 4, "sources": 6},
    "publish": {"opens": LAYER},
    "cluster": {"workers": 2},
}
SETTLED = (
    "layout.deterministic=true", "collect.batch=16", "collect.precision=float32", "render.batch=8",
    "render.precision=float32",
)  # fmt: skip
MOST_KILLS = 2  # in a round
# Of this process at work, no part of what a run makes.
PASSING = ("progress.json", ".lock")
# Files that say how long something took, and how much of it this start did.
TIMED = ("run.json", "report.json", "site/atlas.json", "site/.markers/page.json")
_TIMES = re.compile(r"(^|\.)(created|seconds|units|decoders|\w+_per_second|\w*peak_mb)$|^files\..*atlas\.json\.")


@dataclass(frozen=True)
class Kill:
    """When a run was killed, in seconds after its start; the folder that it had last written to, and how many markers
    stood there in all."""

    seconds: float
    folder: str
    markers: int


@dataclass(frozen=True)
class Command:
    """The command of a run, which goes to ``run``; what it says goes to ``log``."""

    words: tuple[str, ...]
    run: Path
    log: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Start it in a process group of its own."""
        paths = [str(TREE), os.environ.get("PYTHONPATH", "")]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "atlas.run", *self.words, "--set", f"out={self.run}"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for its end. Raises SystemExit where it failed."""
        if process.wait():
            sys.exit(f"The run ended with exit code {process.returncode}:\n{self.log.read_text()[-2000:]}")


def undisturbed(command: Command) -> tuple[float, float]:
    """Make the run in one go: the seconds after which it wrote something for the first time, and those that it took."""
    began = time.monotonic()
    process = command.start()
    while process.poll() is None and not command.run.exists():
        time.sleep(0.01)
    first = time.monotonic() - began
    command.end(process)
    return first, time.monotonic() - began


def spread(rounds: int, chance: random.Random) -> list[float]:
    """A random number of each of ``rounds`` equal spans between 0 and 1, in any order."""
    shares = [(number + chance.random()) / rounds for number in range(rounds)]
    chance.shuffle(shares)
    return shares


def kill_round(command: Command, share: float, first: float, last: float, chance: random.Random) -> list[Kill]:
    """Make the run anew, killed at a ``share`` of the time between its ``first`` second that counts and its ``last``,
    and then perhaps again, until it ends. The kills: none where it ended before."""
    shutil.rmtree(command.run, ignore_errors=True)
    moment = first + share * (last - first)
    kills: list[Kill] = []
    while len(kills) < MOST_KILLS:
        process = command.start()
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            kill_all(process)
            kills.append(look_at(command.run, moment))
            moment = chance.uniform(first, last)
            continue
        command.end(process)
        return kills
    command.end(command.start())
    return kills


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a command and all that it started, at once. Raises SystemExit where one of them lives on."""
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    if alive:
        sys.exit(f"Processes outlive the kill of their group: {alive}.")


def look_at(run: Path, seconds: float) -> Kill:
    """What a kill after so many seconds has left."""
    files = [path for name in FOLDERS.values() for path in (run / name).rglob("*") if path.is_file()]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns, default=None)
    folder = "" if newest is None else newest.relative_to(run).parts[0]
    return Kill(
        round(seconds, 1), folder, sum(parse_marker(path) is not None for path in files if path.suffix == ".json")
    )


def contents(run: Path) -> dict[str, str]:
    """A digest of every file of a run, by its path there; of those that say how long something took, of the rest."""
    digests = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_file() and name not in PASSING:
            timed = name in TIMED
            digests[name] = digest_values(untimed(json.loads(path.read_bytes()))) if timed else digest_file(path)
    return digests


def untimed(facts: dict[str, Any]) -> dict[str, Any]:
    """The leaves of JSON by their paths, but for times, rates and what depends on them."""
    return {name: value for name, value in leaves(facts) if not _TIMES.search(name)}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of JSON with their paths."""
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, f"{name}.{key}".lstrip("."))
    else:
        yield name, value


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The files that only one of two runs has, or that differ."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def small_configuration(out: Path) -> Path:
    """Write the photos and the configuration of the small run."""
    write_photos(out / "photos")
    path = out / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "images": {**SMALL["images"], "source": str(out / "photos")}}))
    return path


def table(rounds: list[tuple[list[Kill], list[str]]]) -> str:
    """The rounds as Markdown."""
    lines = [
        "| round | killed after | it was writing to | markers that stood | files that differ |",
        f"|{' --- |' * 5}",
    ]
    for number, (kills, names) in enumerate(rounds, 1):
        cells = [", ".join(f"{kill.seconds:g} s" for kill in kills), ", ".join(kill.folder or "-" for kill in kills)]
        cells += [", ".join(str(kill.markers) for kill in kills), str(len(names))]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kill_rounds(command: Command, rounds: int, seed: int) -> bool:
    """The run in one go, then the rounds, and what came of them. Whether all ended with equal bytes."""
    chance, results = random.Random(seed), list[tuple[list[Kill], list[str]]]()
    first, last = undisturbed(command)
    expected = contents(command.run)
    command.run.replace(command.run.with_name("undisturbed"))
    print(f"In one go: {last:.0f} s, the first file after {first:.0f} s, {len(expected)} files.", flush=True)
    for number, share in enumerate(spread(rounds, chance), 1):
        began = time.monotonic()
        while not (kills := kill_round(command, share, first, last, chance)):
            last, began = time.monotonic() - began, time.monotonic()  # the machine is quicker now
        names = differences(expected, contents(command.run))
        results.append((kills, names))
        print(f"Round {number}: {len(kills)} kills, {len(names)} files differ: {', '.join(names[:9])}", flush=True)
        if names:
            command.run.replace(command.run.with_name(f"differs-{number}"))
    print(f"\n{table(results)}\n")
    kill_count, unequal = sum(len(kills) for kills, _ in results), sum(bool(names) for _, names in results)
    print(
        f"{rounds} rounds, {kill_count} kills: {rounds - unequal} ended with equal bytes in all {len(expected)} files."
    )
    return not unequal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", help="as for atlas run (a small run of photos)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for atlas run")
    parser.add_argument("--rounds", type=int, default=20, help="how many runs are killed (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--out", type=Path, default=Path("runs/kill"), help="where the runs go; emptied (runs/kill)")
    options = parser.parse_args()
    out = options.out.absolute()
    if out.exists() and not (out / "kill.log").exists() and any(out.iterdir()):
        sys.exit(f"--out {options.out} holds something else than runs that were killed. Give an empty folder.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "kill.log").touch()
    config = options.config or str(small_configuration(out))
    settings = [word for setting in (*SETTLED, *options.set) for word in ("--set", setting)]
    command = Command((config, *settings), out / "run", out / "kill.log")
    return 0 if kill_rounds(command, options.rounds, options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())

"""``atlas status RUN``: how far a run is, from any machine that sees its folder."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from atlas.command import SUCCESS, add_version, carry_out, duration, items_before, pace
from atlas.errors import AtlasError, ConfigError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.progress import SILENCE
from atlas.rundir.remote import refuse_url
from atlas.rundir.stages import STAGES


def main(arguments: Sequence[str] | None = None, prog: str = "atlas status") -> int:
    """Exit code 0 where the run could be looked at, 2 where there is none."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Say how far a run is, how long it takes yet, who works on it, and what failed. It may be at work "
        "on another machine.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/demo")
    add_version(parser)
    options = parser.parse_args(arguments)

    def work() -> int:
        refuse_url(options.run)
        print("\n".join(status_lines(RunDirectory(Path(options.run)), time.time())))
        return SUCCESS

    return carry_out(work)


def status_lines(run: RunDirectory, now: float) -> Iterator[str]:
    """The state of a run in lines, at the time ``now`` in seconds since 1970. Raises ConfigError where there is no run,
    or none that says how far it is."""
    if not run.path.is_dir():
        raise ConfigError(f"There is no folder {run.path}. Expected the folder of a run, such as runs/demo.")
    try:
        facts = json.loads(run.progress.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = "has not begun yet, or was made by an earlier version" if run.manifest.exists() else "is no run"
        raise ConfigError(f"{run.path} {reason}: it has no {run.progress.name}.") from None
    except ValueError:
        raise AtlasError(f"{run.progress} is cut off. A run at work writes it anew in some seconds.") from None
    yield f"{run.path}: {_state(facts, now)}"
    if facts["state"] == "running":
        workers = f"{facts['workers']:,} worker{'' if facts['workers'] == 1 else 's'}"
        yield f"{workers}, {facts['idle']} idle; about {duration(facts['seconds_left'])} left"
    for name in (stage for stage in STAGES if stage in facts["stages"]):
        yield f"  {name:<8} {_stage(facts['stages'][name])}"


def _state(facts: dict[str, Any], now: float) -> str:
    last = facts["updated"]
    began, ended = (f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}" for seconds in (facts["started"], last))
    goes_on = "What was finished is kept; the same command goes on from there."
    match facts["state"]:
        case "done":
            return f"done, from {began} to {ended}"
        case "failed":
            return f"failed at {ended}. {facts['sentence']}\n{goes_on}"
        case "stopped":
            return f"stopped at {ended}. {goes_on}"
    who = f"process {facts['pid']} on {facts['host']}"
    if now - last > SILENCE:
        return f"no sign of {who} since {ended}: it was killed, or its machine is gone. {goes_on}"
    return f"at work since {began} ({who}), last sign {max(0, now - last):.0f} s ago"


def _stage(stage: dict[str, Any]) -> str:
    if not stage["begun"]:
        return "  –    not begun"
    counts_work = stage["total"] > 0
    work = f"{stage['done']:,} of {stage['total']:,} {stage['work']}" if counts_work else f"{stage['items']:,} items"
    if counts_work and not stage["done"] and stage["items"]:
        work += f", {items_before(stage['items'])}"
    rate = f", {pace(stage['per_second'])}" if counts_work and stage["per_second"] else ""
    failures = f", {stage['failures']:,} failed" if stage["failures"] else ""
    return f"{stage['share']:>4.0%}   {work}{rate}{failures}"


if __name__ == "__main__":
    sys.exit(main())

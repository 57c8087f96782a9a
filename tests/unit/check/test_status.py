"""How far a run is, as `atlas status` says it."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from atlas.check.status import main, status_lines
from atlas.errors import AtlasError, ConfigError
from atlas.rundir.directory import RunDirectory

BEGAN, NOW = datetime(2026, 5, 4, 14, 3).timestamp(), datetime(2026, 5, 4, 14, 23).timestamp()
GOES_ON = "What was finished is kept; the same command goes on from there."


def stage(share: float, count: int, total: int, work: str, per_second: float, failures: int = 0) -> dict[str, Any]:
    begun = per_second > 0
    return {
        "share": share, "done": count, "total": total, "work": work, "per_second": per_second, "failures": failures,
        "begun": begun, "items": 3,
    }  # fmt: skip


def lines(folder: Path, **changes: Any) -> list[str]:
    stages = {
        "publish": stage(0.11, 0, 0, "parts", 0.1),
        "neurons": stage(0.0, 0, 232, "units", 0.0),
        "cells": stage(0.0, 0, 9000, "rows", 0.02),
        "render": stage(0.4, 912, 2280, "icons", 8.12),
        "collect": stage(1.0, 10980, 10980, "views", 97.2, failures=3),
    }
    facts = {
        "state": "running", "sentence": "", "host": "node7", "pid": 123, "started": BEGAN, "updated": NOW - 3,
        "workers": 2, "idle": 1, "seconds_left": 350.0, "stages": stages,
    } | changes  # fmt: skip
    (folder / "progress.json").write_text(json.dumps(facts))
    return list(status_lines(RunDirectory(folder), NOW))


def test_a_run_at_work_is_told_with_all_its_stages(tmp_path: Path) -> None:
    assert lines(tmp_path) == [
        f"{tmp_path}: at work since 2026-05-04 14:03 (process 123 on node7), last sign 3 s ago",
        "2 workers, 1 idle; about 6 min left",
        "  collect  100%   10,980 of 10,980 views, 97.2/s, 3 failed",
        "  cells      0%   0 of 9,000 rows, 3 items before them, 1.2/min",
        "  render    40%   912 of 2,280 icons, 8.1/s",
        "  neurons    –    not begun",
        "  publish   11%   3 items",
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"state": "done"}, "done, from 2026-05-04 14:03 to 2026-05-04 14:22"),
        (
            {"state": "failed", "sentence": "render: no space."},
            f"failed at 2026-05-04 14:22. render: no space.\n{GOES_ON}",
        ),
        ({"state": "stopped"}, f"stopped at 2026-05-04 14:22. {GOES_ON}"),
        (
            {"updated": NOW - 61},
            f"no sign of process 123 on node7 since 2026-05-04 14:21: it was killed, or its machine is gone. {GOES_ON}",
        ),
    ],
)
def test_how_it_ended_is_told(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    assert lines(tmp_path, **changes)[0] == f"{tmp_path}: {sentence}"


def test_what_has_no_state_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(ConfigError, match=r"is no run: it has no progress\.json"):
        list(status_lines(run, NOW))
    run.manifest.write_text("{}")
    with pytest.raises(ConfigError, match=r"has not begun yet, or was made by an earlier version"):
        list(status_lines(run, NOW))
    run.progress.write_text("{")
    with pytest.raises(AtlasError, match="is cut off"):
        list(status_lines(run, NOW))
    assert main(["s3://bucket/run"]) == 2
    assert "s3://bucket/run is an address" in capsys.readouterr().err

"""progress.json as those read it who look at a run from elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from atlas.rundir.directory import RunDirectory
from atlas.rundir.progress import SILENCE, Progress, read_progress

NOW = 1_000_000.0


def progress_of(folder: Path, **changes: Any) -> Progress:
    facts = {"state": "running", "updated": NOW, "seconds_left": 90, **changes}
    (folder / "progress.json").write_text(json.dumps(facts))
    progress = read_progress(RunDirectory(folder))
    assert progress is not None
    return progress


def test_a_run_at_work_is_expected_to_end(tmp_path: Path) -> None:
    progress = progress_of(tmp_path)
    assert progress.expected_end == NOW + 90
    assert progress.state_at(NOW + SILENCE) == "running"
    assert progress.facts["seconds_left"] == 90


def test_a_run_without_a_sign_of_life_has_stopped(tmp_path: Path) -> None:
    assert progress_of(tmp_path).state_at(NOW + SILENCE + 1) == "stopped"


@pytest.mark.parametrize("state", ["done", "failed", "stopped"])
def test_a_run_that_has_ended_keeps_its_state(tmp_path: Path, state: str) -> None:
    progress = progress_of(tmp_path, state=state)
    assert progress.expected_end is None
    assert progress.state_at(NOW + 10 * SILENCE) == state


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "running"}', '{"state": "done", "updated": "x"}'])
def test_what_says_nothing_is_no_progress(tmp_path: Path, text: str) -> None:
    run = RunDirectory(tmp_path)
    assert read_progress(run) is None
    run.progress.write_text(text)
    assert read_progress(run) is None

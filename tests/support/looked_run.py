"""The tiny run with units looked at, which the tests of neurons share."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_run import atlas_run

from atlas.rundir.directory import RunDirectory

NEURONS = {"layers": ["middle", "last"], "pictures": 3, "patches": 4, "sources": 5}


@pytest.fixture(scope="session")
def looked(workshop: Path, undisturbed: RunDirectory) -> RunDirectory:
    """The finished tiny run, given again with units to look at, from the command line."""
    directory = RunDirectory(workshop / "runs" / "looked")
    shutil.copytree(undisturbed.path, directory.path)
    process = atlas_run(workshop, *arguments(directory))
    assert process.returncode == 0, process.stderr + process.stdout
    assert "Traceback" not in process.stderr
    assert "last: 20 units, " in process.stdout
    return directory


def arguments(directory: RunDirectory) -> tuple[str, ...]:
    return ("tiny.yaml", "--set", f"out={directory.path}", "--set", f"neurons={json.dumps(NEURONS)}")

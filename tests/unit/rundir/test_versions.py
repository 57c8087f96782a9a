"""Versions, and a run of another format."""

from importlib.metadata import version
from pathlib import Path

import pytest

from atlas.errors import ConfigError
from atlas.rundir.versions import RUN_FORMAT, VERSION, refuse_other_format, versions


def test_versions_are_those_that_are_installed() -> None:
    result = versions()
    assert result.pop("activation-atlas") == VERSION
    assert {"torch", "umap-learn", "faiss-cpu", "numpy"} <= set(result)
    assert result == {name: version(name) for name in result}


def test_a_run_of_another_format_is_refused() -> None:
    for run_format, manifest in ((1, {"config": {}}), (99, {"config": {}, "format": 99})):
        with pytest.raises(ConfigError) as caught:
            refuse_other_format(manifest, Path("runs/x/run.json"))
        assert str(caught.value).startswith(
            f"runs/x/run.json was written by another version of activation-atlas: the run is of format {run_format}, "
            f"and this version reads format {RUN_FORMAT}."
        )
    refuse_other_format({"config": {}, "format": RUN_FORMAT}, "x")
    refuse_other_format({}, "x")  # a folder before its first run

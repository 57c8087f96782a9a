"""A run opened for analysis: where its network errs."""

import pyarrow.parquet as pq
import pytest

import atlas
from atlas.errors import AtlasError, ConfigError
from atlas.rundir.directory import RunDirectory


def test_errors_are_those_of_the_layers_cells(
    labelled_run: RunDirectory, made_run: RunDirectory, labelled_copy: RunDirectory
) -> None:
    run = atlas.open_run(labelled_run.path)
    assert run.errors("branches").equals(pq.read_table(labelled_run.errors("branches")))
    assert set(run.errors("branches", 4)["grid"].to_pylist()) == {4}
    with pytest.raises(ConfigError, match=r"has no grid of 5"):
        run.errors("branches", 5)
    with pytest.raises(
        ConfigError, match=r"no label of the pictures is a class of the network of branches\. Say which"
    ):
        atlas.open_run(made_run.path).errors("branches")
    labelled_copy.errors("branches").unlink()
    with pytest.raises(AtlasError, match=r"the stage cells is not finished"):
        atlas.open_run(labelled_copy.path).errors("branches")

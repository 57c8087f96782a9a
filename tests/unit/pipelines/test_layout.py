"""The stage layout: what it plans, and a run larger than what is laid out."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from planned import planned
from tiny_run import tiny_values

import atlas
from atlas.config.reading import validate
from atlas.layout import tables
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import read_marker
from pipelines import layout as stage
from pipelines.pipeline import run


def test_a_run_lays_out_a_sample_and_places_the_rest_shard_by_shard(
    workshop: Path, scheduler: str, undisturbed: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "run")
    monkeypatch.setattr(tables, "PLACED_ROWS", 100)
    values = tiny_values(workshop) | {
        "out": str(tmp_path / "run"),
        "cluster": {"kind": "address", "address": scheduler},
    }
    values["layout"] = values["layout"] | {"fit_rows": 150}
    config = validate(values, "test")
    directory = run(config, until="layout")
    names = [item.id for item in planned(stage, config, directory)]
    assert names[:3] == ["common-start", "fit-last", "place-last-00000"], "first the layer that the page opens on"
    assert names[3:6] == ["place-last-00001", "place-last-00002", "fit-middle"]
    for layer in config.layers:
        table = pq.read_table(directory.layout(layer))
        assert table.num_rows == 288
        assert table["u"].null_count == table["dropped"].length() - table["dropped"].null_count <= 6
        with np.load(directory.coordinates(layer)) as arrays:
            assert len(arrays["fitted"]) == 150
        facts = [read_marker(directory_of.folder("layout") / f"quality-{layer}.json", directory_of.stage_key("layout"))
                 for directory_of in (undisturbed, directory)]  # fmt: skip
        of_fitted, of_placed = (marker["facts"]["trustworthiness"] if marker else np.nan for marker in facts)
        assert of_placed > of_fitted - 0.03
    again = atlas.open_run(directory.path)
    row = again.store("last").take([0], ["activation"])["activation"]
    u, v = (again.layout("last")[name][0].as_py() for name in ("u", "v"))
    placement = again.place("last", row)
    assert abs(placement.u[0] - u) + abs(placement.v[0] - v) < 0.05

"""The stage layout: what it plans, and a run larger than what is laid out."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from planned import planned
from tiny_run import tiny_values

import atlas
from atlas.check.verify import verify
from atlas.config.reading import validate
from atlas.errors import AtlasError
from atlas.layout import tables
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import read_marker
from pipelines import cells
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


def test_a_layers_cells_follow_its_own_layout_where_layers_are_not_aligned(
    workshop: Path, scheduler: str, undisturbed: RunDirectory, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "run")
    values = tiny_values(workshop) | {
        "out": str(tmp_path / "run"),
        "cluster": {"kind": "address", "address": scheduler},
    }
    values["layout"] = values["layout"] | {"align": False}
    config = validate(values, "test")
    after = {part.name: part.after for part in cells.parts(config)}
    assert {layer: after[layer] for layer in config.layers} == {
        layer: (f"layout:maps-{layer}",) for layer in config.layers
    }
    directory = run(config, until="cells")
    items = {item.id: set(item.after) for item in planned(stage, config, directory)}
    boxes = {name: after for name, after in items.items() if name.startswith("box")}
    assert boxes == {f"box-{layer}": {f"fit-{layer}"} for layer in config.layers}
    for layer in config.layers:
        table = pq.read_table(directory.layout(layer), columns=["u", "v"]).to_pandas()
        assert table.min().tolist() == pytest.approx([0, 0], abs=1e-6), "each in the whole square"
        assert table.max().tolist() == pytest.approx([1, 1], abs=1e-6)
        assert atlas.open_run(directory.path).layout(layer).num_rows == 288
    findings = verify(directory)
    assert not findings.problems
    assert findings.stages["layout"] == "finished: 2 of 2 layouts"
    marker = directory.folder("layout") / "box-last.json"
    marker.unlink()
    assert [problem.where for problem in verify(directory).problems] == ["layout/box-last.json"]
    with pytest.raises(AtlasError, match=r"do not fit box-last\.json"):
        atlas.open_run(directory.path).layout("last")
    assert atlas.open_run(directory.path).layout("middle").num_rows == 288

"""What the site shows of circuits."""

import pytest
from made_neurons import ABSENT, INHIBITED
from unit_run import read_json, unit_folder

from atlas.rundir.directory import RunDirectory


@pytest.fixture
def run(unit_run: RunDirectory) -> RunDirectory:
    return unit_run


def test_what_builds_a_unit(run: RunDirectory) -> None:
    assert read_json(unit_folder(run, "middle") / "unit-0005.json")["circuit"] == []
    (circuit,) = read_json(unit_folder(run) / "unit-0005.json")["circuit"]
    assert circuit["layer"] == "middle"
    assert circuit["agreement"] == 0.8
    assert circuit["nonlinearities"] == ["1 ReLU"]
    assert circuit["note"] is None
    assert circuit["kernel"] == [2, 3]
    assert [source["effect"] for source in circuit["sources"]] == pytest.approx([3, 2.85, -2.7, 2.4, 1.8])
    present = [source["effect_above_zero"] for source in circuit["sources"]]
    assert present == pytest.approx([2.25, 0.7125, -2.025, 1.8, 1.35], abs=1e-3)
    assert [source["unit"] for source in circuit["sources"]] == [0, ABSENT, INHIBITED, 1, 2]
    assert circuit["sources"][0]["kernel"] == [0, 64, 0, -32, 127, 32], "in steps of its largest"


def test_which_cells_build_a_cell(run: RunDirectory) -> None:
    where = run.site_grid("last", 4)
    built_json, cells = read_json(where / "built.json"), read_json(where / "cells.json")
    assert built_json["source_map"] == "middle"
    assert built_json["grid"] == 4
    assert set(built_json["cells"]) == {f"{row}.{col}" for row, col in zip(cells["row"], cells["col"])}
    row, col = cells["row"][1], cells["col"][1]
    assert built_json["cells"][f"{row}.{col}"] == [[4, col, row, 1, 0.25], [4, col, row, -0.5, 0.25]]
    assert not (run.site_grid("middle", 4) / "built.json").exists(), "nothing stands before it"

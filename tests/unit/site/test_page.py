"""atlas.json and the built page."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from unit_run import read_json

from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of
from atlas.site import neurons
from atlas.site.page import SiteContents, atlas_facts


@pytest.fixture
def run(unit_run: RunDirectory) -> RunDirectory:
    return unit_run


def test_atlas_json_tells_of_the_layers(run: RunDirectory) -> None:
    config, report = run.config(), read_json(run.report)
    maps = maps_of(config.layers, config.layout, config.cells)
    facts = atlas_facts(run, config, SiteContents(maps, ("middle", "last"), tour=True), report)
    sprites = {"icon": neurons.ICON, "across": 16}
    assert facts["neurons"] == {
        "layers": [
            {"layer": "middle", "path": "neurons/middle", "units": 16, "earlier": [], **sprites},
            {"layer": "last", "path": "neurons/last", "units": 20, "earlier": ["middle"], **sprites},
        ]
    }
    assert [layer["path"] for layer in facts["layers"]] == ["middle", "last"]
    assert facts["tour"] is True


def test_atlas_json_tells_only_of_what_is_there_so_far(run: RunDirectory) -> None:
    config, report = run.config(), read_json(run.report)
    last = maps_of(config.layers, config.layout, config.cells)[1]
    facts = atlas_facts(run, config, SiteContents((replace(last, grids=(4,)),), (), tour=False), report)
    assert [(layer["path"], [grid["grid"] for grid in layer["grids"]]) for layer in facts["layers"]] == [("last", [4])]
    dropped = pq.read_table(run.layout("last"), columns=["dropped"])["dropped"].to_pylist()
    assert facts["layers"][0]["rows"] == len(dropped)
    assert facts["layers"][0]["dropped"] == sum(reason is not None for reason in dropped)
    assert facts["neurons"] is None
    assert facts["tour"] is False

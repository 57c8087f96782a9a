"""atlas.json and the built page."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from unit_run import read_json

from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of
from atlas.site import neurons
from atlas.site.contents import SiteContents
from atlas.site.page import atlas_facts


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
    assert "making" not in facts


def test_atlas_json_tells_only_of_what_is_there_so_far(run: RunDirectory) -> None:
    config, report = run.config(), read_json(run.report)
    last = maps_of(config.layers, config.layout, config.cells)[1]
    present, missing = replace(last, grids=(4,)), SiteContents((replace(last, grids=(8,)),), ("last",), tour=True)
    facts = atlas_facts(run, config, SiteContents((present,), (), tour=False, missing=missing), report)
    assert [(layer["path"], [grid["grid"] for grid in layer["grids"]]) for layer in facts["layers"]] == [("last", [4])]
    dropped = pq.read_table(run.layout("last"), columns=["dropped"])["dropped"].to_pylist()
    assert facts["layers"][0]["rows"] == len(dropped)
    assert facts["layers"][0]["dropped"] == sum(reason is not None for reason in dropped)
    assert facts["neurons"] is None
    assert facts["tour"] is False
    making = facts["making"]
    assert making["maps"] == [{"name": "last", "path": "last", "grids": [8]}]
    assert making["units"] == [{"layer": "last", "units": 20}]
    assert making["tour"] is True


def test_networks_have_their_numbers_whichever_maps_are_there(run: RunDirectory) -> None:
    config, report = run.config(), read_json(run.report)
    maps = maps_of(config.layers, config.layout, config.cells)
    whole = atlas_facts(run, config, SiteContents(maps, (), tour=False), report)
    partial = atlas_facts(run, config, SiteContents(maps[1:], (), tour=False), report)
    assert partial["networks"] == whole["networks"]
    assert partial["layers"][0]["network"] == whole["layers"][1]["network"]
    assert partial["labels"] == whole["labels"]

"""atlas.json and the built page."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit_run import read_json

from atlas.cells.icons import read_icons
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of
from atlas.site import neurons
from atlas.site.contents import SiteContents
from atlas.site.page import atlas_facts, score_facts


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
    assert "quick" not in facts["layers"][0]["grids"][0]
    contents = SiteContents((last,), (), tour=False, quick_grids=frozenset({("last", 8)}))
    grids = atlas_facts(run, config, contents, report)["layers"][0]["grids"]
    assert [(grid["grid"], grid.get("quick")) for grid in grids] == [(4, None), (8, True)]


def test_scores_are_columns_beside_the_cells(run: RunDirectory) -> None:
    scores = read_json(run.site_grid("last", 8) / "scores.json")
    icons = read_icons(run, "last", 8).to_pylist()
    assert list(zip(scores["row"], scores["col"])) == [(icon["row"], icon["col"]) for icon in icons]
    assert scores["rank"] == [icon["rank"] for icon in icons]
    for name in ("cosine_whitened", "cosine_robust", "percentile"):
        np.testing.assert_allclose(scores[name], [icon[name] for icon in icons], atol=5e-5)
    assert score_facts(pa.table({})) == {
        name: [] for name in ("row", "col", "cosine_whitened", "cosine_robust", "percentile", "rank")
    }


def test_networks_have_their_numbers_whichever_maps_are_there(run: RunDirectory) -> None:
    config, report = run.config(), read_json(run.report)
    maps = maps_of(config.layers, config.layout, config.cells)
    whole = atlas_facts(run, config, SiteContents(maps, (), tour=False), report)
    partial = atlas_facts(run, config, SiteContents(maps[1:], (), tour=False), report)
    assert partial["networks"] == whole["networks"]
    assert partial["layers"][0]["network"] == whole["layers"][1]["network"]
    assert partial["labels"] == whole["labels"]

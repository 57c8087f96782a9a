"""atlas.json and the built page."""

import pytest
from unit_run import read_json

from atlas.rundir.directory import RunDirectory
from atlas.site import neurons
from atlas.site.page import atlas_facts


@pytest.fixture
def run(unit_run: RunDirectory) -> RunDirectory:
    return unit_run


def test_atlas_json_tells_of_the_layers(run: RunDirectory) -> None:
    facts = atlas_facts(run, run.config(), read_json(run.report))
    sprites = {"icon": neurons.ICON, "across": 16}
    assert facts["neurons"] == {
        "layers": [
            {"layer": "middle", "path": "neurons/middle", "units": 16, "earlier": [], **sprites},
            {"layer": "last", "path": "neurons/last", "units": 20, "earlier": ["middle"], **sprites},
        ]
    }
    without = atlas_facts(run, run.config().model_copy(update={"neurons": None, "tour": None}), read_json(run.report))
    assert without["neurons"] is None
    assert without["tour"] is False

"""The stages: their order, and what each one builds on."""

from atlas.config.sections import NeuronsConfig
from atlas.rundir.stages import ABOVE, FOLDERS, STAGES, stages_of


def test_each_stage_builds_on_one_before_it_and_fills_a_folder_of_its_own() -> None:
    assert STAGES == ("collect", "layout", "cells", "render", "neurons", "publish")
    for stage, above in ABOVE.items():
        assert STAGES.index(above) < STAGES.index(stage)
    assert set(STAGES) - set(ABOVE) == {"collect"}
    assert set(FOLDERS) == set(STAGES)
    assert len(set(FOLDERS.values())) == len(STAGES)


def test_neurons_are_a_stage_only_where_they_are_asked_for() -> None:
    assert stages_of(None) == ("collect", "layout", "cells", "render", "publish")
    assert stages_of(NeuronsConfig(layers=("a",))) == STAGES

"""The keys of a run's stages, and what is noted of them."""

from dataclasses import replace
from typing import Any

import pytest

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.errors import ConfigError
from atlas.rundir.directory import RunDirectory
from atlas.slices.labels import match_labels
from pipelines import pipeline
from pipelines.graph import Outcome
from pipelines.pipeline import stage_key_of
from pipelines.prepare import Prepared, prepare


def changed(config: Config, **changes: Any) -> Config:
    """The configuration with other keys of some sections."""
    values = config.plain()
    for section, keys in changes.items():
        values[section] = {**(values[section] or {}), **keys} if isinstance(keys, dict) else keys
    return validate(values, "test")


@pytest.fixture(scope="module")
def prepared(made_run: RunDirectory) -> Prepared:
    return prepare(made_run.config(), made_run)


@pytest.fixture
def keyed(made_copy: RunDirectory) -> RunDirectory:
    """A run whose stages all have a key to build on."""
    for stage in ("neurons", "publish"):
        made_copy.claim(stage, stage[0] * 64)
    return made_copy


ALL = ("collect", "layout", "cells", "render", "neurons", "publish")


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"cluster": {"workers": 9}, "out": "elsewhere"}, ()),
        ({"collect": {"max_failure_share": 0.9}}, ()),
        ({"publish": {"opens": "residual"}}, ()),  # the page's own item depends on it
        ({"neurons": {"sources": 3}}, ()),  # an item's own
        ({"images": {"crops": 9}}, ("collect",)),
        ({"seed": 5}, ("collect",)),
        ({"collect": {"attributions": False}}, ("collect",)),
        ({"network": {"size": 64}}, ("collect",)),
        ({"layout": {"neighbors": 9}}, ("layout",)),
        ({"layout": {"class_atlas": ["class 1"]}}, ()),  # stands in the map's name
        ({"cells": {"exemplars": 5}}, ("cells",)),  # icons do not depend on exemplars
        ({"cells": {"grids": [2, 4, 8]}}, ("cells", "render")),
        ({"render": {"power": 3.0}}, ("render",)),
        ({"render": {"steps": 7}}, ("render", "neurons")),
        ({"neurons": {"patches": 4}}, ("neurons",)),
    ],
)
def test_a_stages_key_holds_what_the_stage_depends_on(
    keyed: RunDirectory, prepared: Prepared, changes: dict[str, Any], stages: tuple[str, ...]
) -> None:
    """With the keys above as they are: those that build on a changed one change with it."""
    before = changed(keyed.config(), neurons={"layers": ["branches"]})
    after = changed(before, **changes)
    different = [
        stage
        for stage in ALL
        if stage_key_of(before, keyed, prepared, stage) != stage_key_of(after, keyed, prepared, stage)
    ]
    assert tuple(different) == stages


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ("collect", ("layout", "neurons")),
        ("layout", ("cells", "render")),
        ("cells", ("publish",)),
        ("render", ("publish",)),
    ],
)
def test_a_stages_key_holds_the_key_above(
    keyed: RunDirectory, prepared: Prepared, above: str, below: tuple[str, ...]
) -> None:
    config = changed(keyed.config(), neurons={"layers": ["branches"]})
    before = {stage: stage_key_of(config, keyed, prepared, stage) for stage in ALL}
    keyed.update_manifest(stages={above: {**keyed.stage_facts(above), "key": "0" * 64}})
    assert tuple(stage for stage in ALL if stage_key_of(config, keyed, prepared, stage) != before[stage]) == below


def test_other_weights_are_other_work(keyed: RunDirectory, prepared: Prepared) -> None:
    """Weights may change under one name."""
    config = keyed.config()
    before = stage_key_of(config, keyed, prepared, "collect")
    network = replace(prepared.networks[""], digest="0" * 64)
    other = replace(prepared, networks={"": network})
    assert stage_key_of(config, keyed, other, "collect") != before


def test_classes_of_the_labels_change_what_depends_on_them(keyed: RunDirectory, prepared: Prepared) -> None:
    """The store and the cells' errors, not layouts, icons and units."""
    config = changed(keyed.config(), neurons={"layers": ["branches"]})
    before = {stage: stage_key_of(config, keyed, prepared, stage) for stage in ALL}
    match = match_labels(prepared.listing.label_names, prepared.networks[""].classes, {"cats": 1})
    labelled = replace(prepared, matches={"": match})
    after = {stage: stage_key_of(config, keyed, labelled, stage) for stage in ALL}
    assert tuple(stage for stage in ALL if after[stage] != before[stage]) == ("collect", "cells")

    keyed.claim("collect", before["collect"])
    settings = {"batch": 7}
    keyed.update_manifest(stages={"collect": {**keyed.stage_facts("collect"), "batch_settings": settings}})
    pipeline._take_batch_settings(keyed, before["collect"])
    below = {stage: stage_key_of(config, keyed, prepared, stage) for stage in ("layout", "neurons")}
    keyed.claim("collect", after["collect"])
    assert "batch_settings" not in keyed.stage_facts("collect")
    pipeline._take_batch_settings(keyed, before["collect"])
    assert keyed.stage_facts("collect")["batch_settings"] == settings, "rows are computed as they were"
    assert {stage: stage_key_of(config, keyed, labelled, stage) for stage in below} == below
    keyed.claim("collect", "9" * 64)
    pipeline._take_batch_settings(keyed, "8" * 64)
    assert "batch_settings" not in keyed.stage_facts("collect"), "other rows have their own"


def test_seconds_and_work_of_several_starts_add_up(made_copy: RunDirectory) -> None:
    spans = [(100.0, 118.0), (102.0, 120.04)]  # on two workers at once
    pipeline._note(made_copy, "render", Outcome(10, 6, count=60, peak_mb=900, spans=spans))
    pipeline._note(made_copy, "render", Outcome(10, 4, count=30, peak_mb=700, spans=[(7.0, 12.0), (20.0, 25.0)]))
    facts = made_copy.stage_facts("render")
    assert (facts["seconds"], facts["units"], facts["icons_per_second"], facts["worker_peak_mb"]) == (30, 90, 3.0, 900)


def test_a_stage_that_was_not_asked_for_is_refused(made_run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"--until neurons: the configuration asks for no neurons\. .*branches"):
        pipeline.run(made_run.config(), until="neurons")

"""What is prepared before a run, all mistakes at once; and the keys of its stages."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_run import made_values

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.errors import AtlasError, ConfigError
from atlas.pictures.listing import Listing
from atlas.pictures.sources import list_images
from atlas.rundir.directory import RunDirectory
from pipelines import pipeline
from pipelines.graph import Outcome
from pipelines.pipeline import Prepared, prepare, stage_key_of


def changed(config: Config, **changes: Any) -> Config:
    """The configuration with other keys of some sections."""
    values = config.plain()
    for section, keys in changes.items():
        values[section] = {**(values[section] or {}), **keys} if isinstance(keys, dict) else keys
    return validate(values, "test")


@pytest.fixture(scope="module")
def prepared(made_run: RunDirectory) -> Prepared:
    return prepare(made_run.config(), made_run)


def test_pictures_networks_and_layers_are_prepared(prepared: Prepared) -> None:
    assert len(prepared.listing) == 15
    assert list(prepared.networks) == [""]
    assert {name: layer.channels for name, layer in prepared.layers.items()} == {"residual": 8, "branches": 16}


def test_all_mistakes_are_told_at_once(made_run: RunDirectory, tmp_path: Path) -> None:
    values = made_values(tmp_path) | {"layers": ["residul", "branches", "last@old"], "tour": str(tmp_path / "no.yaml")}
    values["compare"] = {"old": {"name": "torchvision/resnet19"}}
    values["layout"] = {
        "class_atlas": ["class 9", "class 3", "Class 3"], "class_pair": [["class 1", "CLASS 1"]],
        "class_layers": ["branches"],
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        prepare(validate(values, "test"), RunDirectory(tmp_path / "run"))
    lines = str(caught.value).splitlines()
    begins = [
        f"images.source: there is no folder {tmp_path / 'pictures'}",
        "layers: small_network:factory has no layer 'residul'. Near names: residual",
        "layout.class_atlas: small_network:factory: the network has no class 'class 9' among its 5.",
        "layout.class_atlas: Class 3 and class 3 are the same class of small_network:factory; give it once.",
        "layout.class_pair: CLASS 1 and class 1 are the same class of small_network:factory; give it once.",
        "compare.old: torchvision has no network 'resnet19'.",
        f"tour: there is no file {tmp_path / 'no.yaml'}.",
    ]
    assert len(lines) == len(begins)
    for line, begin in zip(lines, begins):
        assert line.startswith(begin)


def test_the_listing_is_made_once(made_copy: RunDirectory) -> None:
    """A run that goes on does not see what the folder gained; one that asks for other pictures does."""
    config = made_copy.config()
    request = pipeline._request(config.images, config.seed)
    whole = Listing.load(made_copy.listing)
    short = Listing(whole.table.slice(0, 5), source=whole.source, label_names=whole.label_names, kind=whole.kind)
    short.save(made_copy.listing)
    assert len(pipeline._listing(config.images, config.seed, made_copy)) == 15, "run.json does not say what it is of"
    made_copy.update_manifest(listing=request)
    assert len(pipeline._listing(config.images, config.seed, made_copy)) == 5
    assert len(pipeline._listing(config.images, config.seed + 1, made_copy)) == 15
    more = changed(config, images={"crops": 9})
    assert len(pipeline._listing(more.images, more.seed, made_copy)) == 5, "crops are cut later"
    made_copy.listing.write_text("no table")
    with pytest.raises(AtlasError, match=r"listing\.parquet is cut off or overwritten .* Delete it and give the same"):
        pipeline._listing(config.images, config.seed, made_copy)


def test_too_many_damaged_containers_are_one_sentence(tmp_path: Path, packed: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes((packed / "shards" / "train-0.tar").read_bytes())
    (tmp_path / "1.tar").write_bytes(b"no tar")
    images = validate(made_values(tmp_path) | {"images": {"source": str(tmp_path)}}, "test").images
    listing = list_images(images, 0)
    (sentence,) = pipeline._damaged(listing, 0.3)
    assert sentence.startswith(
        "images.source: 1 of 3 tar files cannot be read to their end, more than collect.max_fail"
    )
    assert "The first: 1.tar: cannot be read" in sentence
    assert pipeline._damaged(listing, 0.34) == []


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


def test_seconds_and_work_of_several_starts_add_up(made_copy: RunDirectory) -> None:
    spans = [(100.0, 118.0), (102.0, 120.04)]  # on two workers at once
    pipeline._note(made_copy, "render", Outcome(10, 6, count=60, peak_mb=900, spans=spans))
    pipeline._note(made_copy, "render", Outcome(10, 4, count=30, peak_mb=700, spans=[(7.0, 12.0), (20.0, 25.0)]))
    facts = made_copy.stage_facts("render")
    assert (facts["seconds"], facts["units"], facts["icons_per_second"], facts["worker_peak_mb"]) == (30, 90, 3.0, 900)


def test_a_stage_that_was_not_asked_for_is_refused(made_run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"--until neurons: the configuration asks for no neurons\. .*branches"):
        pipeline.run(made_run.config(), until="neurons")

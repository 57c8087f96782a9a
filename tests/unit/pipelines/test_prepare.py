"""What is prepared before a run, and all mistakes at once."""

from pathlib import Path

import pytest
from made_run import made_values

from atlas.config.reading import validate
from atlas.errors import AtlasError, ConfigError
from atlas.pictures.listing import Listing
from atlas.pictures.sources import list_images
from atlas.rundir.directory import RunDirectory
from pipelines import prepare as preparation
from pipelines.prepare import Prepared, listing_request, prepare


def test_pictures_networks_and_layers_are_prepared(made_run: RunDirectory) -> None:
    prepared = prepare(made_run.config(), made_run)
    assert isinstance(prepared, Prepared)
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
    request = listing_request(config.images, config.seed)
    whole = Listing.load(made_copy.listing)
    short = Listing(whole.table.slice(0, 5), source=whole.source, label_names=whole.label_names, kind=whole.kind)
    short.save(made_copy.listing)
    assert len(preparation._listing(config.images, config.seed, made_copy)) == 15, "run.json does not say what it is of"
    made_copy.update_manifest(listing=request)
    assert len(preparation._listing(config.images, config.seed, made_copy)) == 5
    assert len(preparation._listing(config.images, config.seed + 1, made_copy)) == 15
    more = config.model_copy(update={"images": config.images.model_copy(update={"crops": 9})})
    assert len(preparation._listing(more.images, more.seed, made_copy)) == 5, "crops are cut later"
    made_copy.listing.write_text("no table")
    with pytest.raises(AtlasError, match=r"listing\.parquet is cut off or overwritten .* Delete it and give the same"):
        preparation._listing(config.images, config.seed, made_copy)


def test_too_many_damaged_containers_are_one_sentence(tmp_path: Path, packed: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes((packed / "shards" / "train-0.tar").read_bytes())
    (tmp_path / "1.tar").write_bytes(b"no tar")
    images = validate(made_values(tmp_path) | {"images": {"source": str(tmp_path)}}, "test").images
    listing = list_images(images, 0)
    (sentence,) = preparation._damaged(listing, 0.3)
    assert sentence.startswith(
        "images.source: 1 of 3 tar files cannot be read to their end, more than collect.max_fail"
    )
    assert "The first: 1.tar: cannot be read" in sentence
    assert preparation._damaged(listing, 0.34) == []


def test_labels_are_matched_with_each_networks_classes(made_run: RunDirectory) -> None:
    values = made_run.config().plain()
    values["images"]["label_classes"] = {"birds": 4, "cats": "class 0"}
    prepared = prepare(validate(values, "test"), made_run)
    assert prepared.matches[""].classes == (4, 0, None)
    assert prepared.matches[""].labels == ("birds", "cats", "zebras")
    assert not prepare(made_run.config(), made_run).matches[""].has_classes
    request = listing_request(made_run.config().images, 0)
    assert listing_request(validate(values, "test").images, 0) == request, "the pictures are not listed anew"


def test_a_wrong_mapping_is_a_mistake_among_others(made_run: RunDirectory, tmp_path: Path) -> None:
    values = made_run.config().plain() | {"layers": ["residul"]}
    values["images"]["label_classes"] = {"birds": "class 9", "cats": 0}
    with pytest.raises(ConfigError) as caught:
        prepare(validate(values, "test"), made_run)
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("images.label_classes: birds → class 9: the network has no such class. Near names: cla")
    assert len(lines) == 2
    values["images"]["label_classes"] = str(tmp_path / "no.csv")
    with pytest.raises(ConfigError, match=r"images\.label_classes: there is no file"):
        prepare(validate(values, "test"), made_run)

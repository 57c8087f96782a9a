"""The store's data card: true of the store, the same for equal work, and read by Hugging Face's ``datasets``."""

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from atlas.config.model import Config
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import digest_file, read_marker
from atlas.store.datacard import _failures, _pictures, _source, card_path, write_card

FACTS: dict[str, Any] = {
    "pictures": 25,
    "views": 300,
    "failed_view_count": 12,
    "failures": [{"image": "discs/broken.png", "view": None, "error": "not a picture in a known format"}],
}


@pytest.fixture(scope="module")
def card(undisturbed: RunDirectory) -> str:
    return card_path(undisturbed).read_text(encoding="utf-8")


def write(run: RunDirectory, values: dict[str, Any], **facts: Any) -> Path:
    """The card of a run whose configuration has these ``values``."""
    config = Config.from_plain(values)
    return write_card(run, config.layers, config.networks(), images=config.images, collect=config.collect, **facts)


def table(card: str, heading: str) -> list[list[str]]:
    """The rows of the first table whose heading begins so."""
    lines = card[card.index(f"| {heading}") :].splitlines()
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_it_is_vouched_for_by_the_last_marker_of_collect(undisturbed: RunDirectory) -> None:
    marker = read_marker(undisturbed.failures.with_suffix(".json"), undisturbed.stage_key("collect"))
    assert marker is not None
    assert set(marker["files"]) == {"failures.parquet", "README.md"}
    assert marker["files"]["README.md"]["sha256"] == digest_file(card_path(undisturbed))


def test_it_tells_of_true_classes_where_labels_are_some(labelled_run: RunDirectory, card: str) -> None:
    names = [row[0] for row in table(card_path(labelled_run).read_text(encoding="utf-8"), "column")]
    assert names[-2:] == ["`label_rank`", "`label_probability`"]
    assert "label_rank" not in card


def test_it_tells_what_the_shards_tell(undisturbed: RunDirectory, card: str) -> None:
    layers = table(card, "layer")
    assert [row[0] for row in layers] == ["`middle`", "`last`"]
    for name, rows, channels, side, stride, sees in layers:
        shards = undisturbed.shards(name.strip("`"))
        facts = {key.decode(): value for key, value in pq.read_schema(shards[0]).metadata.items()}
        assert int(rows) == pq.read_table(shards).num_rows == 288
        assert channels == facts["channels"].decode()
        assert side == " × ".join(map(str, json.loads(facts["map_size"])))
        assert stride == f"{facts['stride'].decode()} px"
        assert sees == f"{json.loads(facts['receptive_field'])} ({json.loads(facts['effective_receptive_field'])})"
    schema = pq.read_schema(undisturbed.shards("last")[0])
    columns = [(name, kind) for names, kind, _ in table(card, "column") for name in re.findall(r"`(\w+)`", names)]
    assert [name for name, _ in columns] == schema.names
    for name, kind in columns:
        expected = str(schema.field(name).type)
        if "list" in expected:
            expected = {"box": "float32 [4]", "activation": "float16 [channels]", "attribution": "float16 [7]"}[name]
        assert kind.split(",")[0] == expected.replace("float", "float32" if expected == "float" else "float")
        assert ("may be null" in kind) == schema.field(name).nullable


def test_it_tells_pictures_network_seed_versions_and_failures(undisturbed: RunDirectory, card: str) -> None:
    manifest = undisturbed.read_manifest()
    words = " ".join(card.split())
    assert "25 pictures from `pictures` (kind: folder)" in words
    assert (
        "300 views: 12 random squares each, of 0.4 to 1 of the shorter side. 1 place a view, drawn by seed 0." in words
    )
    assert f"sha256 `{manifest['network']['sha256']}`" in words
    listing = Listing.load(undisturbed.listing)
    assert f"The listing: sha256 `{listing.digest}`." in words
    assert "less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225). Computed in float32, 8 views at a time." in words
    assert "`tiny:make` at 48 px, 7 classes (class 0, class 1, class 2, class 3, class 4, …)" in words
    for name, version in manifest["versions"].items():
        assert f"{name} {version}" in words
    assert "12 of 300 views have no row" in words
    assert table(card, "reason") == [["not a picture in a known format", "1"]]


def test_equal_work_gives_equal_bytes_wherever_it_is_done(undisturbed: RunDirectory, card: str, tmp_path: Path) -> None:
    """No clock, no host, no place of the run or of the pictures."""
    elsewhere = RunDirectory(tmp_path / "elsewhere")
    shutil.copytree(undisturbed.folder("collect"), elsewhere.folder("collect"))
    values = undisturbed.config().plain()
    values["out"] = str(elsewhere.path)
    values["images"]["source"] = str(tmp_path / "moved" / "pictures")
    card_path(elsewhere).unlink()
    write(elsewhere, values, **FACTS)
    assert card_path(elsewhere).read_text(encoding="utf-8") == card
    for part in (
        str(undisturbed.path),
        undisturbed.path.name,
        socket.gethostname(),
        undisturbed.read_manifest()["created"][:10],
    ):
        assert not re.search(rf"\b{re.escape(part)}\b", card)


def test_without_failures_and_attributions_it_says_so(undisturbed: RunDirectory, tmp_path: Path) -> None:
    other = RunDirectory(tmp_path / "other")
    shutil.copytree(undisturbed.folder("collect"), other.folder("collect"))
    values = undisturbed.config().plain()
    values["collect"]["attributions"] = False
    values["images"] |= {"crops": 1, "limit": 1000, "shuffle": False, "classes": ["discs"]}
    text = write(other, values, pictures=24, views=24, failed_view_count=0, failures=[]).read_text(encoding="utf-8")
    assert "None of 24 views failed." in text
    assert "attribution" not in text.split("---")[2]
    words = " ".join(text.split())
    assert "at most 1,000, only the classes discs, in the order of their names." in words
    assert "one view each, the centred square" in words
    assert [part["config_name"] for part in yaml.safe_load(text.split("---")[1])["configs"]] == ["middle", "last"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("pictures", "pictures"),
        ("/home/someone/pictures", "pictures"),
        ("/data/imagenet/train-*.tar", "train-*.tar"),
        ("s3://bucket/train", "s3://bucket/train"),
        ("https://user:secret@host.example:8443/a.tar?token=secret", "https://host.example:8443/a.tar"),
    ],
)
def test_the_source_is_told_without_secrets_and_private_folders(source: str, text: str) -> None:
    assert _source(source) == text


def test_several_sources_are_told_one_by_one(undisturbed: RunDirectory) -> None:
    values = undisturbed.config().plain()
    values["images"]["source"] = ["/home/someone/pictures", "https://user:secret@host.example/a.tar?token=secret"]
    images = Config.from_plain(values).images
    facts = {"source_kind": "tar", "listing_sha256": "ab", "seed": 0}
    lines = _pictures(images, facts, pictures=25, views=300, places=1)
    assert "25 pictures from `pictures`, `https://host.example/a.tar` (kind: tar)" in lines
    assert "secret" not in lines
    assert "someone" not in lines


def test_only_the_commonest_reasons_are_told() -> None:
    rows = [
        {"image": "a", "view": None, "error": f"reason|{'abcdefghijkl'[number]}, {again} bytes left"}
        for number in range(12)
        for again in range(number + 1)
    ]
    reasons = table(_failures(1000, 78, rows), "reason")
    assert reasons[0] == ["reason\\", "l, 0 bytes left", "12"]  # one for all numbers; the bar is escaped: one cell
    assert len(reasons) == 11
    assert reasons[-1] == ["2 other reasons", "3"]


def test_hugging_face_datasets_opens_each_layer(
    undisturbed: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    store = str(undisturbed.folder("collect"))
    assert datasets.get_dataset_config_names(store) == ["middle", "last", "failures"]
    for layer, channels in (("middle", 16), ("last", 20)):
        rows = datasets.load_dataset(store, layer, split="train", cache_dir=str(tmp_path))
        table = pq.read_table(undisturbed.shards(layer))
        assert rows.column_names == table.column_names
        assert rows["image_id"][:] == table["image_id"].to_pylist()
        rows_of_set = np.array(rows["activation"][:], np.float32)
        assert rows_of_set.shape == (288, channels)
        np.testing.assert_array_equal(rows_of_set, np.array(table["activation"].to_pylist(), np.float32))
    first = next(iter(datasets.load_dataset(store, split="train", streaming=True)))
    assert len(first["activation"]) == 16, "without a name it is the first layer"
    failures = datasets.load_dataset(store, "failures", split="train", cache_dir=str(tmp_path))
    assert failures[0] == FACTS["failures"][0]

"""Pictures in tars and in Parquet: their keys and their labels."""

import json
import tarfile
from pathlib import Path

import pytest
from containers import COUNT, images, png, write_tar

from atlas.errors import ConfigError
from atlas.pictures.sources import list_images


def test_keys_name_the_container_and_the_picture_in_it(packed: Path) -> None:
    tars = list_images(images(packed / "shards", shuffle=False), 0)
    assert list(tars.keys) == [f"train-{number // 6}.tar/{number:02d}.png" for number in range(COUNT)]
    rows = list_images(images(packed / "data", shuffle=False), 0)
    assert list(rows.keys) == [f"train-{number // 6}.parquet/{number % 6}" for number in range(COUNT)]
    assert rows.label_names == ("cat", "dog", "owl")
    one = list_images(images(packed / "shards" / "train-1.tar", shuffle=False), 0)
    assert list(one.keys) == [f"train-1.tar/{number:02d}.png" for number in range(6, 12)]


def test_compressed_tars_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(__file__)
    for source in (tmp_path, tmp_path / "a.tar.gz"):
        with pytest.raises(ConfigError, match=r"compressed archives only \(\.gz\).*expected an uncompressed \.tar"):
            list_images(images(source), 0)
    (tmp_path / "a.tar.gz").rename(tmp_path / "b.tar")
    with pytest.raises(ConfigError, match=r"b\.tar: cannot be read as an uncompressed tar"):
        list_images(images(tmp_path / "b.tar"), 0)


def test_labels_in_tars_are_words_json_or_folders(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [
            ("x/0.png", png(0)),
            ("x/0.cls", b" snow leopard\n"),
            ("./x/1.jpg", png(1)),
            ("x/1.json", json.dumps({"label": "ant", "more": [1]}).encode()),
            ("x/2.seg.png", png(2)),
            ("x/3.png", png(3)),
            ("x/3.json", b"{not json"),
            ("x/._3.png", b"what a Mac leaves"),
            ("x/3.txt", b"a caption"),
        ],
    )
    listing = list_images(images(tmp_path / "a.tar", shuffle=False), 0)
    assert list(listing.keys) == ["a.tar/x/0.png", "a.tar/x/1.jpg", "a.tar/x/2.seg.png", "a.tar/x/3.png"]
    assert listing.label_names == ("ant", "snow leopard")
    assert list(listing.labels) == [1, 0, None, None]
    write_tar(tmp_path / "b.tar", [("ant/0.png", png(0)), ("bee/1.png", png(1)), ("2.png", png(2))])
    listing = list_images(images(tmp_path / "b.tar", shuffle=False), 0)
    assert listing.label_names == ("ant", "bee")
    assert list(listing.labels) == [0, 1, None]

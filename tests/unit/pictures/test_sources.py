"""Sources: folders, tars and Parquet files, here and in S3, give the same pictures."""

import shutil
from itertools import pairwise
from pathlib import Path

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
from containers import COUNT, NUMBERED, classes_by_bytes, images, png, write_parquet, write_tar
from distributed import LocalCluster
from made_pictures import gradient
from tiny_run import tiny_values

from atlas.config.model import Config
from atlas.errors import ConfigError
from atlas.pictures.decode import open_picture
from atlas.pictures.listing import Listing
from atlas.pictures.sources import list_images
from pipelines.pipeline import run

EXPECTED = {png(number): ("cat", "dog", "owl")[number % 3] for number in range(COUNT)}
PLACES = [("pictures", EXPECTED), ("shards", NUMBERED), ("data", EXPECTED)]
GLOBS = [("pictures/**/*.png", EXPECTED), ("shards/train-*.tar", NUMBERED), ("data/train-?.parquet", EXPECTED)]


@pytest.mark.parametrize(("place", "expected"), PLACES + GLOBS)
def test_each_kind_gives_every_picture_and_its_class(
    packed: Path, tmp_path: Path, place: str, expected: dict[bytes, str]
) -> None:
    listing = list_images(images(packed / place), 0)
    assert classes_by_bytes(listing) == expected
    listing.save(tmp_path / "listing.parquet")
    again = Listing.load(tmp_path / "listing.parquet")
    assert list(again.keys) == list(listing.keys)
    assert again.digest == listing.digest
    assert Listing(again.table, source="elsewhere", digest="kept").digest == "kept"
    assert classes_by_bytes(again) == expected


def test_several_sources_are_named_below_what_they_share(packed: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tar(tmp_path / name / "same.tar", [("0.png", png(ord(name)))])
    listing = list_images(images([tmp_path / "a", tmp_path / "b" / "*.tar"], shuffle=False), 0)
    assert list(listing.keys) == ["a/same.tar/0.png", "b/same.tar/0.png"]
    assert [listing.read(number) for number in range(2)] == [png(ord("a")), png(ord("b"))]
    folders = list_images(images([packed / "pictures" / "dog", packed / "pictures" / "cat"], shuffle=False), 0)
    assert folders.label_names == ("cat", "dog")
    assert len(folders) == 8


def test_kinds_are_told_apart_and_can_be_chosen(packed: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0.png", png(0))])
    write_parquet(tmp_path / "b.parquet", [png(1)])
    with pytest.raises(
        ConfigError, match=r"holds tar files and Parquet files\. Choose with --set images\.kind=tar or parquet"
    ):
        list_images(images(tmp_path), 0)
    (tmp_path / "preview.png").write_bytes(png(2))
    with pytest.raises(
        ConfigError, match=r"holds pictures and tar files and Parquet files\. Choose .*=folder or tar or"
    ):
        list_images(images(tmp_path), 0)
    (tmp_path / "preview.png").unlink()
    assert list(list_images(images(tmp_path, kind="parquet"), 0).keys) == ["b.parquet/0"]
    assert list(list_images(images(tmp_path, kind="tar"), 0).keys) == ["a.tar/0.png"]
    with pytest.raises(ConfigError, match=r"holds no picture\. Expected files ending in \.avif, \.bmp"):
        list_images(images(tmp_path, kind="folder"), 0)
    with pytest.raises(ConfigError, match=r"holds no picture\. Expected files ending in \.tar, with pictures"):
        list_images(images(packed / "pictures", kind="tar"), 0)


@pytest.mark.parametrize(("place", "name"), [("shards", "1"), ("data", "dog")])
def test_classes_can_be_kept(packed: Path, place: str, name: str) -> None:
    listing = list_images(images(packed / place, classes=(name,)), 0)
    assert set(classes_by_bytes(listing)) == {png(number) for number in range(COUNT) if number % 3 == 1}
    assert {listing.label_names[label] for label in listing.labels if label is not None} == {name}
    with pytest.raises(ConfigError, match="has no class wolf"):
        list_images(images(packed / place, classes=(name, "wolf")), 0)


def test_a_limit_is_a_fair_sample_and_containers_are_read_one_after_the_other(tmp_path: Path) -> None:
    for shard in range(8):
        write_tar(tmp_path / f"{shard}.tar", [(f"{number:02d}.png", b"x") for number in range(50)])
    keys = list(list_images(images(tmp_path, limit=100), 1).keys)
    assert len(set(keys)) == 100
    shards = [key.split("/")[0] for key in keys]
    assert len(set(shards)) == 8, "a sample of all, not the first of the shards"
    assert sum(one != other for one, other in pairwise(shards)) == 7, "each shard is opened once"
    assert shards != sorted(shards)
    for shard in set(shards):
        inside = [key for key in keys if key.startswith(f"{shard}/")]
        assert inside == sorted(inside)
    assert keys == list(list_images(images(tmp_path, limit=100), 1).keys)
    assert set(keys) != set(list_images(images(tmp_path, limit=100), 2).keys)
    assert list(list_images(images(tmp_path, limit=60, shuffle=False), 1).keys)[-1] == "1.tar/09.png"


@pytest.mark.parametrize(("place", "expected"), [*PLACES, *GLOBS, ("shards/train-*.tar", NUMBERED)])
def test_s3_gives_what_the_disk_gives(
    s3: str, packed: Path, tmp_path: Path, place: str, expected: dict[bytes, str]
) -> None:
    there = images(f"s3://pictures/deep/{place}", storage_options={"endpoint_url": s3})
    listing, here = list_images(there, 0), list_images(images(packed / place), 0)
    assert list(listing.keys) == list(here.keys)
    assert list(listing.labels) == list(here.labels)
    assert listing.digest == here.digest
    listing.save(tmp_path / "listing.parquet")
    assert classes_by_bytes(Listing.load(tmp_path / "listing.parquet")) == expected
    assert listing.threads > here.threads


def test_a_run_collects_from_s3(
    s3: str, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage with scheduler and worker in this process, from tars in S3, one of them cut; then again from the kept
    listing, though the tars are gone."""
    monkeypatch.syspath_prepend(str(workshop))
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    for number in range(2):
        whole = client.get_object(Bucket="pictures", Key=f"deep/shards/train-{number}.tar")["Body"].read()
        body = whole[: len(whole) // 2] if number else whole
        client.put_object(Bucket="pictures", Key=f"run/{number}.tar", Body=body)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:
        values = tiny_values(workshop) | {
            "out": str(tmp_path / "run"),
            "images": {"source": "s3://pictures/run/*.tar", "crops": 2, "storage_options": {"endpoint_url": s3}},
            "collect": {"batch": 8, "max_failure_share": 0.5},
            "cluster": {"kind": "address", "address": cluster.scheduler_address},
        }
        directory = run(Config.from_plain(values), until="collect")
        rows = pq.read_table(directory.shards("last")).to_pylist()
        client.delete_object(Bucket="pictures", Key="run/0.tar")
        run(Config.from_plain(values), until="collect")
    assert "s3://pictures/run" in capsys.readouterr().out
    failures = {row["image"]: row["error"] for row in pq.read_table(directory.failures).to_pylist()}
    count = len(rows) // 2
    assert 6 < count < COUNT
    assert {row["image"] for row in rows} == {f"{n // 6}.tar/{n:02d}.png" for n in range(count)}
    assert all(row["label"] == int(row["image"][-6:-4]) % 3 for row in rows)
    assert np.isfinite(np.array([row["activation"] for row in rows], np.float64)).all()
    assert failures.pop("1.tar").startswith("the tar is cut or damaged after")
    assert set(failures) <= {f"1.tar/{count:02d}.png"}


def test_too_many_damaged_tars_stop_a_run_before_it_begins(workshop: Path, packed: Path, tmp_path: Path) -> None:
    for number in range(3):
        shutil.copy(packed / "shards" / "train-0.tar", tmp_path / f"{number}.tar")
    (tmp_path / "1.tar").write_bytes(b"no tar")
    values = tiny_values(workshop) | {"out": str(tmp_path / "run"), "images": {"source": str(tmp_path)}}
    with pytest.raises(
        ConfigError, match=r"1 of 3 tar files cannot be read to their end, .*The first: 1.tar: cannot be"
    ):
        run(Config.from_plain(values), until="collect")


def test_a_picture_of_a_listing_opens(packed: Path) -> None:
    listing = list_images(images(packed / "data", shuffle=False), 0)
    np.testing.assert_array_equal(np.asarray(open_picture(listing.read(7))), gradient(40, 32, 7))

"""Sources: folders, tars and Parquet files, here and in S3, give the same pictures."""

import json
import shutil
import tarfile
from itertools import pairwise
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from containers import COUNT, images, outcomes, png, write_parquet, write_tar
from distributed import LocalCluster
from made_pictures import gradient
from tiny_run import tiny_values

from atlas.config.model import Config
from atlas.errors import AtlasError, ConfigError
from atlas.pictures import parquet as parquet_rows
from atlas.pictures.decode import PictureError, open_picture
from atlas.pictures.files import File, LocalFiles
from atlas.pictures.listing import Listing
from atlas.pictures.sources import list_images
from atlas.rundir import remote
from atlas.store.collect import prefetch
from pipelines.pipeline import run


def told(listing: Listing) -> dict[bytes, str | None]:
    """The bytes of every picture and the name of its class."""
    labels = [None if label is None else listing.label_names[label] for label in listing.labels]
    return {listing.read(number): labels[number] for number in range(len(listing))}


EXPECTED = {png(number): ("cat", "dog", "owl")[number % 3] for number in range(COUNT)}
NUMBERED = {png(number): str(number % 3) for number in range(COUNT)}
PLACES = [("pictures", EXPECTED), ("shards", NUMBERED), ("data", EXPECTED)]
GLOBS = [("pictures/**/*.png", EXPECTED), ("shards/train-*.tar", NUMBERED), ("data/train-?.parquet", EXPECTED)]


@pytest.mark.parametrize(("place", "expected"), PLACES + GLOBS)
def test_each_kind_gives_every_picture_and_its_class(
    packed: Path, tmp_path: Path, place: str, expected: dict[bytes, str]
) -> None:
    listing = list_images(images(packed / place), 0)
    assert told(listing) == expected
    listing.save(tmp_path / "listing.parquet")
    again = Listing.load(tmp_path / "listing.parquet")
    assert list(again.keys) == list(listing.keys)
    assert again.digest == listing.digest
    assert Listing(again.table, source="elsewhere", digest="kept").digest == "kept"
    assert told(again) == expected


def test_keys_name_the_container_and_the_picture_in_it(packed: Path) -> None:
    tars = list_images(images(packed / "shards", shuffle=False), 0)
    assert list(tars.keys) == [f"train-{number // 6}.tar/{number:02d}.png" for number in range(COUNT)]
    rows = list_images(images(packed / "data", shuffle=False), 0)
    assert list(rows.keys) == [f"train-{number // 6}.parquet/{number % 6}" for number in range(COUNT)]
    assert rows.label_names == ("cat", "dog", "owl")
    one = list_images(images(packed / "shards" / "train-1.tar", shuffle=False), 0)
    assert list(one.keys) == [f"train-1.tar/{number:02d}.png" for number in range(6, 12)]


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


def test_parquet_columns_are_found_or_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table(
        {"thumb": pa.array([b"no"] * 3), "photo": pa.array([png(0), png(1), None]), "kind": pa.array(["b", None, "a"])}
    )
    pq.write_table(table, path)
    listing = list_images(images(path, label_column="kind", shuffle=False), 0)
    assert listing.read(1) == png(1)
    assert listing.label_names == ("a", "b")
    assert list(listing.labels) == [1, None, 0]
    with pytest.raises(PictureError, match="the row holds no bytes of a picture"):
        listing.read(2)
    assert list(list_images(images(path), 0).labels) == [None] * 3
    assert list_images(images(path, image_column="thumb"), 0).read(0) == b"no"
    with pytest.raises(ConfigError, match=r"images\.image_column: no column kind of bytes.*thumb \(binary\)"):
        list_images(images(path, image_column="kind"), 0)
    with pytest.raises(ConfigError, match=r"images\.label_column: no column photo of integers or strings"):
        list_images(images(path, label_column="photo"), 0)


@pytest.mark.parametrize(("place", "name"), [("shards", "1"), ("data", "dog")])
def test_classes_can_be_kept(packed: Path, place: str, name: str) -> None:
    listing = list_images(images(packed / place, classes=(name,)), 0)
    assert set(told(listing)) == {png(number) for number in range(COUNT) if number % 3 == 1}
    assert {listing.label_names[label] for label in listing.labels if label is not None} == {name}
    with pytest.raises(ConfigError, match="has no class wolf"):
        list_images(images(packed / place, classes=(name, "wolf")), 0)


def test_a_limit_is_a_fair_sample_and_containers_are_read_one_after_the_other(tmp_path: Path) -> None:
    for shard in range(8):
        write_tar(tmp_path / f"{shard}.tar", [(f"{number:02d}.png", b"x") for number in range(50)])
    kept = list(list_images(images(tmp_path, limit=100), 1).keys)
    assert len(set(kept)) == 100
    shards = [key.split("/")[0] for key in kept]
    assert len(set(shards)) == 8, "a sample of all, not the first of the shards"
    assert sum(one != other for one, other in pairwise(shards)) == 7, "each shard is opened once"
    assert shards != sorted(shards)
    for shard in set(shards):
        inside = [key for key in kept if key.startswith(f"{shard}/")]
        assert inside == sorted(inside)
    assert kept == list(list_images(images(tmp_path, limit=100), 1).keys)
    assert set(kept) != set(list_images(images(tmp_path, limit=100), 2).keys)
    assert list(list_images(images(tmp_path, limit=60, shuffle=False), 1).keys)[-1] == "1.tar/09.png"


def test_links_are_followed_once(tmp_path: Path, packed: Path) -> None:
    (tmp_path / "linked").symlink_to(packed / "pictures" / "cat")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "0.png").write_bytes(png(0))
    (tmp_path / "own" / "circle").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "own")
    keys = list(list_images(images(tmp_path, shuffle=False), 0).keys)
    assert keys == ["linked/00.png", "linked/03.png", "linked/06.png", "linked/09.png", "own/0.png"]


# Streams of rows


def test_rows_asked_for_a_little_out_of_order_come_from_one_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight threads over one group of 300 rows: it is read once, and little of it is kept."""
    pictures = [b"%03d" % row + bytes(20_000) for row in range(300)]
    write_parquet(tmp_path / "a.parquet", pictures, group=300)  # type: ignore[arg-type]
    monkeypatch.setattr(parquet_rows, "_BATCH", 200_000)
    begun = []
    begin = parquet_rows._Stream._begin
    monkeypatch.setattr(parquet_rows._Stream, "_begin", lambda self: (begun.append(1), begin(self)))
    rows = parquet_rows.ParquetRows(LocalFiles(str(tmp_path)), (File("a.parquet"),), None)
    found = list(prefetch(lambda row: rows.read(0, 0, row), range(300), threads=8, ahead=32))
    assert found == pictures
    assert len(begun) == 1
    (stream,) = rows._streams.values()
    assert len(stream._rows) < 150
    assert rows.read(0, 0, 0) == pictures[0]  # far behind: read anew
    assert len(begun) == 2


# Remote


@pytest.fixture(scope="module")
def s3(s3_server: str, packed: Path) -> str:
    """The address of an S3 server whose bucket ``pictures`` holds the folder of every kind."""
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    client.create_bucket(Bucket="pictures")
    for path in sorted(packed.rglob("*.*")):
        client.upload_file(str(path), "pictures", f"deep/{path.relative_to(packed).as_posix()}", {"ACL": "public-read"})
    return s3_server


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
    assert told(Listing.load(tmp_path / "listing.parquet")) == expected
    assert listing.threads > here.threads


def test_files_of_a_web_server_are_named_one_by_one(s3: str, packed: Path) -> None:
    tar = f"{s3}/pictures/deep/shards/train-0.tar"
    listing = list_images(images([tar, tar.replace("-0", "-1")]), 0)
    assert told(listing) == NUMBERED
    assert set(listing.keys) == {f"train-{number // 6}.tar/{number:02d}.png" for number in range(COUNT)}
    with pytest.raises(ConfigError, match="A web server has no folders: give the files themselves"):
        list_images(images(f"{s3}/pictures/deep"), 0)


def test_faults_of_remote_files(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is gone is a failure; a server that is gone stops the work so that it can be resumed."""
    options = {"endpoint_url": s3}
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    for name in ("gone", "grown", "good"):
        client.put_object(Bucket="pictures", Key=f"faults/{name}.png", Body=png(1))
    listing = list_images(images("s3://pictures/faults", storage_options=options), 0)
    client.delete_object(Bucket="pictures", Key="faults/gone.png")
    client.put_object(Bucket="pictures", Key="faults/grown.png", Body=png(1) + b"more")
    found = outcomes(listing)
    assert found["good.png"] == ""
    assert found["gone.png"] == "the file is gone"
    assert found["grown.png"].startswith("has changed since it was listed")
    with pytest.raises(ConfigError, match="there is nothing at s3://pictures/nowhere"):
        list_images(images("s3://pictures/nowhere", storage_options=options), 0)
    with pytest.raises(ConfigError, match=r"s3://nobody/x cannot be listed|there is nothing at s3://nobody/x"):
        list_images(images("s3://nobody/x", storage_options=options), 0)
    tries = []
    monkeypatch.setattr(remote, "_RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(listing._files._files, "cat_file", lambda *_, **__: tries.append(1) or 1 / 0)  # type: ignore
    with pytest.raises(AtlasError, match=r"cannot be read .*Give the same command again when it can be reached"):
        listing.read(0)
    assert len(tries) == 3


def test_a_missing_package_and_an_unknown_address_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str, **_options: object) -> None:
        raise ImportError(f"Install gcsfs to access {url}")

    with pytest.raises(ConfigError, match=r"nothing:// is not known\. Expected a path, or an address such as s3://"):
        list_images(images("nothing://bucket"), 0)
    monkeypatch.setattr(remote, "url_to_fs", missing)
    with pytest.raises(ConfigError, match=r'gs:// needs a package that is not here\. Give: pip install ".*\[gcs\]"'):
        list_images(images("gs://bucket/pictures"), 0)


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

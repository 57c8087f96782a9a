"""Files of pictures, here and at an address."""

from pathlib import Path

import boto3
import pytest
from containers import COUNT, NUMBERED, classes_by_bytes, images, outcomes, png

from atlas.errors import AtlasError, ConfigError
from atlas.pictures.sources import list_images
from atlas.rundir import remote


def test_links_are_followed_once(tmp_path: Path, packed: Path) -> None:
    (tmp_path / "linked").symlink_to(packed / "pictures" / "cat")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "0.png").write_bytes(png(0))
    (tmp_path / "own" / "circle").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "own")
    keys = list(list_images(images(tmp_path, shuffle=False), 0).keys)
    assert keys == ["linked/00.png", "linked/03.png", "linked/06.png", "linked/09.png", "own/0.png"]


def test_files_of_a_web_server_are_named_one_by_one(s3: str, packed: Path) -> None:
    tar = f"{s3}/pictures/deep/shards/train-0.tar"
    listing = list_images(images([tar, tar.replace("-0", "-1")]), 0)
    assert classes_by_bytes(listing) == NUMBERED
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
    errors = outcomes(listing)
    assert errors["good.png"] == ""
    assert errors["gone.png"] == "the file is gone"
    assert errors["grown.png"].startswith("has changed since it was listed")
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

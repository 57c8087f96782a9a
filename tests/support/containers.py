"""Pictures in folders, tars and Parquet files, as the tests of sources read them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_pictures import gradient
from PIL import Image

from atlas.config.model import Config
from atlas.config.sections import ImagesConfig
from atlas.pictures.listing import Listing
from atlas.pictures.views import Failure, View, crop_views

COUNT = 12


def images(source: object, **settings: object) -> ImagesConfig:
    sources = [str(path) for path in source] if isinstance(source, list) else str(source)
    return ImagesConfig(source=sources, **settings)  # type: ignore[arg-type]


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(gradient(40, 32, seed)).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_parquet(path: Path, pictures: list[bytes | None], *, group: int = 4, **columns: Any) -> None:
    structs = [{"bytes": data, "path": None} for data in pictures]
    table = pa.table({"image": pa.array(structs, pa.struct({"bytes": pa.binary(), "path": pa.string()})), **columns})
    features = {"image": {"_type": "Image"}}
    if "label" in columns:
        features["label"] = {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]}  # type: ignore[dict-item]
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures three times: as files, in two tars, in two Parquet files. Picture i has class i % 3."""
    folder = tmp_path_factory.mktemp("store")
    for number in range(COUNT):
        path = folder / "pictures" / ("cat", "dog", "owl")[number % 3] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (folder / "shards").mkdir()
    (folder / "data").mkdir()
    for half in range(2):
        numbers = range(6 * half, 6 * half + 6)
        members = []
        for number in numbers:
            members += [(f"{number:02d}.png", png(number)), (f"{number:02d}.cls", b"%d" % (number % 3))]
        write_tar(folder / "shards" / f"train-{half}.tar", members)
        labels = pa.array([number % 3 for number in numbers])
        write_parquet(folder / "data" / f"train-{half}.parquet", [png(n) for n in numbers], label=labels)
    return folder


def outcomes(listing: Listing) -> dict[str, str]:
    """What cutting a view of each picture came to: its key → the reason, or an empty string."""
    config = Config.from_plain({"out": "x", "network": {"name": "n"}, "layers": ["l"], "images": {"source": "unused"}})

    def crop(number: int) -> list[View] | Failure:
        return crop_views(listing, number, [0], size=16, images=config.images, seed=config.seed)

    crops = [(listing.keys[number], crop(number)) for number in range(len(listing))]
    return {key: views.error if isinstance(views, Failure) else "" for key, views in crops}


# The class of each picture in the tars, by its bytes: a number.
NUMBERED = {png(number): str(number % 3) for number in range(COUNT)}


def classes_by_bytes(listing: Listing) -> dict[bytes, str | None]:
    """The bytes of every picture and the name of its class."""
    labels = [None if label is None else listing.label_names[label] for label in listing.labels]
    return {listing.read(number): labels[number] for number in range(len(listing))}


@pytest.fixture(scope="module")
def s3(s3_server: str, packed: Path) -> str:
    """The address of an S3 server whose bucket ``pictures`` holds the folder of every kind."""
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    client.create_bucket(Bucket="pictures")
    for path in sorted(packed.rglob("*.*")):
        client.upload_file(str(path), "pictures", f"deep/{path.relative_to(packed).as_posix()}", {"ACL": "public-read"})
    return s3_server

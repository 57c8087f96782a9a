"""Samples: one picture of each predicted class, the surest first."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from atlas.errors import AtlasError
from atlas.pictures.decode import open_picture
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.serve import samples
from atlas.serve.samples import find_samples


def best_rows(run: RunDirectory) -> list[dict]:
    """Of each predicted class the row that the network is surest of, the surest first."""
    best: dict[int, dict] = {}
    for row in pq.read_table(run.shards("residual")).to_pylist():
        if row["confidence"] > best.get(row["predicted"], {"confidence": -1})["confidence"]:
            best[row["predicted"]] = row
    return sorted(best.values(), key=lambda row: -row["confidence"])


def test_each_class_has_its_surest_picture(made_run: RunDirectory) -> None:
    expected, listing = best_rows(made_run), Listing.load(made_run.listing)
    pictures = find_samples(made_run.path)
    assert len(pictures) == len(expected) > 1
    assert [sample.title for sample in pictures] == [f"class {row['predicted']}" for row in expected]
    for sample, row in zip(pictures, expected):
        pixels = np.asarray(Image.open(io.BytesIO(sample.png)))
        np.testing.assert_array_equal(pixels, open_picture(listing.read(row["image_id"])))


def test_they_are_few_and_small(made_run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "COUNT", 1)
    monkeypatch.setattr(samples, "_SIDE", 24)
    (sample,) = find_samples(made_run.path)
    assert Image.open(io.BytesIO(sample.png)).size == (24, 20), "48 × 40 pixels before"
    assert sample.title == f"class {best_rows(made_run)[0]['predicted']}"


def test_what_cannot_be_read_is_passed_over(made_run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, read = best_rows(made_run), Listing.read
    gone = rows[0]["image_id"]
    monkeypatch.setattr(Listing, "read", lambda self, number: b"" if number == gone else read(self, number))
    assert [sample.title for sample in find_samples(made_run.path)] == [
        f"class {row['predicted']}" for row in rows if row["image_id"] != gone
    ]

    def unreachable(self: Listing, number: int) -> bytes:
        raise AtlasError("the source is out of reach")

    monkeypatch.setattr(Listing, "read", unreachable)
    assert find_samples(made_run.path) == []

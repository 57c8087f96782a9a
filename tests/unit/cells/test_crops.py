"""Patches and pictures of rows, cropped again from their sources."""

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_pictures import gradient

from atlas.cells.crops import LARGEST_VIEW, Cropper, frame, patch_box, whole_sprite
from atlas.pictures.decode import open_picture
from atlas.pictures.listing import Listing
from atlas.pictures.views import backdrop, crop_view
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import key_of, read_metadata

METADATA = {"map_size": [4, 5], "effective_receptive_field": 20, "input_size": 50}


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        # Position (1, 2) of 4 × 5 looks at (.5, .375) of the view; 20 of 50 pixels are a share of .4.
        (2, 1, (130, 17.5, 170, 57.5)),
        (0, 0, (100, 0, 140, 40)),  # moved inside at the left and the top
        (4, 3, (160, 60, 200, 100)),  # and at the right and the bottom
    ],
)
def test_a_patch_is_the_receptive_field_moved_inside_the_view(x: int, y: int, expected: tuple[float, ...]) -> None:
    assert patch_box((100, 0, 200, 100), x, y, METADATA) == pytest.approx(expected)


def test_a_field_larger_than_the_input_is_the_whole_view() -> None:
    box = (10.0, 20.0, 42.0, 52.0)
    assert patch_box(box, 3, 0, METADATA | {"effective_receptive_field": 90}) == pytest.approx(box)


def test_a_whole_picture_stands_in_the_middle_of_its_sprite() -> None:
    picture = np.full((10, 40, 3), (200, 100, 50), np.uint8)
    sprite = whole_sprite(picture, 80)
    assert sprite.shape == (80, 80, 4)
    assert (sprite[30:50] == (200, 100, 50, 255)).all()
    assert not sprite[:30].any()
    assert not sprite[50:].any()
    # Its lower right quarter, in shares of the sprite.
    assert frame(picture, (20, 5, 40, 10), 80) == [0.5, 0.5, 1.0, 0.625]
    assert frame(picture, (-4, 0, 40, 10), 80) == [-0.1, 0.375, 1.0, 0.625], "a patch may reach over the edges"


@pytest.fixture
def cropper(made_run: RunDirectory) -> Cropper:
    return Cropper(made_run, Listing.load(made_run.listing), "branches", seed=0)


def rows_of(run: RunDirectory) -> dict[Any, dict[str, Any]]:
    return {key_of(row): row for row in pq.read_table(run.shards("branches")).to_pylist()}


def test_each_picture_is_decoded_once_with_all_of_its_rows(cropper: Cropper, made_run: RunDirectory) -> None:
    rows = rows_of(made_run)
    keys = {(9, 2, 0), (0, 0, 0), (9, 0, 0), (99, 0, 0)}
    (first, of_first), (last, of_last) = cropper.pictures(keys)
    listing = Listing.load(made_run.listing)
    np.testing.assert_array_equal(first, open_picture(listing.read(0)))
    assert first is not None
    assert last is not None
    assert not np.array_equal(first, last)
    assert [row.key for row in of_first] == [(0, 0, 0)]
    assert [row.key for row in of_last] == [(9, 0, 0), (9, 2, 0)]
    row, stored = of_last[1], rows[9, 2, 0]
    assert row.box == tuple(stored["box"])
    assert (row.x, row.y) == (stored["x"], stored["y"])
    assert row.facts == {
        "label": stored["label"], "predicted": stored["predicted"], "confidence": round(stored["confidence"], 4)
    }  # fmt: skip


def test_the_patch_is_the_part_of_the_picture_in_its_box(cropper: Cropper, made_run: RunDirectory) -> None:
    ((picture, (row,)),) = cropper.pictures({(4, 1, 0)})
    assert picture is not None
    box = patch_box(row.box, row.x, row.y, read_metadata(made_run.shards("branches")[0]))
    assert cropper.box(row) == box
    np.testing.assert_array_equal(cropper.patch(picture, row, 24), crop_view(picture, box, 24, (0, 0, 0)))
    side = max(round(row.box[2] - row.box[0]), 32)  # at least what the network saw
    np.testing.assert_array_equal(cropper.view(picture, row), crop_view(picture, row.box, side, (0, 0, 0)))
    np.testing.assert_array_equal(cropper.whole(picture, row), picture)


def test_a_large_view_is_made_smaller(cropper: Cropper) -> None:
    ((_, (row,)),) = cropper.pictures({(4, 1, 0)})
    large = gradient(900, 900)
    view = cropper.view(large, type(row)(row.key, (0, 0, 900, 900), row.x, row.y, row.facts))
    assert view.shape == (LARGEST_VIEW, LARGEST_VIEW, 3)


def test_what_is_transparent_shows_the_ground_of_its_view(cropper: Cropper, made_run: RunDirectory) -> None:
    ((_, (row,)),) = cropper.pictures({(4, 1, 0)})
    clear = np.zeros((48, 48, 4), np.uint8)
    ground = backdrop(0, Listing.load(made_run.listing).keys[4], 1)
    assert (cropper.whole(clear, row) == ground).all()
    assert (cropper.patch(clear, row, 8) == ground).all()


def test_a_picture_that_is_gone_comes_as_none(
    cropper: Cropper, made_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listing, "read", lambda self, number: b"no picture")
    ((picture, rows),) = cropper.pictures({(4, 1, 0), (4, 3, 0)})
    assert picture is None
    assert len(rows) == 2

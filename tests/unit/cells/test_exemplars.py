"""Exemplars of a cell: their patches and pictures, in the order of the cell's table."""

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_run import GRIDS, maps_of_run

from atlas.cells.crops import Cropper
from atlas.cells.exemplars import Exemplar, exemplars_of
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import find_map
from atlas.store.shards import key_of


@pytest.fixture
def cell(made_run: RunDirectory) -> dict[str, Any]:
    """The cell of most rows of the coarse grid."""
    cells = pq.read_table(made_run.cells("branches"), filters=[("grid", "=", GRIDS[0])]).to_pylist()
    return max(cells, key=lambda one: one["count"])


def exemplars(run: RunDirectory, cell: dict[str, Any]) -> list[Exemplar]:
    atlas_map = find_map(maps_of_run(run), "branches")
    return exemplars_of(run, Listing.load(run.listing), atlas_map, cell, size=24, seed=0)


def test_they_come_in_the_order_of_the_table(made_run: RunDirectory, cell: dict[str, Any]) -> None:
    entries = cell["exemplars"] + cell["diverse_exemplars"]
    result = exemplars(made_run, cell)
    listing = Listing.load(made_run.listing)
    assert [one.image for one in result] == [listing.keys[entry["image_id"]] for entry in entries]
    assert [one.cosine for one in result] == [entry["cosine"] for entry in entries]
    assert [one.nearest for one in result] == [True, True, False]
    cropper = Cropper(made_run, listing, "branches", seed=0)
    for one, entry in zip(result, entries):
        ((picture, (row,)),) = cropper.pictures({key_of(entry)})
        assert picture is not None
        assert (one.label, one.predicted, one.confidence) == tuple(row.facts.values())
        assert one.box == cropper.box(row)
        np.testing.assert_array_equal(np.asarray(one.patch), cropper.patch(picture, row, 24))
        np.testing.assert_array_equal(np.asarray(one.picture), picture)


def test_one_whose_picture_is_gone_is_left_out(
    made_run: RunDirectory, cell: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, gone = Listing.read, cell["exemplars"][0]["image_id"]
    monkeypatch.setattr(Listing, "read", lambda self, number: b"" if number == gone else read(self, number))
    entries = cell["exemplars"][1:] + cell["diverse_exemplars"]
    assert [one.cosine for one in exemplars(made_run, cell)] == [entry["cosine"] for entry in entries]

"""errors.json and its sheet: the cells' figures, and the slices with their patches and pictures."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import maps_of_run
from PIL import Image

from atlas.cells.crops import Cropper
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import find_map
from atlas.site.errors import PATCHES, write_errors
from atlas.site.sheets import CELL_SPRITE
from atlas.slices.tables import ERRORS_SCHEMA, read_errors
from atlas.store.shards import key_of


@pytest.fixture
def sliced(labelled_copy: RunDirectory) -> RunDirectory:
    """The run with two slices in its grid of 4: the cells of most wrong rows, as if they stood out."""
    table = read_errors(labelled_copy, "branches")
    cells = table.to_pylist()
    of_grid = [number for number, cell in enumerate(cells) if cell["grid"] == 4]
    chosen_cells = sorted(of_grid, key=lambda number: -len(cells[number]["wrong"]))[:2]
    for score, number in enumerate(chosen_cells):
        cells[number] |= {"slice": True, "score": 5.0 + score, "q": 0.01}
    pq.write_table(pa.Table.from_pylist(cells, ERRORS_SCHEMA), labelled_copy.errors("branches"))
    return labelled_copy


def test_a_grid_has_its_cells_and_slices(sliced: RunDirectory) -> None:
    listing, atlas_map = Listing.load(sliced.listing), find_map(maps_of_run(sliced), "branches")
    files, failed = write_errors(sliced, listing, atlas_map, 4, seed=0)
    assert failed == 0
    assert [file.name for file in files] == ["errors.json", "errors.webp"]
    content = json.loads(files[0].read_text())
    table = read_errors(sliced, "branches", 4)
    for name in ("row", "col", "pictures"):
        assert content[name] == table[name].to_pylist()
    np.testing.assert_allclose(content["accuracy"], table["accuracy"].to_numpy(), atol=1e-4)
    np.testing.assert_allclose(content["expected"], table["expected"].to_numpy(), atol=1e-4)
    assert [value is None for value in content["q"]] == [value is None for value in table["q"].to_pylist()]
    assert sum(content["slice"]) == 2
    first, second = content["slices"]
    assert first["score"] > second["score"]
    cells = {(cell["row"], cell["col"]): cell for cell in table.to_pylist()}
    for one in (first, second):
        cell = cells[one["row"], one["col"]]
        assert [key_of(row) for row in one["wrong"]] == [key_of(row) for row in cell["wrong"]]
        assert [row["image"] for row in one["wrong"]] == [listing.keys[row["image_id"]] for row in cell["wrong"]]
        assert one["confusions"] == [[c["true_class"], c["predicted"], c["pictures"]] for c in cell["confusions"]]
    sprites = [row["sprite"] for row in first["wrong"] if "sprite" in row]
    assert sprites == list(range(min(PATCHES, len(first["wrong"]))))

    sheet = np.asarray(Image.open(files[1]).convert("RGB")).astype(int)
    assert sheet.shape == (2 * CELL_SPRITE, 2 * PATCHES * CELL_SPRITE, 3)
    cropper = Cropper(sliced, listing, "branches", seed=0)
    entry = second["wrong"][0]
    ((picture, (row,)),) = cropper.pictures({key_of(entry)})
    assert picture is not None
    patch = sheet[CELL_SPRITE:, :CELL_SPRITE]
    assert abs(patch - cropper.patch(picture, row, CELL_SPRITE)).mean() < 12


def test_a_grid_where_nothing_stands_out_has_no_slice(labelled_copy: RunDirectory) -> None:
    listing, atlas_map = Listing.load(labelled_copy.listing), find_map(maps_of_run(labelled_copy), "branches")
    files, _ = write_errors(labelled_copy, listing, atlas_map, 2, seed=0)
    content = json.loads(files[0].read_text())
    assert content["slices"] == []
    assert not any(content["slice"])
    assert all(file.is_file() for file in files)


def test_patches_of_lost_pictures_are_left_out_and_counted(sliced: RunDirectory) -> None:
    listing, atlas_map = Listing.load(sliced.listing), find_map(maps_of_run(sliced), "branches")
    gone = Listing(listing.table, source="/nowhere", label_names=listing.label_names)
    files, failed = write_errors(sliced, gone, atlas_map, 4, seed=0)
    content = json.loads(files[0].read_text())
    assert failed == len({key_of(row) for one in content["slices"] for row in one["wrong"][:PATCHES]})
    assert not any("sprite" in row for one in content["slices"] for row in one["wrong"])

"""Sheets of sprites and the pyramid of nearest patches: which cells stand where."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_run import GRIDS, maps_of_run
from PIL import Image

from atlas.cells.crops import Cropper
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import find_map, maps_of
from atlas.site import sheets
from atlas.site.page import tile_format
from atlas.site.sheets import CELL_SPRITE, write_nearest, write_sheets
from atlas.store.shards import key_of

GRID = GRIDS[1]


def test_sheets_hold_the_drawn_cells_in_parts_near_each_other(
    made_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    branches = find_map(maps_of_run(made_run), "branches")
    assert sheets.sheets(made_run, branches, GRID, 2) == [[(0, 0)]], "4 × 4 cells are one sheet"
    assert sheets.sheets(made_run, branches, GRID, 1000) == []
    monkeypatch.setattr(sheets, "BLOCK", 2)
    monkeypatch.setattr(sheets, "SHEETS", 3)
    assert sheets.sheets(made_run, branches, GRID, 1) == [[(0, 0), (0, 1), (1, 0)], [(1, 1)]]


def test_a_sheet_has_a_line_for_each_cell(made_copy: RunDirectory) -> None:
    config, listing = made_copy.config(), Listing.load(made_copy.listing)
    branches = find_map(maps_of(config.layers, config.layout, config.cells), "branches")
    files, failed = write_sheets(
        made_copy, listing, branches, GRID, [(0, 0)], layers=config.layers, settings=config.cells, seed=0
    )
    assert failed == 0
    assert [path.name for path in files] == ["0-0.webp", "0-0.json"]
    facts = json.loads(files[1].read_text())
    assert (facts["sprite"], facts["columns"]) == (CELL_SPRITE, 3)
    table = pq.read_table(made_copy.cells("branches"), filters=[("grid", "=", GRID), ("count", ">=", 2)]).to_pylist()
    assert [(cell["row"], cell["col"]) for cell in facts["cells"]] == [(cell["row"], cell["col"]) for cell in table]
    sheet = np.asarray(Image.open(files[0]).convert("RGBA")).astype(int)
    assert sheet.shape == (CELL_SPRITE * len(table), CELL_SPRITE * 6, 4)
    cropper = Cropper(made_copy, listing, "branches", seed=0)
    for line, (cell_on_page, cell) in enumerate(zip(facts["cells"], table)):
        entries = cell["exemplars"] + cell["diverse_exemplars"]
        assert [one["cosine"] for one in cell_on_page["exemplars"]] == [round(entry["cosine"], 4) for entry in entries]
        assert [one["nearest"] for one in cell_on_page["exemplars"]] == [
            entry in cell["exemplars"] for entry in entries
        ]
        ((picture, (row,)),) = cropper.pictures({key_of(entries[0])})
        assert picture is not None
        sprite = sheet[line * CELL_SPRITE : (line + 1) * CELL_SPRITE, :CELL_SPRITE, :3]
        assert np.abs(sprite - cropper.patch(picture, row, CELL_SPRITE)).mean() < 8
        assert cell_on_page["exemplars"][0]["image"] == listing.keys[entries[0]["image_id"]]


def test_what_cannot_be_read_is_counted_and_left_out(made_copy: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listing, "read", lambda self, number: b"no picture")
    config, listing = made_copy.config(), Listing.load(made_copy.listing)
    branches = find_map(maps_of(config.layers, config.layout, config.cells), "branches")
    table = pq.read_table(made_copy.cells("branches"), filters=[("grid", "=", GRID), ("count", ">=", 2)]).to_pylist()
    files, failed = write_sheets(
        made_copy, listing, branches, GRID, [(0, 0)], layers=config.layers, settings=config.cells, seed=0
    )
    keys = {key_of(entry) for cell in table for entry in cell["exemplars"] + cell["diverse_exemplars"]}
    assert failed == len(keys)
    assert all(cell["exemplars"] == [] for cell in json.loads(files[1].read_text())["cells"])
    _, failed = write_nearest(made_copy, listing, branches, GRID, form=tile_format(16), min_count=2, seed=0)
    assert failed == len({key_of(cell["exemplars"][0]) for cell in table})


def test_a_cell_shows_its_nearest_patch(made_copy: RunDirectory) -> None:
    listing = Listing.load(made_copy.listing)
    branches = find_map(maps_of_run(made_copy), "branches")
    pyramid, failed = write_nearest(made_copy, listing, branches, GRID, form=tile_format(16), min_count=2, seed=0)
    assert failed == 0
    assert pyramid == made_copy.site_grid("branches", GRID) / "patches.dzi"
    finest = max(pyramid.with_name("patches_files").iterdir(), key=lambda folder: int(folder.name))
    pixels = np.asarray(Image.open(finest / "0_0.webp").convert("RGB")).astype(int)
    cropper = Cropper(made_copy, listing, "branches", seed=0)
    for cell in pq.read_table(
        made_copy.cells("branches"), filters=[("grid", "=", GRID), ("count", ">=", 2)]
    ).to_pylist():
        ((picture, (row,)),) = cropper.pictures({key_of(cell["exemplars"][0])})
        assert picture is not None
        top, left = 16 * cell["row"], 16 * cell["col"]
        assert np.abs(pixels[top : top + 16, left : left + 16] - cropper.patch(picture, row, 16)).mean() < 16

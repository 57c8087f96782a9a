"""The icons of a grid: their table, the cells that are drawn, and the mosaic."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from made_run import GRIDS, icon_pixels

from atlas.cells.icons import GROUND, ICONS_SCHEMA, drawn_cells, icon_table, mosaic, read_icons
from atlas.layout.lattice import morton
from atlas.pictures.decode import decode_png
from atlas.rundir.directory import RunDirectory
from atlas.visualize import Icons, Scores


def test_the_table_has_pictures_and_scores_of_each_cell() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    scores = Scores(
        *(np.array([value, value + 0.25], np.float32) for value in (0.5, 0.25, 0.125, 50)),
        rank=np.array([3, 1], np.int32), norm=np.ones(2, np.float32), flag=[None, "low"],
    )  # fmt: skip
    icons = Icons(pixels, np.array([92, 160], np.int32), np.array([7, 2**40]))
    table = icon_table(4, np.array([1, 2]), np.array([0, 3]), icons, scores)
    assert table.schema == ICONS_SCHEMA
    first, second = table.to_pylist()
    np.testing.assert_array_equal(decode_png(first.pop("png")), pixels[0])
    np.testing.assert_array_equal(decode_png(second.pop("png")), pixels[1])
    assert first == {
        "grid": 4, "row": 1, "col": 0, "size": 16, "seed": 7, "steps": 92, "cosine": 0.5, "cosine_whitened": 0.25,
        "cosine_robust": 0.125, "percentile": 50, "rank": 3, "flag": None,
    }  # fmt: skip
    assert (second["seed"], second["percentile"], second["flag"]) == (2**40, 50.25, "low")


def test_the_drawn_cells_are_those_of_enough_rows_in_z_order(made_run: RunDirectory) -> None:
    table = pq.read_table(made_run.cells("branches"), filters=[("grid", "=", 4)])
    for least in (1, 2, 4):
        level = drawn_cells(made_run.cells("branches"), 4, least, "count", "mean")
        expected = {(cell["row"], cell["col"]) for cell in table.to_pylist() if cell["count"] >= least}
        assert set(zip(level["row"].tolist(), level["col"].tolist())) == expected
        assert level["count"].min() >= least
        assert level["mean"].shape == (len(expected), 16)
        assert (np.diff(morton(level["row"], level["col"])) > 0).all()
    assert len(drawn_cells(made_run.cells("branches"), 4, 1000)["row"]) == 0


def test_all_parts_of_a_grid_are_read_as_one(made_copy: RunDirectory) -> None:
    whole = read_icons(made_copy, "branches", 4)
    part = made_copy.icons("branches", 4) / "part-00000.parquet"
    pq.write_table(whole.slice(0, 3), part)
    pq.write_table(whole.slice(3), part.with_name("part-00001.parquet"))
    assert read_icons(made_copy, "branches", 4).equals(whole)
    assert read_icons(made_copy, "branches", 4, ["row", "rank"]).column_names == ["row", "rank"]
    assert read_icons(made_copy, "branches", 8).num_rows == 0


def test_the_mosaic_is_cropped_to_what_is_drawn(made_copy: RunDirectory, tmp_path: Path) -> None:
    part = made_copy.icons("branches", GRIDS[1]) / "part-00000.parquet"
    icons = pq.read_table(part)
    numbers = [n for n, cell in enumerate(icons.to_pylist()) if (cell["row"], cell["col"]) in ((1, 1), (2, 3))]
    pq.write_table(icons.take(numbers), part)
    picture = mosaic(made_copy, "branches", GRIDS[1])
    assert picture is not None
    pixels = np.asarray(picture)
    assert pixels.shape == (32, 48, 3), "two rows of three cells, 16 pixels each"
    np.testing.assert_array_equal(pixels[:16, :16], icon_pixels(1, 1))
    np.testing.assert_array_equal(pixels[16:, 32:], icon_pixels(2, 3))
    assert (pixels[:16, 16:] == GROUND).all()
    assert mosaic(made_copy, "branches", 8) is None

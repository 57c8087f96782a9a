"""The small pictures of the tour: written once, tidied, and those made from a grid's icons."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from made_pictures import gradient
from made_run import GRIDS, icon_pixels
from PIL import Image

from atlas.pictures.decode import decode_png, encode_png
from atlas.rundir.directory import RunDirectory
from atlas.site.tour.pictures import TourPictures, grid_picture, icon_at, varied_icons


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGBA")).astype(int)


def test_pictures_have_their_size_and_their_address(tmp_path: Path) -> None:
    pictures, blue = TourPictures(tmp_path), np.full((30, 30, 3), (10, 20, 200), np.uint8)
    assert pictures.sprite("small", blue) == "tour/small.webp"
    assert pictures.large("large", encode_png(blue)) == "tour/large.webp"
    assert pictures.whole("whole", gradient(50, 20)) == "tour/whole.webp"
    assert [path.name for path in pictures.files] == ["small.webp", "large.webp", "whole.webp"]
    shapes = [pixels_of(tmp_path / "tour" / f"{name}.webp").shape for name in ("small", "large", "whole")]
    assert shapes == [(96, 96, 4), (256, 256, 4), (20, 50, 4)]
    assert np.abs(pixels_of(tmp_path / "tour" / "small.webp")[40, 40] - (10, 20, 200, 255)).max() < 8
    before = (tmp_path / "tour" / "small.webp").read_bytes()
    assert pictures.sprite("small", 255 - blue) == "tour/small.webp"
    assert (tmp_path / "tour" / "small.webp").read_bytes() == before, "one name is one picture"
    assert len(pictures.files) == 3


def test_what_an_earlier_tour_left_goes(tmp_path: Path) -> None:
    (tmp_path / "tour").mkdir()
    for name in ("old.webp", "notes.txt"):
        (tmp_path / "tour" / name).touch()
    pictures = TourPictures(tmp_path)
    pictures.whole("new", gradient(8, 8))
    pictures.tidy()
    assert {path.name for path in (tmp_path / "tour").iterdir()} == {"new.webp", "notes.txt"}


def choose(run: RunDirectory, *cells: tuple[int, int]) -> pa.Table:
    """Leave only these icons in the fine grid."""
    part = run.icons("branches", GRIDS[1]) / "part-00000.parquet"
    icons = pq.read_table(part)
    numbers = [number for number, icon in enumerate(icons.to_pylist()) if (icon["row"], icon["col"]) in cells]
    pq.write_table(icons.take(numbers), part)
    return icons.take(numbers)


def test_a_grid_is_cropped_to_its_icons_and_clear_between(made_copy: RunDirectory) -> None:
    choose(made_copy, (1, 1), (2, 3))
    picture = grid_picture(made_copy, "branches", GRIDS[1])
    assert picture is not None
    assert picture.shape == (480, 720, 4), "three cells across the longer side of 720"
    assert (picture[:240, :240] == (*icon_pixels(1, 1)[0, 0], 255)).all()
    assert (picture[240:, 480:] == (*icon_pixels(2, 3)[0, 0], 255)).all()
    assert not picture[:240, 240:].any()
    assert grid_picture(made_copy, "branches", 8) is None


def test_varied_icons_are_the_best_of_each_part_of_the_map(made_copy: RunDirectory) -> None:
    """The made cosines fall in Z-order: the best of a part is its first."""
    icons = choose(made_copy, (0, 0), (0, 1), (2, 2), (3, 3))
    assert len(icons) == 4
    best = varied_icons(made_copy, "branches", GRIDS[1], 2)
    assert [tuple(decode_png(png)[0, 0]) for png in best] == [
        tuple(icon_pixels(*cell)[0, 0]) for cell in ((0, 0), (2, 2))
    ]
    assert len(varied_icons(made_copy, "branches", GRIDS[1], 9)) == 4, "no more than there are"
    assert varied_icons(made_copy, "branches", 8, 3) == []


def test_the_icon_of_one_cell(made_copy: RunDirectory) -> None:
    choose(made_copy, (1, 1))
    np.testing.assert_array_equal(icon_at(made_copy, "branches", GRIDS[1], 1, 1), icon_pixels(1, 1))
    assert icon_at(made_copy, "branches", GRIDS[1], 1, 2) is None

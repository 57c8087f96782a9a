"""The pyramids: what the tiles show at each level, and what is empty."""

import hashlib
import threading
import tracemalloc
import xml.etree.ElementTree as ElementTree
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atlas.arrays import Pixels
from atlas.site.tiles import (
    Icons,
    TileFormat,
    encode_webp,
    halve,
    level_sides,
    write_combined_pyramid,
    write_grid_pyramid,
)

NAMESPACE = "{http://schemas.microsoft.com/deepzoom/2008}"
SMALL = TileFormat(icon_size=8, tile_size=64)


def colour(grid: int, row: int, col: int) -> tuple[int, int, int]:
    """A colour of its own for every cell, far enough from its neighbours' to survive WebP."""
    return (40 + 200 * row // grid, 40 + 200 * col // grid, {4: 40, 8: 120, 10: 40, 16: 220, 20: 130, 40: 230}[grid])


def plain_icons(grid: int, size: int = 8, empty: frozenset[tuple[int, int]] = frozenset()) -> Icons:
    def icon(row: int, col: int) -> Pixels | None:
        if (row, col) in empty:
            return None
        return np.broadcast_to(np.array(colour(grid, row, col), np.uint8), (size, size, 3)).copy()

    return icon


def whole_level(dzi: Path, level: int, form: TileFormat = SMALL) -> Pixels:
    """One level put together again from its tiles: uint8 (side, side, 4)."""
    descriptor = ElementTree.fromstring(dzi.read_text())
    size = descriptor.find(f"{NAMESPACE}Size")
    assert size is not None
    side = level_sides(int(size.get("Width", 0)))[level]
    picture = np.zeros((side, side, 4), np.uint8)
    for row in range(-(-side // form.tile_size)):
        for col in range(-(-side // form.tile_size)):
            with Image.open(dzi.with_name(f"{dzi.stem}_files") / str(level) / f"{col}_{row}.webp") as tile:
                pixels = np.asarray(tile.convert("RGBA"))
            y, x = row * form.tile_size, col * form.tile_size
            expected = (min(form.tile_size, side - y), min(form.tile_size, side - x))
            assert pixels.shape[:2] == expected
            picture[y : y + expected[0], x : x + expected[1]] = pixels
    return picture


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def cell_colours(picture: Pixels, grid: int) -> np.ndarray:
    """The middle pixel of every cell: int (grid, grid, 4)."""
    step = picture.shape[0] // grid
    return picture[step // 2 :: step, step // 2 :: step].astype(int)


def test_descriptor_and_layout_are_standard(tmp_path: Path) -> None:
    summary = write_grid_pyramid(tmp_path / "icons.dzi", plain_icons(10, 80), grid=10)
    image = ElementTree.fromstring((tmp_path / "icons.dzi").read_text())
    size = image.find(f"{NAMESPACE}Size")
    assert image.tag == f"{NAMESPACE}Image"
    assert (image.get("Format"), image.get("Overlap"), image.get("TileSize")) == ("webp", "0", "640")
    assert size is not None
    assert (size.get("Width"), size.get("Height")) == ("800", "800")
    files = sorted(path.name for path in (tmp_path / "icons_files" / "10").iterdir())
    assert files == ["0_0.webp", "0_1.webp", "1_0.webp", "1_1.webp"]
    assert sorted(int(path.name) for path in (tmp_path / "icons_files").iterdir()) == list(range(11))
    assert (summary.side, summary.levels, summary.tiles) == (800, 11, 14)
    assert summary.bytes == sum(path.stat().st_size for path in (tmp_path / "icons_files").rglob("*.webp"))


def test_every_icon_stands_at_its_row_and_column(tmp_path: Path) -> None:
    write_grid_pyramid(tmp_path / "icons.dzi", plain_icons(16), grid=16, form=SMALL)
    colours = cell_colours(whole_level(tmp_path / "icons.dzi", 7), 16)
    icon_colours = np.array([[colour(16, row, col) for col in range(16)] for row in range(16)])
    assert np.abs(colours[..., :3] - icon_colours).max() <= 6
    assert (colours[..., 3] == 255).all()


def test_lower_levels_are_the_same_picture_made_smaller(tmp_path: Path) -> None:
    write_grid_pyramid(tmp_path / "icons.dzi", plain_icons(16), grid=16, form=SMALL)
    for level in (6, 5, 4):  # 64, 32 and 16 px: one pixel for each cell in the end
        colours = cell_colours(whole_level(tmp_path / "icons.dzi", level), 16)
        icon_colours = np.array([[colour(16, row, col) for col in range(16)] for row in range(16)])
        assert np.abs(colours[..., :3] - icon_colours).mean() <= 8
    mean = whole_level(tmp_path / "icons.dzi", 0)[0, 0, :3].astype(int)
    assert np.abs(mean - icon_colours.reshape(-1, 3).mean(0)).max() <= 6


def test_combined_pyramid_shows_each_grid_at_its_own_level(tmp_path: Path) -> None:
    grids = {grid: plain_icons(grid) for grid in (4, 8, 16)}
    summary = write_combined_pyramid(tmp_path / "atlas.dzi", grids, form=SMALL)
    assert (summary.side, summary.levels) == (128, 8)
    for level, grid in ((7, 16), (6, 8), (5, 4), (4, 4), (3, 4)):
        colours = cell_colours(whole_level(tmp_path / "atlas.dzi", level), grid)
        icon_colours = np.array([[colour(grid, row, col) for col in range(grid)] for row in range(grid)])
        assert np.abs(colours[..., :3] - icon_colours).mean() <= 8, f"level {level} does not show grid {grid}"


def test_levels_have_the_same_tiles_alone_and_combined(tmp_path: Path) -> None:
    """The viewer takes the patches of each level from its own grid's pyramid, under the same level number."""
    grids = {grid: plain_icons(grid, 80) for grid in (10, 20, 40)}
    write_combined_pyramid(tmp_path / "atlas.dzi", grids)
    combined = digests(tmp_path / "atlas_files")
    for grid, level in ((10, 10), (20, 11), (40, 12)):
        write_grid_pyramid(tmp_path / f"{grid}.dzi", grids[grid], grid=grid)
        alone = digests(tmp_path / f"{grid}_files" / str(level))
        assert alone == {name[3:]: value for name, value in combined.items() if name.startswith(f"{level}/")}


def test_cells_without_icon_are_transparent_also_below_a_drawn_parent(tmp_path: Path) -> None:
    empty = frozenset({(2, 3), (7, 7)})
    grids = {4: plain_icons(4), 8: plain_icons(8, empty=empty)}
    write_combined_pyramid(tmp_path / "atlas.dzi", grids, form=SMALL)
    fine = whole_level(tmp_path / "atlas.dzi", 6)
    alpha = fine[..., 3].reshape(8, 8, 8, 8).swapaxes(1, 2)
    for row in range(8):
        for col in range(8):
            assert (alpha[row, col] == (0 if (row, col) in empty else 255)).all()
    assert (whole_level(tmp_path / "atlas.dzi", 5)[..., 3] == 255).all()


def test_empty_tiles_are_written(tmp_path: Path) -> None:
    write_grid_pyramid(tmp_path / "icons.dzi", lambda row, col: None, grid=20)
    tiles = sorted(path.name for path in (tmp_path / "icons_files" / "11").iterdir())
    assert tiles == sorted(f"{col}_{row}.webp" for col in range(3) for row in range(3))
    with Image.open(tmp_path / "icons_files" / "11" / "2_0.webp") as tile:
        assert tile.size == (320, 640)
        assert np.asarray(tile.convert("RGBA"))[..., 3].max() == 0


def test_ground_does_not_darken_the_edges_of_icons() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, :1] = (200, 100, 50, 255)
    half = halve(pixels)
    assert half.shape == (2, 2, 4)
    assert half[0, 0].tolist() == [200, 100, 50, 128]
    assert half[0, 1].tolist() == [0, 0, 0, 0]


def test_odd_sides_keep_their_last_row_and_column() -> None:
    pixels = np.full((5, 3, 4), 255, np.uint8)
    pixels[4:, :, :3] = 10
    half = halve(pixels)
    assert half.shape == (3, 2, 4)
    assert (half[2, :, :3] == 10).all()
    assert (half[..., 3] == 255).all()


@pytest.mark.parametrize("clear", ["nowhere", "some pixels", "everywhere a little"])
def test_halves_are_exact_means_weighted_by_alpha(clear: str) -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (40, 60, 4), dtype=np.uint8)
    if clear != "everywhere a little":
        pixels[..., 3] = 255 if clear == "nowhere" else random.choice([0, 255], (40, 60))
    squares = pixels.reshape(20, 2, 30, 2, 4).swapaxes(1, 2).reshape(20, 30, 4, 4).astype(int)
    alpha = squares[..., 3:]
    total = alpha.sum(2)
    colours = ((squares[..., :3] * alpha).sum(2) + total // 2) // np.maximum(total, 1)
    assert (halve(pixels) == np.concatenate([colours, (total + 2) // 4], axis=2)).all()


def test_halving_in_tiles_equals_halving_at_once() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1302, 4), dtype=np.uint8)
    left, right = halve(pixels[:, :650]), halve(pixels[:, 650:])
    assert (halve(pixels) == np.concatenate([left, right], axis=1)).all()


def test_same_icons_give_the_same_bytes(tmp_path: Path) -> None:
    grids = {grid: plain_icons(grid, empty=frozenset({(1, 1)})) for grid in (4, 8)}
    for name in ("one", "two"):
        write_combined_pyramid(tmp_path / name / "atlas.dzi", grids, form=SMALL)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == 8


def test_an_existing_pyramid_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    write_grid_pyramid(tmp_path / "icons.dzi", plain_icons(16), grid=16, form=SMALL)
    write_grid_pyramid(tmp_path / "icons.dzi", plain_icons(4), grid=4, form=SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["icons.dzi", "icons_files"]
    assert sorted(int(path.name) for path in (tmp_path / "icons_files").iterdir()) == list(range(6))


def test_a_failure_leaves_the_old_pyramid(tmp_path: Path) -> None:
    write_grid_pyramid(tmp_path / "icons.dzi", plain_icons(4), grid=4, form=SMALL)
    before = digests(tmp_path)

    def broken(row: int, col: int) -> Pixels | None:
        if row == 3:
            raise OSError("the icons cannot be read")
        return np.zeros((8, 8, 3), np.uint8)

    with pytest.raises(OSError, match="cannot be read"):
        write_grid_pyramid(tmp_path / "icons.dzi", broken, grid=4, form=SMALL)
    assert digests(tmp_path) == before


def test_a_tile_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles are made beside the next band: also what fails in the last of them must not be lost."""

    def broken(pixels: Pixels, quality: int) -> bytes:
        if pixels.shape[0] == 1:
            raise OSError("no space left")
        return encode_webp(pixels, quality)

    monkeypatch.setattr("atlas.site.tiles.encode_webp", broken)
    with pytest.raises(OSError, match="no space left"):
        write_grid_pyramid(tmp_path / "icons.dzi", plain_icons(16), grid=16, form=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_bands_are_made_while_tiles_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The icons of a band are asked for while the tiles of the band before are still under way."""
    first_write, requests = threading.Event(), []
    plain = plain_icons(16)

    def slow(pixels: Pixels, quality: int) -> bytes:
        assert first_write.wait(10), "nothing was asked for meanwhile"
        return encode_webp(pixels, quality)

    def icon(row: int, col: int) -> Pixels | None:
        requests.append(row)
        if row == 15:  # of 8 rows a band: the last of the second
            first_write.set()
        return plain(row, col)

    monkeypatch.setattr("atlas.site.tiles.encode_webp", slow)
    write_grid_pyramid(tmp_path / "icons.dzi", icon, grid=16, form=SMALL)
    assert requests == [row for row in range(16) for _ in range(16)]


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"grids that double.*\[10, 30\]"):
        write_combined_pyramid(tmp_path / "atlas.dzi", {10: plain_icons(10), 30: plain_icons(10)})
    with pytest.raises(ValueError, match=r"cell \(0, 0\) is uint8 \(8, 8, 3\), not uint8 \(80, 80, 3\)"):
        write_grid_pyramid(tmp_path / "icons.dzi", plain_icons(10, 8), grid=10)
    with pytest.raises(ValueError, match=r"ends in \.dzi"):
        write_grid_pyramid(tmp_path / "icons", plain_icons(10), grid=10)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_bounded_by_bands(tmp_path: Path) -> None:
    """A grid of 80 has a picture of 164 MB; a band of its tiles is 16 MB, and so is not much more than a few bands."""
    icon = np.full((80, 80, 3), 90, np.uint8)
    tracemalloc.start()
    write_grid_pyramid(tmp_path / "icons.dzi", lambda row, col: icon, grid=80)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 90e6


def test_transparent_pixels_stay_exactly_transparent() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    pixels[..., 3] = np.where(np.arange(64) < 16, 0, 255)
    with Image.open(BytesIO(encode_webp(pixels))) as tile:
        assert (np.asarray(tile.convert("RGBA"))[..., 3] == pixels[..., 3]).all()

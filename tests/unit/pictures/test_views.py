"""The squares that are cut from a picture, and what is laid behind clear ones."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import CHECKOUT
from made_pictures import gradient
from PIL import Image

from atlas.pictures.decode import open_picture
from atlas.pictures.views import backdrop, crop_view, over_backdrop, view_box


def test_one_crop_is_the_centred_square() -> None:
    settings = {"crops": 1, "scale": (0.4, 1.0), "seed": 0, "key": "a", "view": 0}
    assert view_box((60, 48), **settings) == (6, 0, 54, 48)  # type: ignore[arg-type]
    assert view_box((48, 61), **settings) == (0, 6, 48, 54)  # type: ignore[arg-type]
    assert view_box((1000, 531), **settings) == (232, 0, 760, 528)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(60, 48), (48, 60), (500, 20), (7, 7), (1, 1), (1, 900), (900, 700)])
def test_random_boxes_are_squares_inside_the_picture_and_come_again(size: tuple[int, int]) -> None:
    shorter = min(size)
    boxes = [
        view_box(size, crops=40, scale=(0.4, 1.0), seed=seed, key=key, view=view)
        for seed in (0, 1)
        for key in ("a.png", "b.png")
        for view in range(40)
    ]
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= size[0]
        assert 0 <= y0 < y1 <= size[1]
        assert x1 - x0 == y1 - y0
        assert max(1, round(0.4 * shorter) - 7 * (shorter >= 512)) <= x1 - x0 <= shorter
        assert shorter < 512 or not any(edge % 8 for edge in (x0, y0, x1, y1))
    assert view_box(size, crops=40, scale=(0.4, 1.0), seed=1, key="b.png", view=39) == boxes[-1]
    if shorter > 20:
        assert len(set(boxes)) > 150
        sides = np.array([box[2] - box[0] for box in boxes]) / shorter
        assert sides.min() < 0.45
        assert sides.max() > 0.95


def test_a_view_shows_its_box() -> None:
    source = gradient(80, 60)
    view = crop_view(source, (20, 10, 52, 42), 32, (0, 0, 0))
    assert view.dtype == np.uint8
    np.testing.assert_array_equal(view, source[10:42, 20:52])
    half = crop_view(source, (0, 0, 60, 60), 30, (0, 0, 0)).astype(int)
    averaged = source[:60, :60].reshape(30, 2, 30, 2, 3).mean((1, 3))
    assert np.abs(half - averaged).mean() < 1.5


def test_large_pictures_are_cut_at_the_mean_of_their_pixels() -> None:
    """A view of a picture many times as large as it is nearly the one of the picture shrunk by a well-kept library."""
    whole = gradient(3000, 2400, 3)
    picture = np.dstack([whole, np.full(whole.shape[:2], 255, np.uint8)])
    expected = np.asarray(Image.fromarray(whole[:2400, 300:2700]).resize((64, 64), Image.Resampling.BICUBIC))
    for source in (whole, picture):
        view = crop_view(source, (300, 0, 2700, 2400), 64, (255, 0, 0))
        assert np.abs(view.astype(int) - expected).max() <= 3
    clear = np.zeros((1600, 1600, 4), np.uint8)
    clear[:, :800] = (200, 10, 10, 255)
    view = crop_view(clear, (0, 0, 1600, 1600), 32, (0, 0, 255))
    np.testing.assert_array_equal(view[:, :14], np.broadcast_to([200, 10, 10], (32, 14, 3)))
    np.testing.assert_array_equal(view[:, 18:], np.broadcast_to([0, 0, 255], (32, 14, 3)))


MEMORY = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from atlas.config.reading import validate
from atlas.pictures.sources import list_images
from atlas.pictures.views import crop_views

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

config = validate({"out": "x", "network": {"name": "x"}, "layers": ["x"], "images": {"source": sys.argv[1]}}, "x")
listing = list_images(config.images, 0)

def crop(image):
    return crop_views(listing, image, [0], size=224, images=config.images, seed=config.seed)

crop(next(i for i, key in enumerate(listing.keys) if "small" in key))
before = peak()
with ThreadPoolExecutor(4) as pool:
    cut = list(pool.map(crop, range(len(listing))))
assert all(views[0].pixels.shape == (224, 224, 3) for views in cut), cut
print(peak() - before)
"""


def test_memory_is_bounded_whatever_the_size_of_the_pictures(tmp_path: Path) -> None:
    """Four threads with pictures of 100 MB each: one is decoded at a time, and held twice at the most."""
    Image.fromarray(gradient(40, 40, 0)).save(tmp_path / "small.png")
    for number in range(4):
        Image.new("RGBA", (5000, 5000), (number, 20, 200, 128)).save(tmp_path / f"{number}.png")
    process = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) < 280


def test_the_backdrop_shows_where_the_picture_is_clear(pictures: Path) -> None:
    picture = open_picture(pictures / "transparent.png")
    assert picture.shape == (64, 64, 4)
    view = crop_view(picture, (0, 0, 64, 64), 64, (10, 200, 30))
    assert view.shape == (64, 64, 3)
    np.testing.assert_array_equal(view[:, 32:], np.broadcast_to([10, 200, 30], (64, 32, 3)))
    np.testing.assert_array_equal(view[:, :32], gradient(64, 64, 13)[:, :32])
    np.testing.assert_array_equal(over_backdrop(picture, (10, 200, 30)), view)
    np.testing.assert_array_equal(over_backdrop(picture[..., :3], (10, 200, 30)), picture[..., :3])
    palette = crop_view(open_picture(pictures / "transparent_palette.png"), (0, 0, 40, 40), 40, (9, 8, 7))
    np.testing.assert_array_equal(palette[:, 20:], np.broadcast_to([9, 8, 7], (40, 20, 3)))
    np.testing.assert_array_equal(palette[:, :20], np.broadcast_to([0, 0, 255], (40, 20, 3)))


def test_a_scaled_clear_picture_gets_no_dark_fringe(pictures: Path) -> None:
    """Hidden colours under clear pixels must not bleed in: the pixels stay between the two sides."""
    clear = np.zeros((64, 64, 4), np.uint8)
    clear[:, :32] = (255, 255, 255, 255)  # white, and black beneath the clear half
    view = crop_view(clear, (0, 0, 64, 64), 20, (255, 255, 255))
    assert view.min() >= 252


def test_backdrops_come_again_and_differ_by_view() -> None:
    colours = [backdrop(0, "a.png", view) for view in range(200)]
    assert colours == [backdrop(0, "a.png", view) for view in range(200)]
    assert len(set(colours)) > 190
    assert all(0 <= value <= 255 for colour in colours for value in colour)
    assert np.array(colours).max(1).min() >= round(0.3 * 255) - 1  # never black


def test_views_of_transparent_pictures_show_the_picture() -> None:
    """A disc in the middle of nothing: nearly all views show mostly the disc, wherever it lies."""
    y, x = np.mgrid[0:200, 0:300]
    alpha = np.where((x - 210) ** 2 + (y - 90) ** 2 < 70**2, 255, 0).astype(np.uint8)
    settings = {"crops": 50, "scale": (0.3, 0.5), "seed": 3, "key": "disc.png"}

    def covers(mask: np.ndarray | None) -> np.ndarray:
        boxes = [view_box((300, 200), view=view, alpha=mask, **settings) for view in range(50)]  # type: ignore[arg-type]
        return np.array([alpha[int(y0) : int(y1), int(x0) : int(x1)].mean() / 255 for x0, y0, x1, y1 in boxes])

    assert covers(alpha).mean() > covers(None).mean() + 0.25
    assert (covers(alpha) > 0.5).mean() > 0.9
    np.testing.assert_array_equal(covers(alpha), covers(alpha))
    whole = np.full((200, 300), 255, np.uint8)
    plain = [view_box((300, 200), view=view, **settings) for view in range(9)]  # type: ignore[arg-type]
    assert [view_box((300, 200), view=view, alpha=whole, **settings) for view in range(9)] == plain  # type: ignore[arg-type]

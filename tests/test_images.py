"""Pictures: their listing, how they decode, how views are cut, and cut again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import gradient
from PIL import Image

from atlas.config import ImagesConfig
from atlas.errors import ConfigError
from atlas.images import PictureError, open_picture, unit_hash
from atlas.sources import Listing, list_images
from atlas.views import backdrop, cut_view, view_box


def images(source: Path, **settings: object) -> ImagesConfig:
    return ImagesConfig(source=str(source), **settings)  # type: ignore[arg-type]


def test_a_folder_is_listed_whole_with_its_classes(pictures: Path) -> None:
    listing = list_images(images(pictures, shuffle=False), 0)
    found = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*") if path.is_file())
    assert list(listing.keys) == found
    assert listing.label_names == ("broken", "cats", "dogs")
    labels = dict(zip(listing.keys, listing.labels))
    assert labels["cats/0.png"] == 1
    assert labels["dogs/photo.TIFF"] == 2
    assert labels["deep.png"] is None
    assert listing.source == str(pictures.absolute())


def test_hidden_files_other_files_and_folders_are_no_pictures(tmp_path: Path) -> None:
    for name in (".hidden.png", "notes.txt", "real.JPG"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert list_images(images(tmp_path), 0).keys == ("real.JPG",)


def test_shuffling_goes_by_seed(pictures: Path) -> None:
    plain = list_images(images(pictures, shuffle=False), 0)
    orders = [list_images(images(pictures), seed).keys for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert len({orders[0], orders[2], plain.keys}) == 3
    assert sorted(orders[0]) == sorted(orders[2]) == list(plain.keys)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_limit_takes_the_beginning_and_leaves_the_labels(pictures: Path, shuffle: bool) -> None:
    whole = list_images(images(pictures, shuffle=shuffle), 3)
    for limit in (1, 4, 9):
        part = list_images(images(pictures, shuffle=shuffle, limit=limit), 3)
        assert part.keys == whole.keys[:limit]
        assert part.labels == whole.labels[:limit]
        assert part.label_names == whole.label_names


def test_classes_can_be_chosen(pictures: Path) -> None:
    listing = list_images(images(pictures, classes=("dogs",)), 0)
    assert len(listing) == 6
    assert {key.split("/")[0] for key in listing.keys} == {"dogs"}
    assert listing.label_names == ("dogs",)
    with pytest.raises(
        ConfigError, match=r"images.classes: .* has no folder wolves\. It has: \., broken, cats, dogs\."
    ):
        list_images(images(pictures, classes=("dogs", "wolves")), 0)


def test_a_missing_and_an_empty_folder_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        list_images(images(tmp_path / "nowhere"), 0)
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "--set images.source=FOLDER" in str(caught.value)
    with pytest.raises(ConfigError, match=r"holds no picture\. Expected files ending in \.bmp, \.gif, \.jpeg"):
        list_images(images(tmp_path), 0)


def test_names_that_are_not_utf8_are_explained(tmp_path: Path) -> None:
    try:
        (tmp_path / b"caf\xe9.png".decode("utf-8", "surrogateescape")).touch()
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    with pytest.raises(ConfigError, match=r"names of 1 pictures are not UTF-8, such as .*caf.*\.png"):
        list_images(images(tmp_path), 0)


def test_a_listing_is_kept_and_its_digest_sees_every_change(pictures: Path, tmp_path: Path) -> None:
    listing = list_images(images(pictures), 0)
    listing.save(tmp_path / "listing.parquet")
    again = Listing.load(tmp_path / "listing.parquet")
    assert again == listing
    assert again.digest == listing.digest
    changed = [
        replace(listing, keys=listing.keys[::-1]),
        replace(listing, labels=(None, *listing.labels[1:])) if listing.labels[0] is not None else listing,
        replace(listing, label_names=("a", "b", "c")),
        replace(listing, keys=listing.keys[:-1], labels=listing.labels[:-1]),
    ]
    assert listing.digest not in {other.digest for other in changed if other is not listing}
    assert replace(listing, source="/elsewhere").digest == listing.digest  # a moved folder is the same pictures


def test_unit_hash_is_the_same_everywhere_and_even() -> None:
    assert unit_hash(0, "a.png", 1, 2) == unit_hash(0, "a.png", 1, 2)
    assert unit_hash(0, "a.png", 1, 2) == pytest.approx((0.8708567747235381, 0.250537312116181), abs=1e-15)
    assert len({unit_hash(*parts) for parts in ((0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a1"))}) == 5
    values = np.array([unit_hash(0, f"{number}.png") for number in range(4000)])
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram2d(values[:, 0], values[:, 1], bins=4, range=[[0, 1], [0, 1]])[0]
    assert ((counts - 250) ** 2 / 250).sum() < 37.7  # chi-squared, 15 degrees of freedom, 0.1 %


@pytest.mark.parametrize("name", ["cats/3.png", "dogs/photo.webp", "dogs/photo.bmp", "dogs/photo.TIFF"])
def test_lossless_formats_decode_to_their_pixels(pictures: Path, name: str) -> None:
    sizes = {"cats/3.png": (87, 48, 3), "dogs/photo.webp": (50, 40, 8), "dogs/photo.bmp": (50, 40, 9)}
    width, height, seed = sizes.get(name, (50, 40, 10))
    picture = open_picture(pictures / name)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), gradient(width, height, seed))


def test_other_formats_decode_near_their_pixels(pictures: Path) -> None:
    photo = np.asarray(open_picture(pictures / "dogs" / "photo.jpg")).astype(int)
    assert np.abs(photo - gradient(50, 70, 7)).mean() < 3
    palette = np.asarray(open_picture(pictures / "dogs" / "palette.gif")).astype(int)
    assert np.abs(palette - gradient(50, 40, 11)).mean() < 20
    grey = np.asarray(open_picture(pictures / "dogs" / "grey.png"))
    np.testing.assert_array_equal(grey, np.repeat(gradient(50, 40, 12)[..., :1], 3, axis=2))


def test_exif_turns_the_picture_upright(pictures: Path) -> None:
    picture = open_picture(pictures / "turned.png")
    assert picture.size == (40, 60)
    np.testing.assert_array_equal(np.asarray(picture), np.rot90(gradient(60, 40, 14), -1))


def test_sixteen_bits_are_scaled_not_cut(pictures: Path) -> None:
    deep = np.asarray(open_picture(pictures / "deep.png"))
    expected = (np.arange(48 * 48).reshape(48, 48) * 28) >> 8
    np.testing.assert_array_equal(deep, np.repeat(expected[..., None], 3, axis=2))
    assert deep.max() == 251


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.png", "the file is empty"),
        ("text.jpg", "not a picture in a known format"),
        ("cut.jpg", "OSError: image file is truncated"),
        ("float.tiff", "32-bit pixels have no fixed range of brightness"),
        ("gone.png", "the file is gone"),
    ],
)
def test_a_broken_picture_says_why(pictures: Path, name: str, reason: str) -> None:
    with pytest.raises(PictureError) as caught:
        open_picture(pictures / "broken" / name)
    assert str(caught.value).startswith(reason)


def test_one_crop_is_the_centred_square() -> None:
    settings = {"crops": 1, "scale": (0.4, 1.0), "seed": 0, "key": "a", "view": 0}
    assert view_box((60, 48), **settings) == (6, 0, 54, 48)  # type: ignore[arg-type]
    assert view_box((48, 61), **settings) == (0, 6.5, 48, 54.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(60, 48), (48, 60), (500, 20), (7, 7), (1, 1), (1, 900)])
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
        assert max(1, round(0.4 * shorter)) <= x1 - x0 <= shorter
    assert view_box(size, crops=40, scale=(0.4, 1.0), seed=1, key="b.png", view=39) == boxes[-1]
    if shorter > 20:
        assert len(set(boxes)) > 150
        sides = np.array([box[2] - box[0] for box in boxes]) / shorter
        assert sides.min() < 0.45
        assert sides.max() > 0.95


def test_a_view_shows_its_box() -> None:
    source = gradient(80, 60)
    view = cut_view(Image.fromarray(source), (20, 10, 52, 42), 32, (0, 0, 0))
    assert view.dtype == np.uint8
    np.testing.assert_array_equal(view, source[10:42, 20:52])
    half = cut_view(Image.fromarray(source), (0, 0, 60, 60), 30, (0, 0, 0)).astype(int)
    averaged = source[:60, :60].reshape(30, 2, 30, 2, 3).mean((1, 3))
    assert np.abs(half - averaged).mean() < 1.5


def test_the_backdrop_shows_where_the_picture_is_clear(pictures: Path) -> None:
    picture = open_picture(pictures / "transparent.png")
    assert picture.mode == "RGBA"
    view = cut_view(picture, (0, 0, 64, 64), 64, (10, 200, 30))
    assert view.shape == (64, 64, 3)
    np.testing.assert_array_equal(view[:, 32:], np.broadcast_to([10, 200, 30], (64, 32, 3)))
    np.testing.assert_array_equal(view[:, :32], gradient(64, 64, 13)[:, :32])
    palette = cut_view(open_picture(pictures / "transparent_palette.png"), (0, 0, 40, 40), 40, (9, 8, 7))
    np.testing.assert_array_equal(palette[:, 20:], np.broadcast_to([9, 8, 7], (40, 20, 3)))
    np.testing.assert_array_equal(palette[:, :20], np.broadcast_to([0, 0, 255], (40, 20, 3)))


def test_a_scaled_clear_picture_gets_no_dark_fringe(pictures: Path) -> None:
    """Hidden colours under clear pixels must not bleed in: the pixels stay between the two sides."""
    clear = np.zeros((64, 64, 4), np.uint8)
    clear[:, :32] = (255, 255, 255, 255)  # white, and black beneath the clear half
    view = cut_view(Image.fromarray(clear), (0, 0, 64, 64), 20, (255, 255, 255))
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

    def covers(given: np.ndarray | None) -> np.ndarray:
        boxes = [view_box((300, 200), view=view, alpha=given, **settings) for view in range(50)]  # type: ignore[arg-type]
        return np.array([alpha[int(y0) : int(y1), int(x0) : int(x1)].mean() / 255 for x0, y0, x1, y1 in boxes])

    assert covers(alpha).mean() > covers(None).mean() + 0.25
    assert (covers(alpha) > 0.5).mean() > 0.9
    np.testing.assert_array_equal(covers(alpha), covers(alpha))
    whole = np.full((200, 300), 255, np.uint8)
    plain = [view_box((300, 200), view=view, **settings) for view in range(9)]  # type: ignore[arg-type]
    assert [view_box((300, 200), view=view, alpha=whole, **settings) for view in range(9)] == plain  # type: ignore[arg-type]

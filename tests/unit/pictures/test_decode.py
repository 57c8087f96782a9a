"""Pictures: how they decode, and views of odd and large ones."""

import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import CHECKOUT
from containers import images
from made_pictures import gradient
from PIL import Image, ImageOps

from atlas.config.model import Config
from atlas.pictures import decode as images_module
from atlas.pictures.decode import Encoded, PictureError, open_picture
from atlas.pictures.sources import list_images
from atlas.pictures.views import crop_view, crop_views, reduction_for, view_box


@pytest.mark.parametrize("name", ["cats/3.png", "dogs/photo.webp", "dogs/photo.bmp", "dogs/photo.TIFF"])
def test_lossless_formats_decode_to_their_pixels(pictures: Path, name: str) -> None:
    sizes = {"cats/3.png": (87, 48, 3), "dogs/photo.webp": (50, 40, 8), "dogs/photo.bmp": (50, 40, 9)}
    width, height, seed = sizes.get(name, (50, 40, 10))
    picture = open_picture(pictures / name)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, gradient(width, height, seed))


def test_other_formats_decode_near_their_pixels(pictures: Path) -> None:
    photo = np.asarray(open_picture(pictures / "dogs" / "photo.jpg")).astype(int)
    assert np.abs(photo - gradient(50, 70, 7)).mean() < 3
    palette = np.asarray(open_picture(pictures / "dogs" / "palette.gif")).astype(int)
    assert np.abs(palette - gradient(50, 40, 11)).mean() < 20
    grey = np.asarray(open_picture(pictures / "dogs" / "grey.png"))
    np.testing.assert_array_equal(grey, np.repeat(gradient(50, 40, 12)[..., :1], 3, axis=2))


def test_exif_turns_the_picture_upright(pictures: Path) -> None:
    picture = open_picture(pictures / "turned.png")
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


def encoded(picture: Image.Image, kind: str = "JPEG", **settings: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpegs_decode_to_pillows_pixels_at_every_scale(reduction: int, subsampling: int) -> None:
    data = encoded(Image.fromarray(gradient(203, 149)), quality=90, subsampling=subsampling)
    expected = Image.open(BytesIO(data))
    if reduction > 1:
        expected.draft("RGB", (203 // reduction, 149 // reduction))
    assert expected.size == (-(-203 // reduction), -(-149 // reduction))
    np.testing.assert_array_equal(Encoded(data).decode(reduction), np.asarray(expected))


@pytest.mark.parametrize("turn", range(1, 9))
def test_jpegs_stand_upright_however_the_camera_was_held(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(Image.fromarray(gradient(64, 48)), exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))))
    picture = Encoded(data)
    assert picture.size == expected.shape[1::-1]
    assert picture.reductions == (8, 4, 2)
    np.testing.assert_array_equal(picture.decode(), expected)
    assert Encoded(encoded(Image.fromarray(gradient(61, 48)), exif=exif)).reductions == ((8, 4, 2) if turn == 1 else ())


def test_odd_jpegs_are_left_to_pillow(pictures: Path) -> None:
    colours = Image.fromarray(gradient(64, 48))
    cmyk = encoded(colours.convert("CMYK"), quality=95)
    assert Encoded(cmyk).size is None
    assert np.abs(Encoded(cmyk).decode().astype(int) - gradient(64, 48)).mean() < 6
    grey = encoded(colours.convert("L"))
    np.testing.assert_array_equal(Encoded(grey).decode(), np.asarray(Image.open(BytesIO(grey)).convert("RGB")))
    plain_rgb = encoded(colours, keep_rgb=True)
    np.testing.assert_array_equal(Encoded(plain_rgb).decode(), np.asarray(Image.open(BytesIO(plain_rgb))))
    followed = encoded(colours) + b"trailing"
    np.testing.assert_array_equal(Encoded(followed).decode(), Encoded(encoded(colours)).decode())
    several = encoded(colours, "MPO", save_all=True, append_images=[colours])
    np.testing.assert_array_equal(Encoded(several).decode(), np.asarray(Image.open(BytesIO(several))))
    damaged = bytearray(encoded(colours))
    damaged[len(damaged) // 2 :] = bytes(len(damaged) - len(damaged) // 2)
    try:
        expected = np.asarray(Image.open(BytesIO(damaged)))
    except OSError:
        with pytest.raises(PictureError):
            Encoded(bytes(damaged)).decode()
    else:
        np.testing.assert_array_equal(Encoded(bytes(damaged)).decode(), expected)


def test_the_reduced_scale_leaves_views_wide_enough_and_whole() -> None:
    wide = (8.0, 16.0, 648.0, 656.0)
    assert reduction_for([wide], 32, (8, 4, 2)) == 8
    assert reduction_for([wide], 33, (8, 4, 2)) == 4
    assert reduction_for([wide], 256, (8, 4, 2)) == 1
    assert reduction_for([wide, (0.0, 0.0, 320.0, 320.0)], 32, (8, 4, 2)) == 4, "the smallest view decides"
    assert reduction_for([(2.0, 16.0, 642.0, 656.0)], 32, (8, 4, 2)) == 2, "edges between reduced pixels"
    assert reduction_for([wide], 32, ()) == 1


def test_views_of_large_jpegs_are_those_of_the_whole_picture(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = gradient(1203, 901)
    Image.fromarray(source).save(tmp_path / "large.jpg", quality=95)
    listing = list_images(images(tmp_path), 0)
    reduced: list[int] = []
    decode = Encoded.decode
    monkeypatch.setattr(
        Encoded, "decode", lambda self, reduction: (reduced.append(reduction), decode(self, reduction))[1]
    )
    views = crop_views(listing, 0, [0, 1, 2], size=32, images=config.images, seed=config.seed)
    assert isinstance(views, list)
    assert reduced == [4]
    for view in views:
        whole = crop_view(source, view.box, 32, (0, 0, 0))
        assert np.abs(view.pixels.astype(int) - whole).mean() < 1.5
        assert view.box == view_box((1203, 901), crops=3, scale=(0.4, 1), seed=0, key="large.jpg", view=view.view)


@pytest.mark.parametrize("kind", ["BMP", "PNG", "TIFF", "WEBP", "GIF", "JPEG"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "LAB"])
def test_every_mode_of_every_format_gives_pixels(kind: str, mode: str) -> None:
    source = Image.fromarray(gradient(40, 24))
    if mode == "I;16":
        source = Image.fromarray(gradient(40, 24)[..., 0].astype(np.uint16) * 257)
    elif mode == "PA":
        source = source.convert("P").convert("PA")
    elif mode != "RGB":
        source = source.convert("RGBA").convert(mode) if mode in ("LA", "RGBA") else source.convert(mode)
    try:
        data = encoded(source, kind)
    except (OSError, ValueError):  # the format does not know this mode
        return
    pixels = Encoded(data).decode()
    assert pixels.dtype == np.uint8
    assert pixels.shape[:2] == (24, 40)
    assert pixels.shape[2] in (3, 4)
    if mode in ("L", "LA", "I;16"):
        assert np.ptp(pixels[..., :3], axis=2).max() <= 1
    elif mode in ("RGB", "RGBA", "CMYK", "YCbCr") and kind != "GIF":
        assert np.abs(pixels[..., :3] - gradient(40, 24).astype(int)).mean() < 9


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 2)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_thin_pictures_give_views(tmp_path: Path, config: Config, size: tuple[int, int], kind: str) -> None:
    Image.new("RGB", size, (10, 200, 30)).save(tmp_path / f"x.{kind.lower()}", kind, quality=100)
    views = crop_views(list_images(images(tmp_path), 0), 0, [0, 1, 2], size=32, images=config.images, seed=config.seed)
    assert isinstance(views, list)
    assert all(np.abs(view.pixels.astype(int) - (10, 200, 30)).max() < 4 for view in views)


def test_a_bomb_is_refused_by_its_header(pictures: Path) -> None:
    """A PNG of a billion pixels in a few bytes: nothing of it is unpacked."""
    whole = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    whole[16:24] = (40_000).to_bytes(4, "big") + (30_000).to_bytes(4, "big")
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    with pytest.raises(PictureError, match="more than 178,956,970 pixels, perhaps a decompression bomb"):
        open_picture(bytes(whole))


def test_a_wrong_suffix_is_no_fault_but_other_formats_are(tmp_path: Path) -> None:
    (tmp_path / "really.jpg").write_bytes(encoded(Image.fromarray(gradient(40, 24)), "PNG"))
    np.testing.assert_array_equal(open_picture(tmp_path / "really.jpg"), gradient(40, 24))
    (tmp_path / "script.jpg").write_bytes(encoded(Image.fromarray(gradient(40, 24)), "EPS"))
    with pytest.raises(PictureError, match="not a picture in a known format"):
        open_picture(tmp_path / "script.jpg")  # Pillow would hand it to Ghostscript


def test_whatever_a_decoder_raises_becomes_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_settings: object) -> None:
        raise RuntimeError("out of luck")

    data = encoded(Image.fromarray(gradient(40, 24)), "PNG")
    monkeypatch.setattr(images_module.ImageOps, "exif_transpose", fail)
    with pytest.raises(PictureError, match="RuntimeError: out of luck"):
        open_picture(data)


def test_what_pillow_mends_is_not_told_a_million_times(tmp_path: Path) -> None:
    """A large picture, bad EXIF and a cut TIFF in a fresh process: nothing on stderr."""
    Image.new("1", (10_000, 9_000)).save(tmp_path / "large.png")
    bad = encoded(Image.new("RGB", (9, 9)), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(30))
    (tmp_path / "exif.jpg").write_bytes(bad)
    palette = Image.new("P", (9, 9))
    palette.save(tmp_path / "palette.png", transparency=bytes(range(9)))
    code = "import sys, pathlib; from atlas.pictures.decode import Encoded\n"
    code += "for path in map(pathlib.Path, sys.argv[1:]):\n"
    code += "    picture = Encoded(path.read_bytes())\n"
    code += "    path.stem == 'large' or picture.decode()"
    process = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, *sorted(map(str, tmp_path.iterdir()))],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert process.stderr == ""

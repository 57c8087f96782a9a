"""The square that is read of a picture's file, and sentences for files that are no pictures."""

import numpy as np
import pytest
from explained import encoded, photo
from PIL import Image

from atlas.errors import ConfigError
from atlas.explain.square import read_square


def test_the_square_is_the_centre_upright_and_over_white() -> None:
    pixels = photo(2, 40, 100)
    square = read_square(encoded(pixels), [40])
    assert (square.width, square.height, square.box) == (100, 40, (30, 0, 70, 40))
    np.testing.assert_array_equal(square.views[40], pixels[:, 30:70])
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_square(encoded(pixels, exif=exif), [40, 20])
    assert (turned.width, turned.height, turned.box) == (40, 100, (0, 30, 40, 70))
    np.testing.assert_array_equal(turned.views[40], np.rot90(pixels, -1)[30:70])
    assert turned.views[20].shape == (20, 20, 3)
    clear = np.dstack([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)])
    assert (read_square(encoded(clear), [32]).views[32] == 255).all()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "photo is empty; give the file of a picture."),
        (b"hello, I am a text", "photo is no picture in a known format; give JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF."),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "photo is a video (MP4 or QuickTime); give one frame of it as a"),
        (b"\x1aE\xdf\xa3\x01\0\0\0", "photo is a video (Matroska or WebM); give one frame"),
        (b"RIFF\x24\0\0\0AVI LIST", "photo is a video (AVI); give one frame"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "photo is a HEIC picture; save it as JPEG or PNG."),
        (b"%PDF-1.7 ", "photo is a PDF; save the picture in it as JPEG or PNG."),
        (encoded(photo(0, 60, 60))[:200], "photo cannot be read ("),
        (encoded(photo(0, 80, 80)), "photo has 6,400 pixels, and at most 5,000 are taken. Give it smaller"),
    ],
)
def test_what_is_no_picture_is_told_in_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_square(data, [32], name="photo", most=5000)
    assert str(raised.value).startswith(sentence)

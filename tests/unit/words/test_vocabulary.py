"""Each word is true of patches that show it, and of no others."""

import numpy as np
import pytest
from numpy.typing import NDArray

from atlas.arrays import Pixels
from atlas.words.patches import measure, word_values
from atlas.words.vocabulary import WORDS

SIDE = 48
DOWN, RIGHT = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
TEXTS = [word.text for word in WORDS]


def plain(*colour: int) -> Pixels:
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


def grey(light: NDArray[np.floating]) -> Pixels:
    return np.repeat(np.clip(128 + 90 * light, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def stripes(angle: float, wavelength: float = 9) -> Pixels:
    across = RIGHT * np.sin(np.radians(angle)) + DOWN * np.cos(np.radians(angle))
    return grey(np.cos(2 * np.pi * across / wavelength))


def halves(left: Pixels, right: Pixels) -> Pixels:
    return np.where((RIGHT < 0)[..., None], left, right)


def blurred(size: int) -> NDArray[np.floating]:
    """Noise whose blobs are about ``size`` pixels large."""
    noise = np.fft.fft2(np.random.default_rng(0).normal(0, 1, (SIDE, SIDE)))
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE))
    light = np.fft.ifft2(noise * np.exp(-((frequency * size) ** 2))).real
    return light / light.std() * 0.4


def true_of(patch: Pixels) -> set[str]:
    return {text for text, true in zip(TEXTS, word_values(measure(patch[None]))[0]) if true}


@pytest.mark.parametrize(
    ("colour", "words"),
    [
        ((0, 0, 90), {"blue", "dark blue", "some blue", "cool colours", "dark", "plain surface"}),
        ((3, 67, 223), {"blue", "some blue", "cool colours", "vivid", "plain surface"}),
        ((149, 208, 252), {"blue", "light blue", "some blue", "cool colours", "bright", "plain surface"}),
        ((132, 0, 0), {"red", "dark red", "some red", "warm colours", "dark", "plain surface"}),
        ((255, 255, 20), {"yellow", "some yellow", "warm colours", "vivid", "bright", "plain surface"}),
        ((101, 55, 0), {"brown", "some brown", "warm colours", "dark", "plain surface"}),
        ((255, 255, 255), {"white", "some white", "colourless", "pale", "bright", "plain surface"}),
        ((0, 0, 0), {"black", "some black", "colourless", "dark", "plain surface"}),
        ((146, 149, 145), {"grey", "colourless", "plain surface"}),
        ((216, 220, 214), {"grey", "light grey", "colourless", "pale", "bright", "plain surface"}),
    ],
)
def test_plain_colours(colour: tuple[int, int, int], words: set[str]) -> None:
    assert true_of(plain(*colour)) == words


@pytest.mark.parametrize(
    ("angle", "direction"),
    [
        *((angle, "horizontal {}") for angle in (0, 15, 170)),
        *((angle, "vertical {}") for angle in (90, 100)),
        *((angle, "slanted {}") for angle in (30, 45, 135)),
    ],
)
def test_stripes_have_their_direction(angle: float, direction: str) -> None:
    words = {word for word in true_of(stripes(angle)) if "stripes" in word or "contours" in word or "edge" in word}
    expected = {direction.format("stripes"), direction.format("contours")}
    if direction == "slanted {}":
        way = "rising" if angle < 90 else "falling"
        expected |= {f"stripes {way} to the right", f"contours {way} to the right"}
    assert words == expected


def test_an_edge_is_no_stripes_and_has_a_lighter_side() -> None:
    words = true_of(halves(plain(20, 20, 20), plain(240, 240, 240)))
    assert {"vertical edge", "vertical contours", "lighter on the right", "strong contrast", "black and white"} <= words
    assert not {word for word in words if "stripes" in word or "horizontal" in word or "slanted" in word}
    assert "lighter on the left" in true_of(halves(plain(240, 240, 240), plain(20, 20, 20)))
    assert "lighter below" in true_of(grey(np.sign(DOWN)))
    assert "lighter above" in true_of(grey(-np.sign(DOWN)))
    assert not {word for word in true_of(grey(np.sign(DOWN + RIGHT))) if word.startswith("lighter")}


def test_equally_light_colours_side_by_side_are_no_plain_surface() -> None:
    words = true_of(halves(plain(200, 40, 40), plain(20, 120, 20)))
    assert "plain surface" not in words
    assert {"some red", "some green"} <= words


def test_fine_and_coarse_patterns() -> None:
    fine, coarse = true_of(grey(blurred(2))), true_of(grey(blurred(22)))
    assert {"fine pattern", "textured"} <= fine
    assert "coarse pattern" not in fine
    assert "coarse pattern" in coarse
    assert "fine pattern" not in coarse
    assert not {"fine pattern", "coarse pattern", "textured"} & true_of(plain(90, 90, 90))


def test_the_middle_and_soft_shading() -> None:
    spot = np.exp(-(RIGHT**2 + DOWN**2) / 120)
    assert "light in the middle" in true_of(grey(2 * spot - 1))
    assert "dark in the middle" in true_of(grey(1 - 2 * spot))
    assert "soft shading" in true_of(grey(RIGHT / 60))
    assert "soft shading" not in true_of(stripes(0, 5))


def test_many_colours() -> None:
    colours = [plain(230, 0, 0), plain(20, 180, 30), plain(0, 60, 220), plain(250, 120, 10)]
    left, right = np.where((DOWN < 0)[..., None], *colours[:2]), np.where((DOWN < 0)[..., None], *colours[2:])
    assert "many colours" in true_of(halves(left, right))
    assert "many colours" not in true_of(halves(*colours[:2]))


def test_texts_differ_and_cover_words_that_there_are() -> None:
    assert len(set(TEXTS)) == len(TEXTS)
    assert {text for word in WORDS for text in word.covers} <= set(TEXTS)
    assert all(word.text not in word.covers for word in WORDS)


def test_what_goes_without_saying() -> None:
    covers = {word.text: set(word.covers) for word in WORDS}
    assert {"blue", "some blue", "cool colours", "dark"} <= covers["dark blue"]
    assert {"colourless", "dark"} <= covers["black"]
    assert covers["vertical contours"] == set()
    assert covers["vertical stripes"] == {"vertical contours"}
    slanted = {"slanted contours", "slanted stripes", "slanted edge"}
    assert covers["stripes rising to the right"] == slanted | {"contours rising to the right"}
    assert covers["fine pattern"] == {"textured"}

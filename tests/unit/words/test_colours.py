"""Colours by name: known colours in OKLab, what people call colours, and the shares of a patch."""

import numpy as np
import pytest

from atlas.arrays import Pixels
from atlas.words.colours import COLOURS, DARK, LIGHT, TERMS, colour_features, oklab, term_of

# What people called colours in the XKCD colour survey (Randall Munroe 2010), after the basic term: alone, dark, light
# and others of the term.
SURVEY = {
    "red": ("e50000", "840000", "d9544d", "8c000f", "ff000d"),
    "orange": ("f97306", "c65102", "fdaa48", "e17701"),
    "yellow": ("ffff14", "fffd01", "fffe7a", "d2bd0a"),
    "green": ("15b01a", "033500", "96f97b", "677a04", "06470c", "88b378"),
    "blue": ("0343df", "00035b", "95d0fc", "03719c", "75bbfd", "5a86ad"),
    "purple": ("7e1e9c", "35063e", "bf77f6", "9a0eea", "b790d4"),
    "pink": ("ff81c0", "cb416b", "ffd1df", "ff028d", "d58a94", "fe7b7c"),
    "brown": ("653700", "341c02", "ad8150", "411900", "ab7e4c"),
    "black": ("000000", "070d0d"),
    "white": ("ffffff",),
    "grey": ("929591", "363737", "d8dcd6", "3c4142", "7d7f7c"),
}


def colour(code: str) -> list[int]:
    return [int(code[i : i + 2], 16) for i in (0, 2, 4)]


def plain(code: str, side: int = 16) -> Pixels:
    return np.full((1, side, side, 3), colour(code), np.uint8)


def level(side: int) -> np.ndarray:
    return np.full((side, side), 1 / side**2, np.float32)


def test_oklab_of_known_colours() -> None:
    # From Ottosson's article: white has lightness 1; the others by his reference code.
    lab = oklab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8))
    expected = [[1, 0, 0], [0, 0, 0], [0.628, 0.225, 0.126], [0.866, -0.234, 0.179], [0.452, -0.032, -0.312]]
    np.testing.assert_allclose(lab, expected, atol=1.5e-3)


@pytest.mark.parametrize("term", TERMS)
def test_colours_are_called_what_people_call_them(term: str) -> None:
    colours = np.array([colour(code) for code in SURVEY[term]], np.uint8)
    assert [TERMS[i] for i in term_of(colours)] == [term] * len(colours)


def test_every_colour_has_a_term() -> None:
    axis = np.arange(0, 256, 5, np.uint8)
    terms = term_of(np.stack(np.meshgrid(axis, axis, axis), -1))
    assert sorted(np.unique(terms)) == list(range(len(TERMS)))


@pytest.mark.parametrize("term", sorted({*DARK, *LIGHT}))
def test_dark_and_light_are_what_the_survey_calls_so(term: str) -> None:
    codes = np.array([colour(code) for code in SURVEY[term][:3]], np.uint8)
    alone, dark, light = oklab(codes)[:, 0].tolist()
    assert DARK.get(term, 0) <= alone < LIGHT.get(term, 1)
    assert term not in DARK or dark < DARK[term]
    assert term not in LIGHT or light >= LIGHT[term]


def test_shares_and_lightness_of_a_patch_of_two_colours() -> None:
    patch = plain("ffffff", 32)
    patch[:, :, :8] = colour("00035b")
    features = dict(zip(COLOURS, colour_features(patch, level(32))[0]))
    assert features["share of white"] == pytest.approx(0.75, abs=1e-5)
    assert features["share of blue"] == pytest.approx(0.25, abs=1e-5)
    assert sum(features[f"share of {term}"] for term in TERMS) == pytest.approx(1, abs=1e-5)
    assert features["lightness of white"] == pytest.approx(1, abs=1e-3)
    assert features["lightness of blue"] == pytest.approx(oklab(np.array(colour("00035b"), np.uint8))[0], abs=0.02)
    assert features["lightness of red"] == 0


def test_chroma_hue_and_variety() -> None:
    patches = np.concatenate([plain("929591"), plain("ff0000"), plain("ff0000")])
    patches[2, :8] = [0, 255, 0]
    grey, red, both = (dict(zip(COLOURS, row)) for row in colour_features(patches, level(16)))
    assert grey["chroma"] < 0.01
    assert (red["red"], red["yellow"]) == pytest.approx((0.225, 0.126), abs=0.01)
    assert red["chroma"] == pytest.approx(0.258, abs=0.01)
    assert red["variety"] < 1e-3
    assert both["variety"] == pytest.approx(0.231, abs=0.01)  # half the distance from red to green


def test_pixels_count_by_their_weight() -> None:
    patch = plain("000000", 16)
    patch[:, 4:12, 4:12] = 255
    weight = np.zeros((16, 16), np.float32)
    weight[4:12, 4:12] = 1 / 64
    assert colour_features(patch, weight)[0, TERMS.index("white")] == pytest.approx(1)
    assert colour_features(patch, level(16))[0, TERMS.index("white")] == pytest.approx(0.25)

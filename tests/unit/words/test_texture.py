"""Patterns of patches: stripes of known angle and wavelength, edges, and what has no pattern."""

import numpy as np
import pytest

from atlas.arrays import Float64, Pixels
from atlas.words.texture import TEXTURE, disc, texture_features

SIDE = 64
DOWN, RIGHT = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2


def patch(light: Float64) -> Pixels:
    """A grey patch of ``light``, −1 to 1."""
    values = np.clip(128 + 90 * light, 0, 255).astype(np.uint8)
    return np.repeat(values[None, :, :, None], 3, axis=3)


def stripes(angle: float, wavelength: float = 8) -> Pixels:
    """Stripes that run at ``angle`` degrees from horizontal; rising to the right is positive."""
    across = RIGHT * np.sin(np.radians(angle)) + DOWN * np.cos(np.radians(angle))
    return patch(np.cos(2 * np.pi * across / wavelength))


def measured_of(pixels: Pixels) -> dict[str, float]:
    return dict(zip(TEXTURE, texture_features(pixels)[0].tolist()))


@pytest.mark.parametrize("angle", [0, 20, 45, 70, 90, 110, 135, 160])
def test_the_angle_of_stripes(angle: float) -> None:
    features = measured_of(stripes(angle))
    direction = np.degrees(np.arctan2(-features["sine"], features["cosine"])) / 2
    assert (direction - angle + 90) % 180 - 90 == pytest.approx(0, abs=3)
    assert features["coherence"] > 0.95
    assert features["polarity"] < 0.1
    assert features["spread"] > 0.6


@pytest.mark.parametrize("wavelength", [4, 6, 8, 12, 16, 24])
@pytest.mark.parametrize("angle", [0, 30, 90])
def test_the_scale_of_stripes(wavelength: float, angle: float) -> None:
    features = measured_of(stripes(angle, wavelength))
    assert np.log2(features["frequency"] * wavelength / SIDE) == pytest.approx(0, abs=0.3)
    assert features["peak"] > 2


def test_fine_is_what_is_smaller_than_an_eighth() -> None:
    small, large = measured_of(stripes(0, 5)), measured_of(stripes(0, 30))
    assert small["fine"] > 0.8 * small["contrast"]
    assert large["fine"] < 0.1 * large["contrast"]


def test_an_edge_changes_one_way_and_a_line_there_and_back() -> None:
    edge, line = measured_of(patch(np.tanh(RIGHT / 3))), measured_of(patch(np.exp(-((RIGHT / 4) ** 2))))
    assert edge["coherence"] > 0.95
    assert edge["cosine"] < -0.9  # vertical
    assert edge["polarity"] > 0.95
    assert line["coherence"] > 0.95
    assert line["polarity"] < 0.1
    assert max(edge["spread"], line["spread"]) < 0.4


def test_where_it_is_lighter() -> None:
    below, right, spot = (
        measured_of(patch(light)) for light in (DOWN / 32, np.sign(RIGHT), np.exp(-(RIGHT**2 + DOWN**2) / 200) * 2 - 1)
    )
    assert below["down"] > 0.15
    assert abs(below["right"]) < 1e-3
    assert right["right"] > 0.4
    assert abs(right["down"]) < 1e-3
    assert spot["middle"] > 0.2
    assert measured_of(255 - patch(np.exp(-(RIGHT**2 + DOWN**2) / 200)))["middle"] < -0.1


def test_noise_has_no_direction_and_a_plain_patch_no_pattern() -> None:
    noise = measured_of(patch(np.random.default_rng(0).normal(0, 0.5, (SIDE, SIDE))))
    assert noise["coherence"] < 0.15
    assert noise["spread"] > 0.7
    assert noise["frequency"] > 16
    plain = measured_of(patch(np.zeros((SIDE, SIDE))))
    assert plain["contrast"] < 1e-5
    assert plain["coherence"] < 1e-3
    assert plain["lightness"] == pytest.approx(0.6, abs=0.01)  # OKLab's of the grey 128
    assert not np.isnan(texture_features(patch(np.zeros((SIDE, SIDE))))).any()


@pytest.mark.parametrize("side", [16, 33, 48])
def test_any_side_will_do(side: int) -> None:
    down, right = np.mgrid[:side, :side]
    values = (128 + 90 * np.cos(2 * np.pi * (right + 0 * down) * 4 / side)).astype(np.uint8)
    features = measured_of(np.repeat(values[None, :, :, None], 3, axis=3))
    assert features["cosine"] < -0.95
    assert np.log2(features["frequency"] / 4) == pytest.approx(0, abs=0.3)


def test_the_disc_sums_to_one_and_leaves_the_corners_out() -> None:
    weight = disc(SIDE)
    assert weight.sum() == pytest.approx(1, abs=1e-5)
    assert weight[0, 0] == 0
    np.testing.assert_allclose(weight[20:44, 32], weight.max(), rtol=1e-5)
    np.testing.assert_array_equal(weight, weight[::-1, ::-1])

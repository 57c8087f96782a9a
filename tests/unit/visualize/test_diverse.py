"""Several pictures of one unit: the first as if it were alone, the others unlike it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas.errors import ConfigError
from atlas.networks.network import Layer, Network
from atlas.visualize.diverse import (
    FIELDS_SHOWN,
    SMALLEST_SIDE,
    DiversePictures,
    _DiverseObjective,
    _inverse_deviations,
    diverse,
    picture_size,
)
from atlas.visualize.score import centre_activations

DRAWING = {"size": 24, "pictures": 3, "steps": 24, "precision": "float32"}


@pytest.fixture(scope="module")
def pictures_by_weight(small: Network) -> dict[float, DiversePictures]:
    """Pictures of two units, by the weight of being unlike."""
    return {weight: diverse(small, "branches", [1, 4], diversity=weight, **DRAWING) for weight in (0.0, 4.0)}  # type: ignore[arg-type]


def test_the_first_is_drawn_as_if_it_were_alone(pictures_by_weight: dict[float, DiversePictures]) -> None:
    together, apart = pictures_by_weight[0.0], pictures_by_weight[4.0]
    assert apart.pixels.shape == (2, 3, 24, 24, 3)
    np.testing.assert_array_equal(together.pixels[:, 0], apart.pixels[:, 0])
    for number in (1, 2):
        assert not np.array_equal(together.pixels[:, number], apart.pixels[:, number])
        assert not np.array_equal(apart.pixels[0, 0], apart.pixels[0, number])


def test_the_objective_takes_off_what_a_picture_has_in_common_with_the_others() -> None:
    """The log of the unit's activation at the centre, less the mean cosine of the Gram matrices without the unit."""
    generator = np.random.default_rng(0)
    maps = generator.random((3, 4, 5, 5), np.float32) + 0.1  # three pictures of unit 2
    scale, weights = np.full(3, 2.0, np.float32), np.array([1.0, 2.0, 5.0, 0.5], np.float32)
    objective = _DiverseObjective(
        *(torch.from_numpy(values) for values in (np.full(3, 2), scale, weights)), pictures=3, diversity=1.5, floor=1e-3
    )
    grams = []
    for picture in maps:
        features = (picture * (weights * [1, 1, 0, 1])[:, None, None]).reshape(4, -1)
        products = (features @ features.T).ravel()
        grams.append(products / np.linalg.norm(products))
    cosines = np.array(grams) @ np.array(grams).T
    in_common = np.array([0, (cosines[1, 0] + cosines[1, 2]) / 2, (cosines[2, 0] + cosines[2, 1]) / 2])
    centre = np.log(maps[:, 2, 2, 2] / 2)
    np.testing.assert_allclose(objective(torch.from_numpy(maps), 0.0), centre - 1.5 * in_common, rtol=1e-4)
    inner = np.log(maps[:, 2, 1:4, 1:4] / 2).mean((1, 2))
    expected = 0.75 * centre + 0.25 * inner - 1.5 * in_common
    np.testing.assert_allclose(objective(torch.from_numpy(maps), 0.25), expected, rtol=1e-4)


def test_no_gradient_flows_through_the_other_pictures() -> None:
    """Each is pushed away from the others, and does not move them."""
    maps = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    objective = _DiverseObjective(
        torch.zeros(2, dtype=torch.int64), torch.ones(2), torch.ones(3), pictures=2, diversity=1.0, floor=1e-3
    )
    (gradient,) = torch.autograd.grad(objective(maps, 0.0)[1], maps)
    assert not gradient[0].any()
    assert gradient[1, 1:].any()


def test_channels_that_hardly_vary_do_not_count() -> None:
    assert _inverse_deviations(np.array([2.0, 0.5, 1e-4, 0.0], np.float32)).tolist() == [0.5, 2.0, 0.0, 0.0]
    assert _inverse_deviations(np.zeros(2, np.float32)).tolist() == [0.0, 0.0]


def test_activations_are_those_of_the_pictures(
    small: Network, pictures_by_weight: dict[float, DiversePictures]
) -> None:
    pictures = pictures_by_weight[4.0]
    for place, unit in enumerate((1, 4)):
        expected = centre_activations(small, "branches", pictures.pixels[place])[:, unit]
        np.testing.assert_allclose(pictures.activations[place], expected, rtol=1e-4, atol=1e-5)


def test_a_unit_does_not_depend_on_its_company(
    small: Network, pictures_by_weight: dict[float, DiversePictures]
) -> None:
    alone = diverse(small, "branches", [4], diversity=4.0, **DRAWING)  # type: ignore[arg-type]
    difference = np.abs(alone.pixels[0].astype(int) - pictures_by_weight[4.0].pixels[1].astype(int))
    assert difference.mean() < 1, "but for rounding"


def test_a_layer_is_shown_a_little_wider_than_it_sees(small: Network) -> None:
    layer = Layer("x", 8, 16, 16, 2, 30, 20)
    assert picture_size(layer, replace(small, size=224)) == SMALLEST_SIDE == 32, "at least so many pixels"
    assert picture_size(replace(layer, effective_receptive_field=101), replace(small, size=224)) == 2 * round(
        FIELDS_SHOWN * 50.5
    )
    assert picture_size(replace(layer, effective_receptive_field=500), replace(small, size=225)) == 224, "even"


def test_no_units_give_no_pictures_and_wrong_ones_a_sentence(small: Network) -> None:
    nothing = diverse(small, "branches", [], **DRAWING)  # type: ignore[arg-type]
    assert (nothing.pixels.shape, nothing.activations.shape) == ((0, 3, 24, 24, 3), (0, 3))
    for unit in (16, -1):
        with pytest.raises(ConfigError, match=f"Layer 'branches' of .* has no unit {unit}: it has 16, from 0"):
            diverse(small, "branches", [unit], **DRAWING)  # type: ignore[arg-type]

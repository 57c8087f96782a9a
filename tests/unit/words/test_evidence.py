"""What a vector adds to the logits in the middle of a neutral map."""

import numpy as np
import pytest
import torch

from atlas.errors import ConfigError
from atlas.networks.hooks import hooked
from atlas.networks.network import Network
from atlas.networks.tail import BATCH
from atlas.words.evidence import Evidence, evidence

LAYER = "branches"


@pytest.fixture(scope="module")
def shape(small: Network) -> tuple[int, ...]:
    return tuple(small.activations(small.noise(1), LAYER).shape[1:])


def logits(network: Network, maps: torch.Tensor) -> np.ndarray:
    """Those of the whole network with ``maps`` (1, channels, H, W) in the layer's place."""
    with torch.no_grad(), hooked(network.submodule(LAYER), lambda _: maps.clone()):
        return network.module(network.noise(1)).numpy()[0]


@pytest.mark.parametrize("side", [1, 3, 99])
def test_a_vector_is_put_into_the_middle_of_a_map_of_the_mean(
    small: Network, shape: tuple[int, ...], side: int
) -> None:
    channels, height, width = shape
    generator = np.random.default_rng(3)
    mean = generator.random(channels).astype(np.float32)
    directions = generator.normal(size=(BATCH + 2, channels)).astype(np.float32)
    gains = evidence(small, LAYER, directions, mean, side=side)
    neutral = torch.from_numpy(mean)[None, :, None, None].expand(1, -1, height, width)
    for row in (0, BATCH + 1):
        maps = neutral.clone()
        own = min(side, height)
        top, left = (height - own) // 2, (width - own) // 2
        maps[0, :, top : top + own, left : left + own] = torch.from_numpy(directions[row])[:, None, None]
        expected = logits(small, maps) - logits(small, neutral.contiguous())
        np.testing.assert_allclose(gains[row], expected - expected.mean(), rtol=1e-3, atol=1e-4)
    assert gains.dtype == np.float32
    np.testing.assert_allclose(gains.mean(1), 0, atol=1e-5)


def test_the_mean_itself_pushes_nowhere_and_nothing_gives_nothing(small: Network, shape: tuple[int, ...]) -> None:
    mean = np.linspace(0, 1, shape[0], dtype=np.float32)
    of_layer = Evidence(small, LAYER, mean)
    np.testing.assert_allclose(of_layer(mean[None]), 0, atol=1e-5)
    assert of_layer(np.zeros((0, shape[0]), np.float32)).shape == (0, len(small.classes))


def test_other_numbers_of_channels_are_sentences(small: Network, shape: tuple[int, ...]) -> None:
    mean = np.zeros(shape[0], np.float32)
    with pytest.raises(ConfigError, match=rf"'branches' has {shape[0]} channels, the mean is \(3,\)"):
        Evidence(small, LAYER, mean[:3])
    with pytest.raises(ConfigError, match=rf"'branches' has {shape[0]} channels, the directions are \(2, 3\)"):
        Evidence(small, LAYER, mean)(np.zeros((2, 3), np.float32))
    with pytest.raises(ConfigError, match="has no layer 'brnches'"):
        Evidence(small, "brnches", mean)

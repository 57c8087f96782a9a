"""Pictures that stand alone, those of modules, and of the demo's network."""

import numpy as np
import pytest
import torch
from made_pictures import smooth_pictures
from torch import nn

from atlas.errors import ConfigError
from atlas.networks.network import Network, load
from atlas.store.moments import Moments
from atlas.visualize import Recipe, draw, neuron, render, score
from atlas.visualize.parametrize import from_bytes
from atlas.visualize.recipe import SINGLE
from atlas.visualize.score import centre_activations


def test_pictures_that_stand_alone_are_filled_to_their_edges(efficientnet: Network) -> None:
    """The centre of _blocks.4 sees 33 px: in an icon of an atlas it decides in the end, alone it does not."""
    direction = np.eye(40, dtype=np.float32)[3]
    pictures = {
        name: render(efficientnet, "_blocks.4", direction, size=128, recipe=recipe, steps=48)
        for name, recipe in (("atlas", Recipe()), ("alone", SINGLE))
    }

    def reached(pixels: np.ndarray) -> float:
        with torch.no_grad():
            maps = efficientnet.activations(efficientnet.normalize(from_bytes(pixels)), "_blocks.4")[0, 3]
        return float(maps[2:-2, 2:-2].mean())

    assert reached(pictures["alone"]) > 1.1 * reached(pictures["atlas"])
    assert np.array_equal(render(efficientnet, "_blocks.4", direction, size=128, steps=48), pictures["alone"])


def test_a_layer_that_is_called_twice_is_refused() -> None:
    class ReluTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu, self.last = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.last(self.relu(self.first(x)))).mean((2, 3))

    with pytest.raises(ConfigError, match="'relu' of ReluTwice is called 2 times in one pass"):
        neuron(load(ReluTwice(), size=32, device="cpu"), "relu", 0, size=16, steps=1)


def test_a_module_that_one_holds_can_be_drawn() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 28 * 28, 3))
    network_of_module = load(module, size=32, classes=["a", "b", "c"], mean=[0.5] * 3, std=[0.25] * 3, device="cpu")
    assert (network_of_module.name, network_of_module.classes, network_of_module.mean) == (
        "Sequential",
        ("a", "b", "c"),
        (0.5, 0.5, 0.5),
    )
    assert network_of_module.folded == (("0", "1"),)
    assert neuron(network_of_module, "2", 3, size=16, steps=8).std() > 5


def test_pictures_of_short_and_long_climbs_are_equally_rich(efficientnet: Network) -> None:
    """A step moves a pixel the farther, the fewer there are."""
    direction = np.eye(112, dtype=np.float32)[[9, 51, 85, 3]]
    deviation = [
        float((render(efficientnet, "_blocks.10", direction, steps=steps, recipe=Recipe()) / 255).std((1, 2)).mean())
        for steps in (48, 160)
    ]
    assert deviation[0] == pytest.approx(deviation[1], rel=0.15)


def test_a_picture_that_stands_alone_is_alike_in_the_middle_and_around_it(efficientnet: Network) -> None:
    """All positions count: the layer answers at the centre as it does around it."""
    pixels = neuron(efficientnet, "_blocks.4", 9, size=96, steps=48)
    inputs = efficientnet.from_bytes(torch.from_numpy(pixels[None]))
    with torch.no_grad():
        answer = efficientnet.activations(inputs, "_blocks.4")[0, 9, 2:-2, 2:-2]
    centre = answer[answer.shape[0] // 2, answer.shape[1] // 2]
    assert float(centre) < 1.5 * float(answer.mean())


# The demo's network


@pytest.mark.parametrize(("layer", "channels"), [("_blocks.4", 40), ("_blocks.10", 112)])
def test_icons_of_a_real_network(efficientnet: Network, layer: str, channels: int) -> None:
    rows = centre_activations(efficientnet, layer, smooth_pictures(160, 80, seed=7))
    moments = Moments.empty(channels)
    moments.add(rows)
    means = rows.reshape(4, 40, channels)[:, :3].mean(1)
    icons = draw(efficientnet, layer, means, second_moment=moments.second_moment, seeds=np.arange(4))
    result = score(efficientnet, layer, icons.pixels, means, second_moment=moments.second_moment)
    assert np.median(result.cosine) > 0.85
    assert np.median(result.cosine_robust) > 0.7
    assert result.flag == [None] * 4
    assert (icons.pixels.std(axis=(1, 2)) > 8).all()  # colour and contrast

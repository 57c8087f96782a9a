"""The path between two layers: what of it is not linear, and where none can be had, a sentence."""

import pytest
import torch.nn.functional as functional
from between_layers import SIDE, between
from small_network import factory, forking_factory, mixed_factory
from torch import Tensor, nn

from atlas.circuits.linear_path import LinearPath
from atlas.errors import ConfigError
from atlas.networks.network import Network, load


def refused(network: Network, source: str, target: str) -> str:
    with pytest.raises(ConfigError) as error:
        LinearPath(network, source, target)
    return str(error.value)


def test_what_cannot_be_computed_is_a_sentence() -> None:
    small = load(factory(), size=64)
    assert refused(small, "branches", "stem") == (
        "No path leads from branches to stem in SmallNetwork: branches comes later. Choose as source a layer that stem "
        "is made from."
    )
    assert "they lie on branches side by side" in refused(small, "branches.narrow", "branches.wide")
    assert "A circuit of stem with itself" in refused(small, "stem", "stem")
    assert "Near names: stem" in refused(small, "stm", "branches")
    assert "gives no map of activations" in refused(small, "stem", "head")
    mixed = load(mixed_factory(), size=64)
    assert LinearPath(mixed, "first", "pooled").nonlinearities == (
        "1 gate taken as constant",
        "1 max-pooling taken as average",
    )
    assert refused(mixed, "first", "mixed") == (
        "The path from first to mixed of Mixed cannot be taken as linear: it goes through group norm, whose weights "
        "the picture itself decides. Choose two layers with nothing of the kind between them."
    )
    # Seen from within a gate it is the other factor that is held.
    assert LinearPath(mixed, "gate", "pooled").nonlinearities == (
        "1 sigmoid",
        "1 gate taken as constant",
        "1 max-pooling taken as average",
    )


class Attention(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        tokens = maps.flatten(2)
        return (
            ((tokens.transpose(1, 2) @ tokens).softmax(-1) @ tokens.transpose(1, 2)).transpose(1, 2).reshape(maps.shape)
        )


class Multiplied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return self.one(maps) * self.two(maps)


class Forks(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps if float(maps.sum()) > 0 else -maps


class Normed(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return functional.layer_norm(maps.permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2)


class Divided(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps / (1 + maps.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("middle", "word"),
    [
        (Attention(), "goes through matrix product"),
        (Multiplied(), "goes through a product or quotient of two maps"),
        (Normed(), "goes through layer norm"),
        (Divided(), "goes through a product or quotient of two maps"),
        (Forks(), "depends on the picture"),
        (nn.InstanceNorm2d(6), "goes through a norm by the picture's own mean and deviation"),
    ],
)
def test_what_is_not_linear_is_named(middle: nn.Module, word: str) -> None:
    assert word in refused(between(nn.Sequential(nn.ReLU(), middle)), "first", "middle")


def test_a_network_that_forks_behind_the_layers_is_no_trouble() -> None:
    assert LinearPath(load(forking_factory(), size=64), "stem", "residual").nonlinearities == ("2 ReLU",)


def test_a_layer_that_is_called_twice_has_no_map_of_its_own() -> None:
    class LayerTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

        def forward(self, pictures: Tensor) -> Tensor:
            return self.head(self.again(self.again(self.first(pictures))).mean((2, 3)))

    assert "again of LayerTwice is called 2 times in one pass" in refused(
        load(LayerTwice(), size=SIDE), "first", "again"
    )

"""Stacks between two layers, whose expanded weights the tests know."""

import numpy as np
import torch
from torch import Tensor, nn

from atlas.circuits.linear_path import LinearPath
from atlas.networks.network import Network, load

SIDE = 32


class Between(nn.Module):
    """A first convolution "first", what is to be looked at as "middle", and a head."""

    def __init__(self, middle: nn.Module, channels: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.middle = middle
        self.head = nn.LazyLinear(4)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.middle(self.first(pictures)).mean((2, 3)))


def between(middle: nn.Module, channels: int = 6) -> Network:
    torch.manual_seed(1)
    for values in middle.parameters():
        nn.init.normal_(values, std=0.5)
    network = Between(middle, channels)
    network(torch.zeros(1, 3, SIDE, SIDE))
    return load(network, size=SIDE)


class Stack(nn.Module):
    """Two layers without biases; ``between`` them is linear or not."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.between = between
        self.wide = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.last = nn.Conv2d(8, 6, 3, 2, 1, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.last(self.between(self.wide(self.first(pictures)))).mean((2, 3)))


def stack(between: nn.Module) -> Network:
    """A ``Stack`` as a network, with the same weights every time."""
    torch.manual_seed(6)
    return load(Stack(between), size=SIDE)


def noise(count: int, seed: int = 0) -> Tensor:
    """Inputs of noise for a network of SIDE pixels."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


class Shuffled(nn.Module):
    """Channels in two groups, taken in turns (ShuffleNet), after a split whose halves change sides."""

    def forward(self, maps: Tensor) -> Tensor:
        first, second = maps.chunk(2, dim=1)
        maps = torch.cat([second, 2 * first], dim=1)
        count, channels, height, width = maps.shape
        return maps.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(count, -1, height, width)


def eye(path: LinearPath) -> np.ndarray:
    """A direction for each unit of the target."""
    return np.eye(path.target_channels, dtype=np.float32)

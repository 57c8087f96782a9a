"""Stacks between two layers, whose expanded weights the tests know."""

import torch
from torch import Tensor, nn

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

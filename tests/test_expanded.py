"""Expanded weights: small networks whose composed kernels are known."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from atlas.explain.expanded import expanded, summed
from atlas.explain.linear_path import LinearPath
from atlas.networks import Network, load

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


def by_torch(network: Network, middle: Callable[[Tensor], Tensor], unit: tuple[int, int], channels: int = 6) -> Tensor:
    """The gradient of each channel of ``middle`` at ``unit`` to its whole input: (channels, inputs, H, W)."""
    maps = torch.zeros(1, channels, SIDE, SIDE, requires_grad=True)
    found = middle(maps)[0, :, unit[0], unit[1]]
    return torch.stack([torch.autograd.grad(each, maps, retain_graph=True)[0][0] for each in found])


def eye(path: LinearPath) -> np.ndarray:
    return np.eye(path.target_channels, dtype=np.float32)


class Sum(nn.Module):
    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.ways[0](maps)
        for way in self.ways[1:]:
            out += way(maps)
        return out


class Joined(nn.Module):
    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([way(maps) for way in self.ways], dim=1)


class Shuffled(nn.Module):
    """Channels in two groups, taken in turns (ShuffleNet), after a split whose halves change sides."""

    def forward(self, maps: Tensor) -> Tensor:
        first, second = maps.chunk(2, dim=1)
        maps = torch.cat([second, 2 * first], dim=1)
        count, channels, height, width = maps.shape
        return maps.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(count, -1, height, width)


class Context(nn.Module):
    """The mean of the whole map is added to every position: no small kernel."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps + 3 * maps.mean((2, 3), keepdim=True)


class Skipped(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps[:, 1:4, 2::3, 1::2]


class ByPositions(nn.Module):
    """A matrix product over channels that stand last, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 5, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return self.mix(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


LINEAR: dict[str, Callable[[], nn.Module]] = {
    "one": lambda: nn.Conv2d(6, 5, 3, padding=1),
    "two": lambda: nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 5, 5, padding=2)),
    "no padding": lambda: nn.Sequential(nn.Conv2d(6, 8, (3, 5)), nn.Conv2d(8, 5, 3)),
    "strides": lambda: nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 5, 3, (1, 2), 1)),
    "padded as in TensorFlow": lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(6, 5, 3, 2)),
    "dilated": lambda: nn.Sequential(nn.Conv2d(6, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 5, 3, padding=1)),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 5, 1)),
    "groups": lambda: nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, groups=2), nn.Conv2d(8, 4, 3, padding=1, groups=4)),
    "1×1": lambda: nn.Sequential(nn.Conv2d(6, 8, 1), nn.Conv2d(8, 5, 1, bias=False)),
    "average": lambda: nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(8, 5, 3, padding=1)),
    "average to a size": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Conv2d(6, 5, 3, padding=1)),
    "uneven average": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Conv2d(6, 5, 3, padding=1)),
    "residual": lambda: Sum(nn.Conv2d(6, 6, 3, padding=1), nn.Identity()),
    "sum of three": lambda: Sum(nn.Conv2d(6, 5, 3, 2, 1), nn.Conv2d(6, 5, 5, 2, 2), nn.Conv2d(6, 5, 1, 2)),
    "branches": lambda: nn.Sequential(Joined(nn.Conv2d(6, 4, 1), nn.AvgPool2d(3, 1, 1)), nn.Conv2d(10, 5, 3)),
    "shuffled": lambda: nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), Shuffled(), nn.Conv2d(8, 5, 3, padding=1)),
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(6, 8, 3, 2, 1), nn.ConvTranspose2d(8, 5, 4, 2, 1), nn.Conv2d(5, 4, 3, padding=1)
    ),
    "enlarged": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.Conv2d(6, 5, 3, padding=1)),
    "bilinear": lambda: nn.Sequential(
        nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(6, 5, 1)
    ),
    "context": lambda: nn.Sequential(Context(), nn.Conv2d(6, 5, 1)),
    "skipped": lambda: nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), Skipped(), nn.Conv2d(3, 5, 3, padding=1)),
    "by positions": lambda: nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), ByPositions()),
    "reflected": lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(6, 5, 3)),
    "norm that stays": lambda: nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3, padding=1)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_stack_gives_its_composed_kernel(name: str) -> None:
    network = between(LINEAR[name]())
    path = LinearPath(network, "first", "middle")
    found = expanded(path, eye(path))
    assert path.passed == ()
    height, width = found.kernels.shape[2:]
    assert height % 2 == 1
    assert width % 2 == 1
    expected = by_torch(network, network.submodule("middle"), found.unit)
    assert found.kernels.shape[:2] == expected.shape[:2]
    top, left = found.centre[0] - height // 2, found.centre[1] - width // 2
    held = functional.pad(expected, (width, width, height, height))  # a kernel may reach beyond the map
    assert torch.allclose(
        held[:, :, top + height : top + 2 * height, left + width : left + 2 * width],
        torch.from_numpy(found.kernels),
        atol=1e-6 * float(expected.abs().max()),
        rtol=1e-5,
    )
    assert float(expected.abs().sum()) == pytest.approx(float(np.abs(found.kernels).sum()), rel=1e-5)  # nothing beside
    assert summed(path, eye(path)) == pytest.approx(found.kernels.sum((2, 3)), abs=1e-4)

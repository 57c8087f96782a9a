"""Expanded weights: small networks whose composed kernels are known."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from between_layers import SIDE, Shuffled, between, eye
from small_network import factory
from torch import Tensor, nn

from atlas.circuits.average_slopes import measure_slopes
from atlas.circuits.expanded_weights import expand_weights, sum_weights
from atlas.circuits.linear_path import LinearPath
from atlas.errors import ConfigError
from atlas.networks.network import Network, load


def by_torch(network: Network, middle: Callable[[Tensor], Tensor], unit: tuple[int, int], channels: int = 6) -> Tensor:
    """The gradient of each channel of ``middle`` at ``unit`` to its whole input: (channels, inputs, H, W)."""
    maps = torch.zeros(1, channels, SIDE, SIDE, requires_grad=True)
    outputs = middle(maps)[0, :, unit[0], unit[1]]
    return torch.stack([torch.autograd.grad(output, maps, retain_graph=True)[0][0] for output in outputs])


class Sum(nn.Module):
    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.ways[0](maps)
        for way in self.ways[1:]:
            out += way(maps)
        return out


class Concatenation(nn.Module):
    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([way(maps) for way in self.ways], dim=1)


class Context(nn.Module):
    """The mean of the whole map is added to every position: no small kernel."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps + 3 * maps.mean((2, 3), keepdim=True)


class Arithmetic(nn.Module):
    """Sums, differences, products and quotients with what is constant, and with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(6, 6, 3, padding=1), nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        conv = self.conv(maps)
        maps = 1 - (maps * self.scale / 3 - torch.sub(conv, maps, alpha=2))
        return -(maps + maps) - conv


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
    "branches": lambda: nn.Sequential(Concatenation(nn.Conv2d(6, 4, 1), nn.AvgPool2d(3, 1, 1)), nn.Conv2d(10, 5, 3)),
    "shuffled": lambda: nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), Shuffled(), nn.Conv2d(8, 5, 3, padding=1)),
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(6, 8, 3, 2, 1), nn.ConvTranspose2d(8, 5, 4, 2, 1), nn.Conv2d(5, 4, 3, padding=1)
    ),
    "enlarged": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.Conv2d(6, 5, 3, padding=1)),
    "bilinear": lambda: nn.Sequential(
        nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(6, 5, 1)
    ),
    "context": lambda: nn.Sequential(Context(), nn.Conv2d(6, 5, 1)),
    "arithmetic": lambda: Arithmetic(),
    "skipped": lambda: nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), Skipped(), nn.Conv2d(3, 5, 3, padding=1)),
    "by positions": lambda: nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), ByPositions()),
    "reflected": lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(6, 5, 3)),
    "norm that stays": lambda: nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3, padding=1)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_stack_gives_its_composed_kernel(name: str) -> None:
    network = between(LINEAR[name]())
    path = LinearPath(network, "first", "middle")
    weights = expand_weights(path, eye(path))
    assert path.nonlinearities == ()
    height, width = weights.kernels.shape[2:]
    assert height % 2 == 1
    assert width % 2 == 1
    expected = by_torch(network, network.submodule("middle"), weights.unit)
    assert weights.kernels.shape[:2] == expected.shape[:2]
    top, left = weights.centre[0] - height // 2, weights.centre[1] - width // 2
    wider_map = functional.pad(expected, (width, width, height, height))  # a kernel may reach beyond the map
    assert torch.allclose(
        wider_map[:, :, top + height : top + 2 * height, left + width : left + 2 * width],
        torch.from_numpy(weights.kernels),
        atol=1e-6 * float(expected.abs().max()),
        rtol=1e-5,
    )
    assert float(expected.abs().sum()) == pytest.approx(
        float(np.abs(weights.kernels).sum()), rel=1e-5
    )  # nothing beside
    assert sum_weights(path, eye(path)) == pytest.approx(weights.kernels.sum((2, 3)), abs=1e-4)


class Swish(nn.Module):
    """Written out, its sigmoid is a gate of the map that it is made from."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps * functional.relu6(maps + 3) / 6


def weights_of(*layers: nn.Module) -> nn.Sequential:
    """The same layers without what is between them."""
    return nn.Sequential(*(layer for layer in layers if isinstance(layer, nn.Conv2d | nn.AvgPool2d)))


@pytest.mark.parametrize(
    ("between_them", "nonlinearities"),
    [
        ([nn.ReLU()], ("1 ReLU",)),
        ([nn.ReLU6(), nn.ReLU6()], ("2 ReLU6",)),
        ([nn.SiLU(), nn.GELU()], ("1 SiLU", "1 GELU")),
        ([nn.Hardswish(), nn.LeakyReLU(0.1)], ("1 hard swish", "1 leaky ReLU")),
        ([nn.PReLU(8), nn.Sigmoid()], ("1 PReLU", "1 sigmoid")),
        ([Swish()], ("1 gate taken as constant",)),
    ],
)
def test_non_linearities_have_slope_one_and_are_counted(
    between_them: list[nn.Module], nonlinearities: tuple[str, ...]
) -> None:
    first, last = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 5, 3, 2, 1)
    network = between(nn.Sequential(first, *between_them, last))
    path = LinearPath(network, "first", "middle")
    assert path.nonlinearities == nonlinearities
    weights = expand_weights(path, eye(path))
    factor = 1 / 6 if isinstance(between_them[0], Swish) else 1  # the constant that the gate's product is divided by
    expected = by_torch(network, nn.Sequential(first, last), weights.unit)
    top, left = weights.centre[0] - 2, weights.centre[1] - 2
    assert weights.kernels.shape[2:] == (5, 5)
    assert weights.kernels == pytest.approx(factor * expected[:, :, top : top + 5, left : left + 5].numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("most", "average"),
    [
        (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1)),
        (nn.MaxPool2d(2), nn.AvgPool2d(2)),
        (nn.AdaptiveMaxPool2d(8), nn.AvgPool2d(4)),
    ],
)
def test_max_pooling_is_taken_as_average(most: nn.Module, average: nn.Module) -> None:
    last = nn.Conv2d(6, 5, 3, padding=1)
    torch.manual_seed(2)
    network = between(nn.Sequential(most, last))
    path = LinearPath(network, "first", "middle")
    assert path.nonlinearities == ("1 max-pooling taken as average",)
    weights = expand_weights(path, eye(path))
    expected = by_torch(network, nn.Sequential(average, last), weights.unit)
    assert weights.kernels.sum((2, 3)) == pytest.approx(expected.sum((2, 3)).numpy(), abs=1e-5)
    height = weights.kernels.shape[2]
    top, left = (side - height // 2 for side in weights.centre)
    expected = expected[:, :, top : top + height, left : left + height]
    assert weights.kernels == pytest.approx(expected.numpy(), abs=1e-6)


def test_a_direction_is_a_mixture_of_units() -> None:
    network = load(factory(), size=64)
    path = LinearPath(network, "stem", "branches")
    assert path.nonlinearities == ("5 ReLU",)
    mixture = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    kernels = expand_weights(path, eye(path)).kernels
    expected = np.einsum("nc,cikl->nikl", mixture, kernels)
    assert expand_weights(path, mixture).kernels == pytest.approx(expected, abs=1e-4)
    assert sum_weights(path, mixture) == pytest.approx(expected.sum((2, 3)), abs=1e-4)


def test_a_planted_kernel_points_to_where_its_source_lies() -> None:
    """Window above, wheel below: two steps up for one source, two steps down for the other."""
    first, last = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 1, 3, padding=1)
    network = between(nn.Sequential(first, nn.ReLU(), last))
    with torch.no_grad():
        for values in (first.weight, first.bias, last.weight, last.bias):
            values.zero_()
        first.weight[1, 0, 0, 1] = last.weight[0, 1, 0, 1] = 1  # window
        first.weight[4, 0, 2, 1] = 1  # wheel
        last.weight[0, 4, 2, 1] = 0.5
        last.weight[0, 3, 1, 0] = -0.25  # what stands left of it must not be there
        first.weight[3, 0, 1, 1] = 1
    path = LinearPath(network, "first", "middle")
    weights = expand_weights(path, eye(path))
    kernel = weights.kernels[0]
    assert weights.centre == weights.unit == (16, 16)
    assert {tuple(place): float(kernel[tuple(place)]) for place in np.argwhere(kernel)} == {
        (1, 0, 2): 1,
        (3, 2, 1): -0.25,
        (4, 4, 2): 0.5,
    }


def test_the_demo_network_has_weights_between_its_blocks() -> None:
    path = LinearPath(load("efficientnet_lite0"), "_blocks.9", "_blocks.10")
    assert path.nonlinearities == ("2 ReLU6",)
    weights = expand_weights(path, eye(path))
    assert weights.kernels.shape == (112, 112, 5, 5)
    assert weights.centre == weights.unit == (7, 7)
    assert np.isfinite(weights.kernels).all()
    # The way past the block adds each unit to itself, at the middle.
    without = weights.kernels[:, :, 2, 2] - np.eye(112)
    block = path.network.submodule("_blocks.10")
    maps = torch.zeros(1, 112, 14, 14)
    maps[0, 5, 7, 7] = 1

    def plain(maps: Tensor) -> Tensor:
        wide = functional.conv2d(maps, block._expand_conv.weight)
        wide = functional.conv2d(wide, block._depthwise_conv.weight, padding=2, groups=wide.shape[1])
        return functional.conv2d(wide, block._project_conv.weight)

    assert without[:, 5] == pytest.approx(plain(maps)[0, :, 7, 7].numpy(), abs=1e-4)


def test_directions_and_pictures_must_fit() -> None:
    path = LinearPath(load(factory(), size=64), "stem", "residual")
    with pytest.raises(
        ConfigError, match=r"Directions of residual have 8 numbers each, and an array of shape \(2, 3\)"
    ):
        expand_weights(path, np.zeros((2, 3), np.float32))
    with pytest.raises(ConfigError, match=r"shape \(n, 3, 64, 64\), n at least 1, and \(0, 3, 64, 64\) was given"):
        measure_slopes(path, torch.zeros(0, 3, 64, 64))

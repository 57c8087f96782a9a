"""Vector-Jacobian products on windows: against autograd on the whole map, and where a window lies."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, fx, nn

from atlas.circuits.vjp import (
    FullGradient,
    GradientWindow,
    Operation,
    add_gradients,
    full_gradient,
    gradient_window,
    is_map,
    on_one_extent,
    scale,
    sum_to_shape,
    vjp,
)
from atlas.networks.program.record import record
from atlas.networks.program.replay import constants_of, replay

PROBE = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
MAP = torch.Size((1, 4, 12, 12))


def window(top: int, left: int, *values: float) -> GradientWindow:
    """One row of numbers of one channel."""
    return GradientWindow(torch.tensor(values).reshape(1, 1, 1, -1), top, left)


def test_a_map_is_one_picture_with_height_and_width() -> None:
    assert is_map(torch.Size((1, 3, 5, 5)))
    assert is_map(torch.Size((1, 2, 3, 5, 5)))
    assert not is_map(torch.Size((2, 3, 5, 5)))
    assert not is_map(torch.Size((1, 5, 5)))


def test_windows_are_added_where_they_lie() -> None:
    shape = torch.Size((1, 1, 4, 4))
    total = add_gradients(window(1, 1, 1, 2), window(2, 2, 5), shape)
    assert isinstance(total, GradientWindow)
    assert (total.top, total.left) == (1, 1)
    assert total.values.tolist() == [[[[1, 2], [0, 5]]]]
    assert [one.values.tolist() for one in on_one_extent([window(0, 0, 1), window(0, 2, 7)])] == [
        [[[[1, 0, 0]]]],
        [[[[0, 0, 7]]]],
    ]
    full = add_gradients(window(1, 1, 1, 2), FullGradient(torch.ones(1, 1, 1, 4, 4)), shape)
    assert isinstance(full, FullGradient)
    assert full.values[0, 0, 0, 1].tolist() == [1, 2, 3, 1]
    assert add_gradients(None, window(1, 1, 1), shape) == window(1, 1, 1)  # type: ignore[comparison-overlap]


def test_what_lies_outside_the_map_is_cut_off_only_on_the_whole_map() -> None:
    shape = torch.Size((1, 1, 2, 2))
    outside = window(0, -1, 1, 2, 3)
    assert full_gradient(outside, shape).tolist() == [[[[[2, 3], [0, 0]]]]]
    assert full_gradient(window(-5, 0, 1), shape).any().item() is False
    assert gradient_window(outside, shape) is outside
    cropped = gradient_window(FullGradient(torch.tensor([[[[[0, 0], [0, 4.0]]]]])), shape)
    assert (cropped.top, cropped.left, cropped.values.tolist()) == (1, 1, [[[[4]]]])
    empty = gradient_window(FullGradient(torch.zeros(1, 1, 1, 2, 2)), shape)
    assert empty.values.tolist() == [[[[0]]]]


def test_a_factor_is_one_number_or_one_a_channel() -> None:
    gradient = GradientWindow(torch.ones(1, 4, 1, 1), 3, 4)
    assert scale(gradient, 2.0, MAP).values.flatten().tolist() == [2, 2, 2, 2]
    scaled = scale(gradient, torch.tensor([1.0, 2, 3, 4]), MAP)
    assert scaled.values.flatten().tolist() == [1, 2, 3, 4]
    assert isinstance(scaled, GradientWindow)
    flat = scale(FullGradient(torch.ones(2, 1, 3)), torch.tensor([1.0, 2, 3]), torch.Size((1, 3)))
    assert flat.values.tolist() == [[[1, 2, 3]], [[1, 2, 3]]]


def test_what_was_broadcast_is_summed() -> None:
    gradient = GradientWindow(torch.arange(8.0).reshape(1, 4, 1, 2), 5, 6)
    by_channel = sum_to_shape(gradient, MAP, torch.Size((1, 1, 12, 12)))
    assert isinstance(by_channel, GradientWindow)
    assert by_channel.values.tolist() == [[[[12, 16]]]]
    assert (by_channel.top, by_channel.left) == (5, 6)
    everywhere = sum_to_shape(gradient, MAP, torch.Size((4, 1, 1)))
    assert isinstance(everywhere, FullGradient)
    assert everywhere.values.tolist() == [[[[1]], [[5]], [[9]], [[13]]]]


class Through:
    """One recorded operation of a map."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        recorded = record(function, PROBE)
        assert recorded is not None
        constants = constants_of(recorded)
        values = replay(recorded, PROBE, constants)
        shapes = {node: value.shape for node, value in values.items() if isinstance(value, Tensor)}
        (self.read,) = recorded.graph.find_nodes(op="placeholder")
        output: Any = recorded.graph.find_nodes(op="output")[0].args[0]
        core, part = output.args if "getitem" in str(output.target) else (output, None)
        assert isinstance(core, fx.Node)
        self.operation = Operation(core, part, shapes[output], shapes, constants)

    def __call__(self, gradient: GradientWindow) -> GradientWindow | FullGradient:
        return vjp(self.operation, gradient, self.read)


NORM = nn.BatchNorm2d(4).eval()
nn.init.uniform_(NORM.weight, 0.5, 2)
NORM.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "convolution": nn.Conv2d(4, 6, 3, padding=1),
    "stride": nn.Conv2d(4, 6, 3, 2, 1),
    "depthwise, dilated": nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
    "transposed": nn.ConvTranspose2d(4, 6, 4, 2, 1),
    "average": nn.AvgPool2d(2),
    "average to a size": nn.AdaptiveAvgPool2d(4),
    "uneven average to a size": nn.AdaptiveAvgPool2d(5),
    "norm": NORM,
    "sum with itself": lambda x: x + x,
    "difference": lambda x: 1 - x,
    "product": lambda x: x * torch.tensor([1.0, 2, 3, 4])[:, None, None],
    "quotient": lambda x: x / 3,
    "concatenation": lambda x: torch.cat([torch.ones(1, 2, 12, 12), x, x], 1),
    "padding": lambda x: functional.pad(x, (1, 2, 0, 1)),
    "slice": lambda x: x[:, :, 2::3],
    "columns": lambda x: x[:, :, :, 1:9:2],
    "channels": lambda x: x[:, [3, 0, 0]],
    "enlargement": lambda x: functional.interpolate(x, scale_factor=2),
    "mean of the map": lambda x: x.mean((2, 3), keepdim=True),
    "bilinear": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_product_is_that_of_autograd(name: str) -> None:
    """From a window in the middle of the output, and from all of it."""
    function, through = LINEAR[name], Through(LINEAR[name])
    inputs = PROBE.clone().requires_grad_(True)
    outputs = function(inputs)
    height, width = outputs.shape[2:]
    top, left, bottom, right = height // 2, width // 2, height // 2 + min(2, height), width // 2 + min(2, width)
    for area in ((top, left, min(bottom, height), min(right, width)), (0, 0, height, width)):
        weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
        inside = torch.zeros_like(weights)
        inside[:, :, area[0] : area[2], area[1] : area[3]] = weights[:, :, area[0] : area[2], area[1] : area[3]]
        (expected,) = torch.autograd.grad((outputs * inside).sum(), inputs, retain_graph=True)
        result = through(GradientWindow(inside[:, :, area[0] : area[2], area[1] : area[3]], area[0], area[1]))
        torch.testing.assert_close(full_gradient(result, MAP)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "area"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (4, 5, 3, 3)),  # one position sees 3 × 3 around it
        (nn.Conv2d(4, 6, (5, 1), stride=(2, 1)), (10, 6, 5, 1)),
        (nn.Conv2d(4, 6, 3, padding=2, dilation=2), (3, 4, 5, 5)),
        (nn.AvgPool2d(2), (10, 12, 2, 2)),
        (lambda x: functional.pad(x, (1, 0, 2, 0)), (3, 5, 1, 1)),
        (lambda x: functional.interpolate(x, scale_factor=2), (2, 3, 1, 1)),
    ],
)
def test_a_window_widens_by_the_kernel_alone(function: Callable[[Tensor], Tensor], area: tuple[int, ...]) -> None:
    """From the position (5, 6) of the output; the edge of the map does not count."""
    through = Through(function)
    result = through(GradientWindow(torch.ones(1, through.operation.shape[1], 1, 1), 5, 6))
    assert isinstance(result, GradientWindow)
    assert (result.top, result.left, *result.values.shape[2:]) == area


def test_a_maximum_is_taken_as_an_average() -> None:
    through = Through(nn.MaxPool2d(2))
    result = through(GradientWindow(torch.ones(1, 4, 1, 1), 1, 2))
    assert isinstance(result, GradientWindow)
    assert (result.top, result.left) == (2, 4)
    assert result.values.unique().tolist() == [0.25]
    largest = Through(lambda x: x.amax((2, 3), keepdim=True))
    whole = largest(GradientWindow(torch.ones(1, 4, 1, 1), 0, 0))
    assert full_gradient(whole, MAP).unique().tolist() == [pytest.approx(1 / 144)]

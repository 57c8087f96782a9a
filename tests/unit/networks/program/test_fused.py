"""Convolutions with the clip behind them: values, tangents and gradients against torch's own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from atlas.networks.program.fused import Bounds, Clip, FusedConvolution

RELU6: Bounds = (0.0, 6.0)


def convolution(bounds: Bounds | None = RELU6, groups: int = 1, **options: Any) -> FusedConvolution:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 6 // groups, 3, 3, generator=generator)
    settings = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]} | options
    return FusedConvolution(weight, torch.randn(6, generator=generator), **settings, groups=groups, bounds=bounds)


def inputs_of(seed: int = 1) -> Tensor:
    return torch.randn(2, 6, 9, 8, generator=torch.Generator().manual_seed(seed))


def by_torch(module: FusedConvolution, inputs: Tensor) -> Tensor:
    outputs = functional.conv2d(
        inputs, module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups
    )
    return outputs if module.bounds is None else outputs.clamp(*module.bounds)


OPTIONS = [
    {},
    {"bounds": None},
    {"bounds": (0.0, None)},
    {"bounds": (-1.0, 1.0)},
    {"stride": [2, 2]},
    {"stride": [2, 1]},
    {"stride": [3, 3], "padding": [0, 2]},
    {"dilation": [2, 2], "padding": [2, 2]},
    {"padding": [3, 3]},
    {"groups": 2},
    {"groups": 6},
    {"groups": 6, "stride": [2, 2]},
    {"groups": 6, "stride": [2, 2], "padding": [0, 0]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_and_gradients_are_torchs(options: dict[str, Any]) -> None:
    module = convolution(**options)
    values, gradients = [], []
    for compute in (lambda inputs: module(inputs, 0.0), lambda inputs: by_torch(module, inputs)):
        inputs = inputs_of().requires_grad_(True)
        outputs = compute(inputs)
        weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2))
        (gradient,) = torch.autograd.grad((outputs * weights).sum(), inputs)
        values.append(outputs.detach())
        gradients.append(gradient)
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.run(inputs_of()), values[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_tangent_is_torchs_along_a_direction(options: dict[str, Any]) -> None:
    module, inputs, direction = convolution(**options), inputs_of(), inputs_of(7)
    outputs = module.run(inputs)
    _, expected = torch.func.jvp(lambda one: by_torch(module, one), (inputs,), (direction,))
    torch.testing.assert_close(module.tangent(direction, outputs), expected, rtol=1e-4, atol=1e-4)


def test_a_share_of_the_gradient_passes_where_it_is_clipped() -> None:
    """All of it at 1, as without the clip."""
    module = convolution(bounds=(0.0, 0.5))
    gradients = {}
    for leak in (0.0, 0.25, 1.0):
        inputs = inputs_of().requires_grad_(True)
        (gradients[leak],) = torch.autograd.grad(module(inputs, leak).sum(), inputs)
    torch.testing.assert_close(gradients[0.25], 0.75 * gradients[0.0] + 0.25 * gradients[1.0], rtol=1e-4, atol=1e-4)
    inputs = inputs_of().requires_grad_(True)
    unclipped = convolution(bounds=None)
    torch.testing.assert_close(gradients[1.0], torch.autograd.grad(unclipped(inputs, 0.0).sum(), inputs)[0])


@pytest.mark.parametrize(("low", "high"), [(0.0, None), (0.0, 6.0), (-1.0, 1.0)])
def test_a_clip_alone(low: float, high: float | None) -> None:
    clip, inputs = Clip(low, high), 5 * inputs_of()
    expected = inputs.clamp(low, high)
    assert torch.equal(clip.run(inputs), expected)
    inside = (inputs > low) & (inputs < (torch.inf if high is None else high))
    assert torch.equal(clip.tangent(torch.ones_like(inputs), expected), inside.float())
    for leak in (0.0, 0.25):
        free = inputs.clone().requires_grad_(True)
        outputs = clip(free, leak)
        assert torch.equal(outputs, expected)
        (gradient,) = torch.autograd.grad(outputs.sum(), free)
        torch.testing.assert_close(gradient, torch.where(inside, 1.0, leak))


def test_weights_may_be_wider_than_what_is_convolved() -> None:
    """Where the processor does not convolve bfloat16: computed in float32, returned in bfloat16."""
    module, inputs = convolution(), inputs_of().bfloat16()
    outputs = module.run(inputs)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs, by_torch(module, inputs.float()).bfloat16())

"""Convolutions with their padding, clip and gradient fused into one step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_aten = torch.ops.aten


# What a ReLU (no upper one) or ReLU6 holds its values between.
Limits = tuple[float, float | None]


class FusedConvolution(nn.Module):
    """A frozen convolution of CPU tensors with what follows it, and its gradient as another convolution. ``weight`` and
    ``bias`` are float32 where the processor does not convolve the type of the inputs and outputs, which may be smaller.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        limits: Limits | None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.stride, self.padding, self.dilation, self.groups, self.limits = stride, padding, dilation, groups, limits
        self.back = _gradient_kernel(weight, stride, padding, dilation, groups)

    def forward(self, inputs: Tensor, leak: float) -> Tensor:
        """``inputs`` (n, channels, H, W) → (n, filters, H, W), the gradient let through by ``leak`` where shut."""
        outputs: Tensor = _Convolve.apply(inputs, self, leak)
        return outputs

    def run(self, inputs: Tensor) -> Tensor:
        """``inputs`` (n, channels, H, W) → (n, filters, H, W), without a gradient."""
        outputs = _convolve(inputs, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return outputs if self.limits is None else outputs.clamp_(*self.limits)

    def tangent(self, tangent: Tensor, outputs: Tensor) -> Tensor:
        """The tangent of ``outputs``, in their shape, which ``run`` gave; ``tangent`` is that of the inputs."""
        found = _convolve(tangent, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        return found if self.limits is None else _clip_gradient(found, outputs, self.limits, 0)

    def gradient(self, gradient: Tensor, inputs: Tensor) -> Tensor:
        """The gradient of the inputs, in their shape, given that of the outputs before clipping, in theirs."""
        if self.back is None:
            found: Tensor = _aten.convolution_backward(
                gradient.float(), inputs.float(), self.weight.float(), None, self.stride, self.padding, self.dilation,
                False, [0, 0], self.groups, [True, False, False],
            )[0]  # fmt: skip
            return found.to(gradient.dtype)
        weight, padding = self.back
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if self.stride == [1, 1]:
            return _convolve(gradient, weight, None, [1, 1], padding, self.dilation, self.groups)
        step, (height, width) = self.stride[0], inputs.shape[2:]
        if self.groups > 1:
            reach = [
                side + 2 * near - known + 1
                for side, near, known in zip(inputs.shape[2:], self.padding, self.weight.shape[2:])
            ]
            spread = gradient.new_zeros((*gradient.shape[:2], *reach)).contiguous(memory_format=torch.channels_last)
            spread[:, :, ::step, ::step] = gradient
            return _convolve(spread, weight, None, [1, 1], padding, [1, 1], self.groups)
        more = [max(0, -(-side // step) - known) for side, known in zip((height, width), gradient.shape[2:])]
        if any(more):
            gradient = F.pad(gradient, (0, more[1], 0, more[0])).contiguous(memory_format=torch.channels_last)
        phases = _convolve(gradient, weight, None, [1, 1], padding, [1, 1], self.groups)
        return F.pixel_shuffle(phases, step)[:, :, :height, :width]


def _gradient_kernel(
    weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> tuple[Tensor, list[int]] | None:
    """Kernel and padding of the convolution that takes the gradient of a convolution's outputs to that of its inputs.

    With stride s, its channels are the s × s phases of each input channel, to be shuffled into place; a depthwise
    convolution, for which that would be slow, takes a gradient with zeros between its rows instead. None where the
    gradient is no such convolution: unequal strides, a stride with dilation or with few groups, or more padding than
    the kernel reaches.
    """
    out, each, height, width = weight.shape
    mirrored = weight.view(groups, out // groups, each, height, width).transpose(1, 2)
    mirrored = mirrored.reshape(groups * each, out // groups, height, width)
    if stride == [1, 1] or (groups == out and stride[0] == stride[1] and list(dilation) == [1, 1]):
        turned_padding = [(height - 1) * dilation[0] - padding[0], (width - 1) * dilation[1] - padding[1]]
        if min(turned_padding) < 0:
            return None
        return mirrored.flip(2, 3).contiguous(memory_format=torch.channels_last), turned_padding
    step = stride[0]
    if stride[1] != step or list(dilation) != [1, 1] or groups > 1:
        return None
    # Input row step · i + phase meets output row i + shift through the kernel's row phase + padding − step · shift.
    reach = [max((step - 1 + near) // step, (side - 1 - near) // step) for side, near in zip((height, width), padding)]
    kernel = weight.new_zeros(each, step, step, out, 2 * reach[0] + 1, 2 * reach[1] + 1)
    rows = _meetings(height, padding[0], step, reach[0])
    columns = _meetings(width, padding[1], step, reach[1])
    for row_phase, row_shift, row in rows:
        for column_phase, column_shift, column in columns:
            kernel[:, row_phase, column_phase, :, row_shift, column_shift] = mirrored[:, :, row, column]
    return kernel.flatten(0, 2).contiguous(memory_format=torch.channels_last), reach


def _meetings(side: int, padding: int, step: int, reach: int) -> list[tuple[int, int, int]]:
    """(phase, place of the shift in the gradient's kernel, place in the kernel) of all that meet along one axis."""
    found = []
    for phase in range(step):
        for shift in range(-reach, reach + 1):
            place = phase + padding - step * shift
            if 0 <= place < side:
                found.append((phase, shift + reach, place))
    return found


def _convolve(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    if inputs.dtype != weight.dtype:
        return _convolve(inputs.to(weight.dtype), weight, bias, stride, padding, dilation, groups).to(inputs.dtype)
    # conv2d itself would leave oneDNN for a slower way where there is one thread.
    convolve = torch.mkldnn_convolution if torch.backends.mkldnn.is_available() else None
    if convolve is None:
        return torch.conv2d(inputs, weight, bias, stride, padding, dilation, groups)
    outputs: Tensor = convolve(inputs, weight, bias, padding, stride, dilation, groups)
    return outputs


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, module: FusedConvolution, leak: float) -> Tensor:
        outputs = module.run(inputs)
        ctx.module, ctx.leak = module, leak
        ctx.save_for_backward(inputs, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, outputs = ctx.saved_tensors
        if ctx.module.limits is not None:
            gradient = _clip_gradient(gradient, outputs, ctx.module.limits, ctx.leak)
        return ctx.module.gradient(gradient, inputs), None, None


class Clip(nn.Module):
    """A ReLU (no ``high``) or a ReLU6 that does not stand behind a convolution."""

    def __init__(self, low: float, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def run(self, inputs: Tensor) -> Tensor:
        """``inputs``, of any shape, between the limits; without a gradient of its own."""
        return inputs.clamp(self.low, self.high)

    def tangent(self, tangent: Tensor, outputs: Tensor) -> Tensor:
        """The tangent of ``outputs``, which ``run`` gave, where the inputs have ``tangent``, all of one shape."""
        return _clip_gradient(tangent, outputs, (self.low, self.high), 0)

    def forward(self, inputs: Tensor, leak: float) -> Tensor:
        """``inputs``, of any shape, between the limits; the gradient is let through by ``leak`` where it is shut."""
        outputs: Tensor = _ClipValues.apply(inputs, self.low, self.high, leak)
        return outputs


class _ClipValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, low: float, high: float | None, leak: float) -> Tensor:
        outputs = inputs.clamp(low, high)
        ctx.limits, ctx.leak = (low, high), leak
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (outputs,) = ctx.saved_tensors
        return _clip_gradient(gradient, outputs, ctx.limits, ctx.leak), None, None, None


def _clip_gradient(gradient: Tensor, outputs: Tensor, limits: Limits, leak: float) -> Tensor:
    """The gradient through a clip, of which ``leak`` passes where the clip holds the value."""
    low, high = limits
    if high is None:
        open_gradient: Tensor = _aten.threshold_backward(gradient, outputs, low)
    else:
        open_gradient = _aten.hardtanh_backward(gradient, outputs, low, high)
    return open_gradient if leak == 0 else torch.lerp(open_gradient, gradient, leak)

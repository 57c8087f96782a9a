"""Modules that a rewritten program calls: a convolution with the clip behind it, and a clip (ReLU, ReLU6) alone.

Each runs plainly (`run`), with the tangent of its outputs (`tangent`), and as a module with a gradient (`forward`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas.networks.program.kernel import Bounds, Kernel

_aten = torch.ops.aten


@cache
def convolves_in(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves ``dtype`` on this processor.

    It is tried, since torch's list of the processor's capabilities does not know of ONEDNN_MAX_CPU_ISA, which forbids
    oneDNN some of them.
    """
    ones = torch.ones(1, 1, 1, 1, dtype=dtype)
    try:
        torch.mkldnn_convolution(ones, ones, None, [0, 0], [1, 1], [1, 1], 1)
    except RuntimeError:
        return False
    return True


class FusedConvolution(nn.Module):
    """A frozen convolution of CPU tensors and the clip behind it (``bounds``); its gradient is another convolution.

    ``weight`` (filters, channels / groups, height, width) and ``bias`` (filters,) are float32 where the processor does
    not convolve the dtype of the inputs and outputs, which may be smaller.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        bounds: Bounds | None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.stride, self.padding, self.dilation, self.groups, self.bounds = stride, padding, dilation, groups, bounds
        self._kernel = Kernel(weight, bias, stride, padding, dilation, groups)
        self._without_bias = self._kernel if bias is None else self._kernel.without_bias()
        self._unpadded = Kernel(weight, None, stride, [0, 0], dilation, groups) if any(padding) else self._without_bias
        self._gradient_kernel = _gradient_kernel(weight, stride, padding, dilation, groups)

    def forward(self, inputs: Tensor, leak: float) -> Tensor:
        """``inputs`` (n, channels, H, W) → (n, filters, H', W'); where the clip's gradient is 0, a share ``leak`` of it
        passes."""
        outputs: Tensor = _Convolve.apply(inputs, self, leak)
        return outputs

    def run(self, inputs: Tensor) -> Tensor:
        """``inputs`` (n, channels, H, W) → (n, filters, H', W'), without a gradient."""
        return self._kernel(inputs, self.bounds)

    def tangent(self, tangent: Tensor, outputs: Tensor, *, padded: bool = True) -> Tensor:
        """The tangent of ``outputs``, what `run` gives, in their shape; ``tangent`` is that of the inputs. Unless
        ``padded``, of a part of the outputs, from all that it is read from."""
        convolved = self._without_bias(tangent) if padded else self._unpadded(tangent)
        return convolved if self.bounds is None else _clip_gradient(convolved, outputs, self.bounds, 0)

    def gradient(self, gradient: Tensor, inputs: Tensor) -> Tensor:
        """The gradient of the ``inputs``, in their shape; ``gradient`` is that of the outputs before clipping."""
        if self._gradient_kernel is None:
            result: Tensor = _aten.convolution_backward(
                gradient.float(), inputs.float(), self.weight.float(), None, self.stride, self.padding, self.dilation,
                False, [0, 0], self.groups, [True, False, False],
            )[0]  # fmt: skip
            return result.to(gradient.dtype)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if self.stride == [1, 1]:
            return self._gradient_kernel(gradient)
        step, (height, width) = self.stride[0], inputs.shape[2:]
        missing = [max(0, -(-side // step) - rows) for side, rows in zip((height, width), gradient.shape[2:])]
        if any(missing):
            gradient = F.pad(gradient, (0, missing[1], 0, missing[0])).contiguous(memory_format=torch.channels_last)
        phases = self._gradient_kernel(gradient)
        return F.pixel_shuffle(phases, step)[:, :, :height, :width]


def _gradient_kernel(
    weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Kernel | None:
    """The convolution that takes the gradient of a convolution's outputs to that of its inputs.

    With stride s, its channels are the s × s phases of each input channel, to be shuffled into place. None where the
    gradient is no such convolution (unequal strides, a stride with dilation, more padding than the kernel reaches), and
    where it has a stride and groups: that gradient oneDNN computes well itself, in float32.
    """
    out, inputs, height, width = weight.shape  # input channels of each group
    swapped = weight.view(groups, out // groups, inputs, height, width).transpose(1, 2)
    swapped = swapped.reshape(groups * inputs, out // groups, height, width)
    if stride == [1, 1]:
        flipped_padding = [(height - 1) * dilation[0] - padding[0], (width - 1) * dilation[1] - padding[1]]
        if min(flipped_padding) < 0:
            return None
        flipped = swapped.flip(2, 3).contiguous(memory_format=torch.channels_last)
        return Kernel(flipped, None, [1, 1], flipped_padding, dilation, groups)
    step = stride[0]
    if stride[1] != step or list(dilation) != [1, 1] or groups > 1:
        return None
    # Input row step · i + phase meets output row i + shift through the kernel's row phase + padding − step · shift.
    reach = [
        max((step - 1 + margin) // step, (side - 1 - margin) // step) for side, margin in zip((height, width), padding)
    ]
    kernel = weight.new_zeros(inputs, step, step, out, 2 * reach[0] + 1, 2 * reach[1] + 1)
    rows = _phase_shifts(height, padding[0], step, reach[0])
    columns = _phase_shifts(width, padding[1], step, reach[1])
    for row_phase, row_shift, row in rows:
        for column_phase, column_shift, column in columns:
            kernel[:, row_phase, column_phase, :, row_shift, column_shift] = swapped[:, :, row, column]
    phases = kernel.flatten(0, 2).contiguous(memory_format=torch.channels_last)
    return Kernel(phases, None, [1, 1], reach, [1, 1], 1)


def _phase_shifts(side: int, padding: int, step: int, reach: int) -> list[tuple[int, int, int]]:
    """(phase, index of the shift in the gradient's kernel, index in the convolution's kernel) of all pairs that meet
    along one axis."""
    shifts = []
    for phase in range(step):
        for shift in range(-reach, reach + 1):
            index = phase + padding - step * shift
            if 0 <= index < side:
                shifts.append((phase, shift + reach, index))
    return shifts


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
        if ctx.module.bounds is not None:
            gradient = _clip_gradient(gradient, outputs, ctx.module.bounds, ctx.leak)
        return ctx.module.gradient(gradient, inputs), None, None


class Clip(nn.Module):
    """A ReLU (no ``high``), ReLU6 or other hardtanh that does not follow a convolution."""

    def __init__(self, low: float, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def run(self, inputs: Tensor) -> Tensor:
        """``inputs``, of any shape, clipped to the bounds; without a gradient."""
        return inputs.clamp(self.low, self.high)

    def tangent(self, tangent: Tensor, outputs: Tensor) -> Tensor:
        """The tangent of ``outputs``, what `run` gives; ``tangent`` is that of the inputs, all of one shape."""
        return _clip_gradient(tangent, outputs, (self.low, self.high), 0)

    def forward(self, inputs: Tensor, leak: float) -> Tensor:
        """``inputs``, of any shape, clipped to the bounds; where the gradient is 0, a share ``leak`` of it passes."""
        outputs: Tensor = _ClipValues.apply(inputs, self.low, self.high, leak)
        return outputs


class _ClipValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, low: float, high: float | None, leak: float) -> Tensor:
        outputs = inputs.clamp(low, high)
        ctx.bounds, ctx.leak = (low, high), leak
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (outputs,) = ctx.saved_tensors
        return _clip_gradient(gradient, outputs, ctx.bounds, ctx.leak), None, None, None


def _clip_gradient(gradient: Tensor, outputs: Tensor, bounds: Bounds, leak: float) -> Tensor:
    """The gradient through a clip; a share ``leak`` of it passes where the value is clipped."""
    low, high = bounds
    if high is None:
        clipped: Tensor = _aten.threshold_backward(gradient, outputs, low)
    else:
        clipped = _aten.hardtanh_backward(gradient, outputs, low, high)
    return clipped if leak == 0 else torch.lerp(clipped, gradient, leak)

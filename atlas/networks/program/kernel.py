"""A convolution with constant weights, as oneDNN does it fastest on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# The lower and upper bound of a clip: of a ReLU there is no upper one.
Bounds = tuple[float, float | None]
# Shapes that weights are put in order for at a time: each takes as much memory as the weights.
_MOST_SHAPES = 4


class Kernel:
    """The weights and settings of a convolution of CPU tensors. Threads may share it.

    ``weight`` (filters, channels / groups, height, width) and ``bias`` (filters,) are float32 where the processor does
    not convolve the dtype of the inputs and outputs, which may be smaller.

    oneDNN wants weights in an order of its own, and puts them into it in every call: a third of the time of a late
    layer's convolution of one picture. Here they are put into it once for each shape of the inputs; in the order that
    suits another shape a call can be a hundred times slower.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> None:
        self.weight, self.bias = weight, bias
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self._packed: dict[torch.Size, Tensor] = {}  # by the shape of the inputs

    def without_bias(self) -> Kernel:
        """The same without its bias; both share the weights."""
        kernel = Kernel(self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        kernel._packed = self._packed
        return kernel

    def __call__(self, inputs: Tensor, bounds: Bounds | None = None) -> Tensor:
        """``inputs`` (n, channels, H, W) convolved, and clipped to ``bounds`` in the same pass over memory. No gradient
        flows; where there are bounds, NaN becomes the lower one."""
        if inputs.dtype != self.weight.dtype:
            return self(inputs.to(self.weight.dtype), bounds).to(inputs.dtype)
        if not torch.backends.mkldnn.is_available() or torch.compiler.is_compiling():
            outputs = torch.conv2d(
                inputs, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
            )
            return outputs if bounds is None else outputs.clamp_(*bounds)
        packed = self._packed.get(inputs.shape)
        if packed is None:
            packed = self._pack(inputs.shape)
        clip: tuple[str, list[float]] = ("none", [])
        if bounds is not None and bounds[1] is not None:
            clip = "hardtanh", [bounds[0], bounds[1]]
        elif bounds is not None:
            clip = "relu", []
        convolve: Any = torch.ops.mkldnn._convolution_pointwise
        settings = self.padding, self.stride, self.dilation, self.groups
        clipped: Tensor = convolve(inputs, packed, self.bias, *settings, *clip, "")
        return clipped

    def _pack(self, shape: torch.Size) -> Tensor:
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        weight = self.weight.contiguous(memory_format=torch.channels_last).to_mkldnn()
        packed: Tensor = reorder(weight, self.padding, self.stride, self.dilation, self.groups, list(shape))
        shapes = list(self._packed)
        for oldest in shapes[: max(0, len(shapes) + 1 - _MOST_SHAPES)]:
            self._packed.pop(oldest, None)  # another thread may have been quicker
        self._packed[shape] = packed
        return packed

"""A network written out as a list of operations, and that list made fast.

One forward pass is recorded, operation by operation; hooks, containers and the user's own code are gone from the list.
On a CPU the list is then rewritten:

- zeros that are padded on in front of a convolution become padding of the convolution;
- a ReLU or ReLU6 behind a convolution is done by the convolution itself;
- the gradient of a convolution with stride 1 is another convolution, with the kernels turned round. oneDNN's forward
  convolutions are fast in bfloat16 also where its backward ones are not (depthwise: 30 times slower).

Going back, ReLUs can let a share of the gradient through where they are shut ("leak"): a picture in which
every path to the layer is shut has no gradient otherwise. Relaxed gradients come from Olah et al. (2017); there they
replace the ReLU's gradient where it is zero throughout, here it is a leaky ReLU's (Maas et al. 2013).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

Precision = Literal["auto", "float32", "bfloat16"]
# What a ReLU (no upper one) or ReLU6 holds its values between.
Limits = tuple[float, float | None]

_aten = torch.ops.aten

# One recording at a time in a process: the recorder keeps its state in torch's own modes.
_RECORDING = threading.Lock()


def record(function: Callable[[Tensor], Any], probe: Tensor) -> fx.GraphModule | None:
    """What ``function`` does with ``probe`` (n, 3, size, size), operation by operation; None where it cannot be
    written down (its path depends on the values).
    """
    try:
        with _RECORDING, torch.no_grad():
            return make_fx(torch.func.functionalize(lambda inputs: function(inputs)))(probe)  # a method counts itself
    except Exception:  # whatever the user's forward and the recorder raise
        return None


def bfloat16_pays(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 faster than float32: GPUs since Ampere, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.8 does not say
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def agreement(found: Tensor, expected: Tensor) -> float:
    """The mean cosine of two tensors (n, channels, …) along their channels."""
    return float(F.cosine_similarity(found.float(), expected.float(), dim=1).mean())


def rewrite(recorded: fx.GraphModule, dtype: torch.dtype, *, fuse: bool) -> fx.GraphModule:
    """The recorded operations with constants of ``dtype`` and a second argument, the leak; convolutions fused if
    asked.
    """
    root = nn.Module()
    graph = fx.Graph()
    inputs = graph.placeholder("inputs")
    copies: dict[fx.Node, fx.Node] = {}
    constants: dict[fx.Node, Tensor] = {}
    leak: fx.Node | None = None
    placed = _Placed(root, graph)

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            copies[node] = placed.constant(_cast(constants[node], dtype))
        return copies[node]

    nodes = list(recorded.graph.nodes)
    merged = {last for node in nodes if fuse and _is_convolution(node) for last in [_clip_behind(node)] if last}
    for node in nodes:
        if node.op == "placeholder":
            copies[node] = inputs
            leak = graph.placeholder("leak")
        elif node.op == "get_attr":
            constants[node] = getattr(recorded, str(node.target)).detach()
        elif fuse and _is_convolution(node):
            source, module = _convolution(node, constants, dtype)
            copies[node] = placed.call(module, copies[source], leak)
        elif node in merged:
            copies[node] = copies[node.args[0]]
        elif node.op == "call_function" and node.target in _CLIPS:
            low, high = _limits(node)
            copies[node] = placed.call(Clip(low, high), copies[node.args[0]], leak)
        else:
            copies[node] = graph.node_copy(node, copied)
    rewritten = fx.GraphModule(root, graph)
    rewritten.graph.eliminate_dead_code()
    rewritten.recompile()
    return rewritten


class _Placed:
    """Puts modules and constants into a graph under names of their own."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self._root, self._graph, self._count = root, graph, 0

    def _name(self) -> str:
        self._count += 1
        return f"part_{self._count}"

    def constant(self, value: Tensor) -> fx.Node:
        name = self._name()
        self._root.register_buffer(name, value)
        return self._graph.create_node("get_attr", name)

    def call(self, module: nn.Module, source: fx.Node, leak: fx.Node | None) -> fx.Node:
        name = self._name()
        self._root.add_module(name, module)
        return self._graph.create_node("call_module", name, (source, leak))


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point():
        return value
    value = value.to(dtype)
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


_CLIPS = (_aten.relu.default, _aten.hardtanh.default)


def _limits(node: fx.Node) -> Limits:
    if node.target is _aten.relu.default:
        return 0.0, None
    given: Any = node.args
    return float(given[1]) if len(given) > 1 else -1.0, float(given[2]) if len(given) > 2 else 1.0


def _is_convolution(node: fx.Node) -> bool:
    """Whether ``node`` is a convolution in two dimensions, not transposed, with a constant kernel."""
    if node.op != "call_function" or node.target is not _aten.convolution.default:
        return False
    _, kernel, _, stride, _, _, transposed, _, _ = node.args
    return isinstance(kernel, fx.Node) and kernel.op == "get_attr" and len(stride) == 2 and not transposed  # type: ignore[arg-type]


def _clip_behind(node: fx.Node) -> fx.Node | None:
    """The ReLU that alone uses ``node``."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in _CLIPS else None


def _convolution(
    node: fx.Node, constants: dict[fx.Node, Tensor], dtype: torch.dtype
) -> tuple[fx.Node, FusedConvolution]:
    """What the convolution ``node`` reads, and the module that does its work."""
    arguments: Any = node.args
    source, kernel, bias, stride, padding, dilation, _, _, groups = arguments
    weight = constants[kernel]
    if source.target is _aten.constant_pad_nd.default and len(source.users) == 1:
        merged = _merge_padding(source, weight, padding, dilation, grow=groups == 1 or dtype != torch.float32)
        if merged:
            source, weight, padding = merged
    clip = _clip_behind(node)
    module = FusedConvolution(
        _cast(weight, dtype),
        None if bias is None else _cast(constants[bias], dtype),
        list(stride),
        list(padding),
        list(dilation),
        groups,
        _limits(clip) if clip else None,
    )
    return source, module


def _merge_padding(
    pad: fx.Node, weight: Tensor, padding: list[int], dilation: list[int], *, grow: bool
) -> tuple[fx.Node, Tensor, list[int]] | None:
    """What ``pad`` reads, the kernel and the padding of a convolution that needs no ``pad`` in front; None where there
    is none.

    Where one row or column more is padded behind than in front (TensorFlow's "SAME" with stride 2), the kernel gets a
    row or column of zeros in front, and both sides are padded alike, if it may ``grow``: oneDNN is slow for depthwise
    kernels of even sides in float32.
    """
    arguments: Any = pad.args
    source, amounts, value = (*arguments, 0.0)[:3]
    if len(amounts) != 4 or value != 0:
        return None
    left, right, top, bottom = amounts
    more_right, more_below = right - left, bottom - top
    if min(left, top) < 0 or not {more_right, more_below} <= {0, 1}:
        return None
    if (more_right or more_below) and (not grow or list(dilation) != [1, 1]):
        return None
    return source, F.pad(weight, (more_right, 0, more_below, 0)), [padding[0] + bottom, padding[1] + right]


class FusedConvolution(nn.Module):
    """A frozen convolution of CPU tensors with what follows it, and its gradient as another convolution."""

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

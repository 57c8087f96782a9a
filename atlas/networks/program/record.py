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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from atlas.networks.precision import convolves_in
from atlas.networks.program.fused import Clip, FusedConvolution, Limits

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
    computed = dtype if convolves_in(dtype) else torch.float32
    module = FusedConvolution(
        _cast(weight, dtype).to(computed),
        None if bias is None else _cast(constants[bias], dtype).to(computed),
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

"""Record a network as a list of operations (`record`), and rewrite the list so that it runs fast (`rewrite`).

One forward pass is recorded, operation by operation; hooks, containers and the user's own code are not in the list.
On a CPU the list is then rewritten:

- zeros that are padded on in front of a convolution become padding of the convolution;
- a ReLU or ReLU6 behind a convolution is done by the convolution itself;
- the gradient of a convolution is computed by another convolution, with flipped kernels. oneDNN's forward convolutions
  are fast in bfloat16 also where its backward ones are not (depthwise: 30 times slower);
- weights lie in oneDNN's own order (`atlas.networks.program.kernel`).

In the backward pass a share ``leak`` of the gradient passes a ReLU where its own gradient is 0: a picture in which all
ReLUs on the way to the layer are at 0 has no gradient otherwise. Relaxed gradients come from Olah et al. (2017); there
they replace the ReLU's gradient where it is zero throughout, here it is a leaky ReLU's (Maas et al. 2013).
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from atlas.networks.program.fused import Bounds, Clip, FusedConvolution, convolves_in

_aten = torch.ops.aten
# How far the outputs of a list of operations may differ from the network's, as a share of the largest, in float32.
TOLERANCE = 1e-3
_CLIPS = (_aten.relu.default, _aten.hardtanh.default)
# One recording at a time in a process: torch counts open modes in globals.
_RECORDING = threading.Lock()


def record(function: Callable[[Tensor], Any], probe: Tensor) -> fx.GraphModule | None:
    """The operations of ``function`` on ``probe``, float32 (n, 3, size, size), as a graph with one placeholder; None
    where it cannot be recorded (which operations run depends on the values).
    """
    try:
        with _RECORDING, torch.no_grad(), _Recorder(probe) as recorder:
            # The lambda hides a method's ``self``, which functionalize would count as an argument.
            outputs = torch.func.functionalize(lambda inputs: function(inputs))(probe)
        return recorder.finish(outputs)
    except Exception:  # whatever the user's forward and the recorder raise
        return None


class _Recorder(TorchDispatchMode):
    """Writes down every operation on tensors while it is open.

    torch's own ``make_fx`` does the same, and imports torch's compiler for it: seconds of every process.
    """

    def __init__(self, probe: Tensor) -> None:
        super().__init__()
        self._root, self._graph = nn.Module(), fx.Graph()
        inputs = self._graph.placeholder("inputs")
        # By identity, which holds as long as the tensor lives.
        self._tensors: list[Tensor] = [probe]
        self._nodes: dict[int, fx.Node] = {id(probe): inputs}
        self._varying = {inputs}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps the method below in what imports its compiler

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        outputs = operation(*args, **kwargs)
        node = self._graph.call_function(operation, *self._with_nodes((args, kwargs)))
        if not self._varying.isdisjoint(node.all_input_nodes):
            self._varying.add(node)
        self._name_outputs(outputs, node)
        return outputs

    def _name_outputs(self, outputs: Any, node: fx.Node) -> None:
        if isinstance(outputs, Tensor):
            self._tensors.append(outputs)
            self._nodes[id(outputs)] = node
        elif isinstance(outputs, (tuple, list)):
            for number, output in enumerate(outputs):
                part = self._graph.call_function(operator.getitem, (node, number))
                if node in self._varying:
                    self._varying.add(part)
                self._name_outputs(output, part)
        elif outputs is not None and node in self._varying:
            raise ValueError(f"{node.target} reads a number out of a tensor that depends on the picture")

    def _node(self, tensor: Tensor) -> fx.Node:
        """The node whose output is ``tensor``; of one that was there before, a constant."""
        if id(tensor) not in self._nodes:
            name = f"constant_{len(self._nodes)}"
            self._root.register_buffer(name, tensor)
            self._tensors.append(tensor)
            self._nodes[id(tensor)] = self._graph.get_attr(name)
        return self._nodes[id(tensor)]

    def _with_nodes(self, values: Any) -> Any:
        """``values`` with nodes in place of tensors."""
        return tree_map_only(Tensor, self._node, values)

    def finish(self, outputs: Any) -> fx.GraphModule:
        """The recorded operations that ``outputs`` depend on."""
        self._graph.output(self._with_nodes(outputs))
        self._graph.eliminate_dead_code()
        return fx.GraphModule(self._root, self._graph)


def rewrite(recorded: fx.GraphModule, dtype: torch.dtype, *, fuse: bool) -> fx.GraphModule:
    """The ``recorded`` operations with constants of ``dtype`` and a second argument: ``leak``, the share of the
    gradient that passes ReLUs where they are 0. With ``fuse`` (CPU tensors only) convolutions are fused.
    """
    root = nn.Module()
    graph = fx.Graph()
    inputs = graph.placeholder("inputs")
    copies: dict[fx.Node, fx.Node] = {}
    constants: dict[fx.Node, Tensor] = {}
    leak: fx.Node | None = None
    parts = _Parts(root, graph)

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            copies[node] = parts.constant(_cast(constants[node], dtype))
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
            copies[node] = parts.call(module, copies[source], leak)
        elif node in merged:
            copies[node] = copies[node.args[0]]
        elif node.op == "call_function" and node.target in _CLIPS:
            copies[node] = parts.call(Clip(*_bounds(node)), copies[node.args[0]], leak)
        else:
            copies[node] = graph.node_copy(node, copied)
    rewritten = fx.GraphModule(root, graph)
    rewritten.graph.eliminate_dead_code()
    rewritten.recompile()
    return rewritten


class _Parts:
    """Adds modules and constants to a graph, each under a new name."""

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


def _bounds(node: fx.Node) -> Bounds:
    if node.target is _aten.relu.default:
        return 0.0, None
    arguments: Any = node.args
    return float(arguments[1]) if len(arguments) > 1 else -1.0, float(arguments[2]) if len(arguments) > 2 else 1.0


def _is_convolution(node: fx.Node) -> bool:
    """Whether ``node`` is a convolution in two dimensions, not transposed, with a constant kernel."""
    if node.op != "call_function" or node.target is not _aten.convolution.default:
        return False
    _, kernel, _, stride, _, _, transposed, _, _ = node.args
    return isinstance(kernel, fx.Node) and kernel.op == "get_attr" and len(stride) == 2 and not transposed  # type: ignore[arg-type]


def _clip_behind(node: fx.Node) -> fx.Node | None:
    """The ReLU that is the only user of ``node``."""
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
        merged = _merge_padding(source, weight, padding, dilation)
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
        _bounds(clip) if clip else None,
    )
    return source, module


def _merge_padding(
    pad: fx.Node, weight: Tensor, padding: list[int], dilation: list[int]
) -> tuple[fx.Node, Tensor, list[int]] | None:
    """What ``pad`` reads, and the kernel and padding of a convolution that does without ``pad``; None where there is no
    such convolution.

    Where one row or column more is padded behind than in front (TensorFlow's "SAME" with stride 2), the kernel gets a
    row or column of zeros in front, and both sides are padded alike.
    """
    arguments: Any = pad.args
    source, amounts, value = (*arguments, 0.0)[:3]
    if len(amounts) != 4 or value != 0:
        return None
    left, right, top, bottom = amounts
    more_right, more_below = right - left, bottom - top
    if min(left, top) < 0 or not {more_right, more_below} <= {0, 1}:
        return None
    if (more_right or more_below) and list(dilation) != [1, 1]:
        return None
    return source, F.pad(weight, (more_right, 0, more_below, 0)), [padding[0] + bottom, padding[1] + right]

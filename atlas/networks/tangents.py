"""Forward derivatives: a recorded network is run once, and beside every value the tangents that started at its layers.

A tangent starts at one position, and is computed in a window around it until that is most of a map. Where torch has no
fast rule for an operation's tangent, its rule for dual numbers is used.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from atlas.networks.program.fused import FusedConvolution
from atlas.networks.windows import Window, added, convolved, whole

_aten = torch.ops.aten

# Linear in their first argument, the only tensor that they read.
_LINEAR = {
    _aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.permute.default, _aten.t.default,
    _aten.transpose.int, _aten.unsqueeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.slice.Tensor,
    _aten.mean.dim, _aten.mean.default, _aten.sum.dim_IntList, _aten.avg_pool2d.default,
    _aten._adaptive_avg_pool2d.default, _aten.clone.default, _aten._to_copy.default, _aten.alias.default,
    _aten.expand.default, _aten.neg.default,
}  # fmt: skip

# torch has one level of dual numbers in a process, whatever the thread: whoever enters one holds this lock.
DUAL_LEVEL = threading.Lock()

# A tangent starts at one layer's activation at one of its positions: (layer, draw).
Origin = tuple[str, int]
Tangents = dict[Origin, Any]


@dataclass
class Observation:
    """What a batch of n views gives: logits (n, classes); for each layer activations (n, draws, channels) and, if
    asked for, attributions (n, draws, classes); all float32 on the CPU. A draw is one position of a view."""

    logits: Tensor
    activations: dict[str, Tensor]
    attributions: dict[str, Tensor]


class TangentWalk:
    """A network, recorded and rewritten, that is run operation by operation with the tangents of ``layers``.

    ``operations``: what `atlas.networks.program.record.rewrite` gives for a pass that returns the map of each of the
    layers and at last the logits.
    """

    def __init__(self, operations: fx.GraphModule, layers: Sequence[str]) -> None:
        self._operations = operations
        self._modules = dict(operations.named_modules())
        self._nodes = [node for node in operations.graph.nodes if node.op != "output"]
        outputs: Any = operations.graph.find_nodes(op="output")[0].args[0]
        # Each output but the last is a copy of a layer's map.
        *copies, self._logits = outputs
        self._layers: dict[fx.Node, list[str]] = {}
        for layer, copy in zip(layers, copies):
            self._layers.setdefault(copy.args[0], []).append(layer)
        unread = {copy for copy in copies if len(copy.users) == 1}
        self._nodes = [node for node in self._nodes if node not in unread]
        self._last_reads: dict[fx.Node, list[fx.Node]] = {}  # by operation: the values that nothing reads after it
        needed: set[fx.Node] = {self._logits}
        for node in reversed(self._nodes):
            for read in node.all_input_nodes:
                if read not in needed:
                    needed.add(read)
                    self._last_reads.setdefault(node, []).append(read)

    def plain(self, inputs: Tensor) -> list[Tensor]:
        """The maps of each layer (n, channels, h, w) and at last the logits (n, classes), float32, for ``inputs``
        (n, 3, h, w) of the program's dtype."""
        with torch.no_grad():
            return [value.float() for value in self._operations(inputs, 0.0)]

    def __call__(
        self, inputs: Tensor, positions: dict[str, Tensor], attributions: bool, channels: dict[str, Tensor]
    ) -> Observation:
        """As `atlas.networks.observer.Observer.observe`, for ``inputs`` of the program's dtype."""
        values: dict[fx.Node, Any] = {}
        tangents: dict[fx.Node, Tangents] = {}
        activations: dict[str, Tensor] = {}
        placeholders = iter((inputs, 0.0))
        for node in self._nodes:
            if node.op == "placeholder":
                values[node] = next(placeholders)
            elif node.op == "get_attr":
                values[node] = getattr(self._operations, str(node.target))
            else:
                values[node] = self._value(node, values)
                if any(read in tangents for read in node.all_input_nodes):
                    tangents[node] = self._tangents(node, values, tangents)
            for layer in self._layers.get(node, ()):
                activations[layer] = values_at(values[node], positions[layer])
                if attributions:
                    for draw in range(positions[layer].shape[1]):
                        tangents.setdefault(node, {})[layer, draw] = Window.at(
                            values[node], positions[layer][:, draw], channels_of_draw(channels, layer, draw)
                        )
            for unused in self._last_reads.get(node, ()):
                del values[unused]
                tangents.pop(unused, None)
        logits = values[self._logits].float()
        effects: dict[str, Tensor] = {}
        if attributions:
            of_logits = tangents.get(self._logits, {})
            zeros = torch.zeros_like(logits)
            for layer in activations:
                draws = range(positions[layer].shape[1])
                effects[layer] = torch.stack([whole(of_logits.get((layer, draw), zeros)) for draw in draws], dim=1)
        return Observation(
            logits.cpu(),
            {layer: activations[layer].cpu() for layer in positions},
            {layer: effects[layer].float().cpu() for layer in positions} if attributions else {},
        )

    def _value(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node.op == "call_module":
            return self._modules[str(node.target)].run(values[node.args[0]])  # type: ignore
        arguments, options = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        return node.target(*arguments, **options)  # type: ignore[operator]

    def _tangents(self, node: fx.Node, values: dict[fx.Node, Any], tangents: dict[fx.Node, Tangents]) -> Tangents:
        """The tangents of the operation ``node``, from those of what it reads."""
        origins = dict.fromkeys(origin for read in node.all_input_nodes for origin in tangents.get(read, ()))
        outputs: Tangents = {}
        for origin in origins:
            inputs = {read: tangents[read][origin] for read in node.all_input_nodes if origin in tangents.get(read, ())}
            tangent = self._tangent(node, values, inputs)
            if tangent is not None:
                outputs[origin] = tangent
        return outputs

    def _tangent(self, node: fx.Node, values: dict[fx.Node, Any], tangents: dict[fx.Node, Any]) -> Any:
        """The derivative of ``node`` along ``tangents``, those of what it reads; None where it is constant."""
        first: Any = node.args[0]
        if node.op == "call_module":
            module: Any = self._modules[str(node.target)]
            if isinstance(tangents[first], Window) and isinstance(module, FusedConvolution):
                return convolved(module, tangents[first], values[node])
            return module.tangent(whole(tangents[first]), values[node])
        if node.target is _aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
            reads: list[Any] = [term for term in node.args if term in tangents]
            if all(values[read].shape == values[node].shape for read in reads):
                return tangents[reads[0]] if len(reads) == 1 else added(*(tangents[read] for read in reads))
        tangents = pytree.tree_map_only(Window, whole, tangents)
        if node.target is operator.getitem:
            return tangents[first][node.args[1]]
        if list(tangents) == [first]:
            if node.target in _LINEAR:
                options = fx.map_arg((node.args[1:], node.kwargs), values.__getitem__)
                return node.target(tangents[first], *options[0], **options[1])
            if node.target is _aten.convolution.default:
                others: Any = fx.map_arg(node.args[1:], values.__getitem__)
                return _aten.convolution(tangents[first], others[0], None, *others[2:])
        arguments: Any = node.args
        if node.target is _aten.addmm.default and list(tangents) == [arguments[1]] and not node.kwargs:
            return torch.mm(tangents[arguments[1]], values[arguments[2]])
        return _tangent_by_torch(node, values, tangents)


def _tangent_by_torch(node: fx.Node, values: dict[fx.Node, Any], tangents: dict[fx.Node, Any]) -> Any:
    """The derivative of any operation, by torch's own rule for dual numbers."""
    with DUAL_LEVEL, forward_ad.dual_level():

        def dual(read: fx.Node) -> Any:
            return _dual_number(values[read], tangents[read]) if read in tangents else values[read]

        arguments, options = fx.map_arg((node.args, node.kwargs), dual)
        outputs = node.target(*arguments, **options)  # type: ignore[operator]
        return pytree.tree_map(_tangent_of, outputs)


def _dual_number(value: Any, tangent: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_dual_number(*pair) for pair in zip(value, tangent))
    return value if tangent is None else forward_ad.make_dual(value, tangent)


def _tangent_of(output: Any) -> Any:
    return forward_ad.unpack_dual(output).tangent if isinstance(output, Tensor) else None


def values_at(maps: Tensor, positions: Tensor) -> Tensor:
    """``maps`` (n, channels, h, w) at ``positions``, int64 (n, draws, 2) as (y, x): float32 (n, draws, channels) on the
    maps' device."""
    rows = torch.arange(len(maps), device=maps.device)[:, None]
    positions = positions.to(maps.device)
    return maps.permute(0, 2, 3, 1)[rows, positions[..., 0], positions[..., 1]].float()


def channels_of_draw(channels: dict[str, Tensor], layer: str, draw: int) -> Tensor | None:
    """The channel of each view, int64 (n,), whose attribution is asked for at the draw number ``draw`` of ``layer``;
    None where all channels count. ``channels`` holds an array (n, draws) for each such layer."""
    return channels[layer][:, draw] if layer in channels else None


def mask(maps: Tensor, positions: Tensor, channels: Tensor | None = None) -> Tensor:
    """``maps`` (n, channels, h, w) with zeros but at one position of each view: ``positions``, int64 (n, 2) as (y, x).
    With ``channels``, int64 (n,), all but this channel are zero there too. Same shape, dtype and device."""
    rows = torch.arange(len(maps), device=maps.device)
    positions = positions.to(maps.device)
    channel_index = slice(None) if channels is None else channels.to(maps.device)
    index = rows, channel_index, positions[:, 0], positions[:, 1]
    result = torch.zeros_like(maps)
    result[index] = maps[index]
    return result

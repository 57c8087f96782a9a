"""Forward derivatives: a recorded network walked once, with the tangents of its layers beside every value."""

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

_aten = torch.ops.aten


# Linear in their first argument, the only tensor that they read.
_LINEAR = {
    _aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.permute.default, _aten.t.default,
    _aten.transpose.int, _aten.unsqueeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.slice.Tensor,
    _aten.mean.dim, _aten.mean.default, _aten.sum.dim_IntList, _aten.avg_pool2d.default,
    _aten._adaptive_avg_pool2d.default, _aten.clone.default, _aten._to_copy.default, _aten.alias.default,
    _aten.expand.default, _aten.neg.default,
}  # fmt: skip


# Dual numbers have one level in a process, whatever the thread.
DUAL_LEVEL = threading.Lock()


# A tangent belongs to one layer's activation at one of its positions: (layer, draw).
Origin = tuple[str, int]


Tangents = dict[Origin, Any]


@dataclass
class Observation:
    """What a batch of n views gave: logits (n, classes); for each layer activations (n, draws, channels) and, where
    asked for, attributions (n, draws, classes); all float32 on the CPU."""

    logits: Tensor
    activations: dict[str, Tensor]
    attributions: dict[str, Tensor]


class TangentWalk:
    """A recorded network: what it does, step by step, and where the layers are."""

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
        self._last: dict[fx.Node, list[fx.Node]] = {}
        seen: set[fx.Node] = {self._logits}
        for node in reversed(self._nodes):
            for given in node.all_input_nodes:
                if given not in seen:
                    seen.add(given)
                    self._last.setdefault(node, []).append(given)

    def plain(self, inputs: Tensor) -> list[Tensor]:
        """The maps of each layer, and the logits at the end."""
        with torch.no_grad():
            return [value.float() for value in self._operations(inputs, 0.0)]

    def __call__(
        self, inputs: Tensor, positions: dict[str, Tensor], attributions: bool, channels: dict[str, Tensor]
    ) -> Observation:
        values: dict[fx.Node, Any] = {}
        tangents: dict[fx.Node, Tangents] = {}
        seen: dict[str, Tensor] = {}
        placeholders = iter((inputs, 0.0))
        for node in self._nodes:
            if node.op == "placeholder":
                values[node] = next(placeholders)
            elif node.op == "get_attr":
                values[node] = getattr(self._operations, str(node.target))
            else:
                values[node] = self._value(node, values)
                if any(given in tangents for given in node.all_input_nodes):
                    tangents[node] = self._tangents(node, values, tangents)
            for layer in self._layers.get(node, ()):
                seen[layer] = values_at(values[node], positions[layer])
                if attributions:
                    for draw in range(positions[layer].shape[1]):
                        started = masked(
                            values[node], positions[layer][:, draw], channels_of_draw(channels, layer, draw)
                        )
                        tangents.setdefault(node, {})[layer, draw] = started
            for unused in self._last.get(node, ()):
                del values[unused]
                tangents.pop(unused, None)
        logits = values[self._logits].float()
        effects: dict[str, Tensor] = {}
        if attributions:
            arrived = tangents.get(self._logits, {})
            nothing = torch.zeros_like(logits)
            for layer in seen:
                draws = range(positions[layer].shape[1])
                effects[layer] = torch.stack([arrived.get((layer, draw), nothing) for draw in draws], dim=1)
        return Observation(
            logits.cpu(),
            {layer: seen[layer].cpu() for layer in positions},
            {layer: effects[layer].float().cpu() for layer in positions} if attributions else {},
        )

    def _value(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node.op == "call_module":
            return self._modules[str(node.target)].run(values[node.args[0]])  # type: ignore
        arguments, options = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        return node.target(*arguments, **options)  # type: ignore[operator]

    def _tangents(self, node: fx.Node, values: dict[fx.Node, Any], tangents: dict[fx.Node, Tangents]) -> Tangents:
        """What the operation ``node`` makes of the tangents of what it reads."""
        origins = dict.fromkeys(origin for given in node.all_input_nodes for origin in tangents.get(given, ()))
        made: Tangents = {}
        for origin in origins:
            moving = {
                given: tangents[given][origin] for given in node.all_input_nodes if origin in tangents.get(given, ())
            }
            tangent = self._tangent(node, values, moving)
            if tangent is not None:
                made[origin] = tangent
        return made

    def _tangent(self, node: fx.Node, values: dict[fx.Node, Any], moving: dict[fx.Node, Any]) -> Any:
        """The derivative of ``node`` along ``moving``, the tangents of what it reads; None where it does not move."""
        first: Any = node.args[0]
        if node.op == "call_module":
            module: Any = self._modules[str(node.target)]
            return module.tangent(moving[first], values[node])
        if node.target is operator.getitem:
            return moving[first][node.args[1]]
        if list(moving) == [first]:
            if node.target in _LINEAR:
                options = fx.map_arg((node.args[1:], node.kwargs), values.__getitem__)
                return node.target(moving[first], *options[0], **options[1])
            if node.target is _aten.convolution.default:
                others: Any = fx.map_arg(node.args[1:], values.__getitem__)
                return _aten.convolution(moving[first], others[0], None, *others[2:])
        read: Any = node.args
        if node.target is _aten.addmm.default and list(moving) == [read[1]] and not node.kwargs:
            return torch.mm(moving[read[1]], values[read[2]])
        if node.target is _aten.add.Tensor and len(read) == 2 and not node.kwargs:
            terms = [moving[term] for term in read if term in moving]
            if all(term.shape == values[node].shape for term in terms):
                return terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return _differentiated(node, values, moving)


def _differentiated(node: fx.Node, values: dict[fx.Node, Any], moving: dict[fx.Node, Any]) -> Any:
    """The derivative of any operation, by torch's own rule for it."""
    with DUAL_LEVEL, forward_ad.dual_level():

        def given(read: fx.Node) -> Any:
            return _dual_number(values[read], moving[read]) if read in moving else values[read]

        arguments, options = fx.map_arg((node.args, node.kwargs), given)
        outputs = node.target(*arguments, **options)  # type: ignore[operator]
        return pytree.tree_map(_tangent_of, outputs)


def _dual_number(value: Any, tangent: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_dual_number(*pair) for pair in zip(value, tangent))
    return value if tangent is None else forward_ad.make_dual(value, tangent)


def _tangent_of(output: Any) -> Any:
    return forward_ad.unpack_dual(output).tangent if isinstance(output, Tensor) else None


def values_at(maps: Tensor, positions: Tensor) -> Tensor:
    """maps (n, channels, h, w) at positions (n, draws, 2) → (n, draws, channels)."""
    rows = torch.arange(len(maps), device=maps.device)[:, None]
    where = positions.to(maps.device)
    return maps.permute(0, 2, 3, 1)[rows, where[..., 0], where[..., 1]].float()


def channels_of_draw(channels: dict[str, Tensor], layer: str, draw: int) -> Tensor | None:
    """The channels (n,) asked for of one draw; None where all are."""
    return channels[layer][:, draw] if layer in channels else None


def masked(maps: Tensor, positions: Tensor, channels: Tensor | None = None) -> Tensor:
    """``maps`` with everything but one position (n, 2) a view set to zero; with ``channels`` (n,) all but one channel
    there too."""
    rows = torch.arange(len(maps), device=maps.device)
    where = positions.to(maps.device)
    kept = slice(None) if channels is None else channels.to(maps.device)
    masked = torch.zeros_like(maps)
    masked[rows, kept, where[:, 0], where[:, 1]] = maps[rows, kept, where[:, 0], where[:, 1]]
    return masked

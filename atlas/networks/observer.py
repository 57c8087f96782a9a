"""A network and views → activations of several layers at chosen positions, and their attributions to all classes.

The attribution h · ∂logit/∂h is a forward derivative: the layer's output gets a tangent, which is the activation
itself, masked to the position; what arrives at the logits is the attribution to all classes at once.

The network is recorded as a list of operations (``atlas.networks.program.record``), which is walked once for a batch. Beside each
value walk the tangents of all layers and positions that it depends on, so that each layer costs its own tail and
nothing is computed twice; a value is dropped after its last use. A network that cannot be recorded runs as it is, with
dual numbers and a pass for each layer and position.
"""

from __future__ import annotations

import operator
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from atlas.errors import ConfigError
from atlas.networks.network import Layer, Network, calls
from atlas.networks.program.record import agreement, record, rewrite

# torch's own rules for dual numbers are still written in its older dialect, and say so at every start.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)

_aten = torch.ops.aten
# How far the list may differ from the network, as a share of the largest value, in float32 …
_TOLERANCE = 1e-3
# … and how much its activations must agree in half precision (mean cosine) to be used at all.
_AGREEMENT = 0.98
# Linear in their first argument, the only tensor that they read.
_LINEAR = {
    _aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.permute.default, _aten.t.default,
    _aten.transpose.int, _aten.unsqueeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.slice.Tensor,
    _aten.mean.dim, _aten.mean.default, _aten.sum.dim_IntList, _aten.avg_pool2d.default,
    _aten._adaptive_avg_pool2d.default, _aten.clone.default, _aten._to_copy.default, _aten.alias.default,
    _aten.expand.default, _aten.neg.default,
}  # fmt: skip

# Dual numbers have one level in a process, whatever the thread.
_DUAL_LEVEL = threading.Lock()

Precision = Literal["float32", "bfloat16", "float16"]
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


class Observer:
    """Runs a network over views and reads several layers, with attributions. Threads may share it.

    ``precision``: what the network computes in.
    Raises ConfigError for a layer that is called more than once in a pass.
    """

    def __init__(self, network: Network, layers: Sequence[str], precision: Precision = "float32") -> None:
        self.network, self.layers, self.precision = network, tuple(layers), precision
        self.dtype: torch.dtype = getattr(torch, precision)
        self._walks: dict[torch.Size, _Walk | None] = {}  # by the shape of the inputs; None: as it is
        self._hooks = threading.Lock()
        for layer in self.layers:
            if (called := calls(network, layer)) > 1:
                raise ConfigError(
                    f"layers: {layer} of {network.name} is called {called} times in one pass, so it has no map of its "
                    "own. Choose the block around it."
                )

    def observe(
        self,
        inputs: Tensor,
        positions: dict[str, Tensor],
        *,
        attributions: bool,
        channels: dict[str, Tensor] | None = None,
    ) -> Observation:
        """Ask for ``positions[layer]``, shape (n, draws, 2) as (y, x), of normalised ``inputs`` (n, 3, h, w).

        With ``channels[layer]``, shape (n, draws), an attribution is that of this one channel at the position, instead
        of all its channels.
        Raises ConfigError when attributions are asked of a network that has no forward derivative.
        """
        with torch.no_grad():
            try:
                walk = self._walk(inputs)
                if walk is None:
                    return self._as_it_is(inputs, positions, attributions, channels or {})
                return walk(inputs.to(self.dtype), positions, attributions, channels or {})
            except (NotImplementedError, RuntimeError) as error:
                if not attributions or ("forward" not in str(error) and "jvp" not in str(error)):
                    raise
                raise ConfigError(
                    f"collect.attributions: {self.network.name} cannot be differentiated forwards ({error}). Run it "
                    "without, with --set collect.attributions=false."
                ) from error

    def maps(self, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of normalised ``inputs`` (n, 3, h, w): the whole maps (n, channels, h, w) of the layers, on the network's
        device, and the logits (n, classes), float32 on the CPU."""
        with torch.no_grad():
            walk = self._walk(inputs)
            if walk is not None:
                *maps, logits = walk.plain(inputs.to(self.dtype))
            else:
                with self._hooks:
                    *maps, logits = (each.float() for each in self._plain(inputs))
        return dict(zip(self.layers, maps)), logits.cpu()

    def seconds_per_view(self, layers: Sequence[Layer], *, draws: int, attributions: bool, views: int = 8) -> float:
        """How long a view takes here and now in batches of ``views``: the quickest of three, after one to warm up."""
        network = self.network
        batch = network.normalize(torch.zeros(views, 3, network.size, network.size, device=network.device))
        middle = {
            layer.name: torch.tensor([layer.height // 2, layer.width // 2]).expand(views, draws, 2) for layer in layers
        }
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            self.observe(batch, middle, attributions=attributions)
            seconds.append(time.perf_counter() - started)
        return min(seconds[1:]) / views

    # A recorded network

    def _walk(self, inputs: Tensor) -> _Walk | None:
        if inputs.shape not in self._walks:
            with self._hooks:
                if inputs.shape not in self._walks:
                    self._walks[inputs.shape] = self._record(inputs)
        return self._walks[inputs.shape]

    def _record(self, inputs: Tensor) -> _Walk | None:
        generator = torch.Generator().manual_seed(0)
        probe = torch.rand(inputs.shape, generator=generator).to(inputs.device)
        probe = self.network.normalize(probe)
        recorded = record(self._plain, probe)
        if recorded is None:
            return None
        expected = self._plain(probe)
        walk = _Walk(rewrite(recorded, torch.float32, fuse=inputs.device.type == "cpu"), self.layers)
        for found, known in zip(walk.plain(probe), expected):
            if found.shape != known.shape or (found - known).abs().max() > _TOLERANCE * known.abs().max():
                return None
        if self.dtype == torch.float32:
            return walk
        walk = _Walk(rewrite(recorded, self.dtype, fuse=inputs.device.type == "cpu"), self.layers)
        agreements = [agreement(*pair) for pair in zip(walk.plain(probe.to(self.dtype)), expected)]
        return walk if min(agreements) >= _AGREEMENT else None

    def _plain(self, inputs: Tensor) -> list[Tensor]:
        """A plain pass: the maps of each layer, and the logits at the end."""
        maps: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for layer in self.layers:

                def keep(output: Tensor, layer: str = layer) -> None:
                    maps[layer] = output.clone()  # what comes later may write into it

                stack.enter_context(hooked(self.network.submodule(layer), keep))
            logits = self.network.module(inputs)
        return [*(maps[layer] for layer in self.layers), logits]

    # A network as it is

    def _as_it_is(
        self, inputs: Tensor, positions: dict[str, Tensor], attributions: bool, channels: dict[str, Tensor]
    ) -> Observation:
        mixed = torch.autocast(inputs.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with self._hooks, mixed:
            *maps, logits = self._plain(inputs)
            seen = {layer: _at(values, positions[layer]).cpu() for layer, values in zip(self.layers, maps)}
            effects: dict[str, Tensor] = {}
            for layer in self.layers if attributions else ():
                draws = range(positions[layer].shape[1])
                found = [
                    self._dual(inputs, layer, positions[layer][:, draw], logits, _drawn(channels, layer, draw))
                    for draw in draws
                ]
                effects[layer] = torch.stack(found, dim=1).float().cpu()
        return Observation(logits.float().cpu(), seen, effects)

    def _dual(self, inputs: Tensor, layer: str, positions: Tensor, logits: Tensor, channels: Tensor | None) -> Tensor:
        """The attributions (n, classes) of ``layer`` at ``positions`` (n, 2), by dual numbers; of one of the
        ``channels`` (n,) each, or of all."""

        def replace(output: Tensor) -> Tensor:
            # A dual number shares its primal's memory: without the copy, `out += identity` would write into it.
            return forward_ad.make_dual(output.clone(), _masked(output, positions, channels))

        with _DUAL_LEVEL, forward_ad.dual_level(), hooked(self.network.submodule(layer), replace):
            tangent = forward_ad.unpack_dual(self.network.module(inputs)).tangent
        return torch.zeros_like(logits) if tangent is None else tangent


class _Walk:
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
                seen[layer] = _at(values[node], positions[layer])
                if attributions:
                    for draw in range(positions[layer].shape[1]):
                        started = _masked(values[node], positions[layer][:, draw], _drawn(channels, layer, draw))
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
    with _DUAL_LEVEL, forward_ad.dual_level():

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


def _at(maps: Tensor, positions: Tensor) -> Tensor:
    """maps (n, channels, h, w) at positions (n, draws, 2) → (n, draws, channels)."""
    rows = torch.arange(len(maps), device=maps.device)[:, None]
    where = positions.to(maps.device)
    return maps.permute(0, 2, 3, 1)[rows, where[..., 0], where[..., 1]].float()


def _drawn(channels: dict[str, Tensor], layer: str, draw: int) -> Tensor | None:
    """The channels (n,) asked for of one draw; None where all are."""
    return channels[layer][:, draw] if layer in channels else None


def _masked(maps: Tensor, positions: Tensor, channels: Tensor | None = None) -> Tensor:
    """``maps`` with everything but one position (n, 2) a view set to zero; with ``channels`` (n,) all but one channel
    there too."""
    rows = torch.arange(len(maps), device=maps.device)
    where = positions.to(maps.device)
    kept = slice(None) if channels is None else channels.to(maps.device)
    masked = torch.zeros_like(maps)
    masked[rows, kept, where[:, 0], where[:, 1]] = maps[rows, kept, where[:, 0], where[:, 1]]
    return masked


@contextmanager
def hooked(module: nn.Module, see: Callable[[Any], Any]) -> Iterator[None]:
    """While it lasts, ``see`` is shown each output of ``module`` in passes of this thread, and may give another in its
    place (None: as it is)."""
    caller = threading.get_ident()

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return see(output) if threading.get_ident() == caller else None

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()

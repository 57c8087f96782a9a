"""A network's forward pass as numbered steps: what is known of it before there is a picture.

The network is recorded as a list of operations (``atlas.networks.program.record``). While it is recorded, every module
leaves a mark where it begins and a copy of its output where it ends; so each operation can be told by the module that
does it. Operations that change nothing at all (a copy, a dropout in use) are left out, and zeros that are padded on in
front of a convolution are counted as that convolution's own padding.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from atlas.errors import ConfigError
from atlas.networks.network import Network, map_layers
from atlas.networks.program import operation_kinds as kinds
from atlas.networks.program.record import record
from atlas.networks.program.replay import constants_of, replay

_aten = torch.ops.aten
# How far the list may differ from the network, as a share of the largest logit.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Step:
    """One operation of a network.

    ``shape``: of its output without the batch, (channels, height, width) or (numbers,); any other is folded into these
    (its last two sides are height and width). ``reads``: the steps whose outputs it takes. ``output`` is where the
    recorded list has its output. ``layer``: the first layer of the row whose output comes at or after it. ``folded``:
    the batch norm that is folded into a convolution. ``geometry``: kernel, stride, padding, dilation and groups, where
    it has them.
    """

    number: int
    name: str
    kind: str
    operation: str
    shape: tuple[int, ...]
    reads: tuple[int, ...]
    output: fx.Node
    layer: int = 0
    folded: str | None = None
    geometry: dict[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> fx.Node:
        """The recorded operation."""
        return _operation(self.output)[0]

    @property
    def part(self) -> int | None:
        """Which of the operation's outputs it is, where it has several."""
        return _operation(self.output)[1]


@dataclass(frozen=True, eq=False)
class Recording:
    """A network's steps. ``layers`` is the row of layers as (name, step), the first is the picture; ``logits`` is the
    step of the logits; ``numbers`` says which step holds the output of a recorded operation, ``constants`` what does
    not depend on the picture.
    """

    name: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps: tuple[Step, ...]
    layers: tuple[tuple[str, int], ...]
    logits: int
    operations: fx.GraphModule = field(repr=False)
    numbers: dict[fx.Node, int] = field(repr=False)
    constants: dict[fx.Node, Any] = field(repr=False)

    def run(self, inputs: Tensor) -> list[Tensor]:
        """The output of every step for normalised ``inputs`` (1, 3, size, size)."""
        values = replay(self.operations, inputs, self.constants, {step.output for step in self.steps})
        return [values[step.output] for step in self.steps]


def _operation(output: fx.Node) -> tuple[fx.Node, int | None]:
    """The operation that ``output`` is of, and its number among several outputs."""
    if output.target is operator.getitem:
        node: Any = output.args[0]
        part: Any = output.args[1]
        return node, part
    return output, None


# By network; a network that cannot be recorded is known by the sentence that says so.
_RECORDINGS: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Recording | str]] = weakref.WeakKeyDictionary()
_BUSY = threading.Lock()


def recording(network: Network, layers: Sequence[str] = ()) -> Recording:
    """The steps of ``network``, recorded once and kept as long as its module lives. Threads may share it.

    The row of layers are the layers that make sense for an atlas, and ``layers``.
    Raises ConfigError for a layer that there is not or that gives no map, and for a network that cannot be written down
    as one list because its path depends on the picture.
    """
    key = (network.name, network.size, network.mean, network.std, tuple(layers))
    with _BUSY:
        known = _RECORDINGS.setdefault(network.module, {})
        if key not in known:
            try:
                known[key] = _record(network, layers)
            except ConfigError as error:
                known[key] = str(error)
        found = known[key]
    if isinstance(found, str):
        raise ConfigError(found)
    return found


@dataclass
class _Mark:
    """Where a module's pass began or ended; ``given``: it ended with a tensor."""

    module: str
    begins: bool
    given: bool = False


@dataclass
class _Places:
    """What the marks say of the operations: ``outputs`` of modules, call by call; for an operation that is the output
    of modules that ``made`` it, their names, the number of the call, and where it began; the innermost module that it
    is ``inside`` of; and its ``order`` in the list.
    """

    order: dict[fx.Node, int]
    outputs: dict[str, list[fx.Node]] = field(default_factory=dict)
    made: dict[fx.Node, list[tuple[str, int, int]]] = field(default_factory=dict)
    inside: dict[fx.Node, str] = field(default_factory=dict)


@torch.inference_mode(False)
@torch.no_grad()
def _record(network: Network, layers: Sequence[str]) -> Recording:
    for layer in layers:
        network.submodule(layer)
    probe = network.noise(1)
    marks: list[_Mark] = []
    recorded = record(lambda inputs: _marked(network.module, inputs, marks), probe)
    refusal = ConfigError(
        f"The forward pass of {network.name} cannot be shown step by step: its path depends on the picture or on "
        "chance, so that it is no fixed list of operations. Choose a network without such branches."
    )
    if recorded is None:
        raise refusal
    places = _places(recorded, marks)
    _tidy(recorded)
    constants = constants_of(recorded)
    values = replay(recorded, probe, constants)
    logits = _logits(recorded)
    expected = network.module(probe)
    found = values.get(logits)
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        raise refusal
    if not float((found - expected).abs().max()) <= _TOLERANCE * float(expected.abs().max()):
        raise refusal

    row = dict.fromkeys([*layers, *map_layers(network)])
    nodes = {layer: places.outputs[layer][-1] for layer in row if places.outputs.get(layer)}
    for layer in layers:
        if layer not in nodes or len(kinds.map_shape(values[nodes[layer]].shape)) != 3:
            network.activations(probe, layer)  # says what is wrong, where it gives no map at all
    steps, numbers = _steps(recorded, values, constants, places, dict(network.folded), set(nodes.values()))
    chosen: dict[int, str] = {0: "picture"}
    for layer, node in nodes.items():
        if len(steps[numbers[node]].shape) == 3:
            chosen.setdefault(numbers[node], layer)
    ends = sorted(chosen)
    placed = [replace(step, layer=sum(end < step.number for end in ends)) for step in steps]
    return Recording(
        network.name,
        network.size,
        network.mean,
        network.std,
        tuple(placed),
        tuple((chosen[end], end) for end in ends),
        numbers[logits],
        recorded,
        numbers,
        constants,
    )


def _marked(module: nn.Module, inputs: Tensor, marks: list[_Mark]) -> list[Tensor]:
    """A pass that leaves ``marks``: for each a tensor of its own, in order, and the logits at the end."""
    marks.clear()
    left: list[Tensor] = []
    caller = threading.get_ident()

    def watch(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def begin(_module: nn.Module, _inputs: Any) -> None:
            if threading.get_ident() == caller:  # not another thread's pass through the same module
                marks.append(_Mark(name, begins=True))
                left.append(inputs.new_zeros(()))

        def end(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if threading.get_ident() == caller:
                given = isinstance(output, Tensor)
                marks.append(_Mark(name, begins=False, given=given))
                left.append(output.clone() if given else inputs.new_zeros(()))  # what comes later may write into it

        return begin, end

    handles = []
    try:
        for name, child in module.named_modules():
            if name:
                begin, end = watch(name)
                handles += [child.register_forward_pre_hook(begin), child.register_forward_hook(end)]
        logits = module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [*left, logits]


def _places(recorded: fx.GraphModule, marks: list[_Mark]) -> _Places:
    """Reads the marks, and takes them out of the recorded list."""
    end = recorded.graph.find_nodes(op="output")[0]
    outputs: Any = end.args[0]
    *left, logits = outputs
    at = dict(zip(left, marks, strict=True))
    places = _Places({node: index for index, node in enumerate(recorded.graph.nodes)})
    open_modules: list[tuple[str, int]] = []
    for node in recorded.graph.nodes:
        mark = at.get(node)
        if mark is None:
            places.inside[node] = open_modules[-1][0] if open_modules else ""
        elif mark.begins:
            open_modules.append((mark.module, places.order[node]))
        else:
            _, began = open_modules.pop()
            if mark.given:
                output: Any = node.args[0]
                calls = places.outputs.setdefault(mark.module, [])
                calls.append(output)
                if places.order[output] > began:
                    places.made.setdefault(output, []).append((mark.module, len(calls), began))
    end.args = (logits,)
    for node in left:
        recorded.graph.erase_node(node)
    return places


def _tidy(recorded: fx.GraphModule) -> None:
    for node in recorded.graph.nodes:
        if node.target is _aten.as_strided_.default:
            node.target = _aten.as_strided.default  # the same, but it leaves what it reads as it was
    recorded.graph.lint()


def _logits(recorded: fx.GraphModule) -> fx.Node:
    logits: Any = recorded.graph.find_nodes(op="output")[0].args[0]
    return logits


def _steps(
    recorded: fx.GraphModule,
    values: dict[fx.Node, Any],
    constants: dict[fx.Node, Any],
    places: _Places,
    folded: dict[str, str],
    layers: set[fx.Node],
) -> tuple[list[Step], dict[fx.Node, int]]:
    """The steps, and which of them holds the output of each operation."""
    steps: list[Step] = []
    numbers: dict[fx.Node, int] = {}
    calls = {module: len(outputs) for module, outputs in places.outputs.items()}
    used = _used([_logits(recorded), *layers])
    nodes = [node for node in recorded.graph.nodes if node in used and node not in constants]
    nodes = [node for node in nodes if isinstance(values.get(node), Tensor)]
    read_by = {node: [read for read in _operation(node)[0].all_input_nodes if read not in constants] for node in nodes}
    same = {node: read_by[node][0] for node in nodes if kinds.is_identity(*_operation(node), values, constants)}
    for node, source in reversed(same.items()):  # what a module made, it made also if it hands on a copy
        made = [each for each in places.made.get(node, []) if each[2] < places.order[source]]
        places.made.setdefault(source, []).extend(made)
    for node in nodes:
        value, sources = values[node], read_by[node]
        if node in same or (node not in layers and kinds.is_padding_of_convolutions(node, constants)):
            numbers[node] = numbers[sources[0]]
            continue
        kind, operation, geometry = "input", "input", dict[str, Any]()
        if node.op != "placeholder":
            kind, operation, geometry = kinds.describe_operation(*_operation(node), value, values, constants)
        name = _name(node, places, calls, operation) if steps else "picture"
        modules = [module for module, _, _ in places.made.get(node, [])]
        step = Step(
            len(steps),
            name,
            kind,
            operation,
            kinds.map_shape(value.shape),
            tuple(dict.fromkeys(numbers[read] for read in sources)),
            node,
            folded=next((folded[each] for each in modules if each in folded and kind == "convolution"), None),
            geometry=geometry,
        )
        numbers[node] = step.number
        steps.append(step)
    return steps, numbers


def _used(waiting: list[fx.Node]) -> set[fx.Node]:
    """The operations that the outputs ``waiting`` depend on, and these."""
    used: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in used:
            used.add(node)
            waiting += node.all_input_nodes
    return used


def _name(node: fx.Node, places: _Places, calls: dict[str, int], operation: str) -> str:
    """The module whose output ``node`` is, the innermost that is called once; else where it is and what it does."""
    made = places.made.get(node, [])
    for module, _, _ in made:
        if calls[module] == 1:
            return module
    if made:
        module, call, _ = made[0]
        return f"{module}, call {call}"
    around = places.inside.get(node, "")
    return f"{around}, {operation}" if around else operation

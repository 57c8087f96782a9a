"""A network's forward pass as numbered steps, the same for every picture.

The network is recorded as a list of operations (``atlas.networks.program.record``). While it is recorded, every module
leaves a mark where it begins and a copy of its output where it ends, by which each operation is named after its module.
Operations that change nothing (a copy, a dropout in eval mode) are left out, and zeros that are padded on in front of a
convolution count as that convolution's own padding.
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
from atlas.networks.program.record import TOLERANCE, record
from atlas.networks.program.replay import constants_of, replay

_aten = torch.ops.aten
# Cached recordings by network; for a network that cannot be recorded the sentence that says so.
_RECORDINGS: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Recording | str]] = weakref.WeakKeyDictionary()
_RECORDINGS_LOCK = threading.Lock()


@dataclass(frozen=True)
class ForwardStep:
    """One operation of a network.

    ``number``: its index among the steps. ``name``: the module that it is the output of, or where it is and what it
    does. ``kind`` and ``operation``: as `operation_kinds.describe_operation`. ``shape``: of its output without the
    batch, (channels, height, width) or (numbers,), as `operation_kinds.map_shape`. ``reads``: the steps whose outputs
    it takes. ``output``: the node of the recorded list that has its output. ``layer``: the index of the first layer of
    the row whose output comes at or after it. ``folded``: the batch norm that is folded into a convolution.
    ``geometry``: kernel, stride, padding, dilation and groups, where it has them.
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
    step of the logits; ``operations`` is the recorded list, ``numbers`` the step that holds the output of each of its
    operations, ``constants`` the outputs that do not depend on the picture.
    """

    name: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps: tuple[ForwardStep, ...]
    layers: tuple[tuple[str, int], ...]
    logits: int
    operations: fx.GraphModule = field(repr=False)
    numbers: dict[fx.Node, int] = field(repr=False)
    constants: dict[fx.Node, Any] = field(repr=False)

    def run(self, inputs: Tensor) -> list[Tensor]:
        """The output of every step for normalised ``inputs``, float32 (1, 3, size, size) on the network's device."""
        values = replay(self.operations, inputs, self.constants, {step.output for step in self.steps})
        return [values[step.output] for step in self.steps]


def _operation(output: fx.Node) -> tuple[fx.Node, int | None]:
    """The operation that gives ``output``, and the output's number among several."""
    if output.target is operator.getitem:
        node: Any = output.args[0]
        part: Any = output.args[1]
        return node, part
    return output, None


def recording(network: Network, layers: Sequence[str] = ()) -> Recording:
    """The steps of ``network``, recorded once and cached as long as its module lives. Threads may call it.

    The row of layers has ``layers`` and those that make sense for an atlas.
    Raises ConfigError for a layer that does not exist or gives no map, and for a network that cannot be recorded as one
    list because its operations depend on the picture.
    """
    key = (network.name, network.size, network.mean, network.std, tuple(layers))
    with _RECORDINGS_LOCK:
        cache = _RECORDINGS.setdefault(network.module, {})
        if key not in cache:
            try:
                cache[key] = _record(network, layers)
            except ConfigError as error:
                cache[key] = str(error)
        result = cache[key]
    if isinstance(result, str):
        raise ConfigError(result)
    return result


@dataclass
class _Mark:
    """Where a module's pass began or ended; ``has_output``: it ended with a tensor."""

    module: str
    begins: bool
    has_output: bool = False


@dataclass
class _ModuleMap:
    """Which module each operation belongs to, read from the marks: ``outputs``, those of each module, call by call;
    ``module_calls``, for an operation that is the output of modules, their names, the number of the call, and where the
    call began in the list; ``inside``, the innermost module around it; ``order``, its index in the list.
    """

    order: dict[fx.Node, int]
    outputs: dict[str, list[fx.Node]] = field(default_factory=dict)
    module_calls: dict[fx.Node, list[tuple[str, int, int]]] = field(default_factory=dict)
    inside: dict[fx.Node, str] = field(default_factory=dict)


@torch.inference_mode(False)
@torch.no_grad()
def _record(network: Network, layers: Sequence[str]) -> Recording:
    for layer in layers:
        network.submodule(layer)
    probe = network.noise(1)
    marks: list[_Mark] = []
    program = record(lambda inputs: _marked(network.module, inputs, marks), probe)
    refusal = ConfigError(
        f"The forward pass of {network.name} cannot be shown step by step: its path depends on the picture or on "
        "chance, so that it is no fixed list of operations. Choose a network without such branches."
    )
    if program is None:
        raise refusal
    modules = _read_marks(program, marks)
    _make_out_of_place(program)
    constants = constants_of(program)
    values = replay(program, probe, constants)
    logits = _logits(program)
    expected = network.module(probe)
    value = values.get(logits)
    if not isinstance(value, Tensor) or value.shape != expected.shape:
        raise refusal
    if not float((value - expected).abs().max()) <= TOLERANCE * float(expected.abs().max()):
        raise refusal

    row = dict.fromkeys([*layers, *map_layers(network)])
    nodes = {layer: modules.outputs[layer][-1] for layer in row if modules.outputs.get(layer)}
    for layer in layers:
        if layer not in nodes or len(kinds.map_shape(values[nodes[layer]].shape)) != 3:
            network.activations(probe, layer)  # says what is wrong, where it gives no map at all
    steps, numbers = _steps(program, values, constants, modules, dict(network.folded), set(nodes.values()))
    row_names: dict[int, str] = {0: "picture"}
    for layer, node in nodes.items():
        if len(steps[numbers[node]].shape) == 3:
            row_names.setdefault(numbers[node], layer)
    row_steps = sorted(row_names)
    steps = [replace(step, layer=sum(end < step.number for end in row_steps)) for step in steps]
    return Recording(
        network.name,
        network.size,
        network.mean,
        network.std,
        tuple(steps),
        tuple((row_names[end], end) for end in row_steps),
        numbers[logits],
        program,
        numbers,
        constants,
    )


def _marked(module: nn.Module, inputs: Tensor, marks: list[_Mark]) -> list[Tensor]:
    """A pass that appends to ``marks``: returns a tensor for each mark, in order, and the logits at the end."""
    marks.clear()
    tensors: list[Tensor] = []
    caller = threading.get_ident()

    def watch(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def begin(_module: nn.Module, _inputs: Any) -> None:
            if threading.get_ident() == caller:  # not another thread's pass through the same module
                marks.append(_Mark(name, begins=True))
                tensors.append(inputs.new_zeros(()))

        def end(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if threading.get_ident() == caller:
                has_output = isinstance(output, Tensor)
                marks.append(_Mark(name, begins=False, has_output=has_output))
                # A copy, since what comes later may write into the output.
                tensors.append(output.clone() if has_output else inputs.new_zeros(()))

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
    return [*tensors, logits]


def _read_marks(program: fx.GraphModule, marks: list[_Mark]) -> _ModuleMap:
    """Reads the marks, and removes them from the recorded list."""
    end = program.graph.find_nodes(op="output")[0]
    outputs: Any = end.args[0]
    *mark_nodes, logits = outputs
    at = dict(zip(mark_nodes, marks, strict=True))
    modules = _ModuleMap({node: index for index, node in enumerate(program.graph.nodes)})
    open_modules: list[tuple[str, int]] = []
    for node in program.graph.nodes:
        mark = at.get(node)
        if mark is None:
            modules.inside[node] = open_modules[-1][0] if open_modules else ""
        elif mark.begins:
            open_modules.append((mark.module, modules.order[node]))
        else:
            _, began = open_modules.pop()
            if mark.has_output:
                output: Any = node.args[0]
                calls = modules.outputs.setdefault(mark.module, [])
                calls.append(output)
                if modules.order[output] > began:
                    modules.module_calls.setdefault(output, []).append((mark.module, len(calls), began))
    end.args = (logits,)
    for node in mark_nodes:
        program.graph.erase_node(node)
    return modules


def _make_out_of_place(program: fx.GraphModule) -> None:
    """Replaces the one in-place operation that recording leaves by one that does not change what it reads."""
    for node in program.graph.nodes:
        if node.target is _aten.as_strided_.default:
            node.target = _aten.as_strided.default
    program.graph.lint()


def _logits(program: fx.GraphModule) -> fx.Node:
    logits: Any = program.graph.find_nodes(op="output")[0].args[0]
    return logits


def _steps(
    program: fx.GraphModule,
    values: dict[fx.Node, Any],
    constants: dict[fx.Node, Any],
    modules: _ModuleMap,
    folded: dict[str, str],
    layers: set[fx.Node],
) -> tuple[list[ForwardStep], dict[fx.Node, int]]:
    """The steps, and which of them holds the output of each operation."""
    steps: list[ForwardStep] = []
    numbers: dict[fx.Node, int] = {}
    calls = {module: len(outputs) for module, outputs in modules.outputs.items()}
    used = _ancestors([_logits(program), *layers])
    nodes = [node for node in program.graph.nodes if node in used and node not in constants]
    nodes = [node for node in nodes if isinstance(values.get(node), Tensor)]
    inputs_of = {
        node: [read for read in _operation(node)[0].all_input_nodes if read not in constants] for node in nodes
    }
    copies = {node: inputs_of[node][0] for node in nodes if kinds.is_identity(*_operation(node), values, constants)}
    for node, source in reversed(copies.items()):  # the output of a module is its own also if it returns a copy
        calls_of_node = [call for call in modules.module_calls.get(node, []) if call[2] < modules.order[source]]
        modules.module_calls.setdefault(source, []).extend(calls_of_node)
    for node in nodes:
        value, sources = values[node], inputs_of[node]
        if node in copies or (node not in layers and kinds.is_padding_of_convolutions(node, constants)):
            numbers[node] = numbers[sources[0]]
            continue
        kind, operation, geometry = "input", "input", dict[str, Any]()
        if node.op != "placeholder":
            kind, operation, geometry = kinds.describe_operation(*_operation(node), value, values, constants)
        name = _name(node, modules, calls, operation) if steps else "picture"
        names = [module for module, _, _ in modules.module_calls.get(node, [])]
        step = ForwardStep(
            len(steps),
            name,
            kind,
            operation,
            kinds.map_shape(value.shape),
            tuple(dict.fromkeys(numbers[read] for read in sources)),
            node,
            folded=next((folded[module] for module in names if module in folded and kind == "convolution"), None),
            geometry=geometry,
        )
        numbers[node] = step.number
        steps.append(step)
    return steps, numbers


def _ancestors(waiting: list[fx.Node]) -> set[fx.Node]:
    """The operations that the outputs ``waiting`` depend on, and these."""
    used: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in used:
            used.add(node)
            waiting += node.all_input_nodes
    return used


def _name(node: fx.Node, modules: _ModuleMap, calls: dict[str, int], operation: str) -> str:
    """The module whose output ``node`` is, the innermost that is called once; else where it is and what it does."""
    calls_of_node = modules.module_calls.get(node, [])
    for module, _, _ in calls_of_node:
        if calls[module] == 1:
            return module
    if calls_of_node:
        module, call, _ = calls_of_node[0]
        return f"{module}, call {call}"
    around = modules.inside.get(node, "")
    return f"{around}, {operation}" if around else operation

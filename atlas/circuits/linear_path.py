"""The path from one layer of a network to a later one, as a list of operations whose vector-Jacobian products can be
taken with every non-linearity replaced by a fixed slope.

The idea is that of expanded weights (Voss et al. 2021, "Visualizing Weights"; Olah et al. 2020, "Zoom In"): where two
layers lie further apart than one convolution, what is between them is taken as linear.

- A non-linearity (ReLU, SiLU, …) multiplies what it reads by its slope.
- Max-pooling is taken as average pooling.
- Of a product of two paths (squeeze and excitation; Hu et al. 2018) one factor, the gate, is taken as constant. It is
  the factor that does not come from the source, else the one that is the same for a whole map, else the one that a
  sigmoid or its like gives.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from atlas.circuits.vjp import Operation
from atlas.errors import ConfigError
from atlas.networks.hooks import hooked
from atlas.networks.network import Network, call_count
from atlas.networks.program import operation_kinds as kinds
from atlas.networks.program.nonlinearities import formula
from atlas.networks.program.record import record
from atlas.networks.program.replay import constants_of, replay

_aten = torch.ops.aten
_NONLINEARITIES = {
    "ReLU", "ReLU6", "clip", "sigmoid", "hard sigmoid", "tanh", "SiLU", "hard swish", "GELU", "Mish", "leaky ReLU",
    "ELU", "SELU", "CELU", "softplus",
}  # fmt: skip
_BOUNDED = {"sigmoid", "hard sigmoid", "tanh", "ReLU6"}
_MAXIMA = (_aten.max_pool2d_with_indices.default, _aten.adaptive_max_pool2d.default, _aten.amax.default)
_LINEAR = {
    *kinds.MOVES, *kinds.ADDITIONS, *kinds.SUBTRACTIONS, *kinds.MEANS, *kinds.SUMS, *_MAXIMA,
    _aten.neg.default, _aten.cat.default, _aten.stack.default, _aten.avg_pool2d.default,
    _aten._adaptive_avg_pool2d.default, _aten.adaptive_avg_pool2d.default,
    _aten.upsample_bilinear2d.default, _aten.upsample_bilinear2d.vec, _aten.upsample_bicubic2d.default,
    _aten.upsample_bicubic2d.vec,
} - {_aten.as_strided.default}  # fmt: skip
# Linear in what they read where all else is constant.
_WEIGHTED = {
    *kinds.PRODUCTS, *kinds.DIVISIONS, *kinds.BATCH_NORMS, _aten.convolution.default, _aten.mm.default,
    _aten.addmm.default, _aten.bmm.default,
}  # fmt: skip

Kind = Literal["linear", "maximum", "slope", "gate"]


class NotLinearError(ConfigError):
    """There is a path between two layers, but no fixed weights stand for it."""


@dataclass(frozen=True)
class PathStep:
    """One operation of the path, whose output is that of ``node``; ``reads``: what it reads of the path; ``word``: what
    `LinearPath.nonlinearities` calls it; ``gate``: the factor of a product that is taken as constant."""

    node: fx.Node
    operation: Operation
    kind: Kind
    word: str
    reads: tuple[fx.Node, ...]
    gate: fx.Node | None = None


class LinearPath:
    """The path from the output of ``source`` to that of ``target``, two layers of ``network``, recorded for one picture
    of the network's size.

    ``steps`` are its operations from the source to the target, ``nonlinearities`` says in words which of them are not
    linear but taken as such. Raises ConfigError where a layer does not exist, gives no map or is called more than once,
    and where no path leads from one to the other; and NotLinearError, a ConfigError, where the path cannot be taken as
    linear: it holds a softmax or a norm that depends on the picture, or its operations depend on the picture.
    """

    def __init__(self, network: Network, source: str, target: str) -> None:
        self.network, self.source, self.target = network, source, target
        for layer in (source, target):
            network.submodule(layer)
        if source == target:
            raise ConfigError(f"A circuit of {source} with itself was asked for. Name an earlier layer as its source.")
        for layer in (source, target):
            if (count := call_count(network, layer)) > 1:
                raise ConfigError(
                    f"Layer {layer} of {network.name} is called {count} times in one pass, so it has no map of its "
                    "own. Choose the block around it."
                )
        probe = network.noise(1)
        self.recorded = self._recorded(probe)
        outputs: Any = self.recorded.graph.find_nodes(op="output")[0].args[0]
        self.source_node: fx.Node = outputs[0].args[0]  # what a layer gave was cloned to be an output
        self.target_node: fx.Node = outputs[1].args[0]
        self.constants = constants_of(self.recorded)
        values = replay(self.recorded, probe, self.constants)
        self.shapes = {node: value.shape for node, value in values.items() if isinstance(value, Tensor)}
        self.steps = self._steps(values)
        self.nonlinearities = _words(self.steps)

    @property
    def source_channels(self) -> int:
        """How many channels the source has."""
        return self.shapes[self.source_node][1]

    @property
    def target_channels(self) -> int:
        """How many channels the target has."""
        return self.shapes[self.target_node][1]

    def _recorded(self, probe: Tensor) -> fx.GraphModule:
        network = self.network
        with torch.no_grad():
            for layer in (self.target, self.source):
                network.activations(probe, layer)  # says what is wrong, where one gives no map

        def source_and_target(inputs: Tensor) -> list[Tensor]:
            sources: list[Tensor] = []
            with hooked(network.submodule(self.source), lambda output: sources.append(output.clone())):
                target = network.activations(inputs, self.target)
            return [*sources, target.clone()]

        with torch.no_grad():
            if len(source_and_target(probe)) < 2:
                raise self._no_path(f"{self.source} comes later")
        recorded = record(source_and_target, probe)
        if recorded is None:
            raise NotLinearError(
                f"The path from {self.source} to {self.target} of {network.name} cannot be written down as a list of "
                "operations: it depends on the picture. Choose a network without such branches."
            )
        return recorded

    def _no_path(self, reason: str) -> ConfigError:
        return ConfigError(
            f"No path leads from {self.source} to {self.target} in {self.network.name}: {reason}. Choose as source a "
            f"layer that {self.target} is made from."
        )

    def _steps(self, values: dict[fx.Node, Any]) -> tuple[PathStep, ...]:
        after = {self.source_node}  # all that depends on the source
        for node in self.recorded.graph.nodes:
            if any(read in after for read in node.all_input_nodes):
                after.add(node)
        if self.target_node not in after:
            raise self._no_path("they lie on branches side by side")
        steps: dict[fx.Node, PathStep] = {}
        waiting = [self.target_node]
        while waiting:
            node = waiting.pop()
            if node in steps or node is self.source_node:
                continue
            steps[node] = self._step(node, after, values)
            waiting += steps[node].reads
        return tuple(steps[node] for node in self.recorded.graph.nodes if node in steps)

    def _step(self, node: fx.Node, after: set[fx.Node], values: dict[fx.Node, Any]) -> PathStep:
        arguments: Any = node.args
        core, part = arguments if node.target is operator.getitem else (node, None)
        operation = Operation(core, part, self.shapes[node], self.shapes, self.constants)
        reads = tuple(dict.fromkeys(read for read in core.all_input_nodes if read in after))
        of_picture = [read for read in core.all_input_nodes if read not in self.constants]
        nonlinearity = formula(core)
        if nonlinearity is not None and nonlinearity.name in _NONLINEARITIES:
            return PathStep(node, operation, "slope", nonlinearity.name, reads)
        if core.target is _aten._prelu_kernel.default and len(of_picture) == 1:
            return PathStep(node, operation, "slope", "PReLU", reads)
        if core.target is _aten.mul.Tensor and (gate := self._gate(core, after)) is not None:
            return PathStep(node, operation, "gate", "gate", tuple(read for read in reads if read is not gate), gate)
        if core.target in _MAXIMA and part in (None, 0):
            return PathStep(node, operation, "maximum", "max-pooling", reads)
        divided = core.target in kinds.DIVISIONS and core.args[1] in of_picture
        training = core.target in kinds.BATCH_NORMS and kinds.is_training(core)
        flat = core.target is not _aten.convolution.default or len(core.args[3]) == 2  # type: ignore[arg-type]
        single = len(of_picture) == 1 and of_picture[0] in _once(core) and not divided and not training and flat
        if core.target in _LINEAR or (core.target in _WEIGHTED and single):
            return PathStep(node, operation, "linear", "", reads)
        _, word, _ = kinds.describe_operation(core, part, values[node], values, self.constants)
        if divided or (core.target in kinds.PRODUCTS):
            word = "a product or quotient of two maps"
        elif training:
            word = "a norm by the picture's own mean and deviation"
        raise NotLinearError(
            f"The path from {self.source} to {self.target} of {self.network.name} cannot be taken as linear: it goes "
            f"through {word}, whose weights the picture itself decides. Choose two layers with nothing of the kind "
            "between them."
        )

    def _gate(self, core: fx.Node, after: set[fx.Node]) -> fx.Node | None:
        """The factor of the product ``core`` that is taken as constant; None where there is none, or both could be."""
        factors = core.args[:2]
        if not all(isinstance(factor, fx.Node) and factor not in self.constants for factor in factors):
            return None
        first, second = factors
        if first is second:
            return None
        for gate, other in ((second, first), (first, second)):
            if gate not in after and other in after:
                return gate  # type: ignore[return-value]
        sizes = [self.shapes[factor].numel() for factor in (first, second)]  # type: ignore[index]
        if sizes[0] != sizes[1]:
            return first if sizes[0] < sizes[1] else second  # type: ignore[return-value]
        bounded = [factor for factor in (second, first) if self._is_bounded(factor)]  # type: ignore[arg-type]
        return bounded[0] if bounded else None  # type: ignore[return-value]

    def _is_bounded(self, node: fx.Node) -> bool:
        """Whether ``node`` is what a sigmoid or its like gives, moved or times a constant."""
        while True:
            nonlinearity = formula(node)
            if nonlinearity is not None:
                return nonlinearity.name in _BOUNDED
            of_picture = [read for read in node.all_input_nodes if read not in self.constants]
            steps = (*kinds.MOVES, *kinds.PRODUCTS, *kinds.DIVISIONS)
            if node.target not in steps or len(of_picture) != 1:
                return False
            node = of_picture[0]


def _once(core: fx.Node) -> list[fx.Node]:
    """What ``core`` reads once: a product of something with itself is not linear in it."""
    counts: Counter[fx.Node] = Counter()
    fx.map_arg((core.args, core.kwargs), lambda node: counts.update([node]))
    return [node for node, count in counts.items() if count == 1]


def _words(steps: tuple[PathStep, ...]) -> tuple[str, ...]:
    """The operations that are taken as linear, in words: "12 ReLU6", "1 max-pooling taken as average", "2 gates
    taken as constants"."""
    counts = Counter(step.word for step in steps if step.kind != "linear")
    several = {
        "gate": ("gate taken as constant", "gates taken as constants"),
        "max-pooling": ("max-pooling taken as average", "max-poolings taken as averages"),
    }
    return tuple(f"{count} {several.get(word, (word, word))[count > 1]}" for word, count in counts.items())

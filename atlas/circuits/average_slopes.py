"""The average slope of every non-linearity on a path, and the average value of every gate, measured on real pictures.

A ReLU that is above 0 at a tenth of the positions has an average slope of a tenth. Expanded weights with
these slopes are the mean of the true gradients as far as slopes of one layer go up and down independently of those of
another; the farther two layers lie apart, the less so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from atlas.circuits.linear_path import LinearPath, PathStep
from atlas.circuits.vjp import is_map
from atlas.errors import ConfigError
from atlas.networks.program.record import TOLERANCE
from atlas.networks.program.replay import replay


@dataclass(frozen=True)
class AverageSlopes:
    """The ``factors`` that stand for the non-linearities and gates of a path, by the operation's output: float32, one a
    channel (channels,), or, for what is no map, one for each of its numbers. ``views``: how many pictures they were
    measured on."""

    factors: dict[fx.Node, Tensor]
    views: int


@torch.inference_mode(False)
def measure_slopes(path: LinearPath, inputs: Tensor, batch: int = 16) -> AverageSlopes:
    """The average slopes of ``path`` on normalised ``inputs``, float32 (n, 3, size, size), ``batch`` at a time: the
    mean over views and positions of the derivative of each non-linearity, and of each gate's value.

    Raises ConfigError for no inputs, inputs of another size, and a network whose operations on them differ from those
    that were recorded.
    """
    network = path.network
    if inputs.ndim != 4 or len(inputs) == 0 or tuple(inputs.shape[1:]) != (3, network.size, network.size):
        raise ConfigError(
            f"Average slopes of {network.name} are measured on pictures of shape (n, 3, {network.size}, "
            f"{network.size}), n at least 1, and {tuple(inputs.shape)} was given."
        )
    steps = [step for step in path.steps if step.kind in ("slope", "gate")]
    if not steps:
        return AverageSlopes({}, len(inputs))
    batched = all(path.shapes[step.node][0] == 1 for step in steps)
    if batched and _agrees(path, inputs[:batch]):
        size = batch
    elif _agrees(path, inputs[:1]):
        size = 1
    else:
        raise ConfigError(
            f"The path from {path.source} to {path.target} of {network.name} cannot be written down as a list of "
            "operations: it depends on the picture or on chance. Choose a network without such branches."
        )
    sums: dict[fx.Node, Tensor] = {}
    for part in inputs.split(size):
        for step, factors in _factors_of_steps(path, part.to(network.device), steps):
            total = factors.double().sum(0)
            sums[step.node] = sums[step.node] + total if step.node in sums else total
    return AverageSlopes({node: (total / len(inputs)).float() for node, total in sums.items()}, len(inputs))


def _agrees(path: LinearPath, inputs: Tensor) -> bool:
    inputs = inputs.to(path.network.device)
    with torch.no_grad():
        expected = path.network.activations(inputs, path.target)
        try:
            maps = _values(path, inputs, {path.target_node})[path.target_node]
        except RuntimeError:  # a recorded shape that holds the batch
            return False
    if maps.shape != expected.shape:
        return False
    return bool((maps - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _values(path: LinearPath, inputs: Tensor, nodes: set[fx.Node]) -> dict[fx.Node, Tensor]:
    """The outputs of the operations ``nodes`` for a batch of inputs."""
    values = path.constants | replay(path.recorded, inputs, path.constants, nodes)
    return {node: values[node] for node in nodes}


def _factors_of_steps(path: LinearPath, inputs: Tensor, steps: list[PathStep]) -> list[tuple[PathStep, Tensor]]:
    """For each step its factors for each view, (n, channels) or (n, …)."""
    read = {step.node: step.gate or step.operation.core.args[0] for step in steps}
    values = _values(path, inputs, set(read.values()))  # type: ignore[arg-type]
    pairs = []
    for step in steps:
        value = values[read[step.node]]  # type: ignore[index]
        factors = value if step.gate is not None else _slopes(path, step, value)
        shape = path.shapes[step.node]
        if is_map(shape):
            lead = shape[1:-2]
            factors = factors.mean((-2, -1)).reshape(len(value), *factors.shape[1:-2])
            factors = factors.expand(len(value), *lead).flatten(1)
        elif shape[0] != 1:  # its first dimension is not that of the pictures, which run one by one
            factors = factors[None]
        pairs.append((step, factors))
    return pairs


def _slopes(path: LinearPath, step: PathStep, value: Tensor) -> Tensor:
    """The derivative of a non-linearity at each number of ``value``."""
    core = step.operation.core
    arguments, options = fx.map_arg((core.args[1:], core.kwargs), path.constants.__getitem__)
    with torch.enable_grad():
        source = value.detach().requires_grad_(True)
        output = core.target(source, *arguments, **options)  # type: ignore[operator]
        (slopes,) = torch.autograd.grad(output.sum(), source)
    return slopes

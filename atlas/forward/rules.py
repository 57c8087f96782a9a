"""How the number at one place of a step comes about, for each kind of operation.

Every function takes a trace, the step, the place of its output counted row by row, and how many terms are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas.forward.pooling import pool, run_over
from atlas.forward.steps import Step
from atlas.forward.terms import (
    Working,
    array,
    broadcast,
    numbers_at,
    operands,
    picked,
    place_of,
    plain,
    ravelled,
    term,
    window,
)
from atlas.forward.trace import Trace, unravelled
from atlas.networks.program import operation_kinds as kinds
from atlas.networks.program.nonlinearities import formula, leaky

_aten = torch.ops.aten
_CONSTANT = "a constant of the network"


def working(trace: Trace, step: Step, index: int, terms: int) -> Working:
    """The arithmetic of the number at the place ``index`` of ``step``, with at most ``terms`` terms."""
    return _WORKINGS.get(step.kind, _other)(trace, step, index, terms)


def _convolution(trace: Trace, step: Step, index: int, terms: int) -> Working:
    arguments: Any = step.node.args
    weights = trace.recording.constants[arguments[1]]
    outputs, inputs, height, width = weights.shape
    channel, row, column = unravelled(index, step.shape)
    (top, _), (left, _) = step.geometry["padding"]
    (stride_y, stride_x), (apart_y, apart_x) = step.geometry["stride"], step.geometry["dilation"]
    y, x = row * stride_y - top, column * stride_x - left
    first = channel // (outputs // step.geometry["groups"]) * inputs  # the group's first input channel
    source = step.reads[0]
    maps = trace.maps(source)[first : first + inputs]
    patches = window(maps, y + apart_y * np.arange(height), x + apart_x * np.arange(width))
    kernels = array(weights[channel])
    sums = (patches * kernels).sum((1, 2))
    chosen, rest = picked(sums, terms)
    bias = None if arguments[2] is None else float(trace.recording.constants[arguments[2]][channel])
    made = [term(trace, source, (first + each, y, x), sums[each], patches[each], kernels[each]) for each in chosen]
    return Working(float(sums.sum()) + (bias or 0.0), made, rest, bias)


def _linear(trace: Trace, step: Step, index: int, terms: int) -> Working:
    node: Any = step.node
    *before, given, weights = node.args[: 3 if node.target is _aten.addmm.default else 2]
    constants = trace.recording.constants
    source = trace.recording.numbers[given]
    shape = trace.values[step.number].shape
    row, column = unravelled(index, shape)
    numbers = array(trace.values[source][row])
    kernels = array(constants[weights][:, column]) * float(node.kwargs.get("alpha", 1))
    sums = numbers * kernels
    chosen, rest = picked(sums, terms)
    bias = None
    if before:
        bias = float(constants[before[0]].expand(shape)[row, column]) * float(node.kwargs.get("beta", 1))
    made = []
    for each in chosen:
        place = place_of(trace, source, row * len(numbers) + each)
        patch, kernel = numbers[each].reshape(1, 1), kernels[each].reshape(1, 1)
        made.append(term(trace, source, place, sums[each], patch, kernel))
    return Working(float(sums.sum()) + (bias or 0.0), made, rest, bias)


def _add(trace: Trace, step: Step, index: int, terms: int) -> Working:
    node: Any = step.node
    if node.target in kinds.SUMS:
        source = step.reads[0]
        indices = run_over(trace, step, index)
        numbers = numbers_at(trace.values[source], indices)
        chosen, rest = picked(numbers, terms)
        return Working(float(numbers.sum()), [plain(trace, source, int(indices[each])) for each in chosen], rest)
    alpha = float(node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1))
    if node.target in kinds.REVERSED:
        signs = (-alpha, 1.0)
    else:
        signs = (1.0, -alpha if node.target in kinds.SUBTRACTIONS else alpha)
    bias, summands = None, []
    for operand, sign in zip(operands(trace, node, trace.values[step.number].shape, index), signs):
        if isinstance(operand, tuple):
            summands.append(plain(trace, *operand, sign))
        else:
            bias = (bias or 0.0) + sign * operand
    sums = np.array([summand["sum"] for summand in summands])
    chosen, rest = picked(sums, terms)
    return Working(float(sums.sum()) + (bias or 0.0), [summands[each] for each in chosen], rest, bias)


def _multiply(trace: Trace, step: Step, index: int, _terms: int) -> Working:
    """The factors, all of them: a product has no rest that could be added. A constant factor belongs to no step."""
    factors: list[dict[str, Any]] = []
    found = operands(trace, step.node, trace.values[step.number].shape, index)
    for operand in found:
        if isinstance(operand, tuple):
            factors.append(plain(trace, *operand))
        else:
            constant = 1 / operand if step.node.target in kinds.DIVISIONS else operand
            nowhere = dict.fromkeys(("step", "channel", "y", "x", "patch", "kernel"))
            factors.append({**nowhere, "title": _CONSTANT, "sum": constant})
    product = math.prod(factor["sum"] for factor in factors)
    return Working(product, factors, formula={"name": "product", "text": "the product of the factors", "input": None})


def _concatenate(trace: Trace, step: Step, index: int, _terms: int) -> Working:
    node: Any = step.node
    constants = trace.recording.constants
    wide = trace.values[step.number].shape
    side = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(wide)
    place = list(unravelled(index, wide))
    stacked = node.target is _aten.stack.default
    for given in node.args[0]:
        value: Tensor = constants[given] if given in constants else trace.values[trace.recording.numbers[given]]
        reach = 1 if stacked else 0 if value.numel() == 0 else value.shape[side]
        if place[side] < reach:
            break
        place[side] -= reach
    if stacked:
        del place[side]
    if given in constants:
        constant = float(value[tuple(place)])
        return Working(constant, bias=constant, formula={"name": _CONSTANT, "text": None, "input": None})
    found = plain(trace, trace.recording.numbers[given], ravelled(place, value.shape))
    return Working(found["sum"], [found])


def _move(trace: Trace, step: Step, index: int, _terms: int) -> Working:
    source = step.reads[0]
    places = kinds.source_indices(step.node, step.part, trace.values[source], trace.recording.constants)
    found = int(places[unravelled(index, places.shape)])
    if found < 0:
        arguments: Any = step.node.args
        constant = float(arguments[2]) if len(arguments) > 2 else 0.0
        words = {"name": "padding", "text": f"{constant:.4g}, put around the map", "input": None}
        return Working(constant, bias=constant, formula=words)
    moved = plain(trace, source, found)
    return Working(moved["sum"], [moved], inner=(source, found))


def _activation(trace: Trace, step: Step, index: int, _terms: int) -> Working:
    source = step.reads[0]
    known = formula(step.node)
    if known is None:  # a PReLU: its slope is one of the network's weights
        slopes = trace.recording.constants[step.node.args[1]]  # type: ignore[index]
        known = leaky(float(slopes.reshape(-1)[broadcast(slopes.shape, trace.values[source].shape, index)]))
    given = trace.number(source, index)
    words = {"name": known.name, "text": known.text, "input": given}
    return Working(known.function(given), [plain(trace, source, index)], formula=words, inner=(source, index))


def _batch_norm(trace: Trace, step: Step, index: int, _terms: int) -> Working:
    arguments: Any = step.node.args
    channel = unravelled(index, trace.values[step.number].shape)[1]
    weight, bias, mean, variance = (
        without if each is None else float(trace.recording.constants[each][channel])
        for each, without in zip(arguments[1:5], (1.0, 0.0, 0.0, 1.0))
    )
    scale = weight / math.sqrt(variance + float(arguments[-1]))
    shift = bias - mean * scale
    source = step.reads[0]
    given = trace.number(source, index)
    place = place_of(trace, source, index)
    made = term(trace, source, place, given * scale, np.array([[given]]), np.array([[scale]]))
    return Working(given * scale + shift, [made], bias=shift, inner=(source, index))


def _other(trace: Trace, step: Step, index: int, _terms: int) -> Working:
    """The network's own number and the operation's name; softmax and layer norm are worked out, without terms."""
    target = step.node.target
    if target is _aten._softmax.default or target is _aten.native_layer_norm.default:
        source = step.reads[0]
        value = trace.values[source]
        arguments: Any = step.node.args
        given = trace.number(source, index)
        line_of = _softmax if target is _aten._softmax.default else _layer_norm
        total, text = line_of(trace, value, arguments, unravelled(index, value.shape))
        return Working(total, formula={"name": step.operation, "text": text, "input": given})
    name = "the picture" if step.kind == "input" else step.operation
    return Working(trace.number(step.number, index), formula={"name": name, "text": None, "input": None})


def _softmax(_trace: Trace, value: Tensor, arguments: Any, place: tuple[int, ...]) -> tuple[float, str]:
    side = int(arguments[1]) % value.ndim
    line = array(value[place[:side]].movedim(0, -1)[place[side + 1 :]])
    powers = np.exp(line - line.max())
    return float(powers[place[side]] / powers.sum()), f"exp(x) / the sum of exp over {len(line):,} numbers"


def _layer_norm(trace: Trace, value: Tensor, arguments: Any, place: tuple[int, ...]) -> tuple[float, str]:
    """Ba et al. (2016): the mean and the spread are those of this picture."""
    _, normalized, weight, bias, epsilon = arguments
    before, inside = place[: value.ndim - len(normalized)], place[value.ndim - len(normalized) :]
    numbers = array(value[before])
    mean, spread = float(numbers.mean()), math.sqrt(float(numbers.var()) + float(epsilon))
    constants = trace.recording.constants
    scale = 1.0 if weight is None else float(constants[weight][inside])
    shift = 0.0 if bias is None else float(constants[bias][inside])
    total = (float(numbers[inside]) - mean) / spread * scale + shift
    return total, f"(x − {mean:.4g}) / {spread:.4g} · {scale:.4g} + {shift:.4g}"


_WORKINGS: dict[str, Callable[[Trace, Step, int, int], Working]] = {
    "convolution": _convolution,
    "linear": _linear,
    "add": _add,
    "multiply": _multiply,
    "concatenate": _concatenate,
    "activation": _activation,
    "max_pool": pool,
    "average_pool": pool,
    "batch_norm": _batch_norm,
    "move": _move,
}

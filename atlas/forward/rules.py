"""The rules by which a number of a step is computed, one for each kind of operation.

Every rule takes a trace, the step, the flat index of the number in its output, and the largest number of terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas.forward.pooling import pool, reduced_indices
from atlas.forward.steps import ForwardStep
from atlas.forward.terms import (
    Arithmetic,
    array,
    broadcast,
    largest_terms,
    multi_index_of,
    number_term,
    numbers_at,
    operands,
    patch_at,
    ravel,
    term,
)
from atlas.forward.trace import Trace, unravel
from atlas.networks.program import operation_kinds as kinds
from atlas.networks.program.nonlinearities import formula, leaky

_aten = torch.ops.aten
_CONSTANT = "a constant of the network"


def arithmetic(trace: Trace, step: ForwardStep, index: int, terms: int) -> Arithmetic:
    """The arithmetic of the number at the flat index ``index`` of ``step``, with at most ``terms`` terms."""
    return _RULES.get(step.kind, _other)(trace, step, index, terms)


def _convolution(trace: Trace, step: ForwardStep, index: int, terms: int) -> Arithmetic:
    arguments: Any = step.node.args
    weights = trace.recording.constants[arguments[1]]
    outputs, inputs, height, width = weights.shape
    channel, row, column = unravel(index, step.shape)
    (top, _), (left, _) = step.geometry["padding"]
    (stride_y, stride_x), (apart_y, apart_x) = step.geometry["stride"], step.geometry["dilation"]
    y, x = row * stride_y - top, column * stride_x - left
    first = channel // (outputs // step.geometry["groups"]) * inputs  # the group's first input channel
    source = step.reads[0]
    maps = trace.maps(source)[first : first + inputs]
    patches = patch_at(maps, y + apart_y * np.arange(height), x + apart_x * np.arange(width))
    kernels = array(weights[channel])
    sums = (patches * kernels).sum((1, 2))
    term_numbers, rest = largest_terms(sums, terms)
    bias = None if arguments[2] is None else float(trace.recording.constants[arguments[2]][channel])
    parts = [
        term(trace, source, (first + number, y, x), sums[number], patches[number], kernels[number])
        for number in term_numbers
    ]
    return Arithmetic(float(sums.sum()) + (bias or 0.0), parts, rest, bias)


def _linear(trace: Trace, step: ForwardStep, index: int, terms: int) -> Arithmetic:
    node: Any = step.node
    *before, read, weights = node.args[: 3 if node.target is _aten.addmm.default else 2]
    constants = trace.recording.constants
    source = trace.recording.numbers[read]
    shape = trace.values[step.number].shape
    row, column = unravel(index, shape)
    numbers = array(trace.values[source][row])
    kernels = array(constants[weights][:, column]) * float(node.kwargs.get("alpha", 1))
    sums = numbers * kernels
    term_numbers, rest = largest_terms(sums, terms)
    bias = None
    if before:
        bias = float(constants[before[0]].expand(shape)[row, column]) * float(node.kwargs.get("beta", 1))
    parts = []
    for number in term_numbers:
        multi_index = multi_index_of(trace, source, row * len(numbers) + number)
        patch, kernel = numbers[number].reshape(1, 1), kernels[number].reshape(1, 1)
        parts.append(term(trace, source, multi_index, sums[number], patch, kernel))
    return Arithmetic(float(sums.sum()) + (bias or 0.0), parts, rest, bias)


def _add(trace: Trace, step: ForwardStep, index: int, terms: int) -> Arithmetic:
    node: Any = step.node
    if node.target in kinds.SUMS:
        source = step.reads[0]
        indices = reduced_indices(trace, step, index)
        numbers = numbers_at(trace.values[source], indices)
        term_numbers, rest = largest_terms(numbers, terms)
        return Arithmetic(
            float(numbers.sum()), [number_term(trace, source, int(indices[number])) for number in term_numbers], rest
        )
    alpha = float(node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1))
    if node.target in kinds.REVERSED:
        signs = (-alpha, 1.0)
    else:
        signs = (1.0, -alpha if node.target in kinds.SUBTRACTIONS else alpha)
    bias, summands = None, []
    for operand, sign in zip(operands(trace, node, trace.values[step.number].shape, index), signs):
        if isinstance(operand, tuple):
            summands.append(number_term(trace, *operand, sign))
        else:
            bias = (bias or 0.0) + sign * operand
    sums = np.array([summand["sum"] for summand in summands])
    term_numbers, rest = largest_terms(sums, terms)
    return Arithmetic(float(sums.sum()) + (bias or 0.0), [summands[number] for number in term_numbers], rest, bias)


def _multiply(trace: Trace, step: ForwardStep, index: int, _terms: int) -> Arithmetic:
    """The factors, all of them: a product has no rest that could be added. A constant factor belongs to no step."""
    factors: list[dict[str, Any]] = []
    for operand in operands(trace, step.node, trace.values[step.number].shape, index):
        if isinstance(operand, tuple):
            factors.append(number_term(trace, *operand))
        else:
            constant = 1 / operand if step.node.target in kinds.DIVISIONS else operand
            nowhere = dict.fromkeys(("step", "channel", "y", "x", "patch", "kernel"))
            factors.append({**nowhere, "title": _CONSTANT, "sum": constant})
    product = math.prod(factor["sum"] for factor in factors)
    return Arithmetic(
        product, factors, formula={"name": "product", "text": "the product of the factors", "input": None}
    )


def _concatenate(trace: Trace, step: ForwardStep, index: int, _terms: int) -> Arithmetic:
    node: Any = step.node
    constants = trace.recording.constants
    wide = trace.values[step.number].shape
    side = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(wide)
    multi_index = list(unravel(index, wide))
    stacked = node.target is _aten.stack.default
    for part in node.args[0]:
        value: Tensor = constants[part] if part in constants else trace.values[trace.recording.numbers[part]]
        reach = 1 if stacked else 0 if value.numel() == 0 else value.shape[side]
        if multi_index[side] < reach:
            break
        multi_index[side] -= reach
    if stacked:
        del multi_index[side]
    if part in constants:
        constant = float(value[tuple(multi_index)])
        return Arithmetic(constant, bias=constant, formula={"name": _CONSTANT, "text": None, "input": None})
    copied = number_term(trace, trace.recording.numbers[part], ravel(multi_index, value.shape))
    return Arithmetic(copied["sum"], [copied])


def _reshape(trace: Trace, step: ForwardStep, index: int, _terms: int) -> Arithmetic:
    source = step.reads[0]
    indices = kinds.source_indices(step.node, step.part, trace.values[source], trace.recording.constants)
    source_index = int(indices[unravel(index, indices.shape)])
    if source_index < 0:
        arguments: Any = step.node.args
        constant = float(arguments[2]) if len(arguments) > 2 else 0.0
        words = {"name": "padding", "text": f"{constant:.4g}, put around the map", "input": None}
        return Arithmetic(constant, bias=constant, formula=words)
    copied = number_term(trace, source, source_index)
    return Arithmetic(copied["sum"], [copied], inner=(source, source_index))


def _activation(trace: Trace, step: ForwardStep, index: int, _terms: int) -> Arithmetic:
    source = step.reads[0]
    nonlinearity = formula(step.node)
    if nonlinearity is None:  # a PReLU: its slope is one of the network's weights
        slopes = trace.recording.constants[step.node.args[1]]  # type: ignore[index]
        nonlinearity = leaky(float(slopes.reshape(-1)[broadcast(slopes.shape, trace.values[source].shape, index)]))
    value = trace.number(source, index)
    words = {"name": nonlinearity.name, "text": nonlinearity.text, "input": value}
    term = number_term(trace, source, index)
    return Arithmetic(nonlinearity.function(value), [term], formula=words, inner=(source, index))


def _batch_norm(trace: Trace, step: ForwardStep, index: int, _terms: int) -> Arithmetic:
    arguments: Any = step.node.args
    channel = unravel(index, trace.values[step.number].shape)[1]
    weight, bias, mean, variance = (
        default if node is None else float(trace.recording.constants[node][channel])
        for node, default in zip(arguments[1:5], (1.0, 0.0, 0.0, 1.0))
    )
    scale = weight / math.sqrt(variance + float(arguments[-1]))
    shift = bias - mean * scale
    source = step.reads[0]
    value = trace.number(source, index)
    multi_index = multi_index_of(trace, source, index)
    product = term(trace, source, multi_index, value * scale, np.array([[value]]), np.array([[scale]]))
    return Arithmetic(value * scale + shift, [product], bias=shift, inner=(source, index))


def _other(trace: Trace, step: ForwardStep, index: int, _terms: int) -> Arithmetic:
    """The network's own number and the operation's name; softmax and layer norm are computed, without terms."""
    target = step.node.target
    if target is _aten._softmax.default or target is _aten.native_layer_norm.default:
        source = step.reads[0]
        value = trace.values[source]
        arguments: Any = step.node.args
        number = trace.number(source, index)
        line_of = _softmax if target is _aten._softmax.default else _layer_norm
        total, text = line_of(trace, value, arguments, unravel(index, value.shape))
        return Arithmetic(total, formula={"name": step.operation, "text": text, "input": number})
    name = "the picture" if step.kind == "input" else step.operation
    return Arithmetic(trace.number(step.number, index), formula={"name": name, "text": None, "input": None})


def _softmax(_trace: Trace, value: Tensor, arguments: Any, multi_index: tuple[int, ...]) -> tuple[float, str]:
    side = int(arguments[1]) % value.ndim
    line = array(value[multi_index[:side]].movedim(0, -1)[multi_index[side + 1 :]])
    powers = np.exp(line - line.max())
    return float(powers[multi_index[side]] / powers.sum()), f"exp(x) / the sum of exp over {len(line):,} numbers"


def _layer_norm(trace: Trace, value: Tensor, arguments: Any, multi_index: tuple[int, ...]) -> tuple[float, str]:
    """Ba et al. (2016): the mean and the deviation are those of this picture."""
    _, normalized, weight, bias, epsilon = arguments
    before, inside = multi_index[: value.ndim - len(normalized)], multi_index[value.ndim - len(normalized) :]
    numbers = array(value[before])
    mean, spread = float(numbers.mean()), math.sqrt(float(numbers.var()) + float(epsilon))
    constants = trace.recording.constants
    scale = 1.0 if weight is None else float(constants[weight][inside])
    shift = 0.0 if bias is None else float(constants[bias][inside])
    total = (float(numbers[inside]) - mean) / spread * scale + shift
    return total, f"(x − {mean:.4g}) / {spread:.4g} · {scale:.4g} + {shift:.4g}"


_RULES: dict[str, Callable[[Trace, ForwardStep, int, int], Arithmetic]] = {
    "convolution": _convolution,
    "linear": _linear,
    "add": _add,
    "multiply": _multiply,
    "concatenate": _concatenate,
    "activation": _activation,
    "max_pool": pool,
    "average_pool": pool,
    "batch_norm": _batch_norm,
    "reshape": _reshape,
}

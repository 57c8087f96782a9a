"""The arithmetic of one unit: which numbers the network multiplies and adds to get the number at one place of a step.

Everything is worked out anew in double precision from what the step reads, so that the total can be compared with the
number that the network gave. What is not understood says so: its kind is "other" and its total the network's own
number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from atlas.errors import ConfigError
from atlas.explain import kinds
from atlas.explain.formulas import formula, leaky
from atlas.explain.recording import Step
from atlas.explain.trace import Trace, check_channel, check_step, shown, unravelled

_aten = torch.ops.aten

# A pooled patch is shown up to so many rows and columns.
_PATCH = 49
TERMS = 64
_COLOURS = ("red", "green", "blue")


@dataclass
class _Working:
    """How a number comes about. ``terms`` are ready for JSON but for their rounding."""

    total: float
    terms: list[dict[str, Any]] = field(default_factory=list)
    rest: tuple[int, float] | None = None
    bias: float | None = None
    formula: dict[str, Any] | None = None
    inner: tuple[int, int] | None = None  # a step, and the place of its output


def unit(trace: Trace, step: int, channel: int, y: int = 0, x: int = 0, terms: int = 12) -> dict[str, Any]:
    """The arithmetic of the number at ``channel``, ``y``, ``x`` of ``step``, ready for JSON: value, total, at most
    ``terms`` terms (the largest first) and the rest of them, summed, bias, formula, and the arithmetic inside.

    Raises ConfigError for a step, channel or place that there is not, and for other than 1 to 64 terms.
    """
    check_step(trace, step)
    check_channel(trace, step, channel)
    known = trace.recording.steps[step]
    height, width = known.shape[1:] if len(known.shape) == 3 else (1, 1)
    for letter, given, side, word in (("y", y, height, "rows"), ("x", x, width, "columns")):
        if not 0 <= given < side:
            raise ConfigError(
                f"Step {step} ({known.name}) of {trace.recording.name} has no place with {letter} = {given}. It has "
                f"{side} {word}, 0 to {side - 1}."
            )
    if not 1 <= terms <= TERMS:
        raise ConfigError(f"{terms} terms were asked for. Ask for 1 to {TERMS}; the rest are shown as one sum.")
    return _unit(trace, step, (channel * height + y) * width + x, terms)


@torch.inference_mode(False)
@torch.no_grad()
def _unit(trace: Trace, step: int, index: int, terms: int) -> dict[str, Any]:
    known = trace.recording.steps[step]
    value = trace.number(step, index)
    working = _WORKINGS.get(known.kind, _other)(trace, known, index, terms)
    return {
        "step": step,
        **_place(trace, step, index),
        "kind": known.kind,
        "value": shown(value),
        "total": shown(working.total),
        "terms": [_rounded(term) for term in working.terms],
        "rest": working.rest and {"count": working.rest[0], "sum": shown(working.rest[1])},
        "bias": None if working.bias is None else shown(working.bias),
        "formula": _rounded(working.formula) if working.formula else None,
        "inner": None if working.inner is None else _unit(trace, *working.inner, terms),
    }


def _place(trace: Trace, step: int, index: int) -> dict[str, int]:
    shape = trace.recording.steps[step].shape
    channel, y, x = (index, 0, 0) if len(shape) == 1 else unravelled(index, shape)
    return {"channel": channel, "y": y, "x": x}


def _rounded(given: dict[str, Any]) -> dict[str, Any]:
    """``given`` with its numbers and arrays as JSON has them."""
    made: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, np.ndarray):
            made[key] = [[shown(float(each)) for each in row] for row in value]
        else:
            made[key] = shown(value) if isinstance(value, float) else value
    return made


def _title(trace: Trace, step: int, channel: int) -> str:
    known = trace.recording.steps[step]
    if known.kind == "input":
        return f"{_COLOURS[channel]} of the picture"
    return f"{'channel' if len(known.shape) == 3 else 'number'} {channel} of {known.name}"


def _term(
    trace: Trace,
    step: int,
    place: tuple[int, int, int],
    total: float,
    patch: np.ndarray | None = None,
    kernel: np.ndarray | None = None,
) -> dict[str, Any]:
    channel, y, x = place
    return {
        "step": step,
        "channel": channel,
        "title": _title(trace, step, channel),
        "y": y,
        "x": x,
        "sum": float(total),
        "patch": patch,
        "kernel": kernel,
    }


def _source(trace: Trace, node: Any) -> int:
    """The step that holds the output of ``node``."""
    return trace.recording.numbers[node]


def _at(trace: Trace, step: int, index: int) -> tuple[int, int, int]:
    place = _place(trace, step, index)
    return place["channel"], place["y"], place["x"]


def _plain(trace: Trace, step: int, index: int, sign: float = 1.0) -> dict[str, Any]:
    """A term that is one number of a step, as it is or times ``sign``."""
    return _term(trace, step, _at(trace, step, index), sign * trace.number(step, index))


def _picked(sums: np.ndarray, terms: int) -> tuple[list[int], tuple[int, float] | None]:
    """The ``terms`` largest of ``sums`` by magnitude, and how many others there are, with their sum."""
    order = np.argsort(-np.abs(np.nan_to_num(sums, nan=np.inf)), kind="stable")
    others = order[terms:]
    return order[:terms].tolist(), (len(others), float(sums[others].sum())) if len(others) else None


def _array(value: Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()


def _convolution(trace: Trace, step: Step, index: int, terms: int) -> _Working:
    node: Any = step.node
    weights, bias = (trace.recording.constants.get(each) for each in node.args[1:3])
    channel, row, column = unravelled(index, step.shape)
    (top, _), (left, _) = step.geometry["padding"]
    (down, right), (apart_y, apart_x) = step.geometry["stride"], step.geometry["dilation"]
    assert isinstance(weights, Tensor)
    outputs, inputs, height, width = weights.shape
    first = channel // (outputs // step.geometry["groups"]) * inputs
    y, x = row * down - top, column * right - left
    source = step.reads[0]
    patches = _window(
        trace.maps(source)[first : first + inputs], y + apart_y * np.arange(height), x + apart_x * np.arange(width)
    )
    kernels = _array(weights[channel])
    sums = (patches * kernels).sum((1, 2))
    chosen, rest = _picked(sums, terms)
    added = None if bias is None else float(bias[channel])
    return _Working(
        float(sums.sum()) + (added or 0.0),
        [_term(trace, source, (first + each, y, x), sums[each], patches[each], kernels[each]) for each in chosen],
        rest,
        added,
    )


def _window(maps: Tensor, rows: np.ndarray, columns: np.ndarray, outside: float = 0.0) -> np.ndarray:
    """``maps`` (channels, height, width) at ``rows`` and ``columns``, and ``outside`` where those lie beyond."""
    _, height, width = maps.shape
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
    clipped = [
        torch.from_numpy(each.clip(0, side - 1)).to(maps.device) for each, side in ((rows, height), (columns, width))
    ]
    return np.where(inside, _array(maps[:, clipped[0][:, None], clipped[1][None, :]]), outside)


def _linear(trace: Trace, step: Step, index: int, terms: int) -> _Working:
    node: Any = step.node
    with_bias = node.target is _aten.addmm.default
    constants = trace.recording.constants
    source = _source(trace, node.args[1 if with_bias else 0])
    weights = constants[node.args[2 if with_bias else 1]]
    row, column = unravelled(index, trace.values[step.number].shape)
    numbers = _array(trace.values[source][row])
    kernels = _array(weights[:, column]) * float(node.kwargs.get("alpha", 1))
    sums = numbers * kernels
    chosen, rest = _picked(sums, terms)
    bias = None
    if with_bias:
        given = constants[node.args[0]].expand(trace.values[step.number].shape)
        bias = float(given[row, column]) * float(node.kwargs.get("beta", 1))
    return _Working(
        float(sums.sum()) + (bias or 0.0),
        [
            _term(
                trace,
                source,
                _at(trace, source, row * len(numbers) + each),
                sums[each],
                numbers[each].reshape(1, 1),
                kernels[each].reshape(1, 1),
            )
            for each in chosen
        ],
        rest,
        bias,
    )


def _broadcast(shape: torch.Size, wide: torch.Size, index: int) -> int:
    """The place of a tensor of ``shape`` that is read at the place ``index`` of what it is broadcast to."""
    place = unravelled(index, wide)[len(wide) - len(shape) :]
    found = 0
    for side, at in zip(shape, place):
        found = found * side + (at if side > 1 else 0)
    return found


def _operands(trace: Trace, step: Step, index: int) -> list[float | tuple[int, int]]:
    """The two numbers that an addition or product takes at ``index``: constants, or (step, place)."""
    wide = trace.values[step.number].shape
    found: list[float | tuple[int, int]] = []
    for given in step.node.args[:2]:
        if isinstance(given, fx.Node) and given not in trace.recording.constants:
            source = _source(trace, given)
            found.append((source, _broadcast(trace.values[source].shape, wide, index)))
        else:
            constant: Any = trace.recording.constants.get(given) if isinstance(given, fx.Node) else given
            if isinstance(constant, Tensor):
                constant = constant.reshape(-1)[_broadcast(constant.shape, wide, index)]
            found.append(float(constant))
    return found


def _add(trace: Trace, step: Step, index: int, terms: int) -> _Working:
    node: Any = step.node
    if node.target in kinds.SUMS:
        source = step.reads[0]
        indices = _run_over(trace, step, index, source)
        numbers = _numbers(trace, source, indices)
        chosen, rest = _picked(numbers, terms)
        shown_terms = [_plain(trace, source, int(indices[each])) for each in chosen]
        return _Working(float(numbers.sum()), shown_terms, rest)
    alpha = float(node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1))
    reverse, minus = "rsub" in str(node.target), "sub" in str(node.target)
    signs = (-alpha, 1.0) if reverse else (1.0, -alpha if minus else alpha)
    bias, summands = None, []
    for operand, sign in zip(_operands(trace, step, index), signs):
        if isinstance(operand, tuple):
            summands.append(_plain(trace, *operand, sign))
        else:
            bias = (bias or 0.0) + sign * operand
    sums = np.array([summand["sum"] for summand in summands])
    chosen, rest = _picked(sums, terms)
    return _Working(float(sums.sum()) + (bias or 0.0), [summands[each] for each in chosen], rest, bias)


def _multiply(trace: Trace, step: Step, index: int, _terms: int) -> _Working:
    """The factors, all of them: a product has no rest that could be added. A constant factor belongs to no step."""
    factors, product = [], 1.0
    for position, operand in enumerate(_operands(trace, step, index)):
        if isinstance(operand, tuple):
            factors.append(_plain(trace, *operand))
        else:
            constant = 1 / operand if position == 1 and "div" in str(step.node.target) else operand
            nowhere = dict.fromkeys(("step", "channel", "y", "x", "patch", "kernel"))
            factors.append({**nowhere, "title": "a constant of the network", "sum": constant})
        product *= factors[-1]["sum"]
    return _Working(product, factors, formula={"name": "product"})


def _concatenate(trace: Trace, step: Step, index: int, _terms: int) -> _Working:
    node: Any = step.node
    wide = trace.values[step.number].shape
    side = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(wide)
    place = list(unravelled(index, wide))
    constants = trace.recording.constants
    stacked = node.target is _aten.stack.default
    for given in node.args[0]:
        value = constants[given] if given in constants else trace.values[_source(trace, given)]
        if not stacked and value.ndim == 1 and value.numel() == 0:
            continue  # torch takes an empty tensor beside any other
        reach = 1 if stacked else value.shape[side]
        if place[side] < reach:
            break
        place[side] -= reach
    if stacked:
        del place[side]
    if given in constants:
        constant = float(value[tuple(place)])
        return _Working(constant, bias=constant, formula={"name": "a constant of the network"})
    found = _ravelled(place, value.shape)
    term = _plain(trace, _source(trace, given), found)
    return _Working(term["sum"], [term])


def _ravelled(place: list[int], shape: torch.Size) -> int:
    index = 0
    for at, side in zip(place, shape):
        index = index * side + at
    return index


def _move(trace: Trace, step: Step, index: int, _terms: int) -> _Working:
    source = step.reads[0]
    places = kinds.moved(step.node, step.part, trace.values[source], trace.recording.constants)
    found = int(places[unravelled(index, places.shape)])
    if found < 0:
        arguments: Any = step.node.args
        constant = float(arguments[2]) if len(arguments) > 2 else 0.0
        return _Working(constant, bias=constant, formula={"name": "padding", "text": f"{constant:.4g}, padded on"})
    term = _plain(trace, source, found)
    return _Working(term["sum"], [term], inner=(source, found))


def _activation(trace: Trace, step: Step, index: int, _terms: int) -> _Working:
    node: Any = step.node
    source = step.reads[0]
    known = formula(node)
    if known is None:  # a PReLU: its slope is the network's own
        slope = trace.recording.constants[node.args[1]]
        known = leaky(float(slope.reshape(-1)[_broadcast(slope.shape, trace.values[source].shape, index)]))
    given = trace.number(source, index)
    made = {"name": known.name, "text": known.text, "input": given}
    return _Working(known.function(given), [_plain(trace, source, index)], formula=made, inner=(source, index))


def _batch_norm(trace: Trace, step: Step, index: int, _terms: int) -> _Working:
    node: Any = step.node
    constants = trace.recording.constants
    channel = unravelled(index, trace.values[step.number].shape)[1]
    weight, bias, mean, variance = (
        default if each is None else float(constants[each][channel])
        for each, default in zip(node.args[1:5], (1.0, 0.0, 0.0, 1.0))
    )
    scale = weight / math.sqrt(variance + float(node.args[-1]))
    shift = bias - mean * scale
    source = step.reads[0]
    given = trace.number(source, index)
    patch, kernel = np.array([[given]]), np.array([[scale]])
    term = _term(trace, source, _at(trace, source, index), given * scale, patch, kernel)
    return _Working(given * scale + shift, [term], bias=shift, inner=(source, index))


def _run_over(trace: Trace, step: Step, index: int, source: int) -> np.ndarray:
    """The places of ``source`` that a mean, a sum or a maximum runs over, row by row."""
    value = trace.values[source]
    sides = kinds.reduced(step.node, value.ndim)
    kept = [side for side in range(value.ndim) if side not in sides]
    place = unravelled(index, [value.shape[side] for side in kept])
    ranges = [np.arange(value.shape[side]) for side in range(value.ndim)]
    for side, at in zip(kept, place):
        ranges[side] = np.array([at])
    return np.ravel_multi_index(np.ix_(*ranges), tuple(value.shape)).reshape(-1)


def _numbers(trace: Trace, source: int, indices: np.ndarray) -> np.ndarray:
    value = trace.values[source]
    places = np.unravel_index(indices, tuple(value.shape))
    return _array(value[tuple(torch.from_numpy(each).to(value.device) for each in places)])


def _pool(trace: Trace, step: Step, index: int, _terms: int) -> _Working:
    """The patch that a pooling takes together, with shares that sum to one, or its largest number."""
    node: Any = step.node
    source = step.reads[0]
    most = step.kind == "max_pool"
    value = trace.values[source]
    if node.target in (*kinds.MEANS, _aten.amax.default):
        indices = _run_over(trace, step, index, source)
        sides = kinds.reduced(node, value.ndim)
        columns = value.shape[-1] if sides == [value.ndim - 2, value.ndim - 1] else len(indices)
        place = _at(trace, source, int(indices[0]))
        patch, divisor = _numbers(trace, source, indices).reshape(-1, columns), float(len(indices))
    else:
        channel, row, column = unravelled(index, step.shape)
        rows, columns_, divisor = _pooled(step, trace.maps(source).shape, row, column)
        patch = _window(trace.maps(source)[channel : channel + 1], rows, columns_, -math.inf if most else 0.0)[0]
        place = (channel, int(rows[0]), int(columns_[0]))
    if most:
        at = np.unravel_index(int(patch.argmax()), patch.shape)
        total = float(patch[at])
        term = _term(trace, source, place, total, patch[:_PATCH, :_PATCH])
        term["largest"] = [int(side) for side in at]
        words = {"name": "largest", "text": f"the largest of {patch.size:,} numbers", "input": total}
        return _Working(total, [term], formula=words)
    total = float(patch.sum()) / divisor
    cut = patch[:_PATCH, :_PATCH]
    term = _term(trace, source, place, total, cut, np.full(cut.shape, 1 / divisor))
    words = {"name": "mean", "text": f"the sum of {patch.size:,} numbers / {divisor:,.0f}", "input": None}
    return _Working(total, [term], formula=words)


def _pooled(step: Step, shape: torch.Size, row: int, column: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The rows and columns of what a pooling reads at ``row``, ``column``, and what it divides their sum by."""
    node: Any = step.node
    if not step.geometry:  # to a fixed size: parts that may overlap by one
        found = []
        for at, whole, parts in zip((row, column), shape[1:], step.shape[1:]):
            found.append(np.arange(at * whole // parts, -(-(at + 1) * whole // parts)))
        return found[0], found[1], float(len(found[0]) * len(found[1]))
    lines, counted = [], 1
    counts_padding = len(node.args) < 6 or bool(node.args[5])
    for side, at in enumerate((row, column)):
        kernel, stride, apart = (step.geometry[word][side] for word in ("kernel", "stride", "dilation"))
        padding, whole = step.geometry["padding"][side][0], shape[1 + side]
        start = at * stride - padding
        lines.append(start + apart * np.arange(kernel))
        end = min(start + kernel, whole + padding)  # in ceil mode a window may reach beyond the padding
        counted *= end - start if counts_padding else min(end, whole) - max(start, 0)
    divisor = node.args[6] if step.kind == "average_pool" and len(node.args) > 6 and node.args[6] else counted
    return lines[0], lines[1], float(divisor)


def _other(trace: Trace, step: Step, index: int, _terms: int) -> _Working:
    """What is not worked out: the network's own number, and the operation's name; a softmax from its inputs."""
    value = trace.number(step.number, index)
    node: Any = step.node
    if step.kind == "input":
        return _Working(value, formula={"name": "the picture"})
    if node.target is _aten._softmax.default:
        source = step.reads[0]
        given = trace.values[source]
        side = int(node.args[1]) % given.ndim
        place = list(unravelled(index, given.shape))
        line = _array(given[tuple(slice(None) if at == side else each for at, each in enumerate(place))])
        powers = np.exp(line - line.max())
        words = {"name": "softmax", "text": "exp(x) / the sum of all exp(x)", "input": trace.number(source, index)}
        return _Working(float(powers[place[side]] / powers.sum()), formula=words)
    return _Working(value, formula={"name": step.operation})


_WORKINGS: dict[str, Callable[[Trace, Step, int, int], _Working]] = {
    "convolution": _convolution,
    "linear": _linear,
    "add": _add,
    "multiply": _multiply,
    "concatenate": _concatenate,
    "activation": _activation,
    "max_pool": _pool,
    "average_pool": _pool,
    "batch_norm": _batch_norm,
    "move": _move,
}

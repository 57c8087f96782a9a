"""The arithmetic of poolings, means and maxima: of a patch of numbers the largest, or the mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from atlas.forward.steps import ForwardStep
from atlas.forward.terms import Arithmetic, multi_index_of, numbers_at, patch_at, term
from atlas.forward.trace import Trace, unravel
from atlas.networks.program import operation_kinds as kinds

# At most so many rows and columns of a patch are shown.
_VISIBLE_SIDE = 49


def pool(trace: Trace, step: ForwardStep, index: int, _terms: int) -> Arithmetic:
    """The arithmetic of the number at the flat index ``index`` of ``step``, a pooling, mean or maximum. It has one
    term: the patch, with weights that sum to one, or with the position of its largest number."""
    source = step.reads[0]
    value = trace.values[source]
    is_max = step.kind == "max_pool"
    if step.node.target in kinds.REDUCTIONS:
        indices = reduced_indices(trace, step, index)
        sides = kinds.reduced_dimensions(step.node, value.ndim)
        width = value.shape[-1] if kinds.is_height_and_width(sides, value.ndim) else len(indices)
        multi_index = multi_index_of(trace, source, int(indices[0]))
        patch, divisor = numbers_at(value, indices).reshape(-1, width), float(len(indices))
    else:
        channel, row, column = unravel(index, step.shape)
        rows, columns, divisor = _reach(step, trace.recording.steps[source].shape, row, column)
        patch = patch_at(trace.maps(source)[channel : channel + 1], rows, columns, -math.inf if is_max else 0.0)[0]
        multi_index = (channel, int(rows[0]), int(columns[0]))
    visible = patch[:_VISIBLE_SIDE, :_VISIBLE_SIDE]
    if is_max:
        largest = np.unravel_index(int(patch.argmax()), patch.shape)
        total = float(patch[largest])
        pool_term = {**term(trace, source, multi_index, total, visible), "largest": [int(side) for side in largest]}
        text = f"the largest of {int((patch > -math.inf).sum()):,} numbers"
        return Arithmetic(total, [pool_term], formula={"name": "largest", "text": text, "input": total})
    total = float(patch.sum()) / divisor
    pool_term = term(trace, source, multi_index, total, visible, np.full(visible.shape, 1 / divisor))
    text = f"the sum of {patch.size:,} numbers / {divisor:,.0f}"
    return Arithmetic(total, [pool_term], formula={"name": "mean", "text": text, "input": None})


def reduced_indices(trace: Trace, step: ForwardStep, index: int) -> np.ndarray:
    """The flat indices in what ``step`` reads of the numbers that its mean, sum or maximum at ``index`` runs over:
    int64 (n,)."""
    shape = trace.values[step.reads[0]].shape
    sides = kinds.reduced_dimensions(step.node, len(shape))
    others = [side for side in range(len(shape)) if side not in sides]
    ranges = [np.arange(side) for side in shape]
    for side, at in zip(others, unravel(index, [shape[side] for side in others])):
        ranges[side] = np.array([at])
    return np.ravel_multi_index(np.ix_(*ranges), tuple(shape)).reshape(-1)


def _reach(step: ForwardStep, shape: tuple[int, ...], row: int, column: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The rows and columns of the map that a pooling reads at ``row``, ``column``, and what it divides their sum by."""
    arguments: Any = step.node.args
    lines: list[np.ndarray] = []
    if not step.geometry:  # to a fixed size: parts that may overlap by one
        for at, whole, parts in zip((row, column), shape[1:], step.shape[1:]):
            lines.append(np.arange(at * whole // parts, -(-(at + 1) * whole // parts)))
        return lines[0], lines[1], float(len(lines[0]) * len(lines[1]))
    count = 1
    counts_padding = len(arguments) < 6 or bool(arguments[5])
    for side, at in enumerate((row, column)):
        kernel, stride, apart = (step.geometry[word][side] for word in ("kernel", "stride", "dilation"))
        padding, whole = step.geometry["padding"][side][0], shape[1 + side]
        start = at * stride - padding
        lines.append(start + apart * np.arange(kernel))
        end = min(start + kernel, whole + padding)  # in ceil mode a window may reach beyond the padding
        count *= end - start if counts_padding else min(end, whole) - max(start, 0)
    divisor = arguments[6] if step.kind == "average_pool" and len(arguments) > 6 else None
    return lines[0], lines[1], float(divisor or count)

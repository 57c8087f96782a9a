"""Parts of the arithmetic of a unit: its terms and their patches, and the indices of numbers in a step.

A number of a tensor is named by its flat index, counted row by row, or by its multi-index, (channel, y, x) in the
step's own shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from atlas.forward.trace import Trace, unravel

_COLOURS = ("red", "green", "blue")
# (channel, y, x) in a step's own shape.
MultiIndex = tuple[int, int, int]


@dataclass
class Arithmetic:
    """How one number is computed, in double precision: ``total``; ``terms`` as JSON has them but for their rounding;
    ``rest``, how many other terms there are, and their sum; ``inner``, the number whose own arithmetic is shown inside,
    as a step and the flat index in its output.
    """

    total: float
    terms: list[dict[str, Any]] = field(default_factory=list)
    rest: tuple[int, float] | None = None
    bias: float | None = None
    formula: dict[str, Any] | None = None
    inner: tuple[int, int] | None = None


def multi_index_of(trace: Trace, step: int, index: int) -> MultiIndex:
    """The multi-index (channel, y, x) of the flat index ``index`` of ``step``."""
    shape = trace.recording.steps[step].shape
    if len(shape) == 1:
        return index, 0, 0
    channel, y, x = unravel(index, shape)
    return channel, y, x


def term(
    trace: Trace,
    step: int,
    multi_index: MultiIndex,
    total: float,
    patch: np.ndarray | None = None,
    kernel: np.ndarray | None = None,
) -> dict[str, Any]:
    """A term that reads ``step`` at ``multi_index`` (of a patch its top left) and whose value is ``total``, as JSON
    has it: of a convolution with its ``patch`` and its ``kernel``, both (rows, columns)."""
    channel, y, x = multi_index
    source = trace.recording.steps[step]
    if source.kind == "input":
        title = f"{_COLOURS[channel]} of the picture"
    else:
        title = f"{'channel' if len(source.shape) == 3 else 'number'} {channel} of {source.name}"
    return {
        "step": step,
        "channel": channel,
        "title": title,
        "y": y,
        "x": x,
        "sum": float(total),
        "patch": patch,
        "kernel": kernel,
    }


def number_term(trace: Trace, step: int, index: int, sign: float = 1.0) -> dict[str, Any]:
    """A term that is one number of a step times ``sign``."""
    return term(trace, step, multi_index_of(trace, step, index), sign * trace.number(step, index))


def largest_terms(sums: np.ndarray, terms: int) -> tuple[list[int], tuple[int, float] | None]:
    """The ``terms`` largest of ``sums`` (n,) by magnitude, and how many others there are, with their sum."""
    order = np.argsort(-np.abs(np.nan_to_num(sums, nan=np.inf)), kind="stable")
    others = order[terms:]
    return order[:terms].tolist(), (len(others), float(sums[others].sum())) if len(others) else None


def array(value: Tensor) -> np.ndarray:
    """A tensor as an array of float64, of the same shape."""
    return value.detach().double().cpu().numpy()


def patch_at(maps: Tensor, rows: np.ndarray, columns: np.ndarray, outside: float = 0.0) -> np.ndarray:
    """``maps`` (channels, height, width) at ``rows`` and ``columns``, int64 (r,) and (c,), and the value ``outside``
    where those lie beyond the map: float64 (channels, r, c)."""
    _, height, width = maps.shape
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
    at_rows = torch.from_numpy(rows.clip(0, height - 1)).to(maps.device)
    at_columns = torch.from_numpy(columns.clip(0, width - 1)).to(maps.device)
    return np.where(inside, array(maps[:, at_rows[:, None], at_columns[None, :]]), outside)


def numbers_at(value: Tensor, indices: np.ndarray) -> np.ndarray:
    """The numbers of ``value`` at the flat ``indices``, int64 (n,): float64 (n,)."""
    axes = np.unravel_index(indices, tuple(value.shape))
    return array(value[tuple(torch.from_numpy(axis).to(value.device) for axis in axes)])


def ravel(multi_index: Sequence[int], shape: torch.Size) -> int:
    """The flat index of ``multi_index``, one index a dimension, in a tensor of ``shape``."""
    index = 0
    for at, side in zip(multi_index, shape):
        index = index * side + at
    return index


def broadcast(shape: torch.Size, wide: torch.Size, index: int) -> int:
    """The flat index in a tensor of ``shape`` of what is read at the flat index ``index`` of ``wide``, the shape that
    it is broadcast to."""
    multi_index = unravel(index, wide)[len(wide) - len(shape) :]
    return ravel([at if side > 1 else 0 for at, side in zip(multi_index, shape)], shape)


def operands(trace: Trace, node: fx.Node, wide: torch.Size, index: int) -> list[float | tuple[int, int]]:
    """The two numbers that ``node``, an addition or product, takes at the flat index ``index`` of its output of shape
    ``wide``: a constant, or a step and the flat index there.
    """
    result: list[float | tuple[int, int]] = []
    for argument in node.args[:2]:
        constant: Any = argument
        if isinstance(argument, fx.Node):
            if argument not in trace.recording.constants:
                source = trace.recording.numbers[argument]
                result.append((source, broadcast(trace.values[source].shape, wide, index)))
                continue
            constant = trace.recording.constants[argument]
        if isinstance(constant, Tensor):
            constant = constant.reshape(-1)[broadcast(constant.shape, wide, index)]
        result.append(float(constant))
    return result

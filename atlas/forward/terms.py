"""What the arithmetic of a unit is written with: terms, patches, and the places of numbers in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from atlas.forward.trace import Trace, unravelled

_COLOURS = ("red", "green", "blue")
# (channel, y, x) in a step's own shape.
Place = tuple[int, int, int]


@dataclass
class Working:
    """How one number comes about, in double precision: ``terms`` as JSON has them but for their rounding; ``rest``,
    how many other terms there are, and their sum; ``inner``, the number whose own arithmetic belongs inside, as a step
    and its place there, counted row by row.
    """

    total: float
    terms: list[dict[str, Any]] = field(default_factory=list)
    rest: tuple[int, float] | None = None
    bias: float | None = None
    formula: dict[str, Any] | None = None
    inner: tuple[int, int] | None = None


def place_of(trace: Trace, step: int, index: int) -> Place:
    """The place number ``index`` of ``step``, counted row by row."""
    shape = trace.recording.steps[step].shape
    if len(shape) == 1:
        return index, 0, 0
    channel, y, x = unravelled(index, shape)
    return channel, y, x


def term(
    trace: Trace,
    step: int,
    place: Place,
    total: float,
    patch: np.ndarray | None = None,
    kernel: np.ndarray | None = None,
) -> dict[str, Any]:
    """A term that reads ``step`` at ``place`` (of a patch its top left) and comes to ``total``, as JSON has it: of a
    convolution with its ``patch`` and its ``kernel``, both (rows, columns)."""
    channel, y, x = place
    known = trace.recording.steps[step]
    if known.kind == "input":
        title = f"{_COLOURS[channel]} of the picture"
    else:
        title = f"{'channel' if len(known.shape) == 3 else 'number'} {channel} of {known.name}"
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


def plain(trace: Trace, step: int, index: int, sign: float = 1.0) -> dict[str, Any]:
    """A term that is one number of a step, as it is or times ``sign``."""
    return term(trace, step, place_of(trace, step, index), sign * trace.number(step, index))


def picked(sums: np.ndarray, terms: int) -> tuple[list[int], tuple[int, float] | None]:
    """The ``terms`` largest of ``sums`` (n,) by magnitude, and how many others there are, with their sum."""
    order = np.argsort(-np.abs(np.nan_to_num(sums, nan=np.inf)), kind="stable")
    others = order[terms:]
    return order[:terms].tolist(), (len(others), float(sums[others].sum())) if len(others) else None


def array(value: Tensor) -> np.ndarray:
    """A tensor as an array of float64, of the same shape."""
    return value.detach().double().cpu().numpy()


def window(maps: Tensor, rows: np.ndarray, columns: np.ndarray, outside: float = 0.0) -> np.ndarray:
    """``maps`` (channels, height, width) at ``rows`` (r,) and ``columns`` (c,), and ``outside`` where those lie beyond:
    float64 (channels, r, c)."""
    _, height, width = maps.shape
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
    at_rows = torch.from_numpy(rows.clip(0, height - 1)).to(maps.device)
    at_columns = torch.from_numpy(columns.clip(0, width - 1)).to(maps.device)
    return np.where(inside, array(maps[:, at_rows[:, None], at_columns[None, :]]), outside)


def numbers_at(value: Tensor, indices: np.ndarray) -> np.ndarray:
    """The numbers of ``value`` at the places ``indices`` (n,), counted row by row: float64 (n,)."""
    places = np.unravel_index(indices, tuple(value.shape))
    return array(value[tuple(torch.from_numpy(each).to(value.device) for each in places)])


def ravelled(place: Sequence[int], shape: torch.Size) -> int:
    """The number of a place of a tensor of ``shape``, counted row by row."""
    index = 0
    for at, side in zip(place, shape):
        index = index * side + at
    return index


def broadcast(shape: torch.Size, wide: torch.Size, index: int) -> int:
    """The place of a tensor of ``shape`` that is read at the place ``index`` of what it is broadcast to."""
    place = unravelled(index, wide)[len(wide) - len(shape) :]
    return ravelled([at if side > 1 else 0 for at, side in zip(place, shape)], shape)


def operands(trace: Trace, node: fx.Node, wide: torch.Size, index: int) -> list[float | tuple[int, int]]:
    """The two numbers that ``node``, an addition or product, takes at the place ``index`` of its output of shape
    ``wide``: a constant, or a step and the place there.
    """
    found: list[float | tuple[int, int]] = []
    for given in node.args[:2]:
        constant: Any = given
        if isinstance(given, fx.Node):
            if given not in trace.recording.constants:
                source = trace.recording.numbers[given]
                found.append((source, broadcast(trace.values[source].shape, wide, index)))
                continue
            constant = trace.recording.constants[given]
        if isinstance(constant, Tensor):
            constant = constant.reshape(-1)[broadcast(constant.shape, wide, index)]
        found.append(float(constant))
    return found

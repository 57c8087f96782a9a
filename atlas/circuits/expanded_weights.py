"""Expanded weights: what a unit of a layer would have as its kernel, were everything between it and an earlier layer
linear (Voss et al. 2021, "Visualizing Weights"; Olah et al. 2020, "Zoom In").

It is the gradient of the unit at the middle of the target's map to the source's map, with each non-linearity on the way
replaced by a slope: 1 throughout, or what it is on average on real pictures (`atlas.circuits.average_slopes`). Of
layers with nothing but linear operations between them it is their composed kernel exactly. Expanded weights can cancel,
and what they say of layers far apart may be wrong: show what the data say beside them (`atlas.circuits.circuit`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from atlas.arrays import Float32
from atlas.circuits.average_slopes import Gates
from atlas.circuits.linear_path import LinearPath, PathStep
from atlas.circuits.vjp import Pulled, Window, alike, gathered, joined, pulled_back, scaled, window
from atlas.errors import ConfigError

# Numbers in the largest gradient of one pass back.
_NUMBERS = 1 << 25


@dataclass(frozen=True)
class Expanded:
    """``kernels`` (n, channels of the source, height, width), float32; both sides are odd.

    The middle of a kernel lies at ``centre`` (row, column) of the source's map when the unit is the one at ``unit``,
    the middle (H // 2, W // 2) of the target's map; the number at the middle's row + 1 is the weight of what lies one
    row below there. ``centre`` is the middle of what the unit can see. Where that is an even number of rows or columns
    (a pool of 2 × 2), a line of zeros is added behind, so that the middle is the latter of the two in the middle. A
    kernel is not cut off at the map's edge.
    """

    kernels: Float32
    centre: tuple[int, int]
    unit: tuple[int, int]


def expanded(path: LinearPath, directions: Float32, gates: Gates | None = None) -> Expanded:
    """The kernels of ``directions`` (n, channels of the target), float32: of single units (rows of the unit matrix) or
    of any mixture of them.

    ``gates``: by what the non-linearities and gates are replaced; None: all let through as it is (slope 1).
    Raises ConfigError for directions of another length.
    """
    windows = [_odd(each) for each in alike(list(_pulled(path, directions, gates)))]
    first = windows[0]
    height, width = first.values.shape[2:]
    _, _, rows, columns = path.shapes[path.target_node]
    kernels = torch.cat([each.values for each in windows]).cpu().numpy()
    return Expanded(kernels, (first.top + height // 2, first.left + width // 2), (rows // 2, columns // 2))


def summed(path: LinearPath, directions: Float32, gates: Gates | None = None) -> Float32:
    """As `expanded`, each kernel summed over its positions: float32 (n, channels of the source)."""
    found: Float32 = torch.cat([each.values.sum((2, 3)).cpu() for each in _pulled(path, directions, gates)]).numpy()
    return found


def _pulled(path: LinearPath, directions: Float32, gates: Gates | None) -> Iterator[Window]:
    """Windows of the gradient of the source, a few directions each."""
    given = np.asarray(directions, np.float32)
    if given.ndim != 2 or given.shape[1] != path.target_channels or len(given) == 0:
        raise ConfigError(
            f"Directions of {path.target} have {path.target_channels} numbers each, and an array of shape "
            f"{given.shape} was given. Give one of shape (n, {path.target_channels}), n at least 1."
        )
    rows = torch.from_numpy(given).to(path.network.device)
    first, most = _back(path, rows[:1], gates)
    yield first
    if len(rows) > 1:
        for part in rows[1:].split(max(1, _NUMBERS // most)):
            yield _back(path, part, gates)[0]


@torch.inference_mode(False)
@torch.no_grad()
def _back(path: LinearPath, directions: Tensor, gates: Gates | None) -> tuple[Window, int]:
    """The gradient of the source, and the most numbers that a gradient on the way had for one direction."""
    _, _, height, width = path.shapes[path.target_node]
    pulled: dict[fx.Node, Pulled] = {path.target_node: Window(directions[:, :, None, None], height // 2, width // 2)}
    most = 1
    for step in reversed(path.steps):
        given = pulled.pop(step.node)
        for read in step.reads:
            back = _through(path, step, given, read, gates)
            pulled[read] = joined(pulled.get(read), back, path.shapes[read])
            most = max(most, pulled[read].values[0].numel())
    return window(pulled[path.source_node], path.shapes[path.source_node]), most


def _through(path: LinearPath, step: PathStep, given: Pulled, read: fx.Node, gates: Gates | None) -> Pulled:
    if step.kind in ("linear", "maximum"):
        return pulled_back(step.operation, given, read)
    back = given if gates is None else scaled(given, gates.factors[step.node], path.shapes[step.node])
    return gathered(back, path.shapes[step.node], path.shapes[read])


def _odd(given: Window) -> Window:
    height, width = given.values.shape[2:]
    rows, columns = 1 - height % 2, 1 - width % 2
    return Window(F.pad(given.values, (0, columns, 0, rows)), given.top, given.left)

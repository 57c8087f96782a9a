"""Expanded weights: what a unit of a layer would have as its kernel, were everything between it and an earlier layer
linear (Voss et al. 2021, "Visualizing Weights"; Olah et al. 2020, "Zoom In").

It is the gradient of the unit at the middle of the target's map to the source's map, with each non-linearity on the way
replaced by a slope: 1 throughout, or what it is on average on real pictures (`atlas.circuits.average_slopes`). Of
layers with nothing but linear operations between them it is their composed kernel exactly. Expanded weights can cancel,
and what they say of layers far apart may be wrong: show the measured effects beside them (`atlas.circuits.circuit`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from atlas.arrays import Float32
from atlas.circuits.average_slopes import AverageSlopes
from atlas.circuits.linear_path import LinearPath, PathStep
from atlas.circuits.vjp import (
    Gradient,
    GradientWindow,
    add_gradients,
    gradient_window,
    on_one_extent,
    scale,
    sum_to_shape,
    vjp,
)
from atlas.errors import ConfigError

# How many numbers the largest gradient of one backward pass may have.
_LARGEST_GRADIENT = 1 << 25


@dataclass(frozen=True)
class ExpandedWeights:
    """``kernels`` (n, channels of the source, height, width), float32; both sides are odd.

    The middle of a kernel lies at ``centre`` (row, column) of the source's map when the unit is the one at ``unit``,
    the middle (H // 2, W // 2) of the target's map; the number at the middle's row + 1 is the weight of what lies one
    row below there. ``centre`` is the middle of what the unit can see. Where that is an even number of rows or columns
    (a pool of 2 × 2), a row or column of zeros is added at the end, so that the middle is the second of the two. A
    kernel is not cropped at the map's edge.
    """

    kernels: Float32
    centre: tuple[int, int]
    unit: tuple[int, int]


def expand_weights(path: LinearPath, directions: Float32, slopes: AverageSlopes | None = None) -> ExpandedWeights:
    """The kernels of ``directions``, float32 (n, channels of the target): of single units (rows of the unit matrix) or
    of any mixture of them.

    ``slopes``: by what the non-linearities and gates are replaced; None: by 1.
    Raises ConfigError for directions of another length.
    """
    windows = [_with_odd_sides(window) for window in on_one_extent(list(_gradients(path, directions, slopes)))]
    first = windows[0]
    height, width = first.values.shape[2:]
    _, _, rows, columns = path.shapes[path.target_node]
    kernels = torch.cat([window.values for window in windows]).cpu().numpy()
    return ExpandedWeights(kernels, (first.top + height // 2, first.left + width // 2), (rows // 2, columns // 2))


def sum_weights(path: LinearPath, directions: Float32, slopes: AverageSlopes | None = None) -> Float32:
    """As `expand_weights`, each kernel summed over its positions: float32 (n, channels of the source)."""
    sums = [window.values.sum((2, 3)).cpu() for window in _gradients(path, directions, slopes)]
    weights: Float32 = torch.cat(sums).numpy()
    return weights


def check_vectors(vectors: Float32, channels: int, subject: str) -> Float32:
    """``vectors`` as float32 (n, channels). Raises ConfigError, about ``subject``, for another shape and for none."""
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2 or rows.shape[1] != channels or len(rows) == 0:
        raise ConfigError(
            f"{subject} have {channels} numbers each, and an array of shape {rows.shape} was given. Give one of shape "
            f"(n, {channels}), n at least 1."
        )
    return rows


def _gradients(path: LinearPath, directions: Float32, slopes: AverageSlopes | None) -> Iterator[GradientWindow]:
    """Windows of the gradient of the source, a few directions each."""
    rows = check_vectors(directions, path.target_channels, f"Directions of {path.target}")
    tensor = torch.from_numpy(rows).to(path.network.device)
    first, largest = _source_gradient(path, tensor[:1], slopes)
    yield first
    if len(tensor) > 1:
        for part in tensor[1:].split(max(1, _LARGEST_GRADIENT // largest)):
            yield _source_gradient(path, part, slopes)[0]


@torch.inference_mode(False)
@torch.no_grad()
def _source_gradient(path: LinearPath, directions: Tensor, slopes: AverageSlopes | None) -> tuple[GradientWindow, int]:
    """The gradient of the source, and how many numbers the largest gradient on the way had for one direction."""
    _, _, height, width = path.shapes[path.target_node]
    unit = GradientWindow(directions[:, :, None, None], height // 2, width // 2)
    gradients: dict[fx.Node, Gradient] = {path.target_node: unit}
    largest = 1
    for step in reversed(path.steps):
        of_output = gradients.pop(step.node)
        for read in step.reads:
            gradient = _vjp_of_step(path, step, of_output, read, slopes)
            gradients[read] = add_gradients(gradients.get(read), gradient, path.shapes[read])
            largest = max(largest, gradients[read].values[0].numel())
    return gradient_window(gradients[path.source_node], path.shapes[path.source_node]), largest


def _vjp_of_step(
    path: LinearPath, step: PathStep, gradient: Gradient, read: fx.Node, slopes: AverageSlopes | None
) -> Gradient:
    if step.kind in ("linear", "maximum"):
        return vjp(step.operation, gradient, read)
    if slopes is not None:
        gradient = scale(gradient, slopes.factors[step.node], path.shapes[step.node])
    return sum_to_shape(gradient, path.shapes[step.node], path.shapes[read])


def _with_odd_sides(window: GradientWindow) -> GradientWindow:
    height, width = window.values.shape[2:]
    rows, columns = 1 - height % 2, 1 - width % 2
    return GradientWindow(F.pad(window.values, (0, columns, 0, rows)), window.top, window.left)

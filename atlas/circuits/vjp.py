"""Vector-Jacobian products of linear operations, on windows no larger than what a position of the output can see.

A gradient that is zero but at a few positions is a `GradientWindow`: these positions and where they lie. A convolution
widens it by its kernel, and the map's edge does not crop it, so that a stack of convolutions gives its composed kernel
exactly, however small the map is. For what mixes positions in any other way (a mean over the whole map, a bilinear
enlargement, tokens) torch's own rule is used on the whole map, and the map's edge counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from atlas.networks.program import operation_kinds as kinds

_aten = torch.ops.aten
_UNIFORM = (_aten.avg_pool2d.default, _aten.max_pool2d_with_indices.default)
_ADAPTIVE = (_aten._adaptive_avg_pool2d.default, _aten.adaptive_avg_pool2d.default, _aten.adaptive_max_pool2d.default)
_PADS = (_aten.constant_pad_nd.default, _aten.reflection_pad2d.default, _aten.replication_pad2d.default)
_ENLARGEMENTS = (_aten.upsample_nearest2d.default, _aten.upsample_nearest2d.vec)


@dataclass(frozen=True)
class GradientWindow:
    """Gradients (n, channels, h, w) of a map, zero outside; the first lies at row ``top`` and column ``left`` of it,
    which may be outside of the map. ``channels`` are all dimensions before height and width, flattened."""

    values: Tensor
    top: int
    left: int


@dataclass(frozen=True)
class FullGradient:
    """Gradients (n, *shape) of everything in a tensor of some shape."""

    values: Tensor


Gradient = GradientWindow | FullGradient


@dataclass(frozen=True)
class Operation:
    """A recorded operation ``core``, which of its outputs is meant (``part``), that output's ``shape``, and the
    ``shapes`` and ``constants`` of a recorded list of operations by node."""

    core: fx.Node
    part: int | None
    shape: torch.Size
    shapes: dict[fx.Node, torch.Size]
    constants: dict[fx.Node, Any]


def is_map(shape: torch.Size) -> bool:
    """Whether a tensor of ``shape`` is one map: (1, channels, height, width), or more dimensions in place of
    channels."""
    return len(shape) >= 4 and shape[0] == 1


def add_gradients(first: Gradient | None, second: Gradient, shape: torch.Size) -> Gradient:
    """The sum of two gradients of the same tensor of ``shape``."""
    if first is None:
        return second
    if isinstance(first, FullGradient) or isinstance(second, FullGradient):
        return FullGradient(full_gradient(first, shape) + full_gradient(second, shape))
    first, second = on_one_extent([first, second])
    return GradientWindow(first.values + second.values, first.top, first.left)


def on_one_extent(windows: list[GradientWindow]) -> list[GradientWindow]:
    """The same windows, all as large as the smallest that holds them all."""
    top, left = min(window.top for window in windows), min(window.left for window in windows)
    bottom = max(window.top + window.values.shape[2] for window in windows)
    right = max(window.left + window.values.shape[3] for window in windows)
    return [GradientWindow(_crop(window, top, left, bottom, right), top, left) for window in windows]


def scale(gradient: Gradient, factor: Tensor | float, shape: torch.Size) -> Gradient:
    """The ``gradient`` of a tensor of ``shape`` times ``factor``: one number, one a channel (channels,), or, for a
    tensor that is no map, one for each of its numbers."""
    if not isinstance(factor, Tensor):
        return replace(gradient, values=gradient.values * factor)
    if is_map(shape) and factor.ndim == 1:
        window = _window(gradient, shape)
        return GradientWindow(window.values * factor[:, None, None], window.top, window.left)
    return FullGradient(full_gradient(gradient, shape) * factor)


def full_gradient(gradient: Gradient, shape: torch.Size) -> Tensor:
    """``gradient`` on the whole tensor of ``shape``: (n, *shape), without what lies outside the map."""
    if isinstance(gradient, FullGradient):
        return gradient.values
    return _crop(gradient, 0, 0, shape[-2], shape[-1]).reshape(len(gradient.values), *shape)


def gradient_window(gradient: Gradient, shape: torch.Size) -> GradientWindow:
    """``gradient`` as a window; one on the whole map is cropped to the rows and columns where it is not zero."""
    result = _window(gradient, shape)
    if isinstance(gradient, GradientWindow):
        return result
    rows, columns = ((result.values != 0).flatten(0, 1).any(0).any(side).nonzero().flatten() for side in (1, 0))
    if not len(rows):
        return GradientWindow(result.values[:, :, :1, :1], 0, 0)
    top, left, bottom, right = (int(edge) for edge in (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
    return GradientWindow(result.values[:, :, top:bottom, left:right], top, left)


def vjp(operation: Operation, gradient: Gradient, read: fx.Node) -> Gradient:
    """The gradient of ``read``, one of the tensors that ``operation`` reads, from the ``gradient`` of its output.

    The operation is taken as linear in ``read``: a maximum over positions as their average.
    """
    core, target = operation.core, operation.core.target
    if target in (*kinds.ADDITIONS, *kinds.SUBTRACTIONS):
        return _through_sum(operation, gradient, read)
    if target in (*kinds.PRODUCTS, *kinds.DIVISIONS):
        result = _through_product(operation, gradient, read)
    elif target in kinds.BATCH_NORMS:
        arguments: Any = core.args
        weight, variance = operation.constants.get(arguments[1]), operation.constants[arguments[4]]
        factor: Tensor = torch.rsqrt(variance + arguments[-1])
        result = scale(gradient, factor if weight is None else factor * weight, operation.shape)
    elif not is_map(operation.shape) or not is_map(operation.shapes[read]):
        result = None
    elif target is _aten.convolution.default:
        result = _through_convolution(operation, _window(gradient, operation.shape))
    elif target in _UNIFORM:
        result = _through_pooling(operation, _window(gradient, operation.shape))
    elif target in _ADAPTIVE:
        result = _through_adaptive_pooling(operation, gradient, read)
    elif target is _aten.cat.default:
        result = _through_concatenation(operation, gradient, read)
    elif target in _PADS or target is _aten.slice.Tensor:
        result = _through_padding_or_slice(operation, gradient, read) or _through_move(operation, gradient, read)
    elif target in _ENLARGEMENTS:
        result = _through_enlargement(operation, gradient, read)
    elif target in kinds.MOVES:
        result = _through_move(operation, gradient, read)
    else:
        result = None
    return result or _by_torch(operation, gradient, read)


def _window(gradient: Gradient, shape: torch.Size) -> GradientWindow:
    if isinstance(gradient, GradientWindow):
        return gradient
    return GradientWindow(gradient.values.reshape(len(gradient.values), -1, shape[-2], shape[-1]), 0, 0)


def _crop(gradient: GradientWindow, top: int, left: int, bottom: int, right: int) -> Tensor:
    """The rows from ``top`` to before ``bottom``, the columns from ``left`` to before ``right``, zeros where the window
    does not reach."""
    height, width = gradient.values.shape[2:]
    pads = (gradient.left - left, right - gradient.left - width, gradient.top - top, bottom - gradient.top - height)
    if -pads[0] >= width or -pads[1] >= width or -pads[2] >= height or -pads[3] >= height:
        return gradient.values.new_zeros((*gradient.values.shape[:2], bottom - top, right - left))
    return F.pad(gradient.values, pads)


def sum_to_shape(gradient: Gradient, shape: torch.Size, read: torch.Size) -> Gradient:
    """The ``gradient`` of a tensor of ``shape``, summed to that of the tensor of the shape ``read`` that was broadcast
    to it."""
    if shape == read:
        return gradient
    if is_map(shape) and is_map(read) and shape[-2:] == read[-2:] and isinstance(gradient, GradientWindow):
        values = gradient.values.reshape(len(gradient.values), *shape[1:-2], *gradient.values.shape[2:])
        sides = [side for side in range(1, len(shape) - 2) if read[side - len(shape)] != shape[side]]
        if len(read) == len(shape) and sides:
            return GradientWindow(values.sum(sides, keepdim=True).flatten(1, -3), gradient.top, gradient.left)
    values = full_gradient(gradient, shape)
    more = len(shape) - len(read)
    if more:
        values = values.sum(tuple(range(1, 1 + more)))
    sides = [1 + side for side, length in enumerate(read) if length == 1 != shape[side + more]]
    return FullGradient(values.sum(sides, keepdim=True) if sides else values)


def _through_sum(operation: Operation, gradient: Gradient, read: fx.Node) -> Gradient:
    core = operation.core
    weight: Any = core.kwargs.get("alpha", core.args[2] if len(core.args) > 2 else 1)
    signs = {0: 1.0, 1: float(weight) * (-1 if core.target in kinds.SUBTRACTIONS else 1)}
    if core.target in kinds.REVERSED:
        signs = {0: -float(weight), 1: 1.0}
    factor = sum(sign for position, sign in signs.items() if core.args[position] is read)
    summed = gradient if factor == 1 else scale(gradient, factor, operation.shape)
    return sum_to_shape(summed, operation.shape, operation.shapes[read])


def _through_product(operation: Operation, gradient: Gradient, read: fx.Node) -> Gradient | None:
    """Through a product with, or a division by, what is constant."""
    first, second = operation.core.args[:2]
    constant: Any = second if first is read else first
    factor: Any = operation.constants[constant] if isinstance(constant, fx.Node) else constant
    if operation.core.target in kinds.DIVISIONS:
        factor = 1 / factor
    if isinstance(factor, Tensor):
        if factor.numel() == 1:
            factor = float(factor)
        elif not is_map(operation.shape) or factor.ndim < 3 or tuple(factor.shape[-2:]) != (1, 1):
            return None
        else:
            lead = operation.shape[1:-2]
            factor = factor.reshape(factor.shape[-2 - len(lead) : -2]).expand(lead).flatten()
    return sum_to_shape(scale(gradient, factor, operation.shape), operation.shape, operation.shapes[read])


def _through_convolution(operation: Operation, gradient: GradientWindow) -> GradientWindow:
    arguments: Any = operation.core.args
    kernel = operation.constants[arguments[1]]
    stride, padding, dilation, transposed, _, groups = arguments[3:]
    if not transposed:
        values = F.conv_transpose2d(gradient.values, kernel, None, stride, 0, 0, groups, dilation)
        return GradientWindow(values, gradient.top * stride[0] - padding[0], gradient.left * stride[1] - padding[1])
    starts, pads = [], []
    for side, first in ((0, gradient.top), (1, gradient.left)):
        reach, count = dilation[side] * (kernel.shape[2 + side] - 1), gradient.values.shape[2 + side]
        low = math.ceil((first + padding[side] - reach) / stride[side])
        high = (first + count - 1 + padding[side]) // stride[side]
        begin = low * stride[side] - padding[side]
        end = high * stride[side] - padding[side] + reach + 1
        starts.append(low)
        pads.append((first - begin, end - first - count))
    values = F.pad(gradient.values, (*pads[1], *pads[0]))
    return GradientWindow(F.conv2d(values, kernel, None, stride, 0, dilation, groups), *starts)


def _through_pooling(operation: Operation, gradient: GradientWindow) -> GradientWindow:
    core, arguments = operation.core, (*operation.core.args, *[None] * 7)
    kernel = kinds.pair(arguments[1])
    stride, padding = kinds.pair(arguments[2], kernel), kinds.pair(arguments[3], [0, 0])
    is_max = core.target is _aten.max_pool2d_with_indices.default
    dilation = kinds.pair(arguments[4]) if is_max else [1, 1]
    divisor: Any = None if is_max else arguments[6]
    return _spread(gradient, kernel, stride, padding, dilation, divisor or kernel[0] * kernel[1])


def _spread(
    gradient: GradientWindow,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    divisor: int,
) -> GradientWindow:
    """Each number spread evenly over the positions of its pool."""
    channels = gradient.values.shape[1]
    weights = gradient.values.new_full((channels, 1, *kernel), 1 / divisor)
    values = F.conv_transpose2d(gradient.values, weights, None, stride, 0, 0, channels, dilation)
    return GradientWindow(values, gradient.top * stride[0] - padding[0], gradient.left * stride[1] - padding[1])


def _through_adaptive_pooling(operation: Operation, gradient: Gradient, read: fx.Node) -> Gradient | None:
    """Through a pooling to a fixed size, where all pools are equally large."""
    sides, sizes = operation.shapes[read][-2:], operation.shape[-2:]
    if any(side % size for side, size in zip(sides, sizes)) or tuple(sizes) == (1, 1) != tuple(sides):
        return None
    pool = [side // size for side, size in zip(sides, sizes)]
    return _spread(_window(gradient, operation.shape), pool, pool, [0, 0], [1, 1], pool[0] * pool[1])


def _through_concatenation(operation: Operation, gradient: Gradient, read: fx.Node) -> Gradient | None:
    """Through a concatenation of channels."""
    arguments: Any = operation.core.args
    side = arguments[1] if len(arguments) > 1 else 0
    if len(operation.shape) != 4 or side % 4 != 1:
        return None
    result, first, window = None, 0, _window(gradient, operation.shape)
    for part in arguments[0]:
        count = (operation.shapes[part] if part in operation.shapes else operation.constants[part].shape)[1]
        if part is read:
            share = GradientWindow(window.values[:, first : first + count], window.top, window.left)
            result = add_gradients(result, share, operation.shapes[read])
        first += count
    return result


def _through_padding_or_slice(operation: Operation, gradient: Gradient, read: fx.Node) -> Gradient | None:
    """Through a padding of rows and columns, or a slice of them."""
    arguments: Any = operation.core.args
    window = _window(gradient, operation.shape)
    if operation.core.target in _PADS:
        if len(arguments[1]) > 4:
            return None
        left, _, top, _ = (*arguments[1], 0, 0)[:4]
        return GradientWindow(window.values, window.top - top, window.left - left)
    side = (arguments[1] if len(arguments) > 1 else 0) - len(operation.shape)
    side = side if side >= -len(operation.shape) else side + len(operation.shape)
    if side not in (-2, -1):
        return None
    low, high, step = (*arguments, *(0, None, None, 1)[len(arguments) - 1 :])[2:]
    start = slice(low, high, step).indices(operation.shapes[read][side])[0]
    steps = [step, 1] if side == -2 else [1, step]
    height, width = ((count - 1) * step + 1 for count, step in zip(window.values.shape[2:], steps))
    values = window.values.new_zeros((*window.values.shape[:2], height, width))
    values[:, :, :: steps[0], :: steps[1]] = window.values
    top, left = window.top * steps[0], window.left * steps[1]
    return GradientWindow(values, top + start * (side == -2), left + start * (side == -1))


def _through_enlargement(operation: Operation, gradient: Gradient, read: fx.Node) -> Gradient | None:
    """Through an enlargement in which each number is repeated a whole number of times."""
    sides, sizes = operation.shapes[read][-2:], operation.shape[-2:]
    if any(size % side for side, size in zip(sides, sizes)):
        return None
    times = [size // side for side, size in zip(sides, sizes)]
    window = _window(gradient, operation.shape)
    top, left = window.top // times[0], window.left // times[1]
    bottom, right = (
        -(-(first + count) // repeats)
        for first, count, repeats in zip((window.top, window.left), window.values.shape[2:], times)
    )
    values = _crop(window, top * times[0], left * times[1], bottom * times[0], right * times[1])
    return GradientWindow(F.avg_pool2d(values, times) * (times[0] * times[1]), top, left)


def _through_move(operation: Operation, gradient: Gradient, read: fx.Node) -> Gradient | None:
    """Through an operation that moves channels and leaves every position where it is."""
    shape, source = operation.shape, operation.shapes[read]
    if shape[-2:] != source[-2:]:
        return None
    indices = kinds.source_indices(operation.core, operation.part, torch.empty(source), operation.constants)
    positions = shape[-2] * shape[-1]
    indices = indices.reshape(-1, positions)
    channels = indices[:, 0].div(positions, rounding_mode="floor").long()
    expected = (channels * positions)[:, None] + torch.arange(positions)
    if not bool(((indices == expected) | ((indices == -1) & (channels == -1)[:, None])).all()):
        return None
    window = _window(gradient, shape)
    copied = channels >= 0
    values = window.values.new_zeros((len(window.values), math.prod(source[1:-2]), *window.values.shape[2:]))
    values.index_add_(1, channels[copied].to(values.device), window.values[:, copied.to(values.device)])
    return GradientWindow(values, window.top, window.left)


def _by_torch(operation: Operation, gradient: Gradient, read: fx.Node) -> Gradient:
    """Through any linear operation on the whole map."""
    gradients = full_gradient(gradient, operation.shape)
    core = operation.core
    target: Any = core.target
    if target is _aten.amax.default:
        target = _aten.mean.dim
    elif target is _aten.adaptive_max_pool2d.default:
        target = _aten._adaptive_avg_pool2d.default
    with torch.enable_grad():
        source = gradients.new_zeros(operation.shapes[read]).requires_grad_(True)

        def value(node: fx.Node) -> Any:
            if node is read:
                return source
            constant = operation.constants.get(node)
            return gradients.new_zeros(operation.shapes[node]) if constant is None else constant

        arguments, options = fx.map_arg((core.args, core.kwargs), value)
        outputs = target(*arguments, **options)
        output = outputs if isinstance(outputs, Tensor) else outputs[operation.part or 0]
        (result,) = torch.autograd.grad(output, source, gradients, is_grads_batched=True)
    return FullGradient(result)

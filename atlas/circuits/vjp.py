"""Gradients pulled back through linear operations, on windows no larger than what a position of the output can see.

A gradient that is not zero at a few positions only is kept as a `Window`: these positions and where they lie. A
convolution widens it by its kernel, and no edge of the map cuts it off, so that a stack of convolutions gives its
composed kernel exactly, however small the map is. What mixes positions in any other way (a mean over the whole map, a
bilinear enlargement, tokens) is pulled back on the whole map by torch's own rule, and the map's edge counts.
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
class Window:
    """Gradients (n, channels, h, w) of a map, zero outside; the first lies at row ``top`` and column ``left`` of it,
    which may be outside of the map. ``channels`` are all sides before height and width in one."""

    values: Tensor
    top: int
    left: int


@dataclass(frozen=True)
class Whole:
    """Gradients (n, *shape) of everything in a tensor of some shape."""

    values: Tensor


Pulled = Window | Whole


@dataclass(frozen=True)
class Operation:
    """A recorded operation, which of its outputs is meant, and the constants and shapes of what it reads and gives."""

    core: fx.Node
    part: int | None
    shape: torch.Size
    shapes: dict[fx.Node, torch.Size]
    constants: dict[fx.Node, Any]


def is_map(shape: torch.Size) -> bool:
    """Whether a tensor of ``shape`` is one map: (1, channels, height, width), or with more sides in front."""
    return len(shape) >= 4 and shape[0] == 1


def joined(first: Pulled | None, second: Pulled, shape: torch.Size) -> Pulled:
    """The sum of two gradients of the same tensor of ``shape``."""
    if first is None:
        return second
    if isinstance(first, Whole) or isinstance(second, Whole):
        return Whole(whole(first, shape) + whole(second, shape))
    one, other = alike([first, second])
    return Window(one.values + other.values, one.top, one.left)


def alike(windows: list[Window]) -> list[Window]:
    """The same windows, all as large as the smallest that holds them all."""
    top, left = min(each.top for each in windows), min(each.left for each in windows)
    bottom = max(each.top + each.values.shape[2] for each in windows)
    right = max(each.left + each.values.shape[3] for each in windows)
    return [Window(_cut(each, top, left, bottom, right), top, left) for each in windows]


def scaled(given: Pulled, factor: Tensor | float, shape: torch.Size) -> Pulled:
    """``given``, a gradient of a tensor of ``shape``, times one factor a channel (channels,), or one for all, or one
    for each number (tensors that are no map)."""
    if not isinstance(factor, Tensor):
        return replace(given, values=given.values * factor)
    if is_map(shape) and factor.ndim == 1:
        window = _window(given, shape)
        return Window(window.values * factor[:, None, None], window.top, window.left)
    return Whole(whole(given, shape) * factor)


def whole(given: Pulled, shape: torch.Size) -> Tensor:
    """``given`` on the whole tensor of ``shape``: (n, *shape), without what lies outside of the map."""
    if isinstance(given, Whole):
        return given.values
    return _cut(given, 0, 0, shape[-2], shape[-1]).reshape(len(given.values), *shape)


def window(given: Pulled, shape: torch.Size) -> Window:
    """``given`` as a window, cut to the rows and columns where it is not zero if it was on the whole map."""
    found = _window(given, shape)
    if isinstance(given, Window):
        return found
    rows, columns = ((found.values != 0).flatten(0, 1).any(0).any(side).nonzero().flatten() for side in (1, 0))
    if not len(rows):
        return Window(found.values[:, :, :1, :1], 0, 0)
    top, left, bottom, right = (int(each) for each in (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
    return Window(found.values[:, :, top:bottom, left:right], top, left)


def pulled_back(operation: Operation, given: Pulled, read: fx.Node) -> Pulled:
    """The gradient of what ``operation`` reads as ``read``, where that of its output is ``given``.

    The operation is taken as linear in ``read``: a maximum over positions as their average.
    """
    core, target = operation.core, operation.core.target
    if target in (*kinds.ADDITIONS, *kinds.SUBTRACTIONS):
        return _added(operation, given, read)
    if target in (*kinds.PRODUCTS, *kinds.DIVISIONS):
        found = _multiplied(operation, given, read)
    elif target in kinds.BATCH_NORMS:
        arguments: Any = core.args
        weight, variance = operation.constants.get(arguments[1]), operation.constants[arguments[4]]
        scale: Tensor = torch.rsqrt(variance + arguments[-1])
        found = scaled(given, scale if weight is None else scale * weight, operation.shape)
    elif not is_map(operation.shape) or not is_map(operation.shapes[read]):
        found = None
    elif target is _aten.convolution.default:
        found = _convolved(operation, _window(given, operation.shape))
    elif target in _UNIFORM:
        found = _averaged(operation, _window(given, operation.shape))
    elif target in _ADAPTIVE:
        found = _fitted(operation, given, read)
    elif target is _aten.cat.default:
        found = _part_of(operation, given, read)
    elif target in _PADS or target is _aten.slice.Tensor:
        found = _shifted(operation, given, read) or _moved(operation, given, read)
    elif target in _ENLARGEMENTS:
        found = _shrunk(operation, given, read)
    elif target in kinds.MOVES:
        found = _moved(operation, given, read)
    else:
        found = None
    return found or _by_torch(operation, given, read)


def _window(given: Pulled, shape: torch.Size) -> Window:
    if isinstance(given, Window):
        return given
    return Window(given.values.reshape(len(given.values), -1, shape[-2], shape[-1]), 0, 0)


def _cut(given: Window, top: int, left: int, bottom: int, right: int) -> Tensor:
    """The rows from ``top`` to before ``bottom``, the columns from ``left`` to before ``right``, zeros where the window
    does not reach."""
    height, width = given.values.shape[2:]
    pads = (given.left - left, right - given.left - width, given.top - top, bottom - given.top - height)
    if -pads[0] >= width or -pads[1] >= width or -pads[2] >= height or -pads[3] >= height:
        return given.values.new_zeros((*given.values.shape[:2], bottom - top, right - left))
    return F.pad(given.values, pads)


def gathered(given: Pulled, shape: torch.Size, read: torch.Size) -> Pulled:
    """A gradient of ``shape`` summed to that of a tensor of the shape ``read``, which was repeated to that shape."""
    if shape == read:
        return given
    if is_map(shape) and is_map(read) and shape[-2:] == read[-2:] and isinstance(given, Window):
        values = given.values.reshape(len(given.values), *shape[1:-2], *given.values.shape[2:])
        sides = [side for side in range(1, len(shape) - 2) if read[side - len(shape)] != shape[side]]
        if len(read) == len(shape) and sides:
            return Window(values.sum(sides, keepdim=True).flatten(1, -3), given.top, given.left)
    values = whole(given, shape)
    more = len(shape) - len(read)
    if more:
        values = values.sum(tuple(range(1, 1 + more)))
    sides = [1 + side for side, length in enumerate(read) if length == 1 != shape[side + more]]
    return Whole(values.sum(sides, keepdim=True) if sides else values)


def _added(operation: Operation, given: Pulled, read: fx.Node) -> Pulled:
    core = operation.core
    weight: Any = core.kwargs.get("alpha", core.args[2] if len(core.args) > 2 else 1)
    signs = {0: 1.0, 1: float(weight) * (-1 if core.target in kinds.SUBTRACTIONS else 1)}
    if core.target in kinds.REVERSED:
        signs = {0: -float(weight), 1: 1.0}
    factor = sum(sign for place, sign in signs.items() if core.args[place] is read)
    summed = given if factor == 1 else scaled(given, factor, operation.shape)
    return gathered(summed, operation.shape, operation.shapes[read])


def _multiplied(operation: Operation, given: Pulled, read: fx.Node) -> Pulled | None:
    """Through a product with, or a division by, what is constant."""
    first, second = operation.core.args[:2]
    other: Any = second if first is read else first
    factor: Any = operation.constants[other] if isinstance(other, fx.Node) else other
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
    return gathered(scaled(given, factor, operation.shape), operation.shape, operation.shapes[read])


def _convolved(operation: Operation, given: Window) -> Window:
    arguments: Any = operation.core.args
    kernel = operation.constants[arguments[1]]
    stride, padding, dilation, transposed, _, groups = arguments[3:]
    if not transposed:
        values = F.conv_transpose2d(given.values, kernel, None, stride, 0, 0, groups, dilation)
        return Window(values, given.top * stride[0] - padding[0], given.left * stride[1] - padding[1])
    starts, pads = [], []
    for side, first in ((0, given.top), (1, given.left)):
        reach, count = dilation[side] * (kernel.shape[2 + side] - 1), given.values.shape[2 + side]
        low = math.ceil((first + padding[side] - reach) / stride[side])
        high = (first + count - 1 + padding[side]) // stride[side]
        begin = low * stride[side] - padding[side]
        end = high * stride[side] - padding[side] + reach + 1
        starts.append(low)
        pads.append((first - begin, end - first - count))
    values = F.pad(given.values, (*pads[1], *pads[0]))
    return Window(F.conv2d(values, kernel, None, stride, 0, dilation, groups), *starts)


def _averaged(operation: Operation, given: Window) -> Window:
    core, arguments = operation.core, (*operation.core.args, *[None] * 7)
    kernel = kinds.pair(arguments[1])
    stride, padding = kinds.pair(arguments[2], kernel), kinds.pair(arguments[3], [0, 0])
    most = core.target is _aten.max_pool2d_with_indices.default
    dilation = kinds.pair(arguments[4]) if most else [1, 1]
    divisor: Any = None if most else arguments[6]
    return _spread(given, kernel, stride, padding, dilation, divisor or kernel[0] * kernel[1])


def _spread(
    given: Window, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], divisor: int
) -> Window:
    """Each number over the positions of its pool."""
    channels = given.values.shape[1]
    weights = given.values.new_full((channels, 1, *kernel), 1 / divisor)
    values = F.conv_transpose2d(given.values, weights, None, stride, 0, 0, channels, dilation)
    return Window(values, given.top * stride[0] - padding[0], given.left * stride[1] - padding[1])


def _fitted(operation: Operation, given: Pulled, read: fx.Node) -> Pulled | None:
    """Through a pooling to a fixed size, where all pools are equally large."""
    sides, sizes = operation.shapes[read][-2:], operation.shape[-2:]
    if any(side % size for side, size in zip(sides, sizes)) or tuple(sizes) == (1, 1) != tuple(sides):
        return None
    pool = [side // size for side, size in zip(sides, sizes)]
    return _spread(_window(given, operation.shape), pool, pool, [0, 0], [1, 1], pool[0] * pool[1])


def _part_of(operation: Operation, given: Pulled, read: fx.Node) -> Pulled | None:
    """Through a concatenation of channels."""
    arguments: Any = operation.core.args
    side = arguments[1] if len(arguments) > 1 else 0
    if len(operation.shape) != 4 or side % 4 != 1:
        return None
    found, first, place = None, 0, _window(given, operation.shape)
    for each in arguments[0]:
        count = (operation.shapes[each] if each in operation.shapes else operation.constants[each].shape)[1]
        if each is read:
            part = Window(place.values[:, first : first + count], place.top, place.left)
            found = joined(found, part, operation.shapes[read])
        first += count
    return found


def _shifted(operation: Operation, given: Pulled, read: fx.Node) -> Pulled | None:
    """Through rows and columns that are padded on or cut off, or every so many of them."""
    arguments: Any = operation.core.args
    place = _window(given, operation.shape)
    if operation.core.target in _PADS:
        if len(arguments[1]) > 4:
            return None
        left, _, top, _ = (*arguments[1], 0, 0)[:4]
        return Window(place.values, place.top - top, place.left - left)
    side = (arguments[1] if len(arguments) > 1 else 0) - len(operation.shape)
    side = side if side >= -len(operation.shape) else side + len(operation.shape)
    if side not in (-2, -1):
        return None
    low, high, step = (*arguments, *(0, None, None, 1)[len(arguments) - 1 :])[2:]
    start = slice(low, high, step).indices(operation.shapes[read][side])[0]
    steps = [step, 1] if side == -2 else [1, step]
    height, width = ((count - 1) * each + 1 for count, each in zip(place.values.shape[2:], steps))
    values = place.values.new_zeros((*place.values.shape[:2], height, width))
    values[:, :, :: steps[0], :: steps[1]] = place.values
    top, left = place.top * steps[0], place.left * steps[1]
    return Window(values, top + start * (side == -2), left + start * (side == -1))


def _shrunk(operation: Operation, given: Pulled, read: fx.Node) -> Pulled | None:
    """Through an enlargement in which each number is repeated a whole number of times."""
    sides, sizes = operation.shapes[read][-2:], operation.shape[-2:]
    if any(size % side for side, size in zip(sides, sizes)):
        return None
    times = [size // side for side, size in zip(sides, sizes)]
    place = _window(given, operation.shape)
    top, left = place.top // times[0], place.left // times[1]
    bottom, right = (
        -(-(first + count) // each)
        for first, count, each in zip((place.top, place.left), place.values.shape[2:], times)
    )
    values = _cut(place, top * times[0], left * times[1], bottom * times[0], right * times[1])
    return Window(F.avg_pool2d(values, times) * (times[0] * times[1]), top, left)


def _moved(operation: Operation, given: Pulled, read: fx.Node) -> Pulled | None:
    """Through an operation that moves channels and leaves every position where it is."""
    shape, source = operation.shape, operation.shapes[read]
    if shape[-2:] != source[-2:]:
        return None
    places = kinds.source_indices(operation.core, operation.part, torch.empty(source), operation.constants)
    positions = shape[-2] * shape[-1]
    places = places.reshape(-1, positions)
    channels = places[:, 0].div(positions, rounding_mode="floor").long()
    expected = (channels * positions)[:, None] + torch.arange(positions)
    if not bool(((places == expected) | ((places == -1) & (channels == -1)[:, None])).all()):
        return None
    place = _window(given, shape)
    known = channels >= 0
    values = place.values.new_zeros((len(place.values), math.prod(source[1:-2]), *place.values.shape[2:]))
    values.index_add_(1, channels[known].to(values.device), place.values[:, known.to(values.device)])
    return Window(values, place.top, place.left)


def _by_torch(operation: Operation, given: Pulled, read: fx.Node) -> Pulled:
    """Through any linear operation on the whole map."""
    gradients = whole(given, operation.shape)
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
            known = operation.constants.get(node)
            return gradients.new_zeros(operation.shapes[node]) if known is None else known

        arguments, options = fx.map_arg((core.args, core.kwargs), value)
        outputs = target(*arguments, **options)
        output = outputs if isinstance(outputs, Tensor) else outputs[operation.part or 0]
        (found,) = torch.autograd.grad(output, source, gradients, is_grads_batched=True)
    return Whole(found)

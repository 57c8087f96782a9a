"""Tangents that are 0 but in a window: a tangent starts at one position of a layer, and each convolution behind the
layer widens it by a kernel. Only the window is computed, until it is most of the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atlas.networks.program.fused import FusedConvolution

# A window of a larger share of its map is computed as the whole map.
_MOST = 0.7


@dataclass(frozen=True)
class Window:
    """A map (n, channels, map_height, map_width) that is 0 but in a window of each view: ``values``
    (n, channels, height, width), channels_last; ``top`` and ``left``, int64 (n,): the map's row and column of the
    window's first. Of a window that reaches beyond the map, what lies outside is 0 too.
    """

    values: Tensor
    top: Tensor
    left: Tensor
    map_height: int
    map_width: int

    @classmethod
    def at(cls, maps: Tensor, positions: Tensor, channels: Tensor | None = None) -> Window:
        """``maps`` (n, channels, h, w) at one position of each view: ``positions``, int64 (n, 2) as (y, x); with
        ``channels``, int64 (n,), only this channel."""
        rows = torch.arange(len(maps), device=maps.device)
        positions = positions.to(maps.device)
        values = maps.permute(0, 2, 3, 1)[rows, positions[:, 0], positions[:, 1]]
        if channels is not None:
            channels = channels.to(maps.device)
            single = torch.zeros_like(values)
            single[rows, channels] = values[rows, channels]
            values = single
        return cls(_as_maps(values, 1, 1), positions[:, 0], positions[:, 1], *maps.shape[2:])

    def whole(self) -> Tensor:
        """The whole map."""
        n, channels, height, width = self.values.shape
        index, inside = _indices(self, height, width)
        result = self.values.new_zeros(n * self.map_height * self.map_width, channels)
        rows = self.values.permute(0, 2, 3, 1).reshape(-1, channels)
        if inside.all():
            result.index_copy_(0, index, rows)
        else:
            result[index[inside]] = rows[inside]
        return _as_maps(result, self.map_height, self.map_width)

    def of(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """What ``maps`` (n, channels, map_height, map_width) hold in the window (any number outside of the map), in the
        shape of a window; and what of it lies on the map, bool (n, 1, height, width)."""
        height, width = self.values.shape[2:]
        index, inside = _indices(self, height, width)
        rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).index_select(0, index)
        return _as_maps(rows, height, width), inside.view(len(maps), 1, height, width)

    def wider(self, height: int, width: int, top: Tensor, left: Tensor) -> Tensor:
        """The values with zeros around them: (n, channels, ``height``, ``width``), where they begin in row ``top`` and
        column ``left``, int64 (n,)."""
        n, channels, own_height, own_width = self.values.shape
        index, _ = _indices(Window(self.values, top, left, height, width), own_height, own_width)
        result = self.values.new_zeros(n * height * width, channels)
        result.index_copy_(0, index, self.values.permute(0, 2, 3, 1).reshape(-1, channels))
        return _as_maps(result, height, width)


# A tangent as a whole map, or as a window of one.
Tangent = Tensor | Window


def whole(tangent: Tangent) -> Tensor:
    """The whole map of a tangent."""
    return tangent.whole() if isinstance(tangent, Window) else tangent


def convolved(module: FusedConvolution, tangent: Window, outputs: Tensor) -> Tangent:
    """The tangent of ``outputs``, what ``module`` gave; ``tangent`` is that of its inputs."""
    kernel, stride, padding = module.weight.shape[2:], module.stride, module.padding
    if any(reach != 1 for reach in module.dilation) or any(step > side for step, side in zip(stride, kernel)):
        return module.tangent(tangent.whole(), outputs)
    # Output row o reads the rows from stride · o − padding on: of all windows, so many rows read one of theirs.
    height, width = ((own + side - 2) // step + 1 for own, side, step in zip(tangent.values.shape[2:], kernel, stride))
    if height * width > _MOST * outputs.shape[2] * outputs.shape[3]:
        return module.tangent(tangent.whole(), outputs)
    tops, lefts = (
        -((side - 1 - margin - first).div(step, rounding_mode="floor"))
        for first, side, margin, step in zip((tangent.top, tangent.left), kernel, padding, stride)
    )
    values = tangent.values
    if max(*kernel, *stride) > 1:
        values = tangent.wider(
            (height - 1) * stride[0] + kernel[0],
            (width - 1) * stride[1] + kernel[1],
            tangent.top - (stride[0] * tops - padding[0]),
            tangent.left - (stride[1] * lefts - padding[1]),
        )
    empty = values.new_empty(len(values), outputs.shape[1], height, width)
    window = Window(empty, tops, lefts, *outputs.shape[2:])
    at_window, inside = window.of(outputs)
    result = module.tangent(values, at_window, padded=False)
    if max(kernel) > 1 and not inside.all():
        result = result * inside
    return Window(result, tops, lefts, *outputs.shape[2:])


def added(one: Tangent, other: Tangent) -> Tangent:
    """The sum of two tangents of one shape."""
    if not isinstance(one, Window) or not isinstance(other, Window):
        return whole(one) + whole(other)
    if one.values[0].numel() < other.values[0].numel():
        one, other = other, one
    height, width = one.values.shape[2:]
    top, left = other.top - one.top, other.left - one.left
    if (
        min(int(top.min()), int(left.min())) < 0
        or max(int(top.max()) + other.values.shape[2] - height, int(left.max()) + other.values.shape[3] - width) > 0
    ):
        return one.whole() + other.whole()
    return Window(one.values + other.wider(height, width, top, left), one.top, one.left, one.map_height, one.map_width)


def _as_maps(rows: Tensor, height: int, width: int) -> Tensor:
    """``rows`` (n · height · width, channels) as (n, channels, height, width), channels_last."""
    return rows.view(-1, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def _indices(window: Window, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The rows of (n · map_height · map_width, …) that a window of ``height`` × ``width`` is, int64 (n · height ·
    width), the nearest of the map where it lies outside; and which do not, bool."""
    device = window.top.device
    y = window.top[:, None] + torch.arange(height, device=device)
    x = window.left[:, None] + torch.arange(width, device=device)
    near_y, near_x = y.clamp(0, window.map_height - 1), x.clamp(0, window.map_width - 1)
    views = torch.arange(len(y), device=device)[:, None, None]
    index = (views * window.map_height + near_y[:, :, None]) * window.map_width + near_x[:, None, :]
    inside = (near_y == y)[:, :, None] & (near_x == x)[:, None, :]
    return index.flatten(), inside.flatten()

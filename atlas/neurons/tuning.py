"""The tuning curve of a unit: its activation on its top patches rotated, mirrored and scaled.

A disc around the middle of a top patch is rotated about it and given to the network on a plain ground of the
view's mean colour, into which it fades: so every angle shows exactly the same. The unit's activation at the middle of
the map, over the angles, says whether it looks for a pose (Zoom In, Olah et al. 2020, "pose-invariant dog head
detector"). The selectivity is the length of the mean resultant vector, as in studies of the visual cortex.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atlas.arrays import Float32
from atlas.networks.network import Layer, Network
from atlas.neurons.tables import DEGREES, SCALES

# The disc holds the square of the layer's effective receptive field: its radius in sides of that, the share of it that
# does not fade, and how much wider than the disc the ground is.
_RADIUS, _SOLID, _GROUND = 0.71, 0.8, 1.1
# These numbers stand in the stage's key.
DISC = (_RADIUS, _SOLID, _GROUND)
# Discs are sampled so far off the pixels of the view: on them, quarter turns would be sharper than all other angles.
_OFF = 0.25
# Views are enlarged so many times before they are sampled, so that every angle is as sharp as the next.
_FINE = 2
# Poses in one pass: a divisor of all there are.
_BATCH = 13


@dataclass(frozen=True)
class PatchWindow:
    """The square that discs are shown on: its ``side`` in pixels, where the middle of the map looks (``x``, ``y``, the
    middle of a pixel), ``radius`` of the disc, and how far a position of the network's own map looks off the middle of
    its square (``off_x``, ``off_y``), all in pixels of the input."""

    side: int
    x: float
    y: float
    radius: float
    off_x: float = 0.0
    off_y: float = 0.0


@dataclass(frozen=True)
class Pose:
    """``mirrored`` left to right, then rotated clockwise by ``degrees``, at ``scale``."""

    degrees: float = 0.0
    mirrored: bool = False
    scale: float = 1.0


ROTATED = tuple(Pose(degrees) for degrees in DEGREES)
MIRRORED = tuple(Pose(degrees, True) for degrees in DEGREES)
SCALED = tuple(Pose(scale=scale) for scale in SCALES)
# All poses, each once: the one of scale 1 is among the rotated ones.
_POSES = (*ROTATED, *MIRRORED, *(pose for pose in SCALED if pose.scale != 1))


@dataclass(frozen=True)
class Tuning:
    """The unit's activations, negative ones as they are: ``rotated`` and ``mirrored`` float32 (n, 24), in steps of 15°,
    ``scaled`` (n, 5), for n patches."""

    rotated: Float32
    mirrored: Float32
    scaled: Float32


@dataclass(frozen=True)
class Figures:
    """The figures of a tuning curve. With r the mean over the patches of max(0, activation) at each angle θ:
    ``selectivity`` |Σ r e^{iθ}| / Σ r: 0 for a unit that is as active at all angles or at opposite ones; None where the
    mean of r is under half its peak, so that it is at most about 2 / π = .64, that of a unit that is fully active over
    one half of the circle and not at all over the other. ``invariance``: the mean
    of r over its peak, in (0, 1]: 1 where all angles are alike. ``preferred``: the angle of the vector Σ r e^{iθ}, in
    degrees. ``note``: why a figure is missing."""

    selectivity: float | None = None
    invariance: float | None = None
    preferred: float | None = None
    note: str | None = None


def figures(rotated: Float32) -> Figures:
    """The figures of activations ``rotated`` (n, 24)."""
    if not len(rotated):
        return Figures(note="None of its top pictures can be read any more.")
    curve = np.maximum(rotated, 0).mean(0).astype(np.float64)
    peak, mean = float(curve.max()), float(curve.mean())
    if peak <= 0:
        return Figures(note="It does not fire at any angle when its top patches are cut to a disc.")
    vector = complex((curve * np.exp(1j * np.radians(DEGREES))).sum() / curve.sum())
    invariance, preferred = mean / peak, math.degrees(math.atan2(vector.imag, vector.real)) % 360
    if mean < peak / 2:
        return Figures(
            None,
            invariance,
            preferred,
            f"It responds to few angles: over all turns it reaches {invariance:.0%} of its peak, under the half from "
            "which a selectivity is given.",
        )
    return Figures(abs(vector), invariance, preferred, None)


@torch.inference_mode(False)
@torch.enable_grad()
def window_of(network: Network, layer: Layer) -> PatchWindow:
    """The window of ``layer``: a few effective receptive fields wide, with an odd map, so that there is a middle.

    Where a position really looks is measured by the gradient: padding and strides shift it off its square's middle.
    """
    least_side = 2 * _GROUND * _RADIUS * layer.effective_receptive_field
    side, maps = network.size, (layer.height, layer.width)
    for positions in range(max(3, math.ceil(least_side / layer.stride)), math.ceil(network.size / layer.stride)):
        candidate = positions * layer.stride
        inputs = torch.zeros(1, 3, candidate, candidate, device=network.device)
        with torch.no_grad():
            shape = network.activations(inputs, layer.name).shape[2:]
        if shape[0] % 2 and shape[1] % 2:
            side, maps = candidate, (shape[0], shape[1])
            break
    x, y = _middle(network, layer.name, side)
    x, y, off = math.floor(x) + 0.5, math.floor(y) + 0.5, (x, y)
    limit = min(x, y, side - x, side - y)
    return PatchWindow(
        side=side,
        x=x,
        y=y,
        radius=min(_RADIUS * layer.effective_receptive_field, limit),
        off_x=off[0] - (maps[1] // 2 + 0.5) * side / maps[1],
        off_y=off[1] - (maps[0] // 2 + 0.5) * side / maps[0],
    )


def _middle(network: Network, layer: str, side: int) -> tuple[float, float]:
    """Where position (H // 2, W // 2) looks, x and y in pixels: the centre of gravity of its gradient over noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = network.normalize(torch.rand(8, 3, side, side, generator=generator).to(network.device)).requires_grad_(
        True
    )
    maps = network.activations(inputs, layer)
    middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
    signs = torch.randn(middle.shape, generator=generator).to(network.device)
    (gradient,) = torch.autograd.grad((middle * signs).sum(), inputs)
    mass = gradient.square().sum((0, 1)).double().cpu()
    total = float(mass.sum())
    if total <= 0:
        return side / 2, side / 2
    along = torch.arange(side).double() + 0.5
    return float((mass.sum(0) * along).sum()) / total, float((mass.sum(1) * along).sum()) / total


def patch_middle(position: tuple[int, int], layer: Layer, size: int, window: PatchWindow) -> tuple[float, float]:
    """Where ``position`` (y, x) of the layer's map looks in a view of ``size`` pixels: (x, y) in pixels."""
    y, x = position
    return (x + 0.5) * size / layer.width + window.off_x, (y + 0.5) * size / layer.height + window.off_y


def posed_discs(view: Tensor, middle: tuple[float, float], window: PatchWindow, poses: tuple[Pose, ...]) -> Tensor:
    """The disc around ``middle`` (x, y in pixels) of ``view`` (3, h, w), RGB in [0, 1], in ``poses``, each on a ground
    of the view's mean colour: (poses, 3, side, side). Beyond the view's edges the disc holds its reflection."""
    ground = view.mean((1, 2))[:, None, None]
    along = torch.arange(window.side, device=view.device) + 0.5
    across, down = along[None, :] - window.x, along[:, None] - window.y
    distance = torch.hypot(across, down)
    discs = []
    x, y = math.floor(middle[0]) + 0.5 + _OFF, math.floor(middle[1]) + 0.5 + _OFF
    sources: dict[float, Tensor] = {}
    for pose in poses:
        scale = pose.scale
        if (shrinking := min(scale, 1.0)) not in sources:  # first of all, so that fine detail does not alias
            fine = [max(1, round(_FINE * shrinking * length)) for length in view.shape[1:]]
            enlarged = F.interpolate(view[None], fine, mode="bicubic", antialias=True)
            sources[shrinking] = enlarged.clamp(0, 1)
        cosine, sine = math.cos(math.radians(pose.degrees)) / scale, math.sin(math.radians(pose.degrees)) / scale
        left, top = across * cosine + down * sine, down * cosine - across * sine
        columns, rows = x + (-left if pose.mirrored else left), y + top
        height, width = view.shape[1:]
        grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], dim=-1)[None]
        disc = F.grid_sample(sources[shrinking], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[
            0
        ]
        radius = min(window.radius * pose.scale, *_reach(window))
        weight = ((radius - distance) / ((1 - _SOLID) * radius)).clamp(0, 1)
        weight = weight * weight * (3 - 2 * weight)
        discs.append(ground + (disc - ground) * weight)
    return torch.stack(discs)


def _reach(window: PatchWindow) -> tuple[float, ...]:
    return window.x, window.y, window.side - window.x, window.side - window.y


def tuning(
    activation: Callable[[Tensor], Tensor], views: Tensor, middles: list[tuple[float, float]], window: PatchWindow
) -> Tuning:
    """The tuning of the unit whose ``activation`` (RGB in [0, 1] of shape (k, 3, side, side) → (k,)) is given, for the
    discs around ``middles`` of ``views`` (n, 3, h, w)."""
    rows = []
    for view, middle in zip(views, middles):
        pictures = posed_discs(view, middle, window, _POSES)
        parts = [activation(pictures[first : first + _BATCH]) for first in range(0, len(pictures), _BATCH)]
        rows.append(torch.cat(parts).float().cpu().numpy())
    activations: Float32 = np.stack(rows) if rows else np.zeros((0, len(_POSES)), np.float32)
    at = {pose: activations[:, number] for number, pose in enumerate(_POSES)}
    return Tuning(*(np.stack([at[pose] for pose in poses], axis=1) for poses in (ROTATED, MIRRORED, SCALED)))


def sprites(
    view: Tensor, middle: tuple[float, float], window: PatchWindow, poses: tuple[Pose, ...], side: int
) -> Tensor:
    """The discs for people to see, cropped close around the disc and ``side`` pixels wide: uint8
    (poses, side, side, 3)."""
    pictures = posed_discs(view, middle, window, poses)
    reach = min(window.radius, *_reach(window))
    left, top = max(0, round(window.x - reach)), max(0, round(window.y - reach))
    cropped = pictures[:, :, top : top + round(2 * reach), left : left + round(2 * reach)]
    small = F.interpolate(cropped, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return small.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)

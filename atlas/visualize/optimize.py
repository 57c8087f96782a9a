"""Draw icons: turn directions into the pictures that a layer would most like to see.

A batch of icons is one tensor: one inverse FFT, one batched move, one pass through the network cut at the layer, one
objective. What becomes of an icon does not depend on the others of its batch, but for rounding in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.errors import ConfigError
from atlas.networks import Layer, Network, describe_layer
from atlas.visualize.objective import Objective
from atlas.visualize.parametrize import Fourier, from_bytes, to_bytes
from atlas.visualize.score import answers, cosines, flags, usual_norm
from atlas.visualize.transform import Moves, fade, move

SIZE = 80
POWER = 8.0
RIDGE = 1e-3
BATCH = 16
# Steps from noise, and from a picture that already shows nearly the same.
STEPS, STEPS_FROM_START = 64, 40
RATE = 0.1
# A picture to begin with is taken at this contrast: a finished one is partly saturated, where nothing can move.
START_CONTRAST = 0.5
# … with this much noise on top, in units of the first noise: what the picture showed must be found again, not kept.
START_NOISE = 5.0
BETAS = (0.5, 0.95)
MOVES = Moves(shift=6, turn=6, scale=0.06)
# Added to the seed of an icon that is tried again.
_RETRY = 7_919
_TINY = 1e-20

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Icons:
    """Finished icons: ``pixels`` uint8 (n, size, size, 3), exactly what is stored; ``steps`` int32 (n,) and ``seeds``
    int64 (n,) of the try that was kept."""

    pixels: Bytes
    steps: NDArray[np.int32]
    seeds: NDArray[np.int64]


def draw(
    network: Network,
    layer: str,
    means: Float32,
    *,
    second_moment: NDArray[np.float64],
    size: int = SIZE,
    steps: int | None = None,
    power: float = POWER,
    ridge: float = RIDGE,
    start: Bytes | None = None,
    seeds: NDArray[np.integer] | None = None,
    batch: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> Icons:
    """Draw an icon for each of ``means``.

    ``means``: float32 (n, channels), raw means of the cells' activations at ``layer``. ``second_moment``: float64
    (channels, channels), the layer's uncentred Σ. ``size``: side in pixels. ``steps``: by default 64 from noise and
    40 from ``start``. ``power`` of the cosine and ``ridge`` of the whitening: see objective.py. ``start``: uint8
    (n, size, size, 3), pictures to begin with, such as those of the parent cells. ``seeds``: (n,), the noise and the
    moves of each icon; icons with equal seeds begin alike. ``batch``: icons in one tensor. ``progress`` is called with
    the number of icons done.

    An icon that comes out dead, grey or with a cosine under 0.6 is tried once more from other noise, and the better
    one is kept. Equal arguments give equal bytes on the same machine with the same number of threads. Raises
    ConfigError when the arguments do not fit the layer.
    """
    means = np.asarray(means, dtype=np.float32)
    count = len(means)
    own_seeds: NDArray[np.int64] = np.asarray(np.zeros(count) if seeds is None else seeds).astype(np.int64)
    field = check(network, layer, means, second_moment, size).effective_receptive_field
    if len(own_seeds) != count:
        raise ConfigError(
            f"There are {count} directions, but {len(own_seeds)} seeds. Give one seed for each direction."
        )
    if start is not None and start.shape != (count, size, size, 3):
        raise ConfigError(
            f"The start pictures have shape {start.shape}, expected ({count}, {size}, {size}, 3): one RGB picture of "
            "the icons' size for each direction."
        )
    fourier = Fourier.make(size, device=network.device)
    objective = Objective.make(means, second_moment, power=power, ridge=ridge, device=network.device)

    # The share of the icon's area that its centre position hardly sees.
    unseen = 1 - min(1.0, field / size) ** 2

    def attempt(rows: NDArray[np.intp], seeds: NDArray[np.int64], start: Bytes | None) -> tuple[Bytes, int]:
        length = steps or (STEPS if start is None else STEPS_FROM_START)
        if start is None:
            begin = fourier.noise(seeds)
        else:
            begin = fourier.encode(from_bytes(start, network.device)) * START_CONTRAST
            begin = begin + fourier.noise(seeds) * START_NOISE
        moves = MOVES.draw_each(seeds, length)
        return _climb(network, layer, objective.take(rows), fourier, begin, moves, unseen), length

    pixels, made = np.zeros((count, size, size, 3), dtype=np.uint8), np.zeros(count, dtype=np.int32)
    for rows in _batches(np.arange(count), batch):
        pixels[rows], made[rows] = attempt(rows, own_seeds[rows], None if start is None else start[rows])
        if progress:
            progress(int(rows[-1]) + 1)

    usual = usual_norm(second_moment)
    rank, flagged = _judge(network, layer, pixels, means, usual, power, batch)
    kept = own_seeds.copy()
    for rows in _batches(np.flatnonzero(flagged), batch):
        other = own_seeds[rows] + _RETRY
        again, again_made = attempt(rows, other, None)
        again_rank, _ = _judge(network, layer, again, means[rows], usual, power, batch)
        better = again_rank > rank[rows]
        pixels[rows[better]], made[rows[better]], kept[rows[better]] = again[better], again_made, other[better]
    return Icons(pixels, made, kept)


def _climb(
    network: Network,
    layer: str,
    objective: Objective,
    fourier: Fourier,
    begin: Tensor,
    moves: Tensor,
    share: float,
) -> Bytes:
    """Optimise the coefficients ``begin``, a step for each of ``moves`` (steps, n, 4): the finished pictures.

    ``share``: the first weight of the positions around the centre, which falls to 0.
    """
    coefficients = begin.requires_grad_(True)
    optimiser = torch.optim.Adam([coefficients], lr=RATE, betas=BETAS, eps=_TINY, fused=True)
    steps = len(moves)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        pixels, strength = fourier.decode(coefficients), fade(step, steps)
        if strength > 0:
            pixels = move(pixels, moves[step] * strength)
        maps = network.activations(network.normalize(pixels), layer)
        value = objective(maps, share * strength)
        (gradient,) = torch.autograd.grad(-value.sum(), coefficients)
        # Each icon's gradient is brought to length 1: the first slopes can be ten times steeper than the last ones, and
        # through Adam's memory of squares they would make every later step tiny.
        lengths = gradient.flatten(1).norm(dim=1).clamp(min=_TINY)
        coefficients.grad = gradient / lengths.view(-1, 1, 1, 1, 1)
        optimiser.step()
    with torch.no_grad():
        return to_bytes(fourier.decode(coefficients))


def _judge(
    network: Network, layer: str, pixels: Bytes, means: Float32, usual: float, power: float, batch: int
) -> tuple[Float32, NDArray[np.bool_]]:
    """How good each finished icon is, (n,), larger is better, and whether it should be tried again."""
    activations = answers(network, layer, pixels, batch=batch)
    cosine, norm = cosines(activations, means), np.linalg.norm(activations, axis=1)
    found = flags(pixels, cosine, norm, usual)
    # Without a power nobody asked for a high cosine (a single neuron): only what shows nothing is tried again.
    flagged = np.array([flag is not None and (power > 0 or flag != "low") for flag in found], dtype=bool)
    hopeless = np.array([flag in ("dead", "grey") for flag in found])
    return np.where(hopeless, cosine - 2, cosine).astype(np.float32), flagged


def _batches(rows: NDArray[np.intp], batch: int) -> list[NDArray[np.intp]]:
    return [rows[first : first + batch] for first in range(0, len(rows), batch)]


def check(network: Network, layer: str, means: Float32, second_moment: NDArray[np.float64], size: int) -> Layer:
    """The layer as it is for pictures of ``size`` pixels. Raises ConfigError, in a sentence, when ``means``
    (n, channels) or ``size`` do not fit it."""
    network.submodule(layer)
    if size < 8:
        raise ConfigError(f"Icons of {size}×{size} pixels are too small to show anything. Choose a size of at least 8.")
    try:
        described = describe_layer(replace(network, size=size), layer)
    except RuntimeError as error:
        raise ConfigError(
            f"{network.name} cannot take pictures of {size}×{size} pixels up to layer {layer!r} ({error}). Choose a "
            "larger size."
        ) from error
    channels = described.channels
    if means.ndim != 2 or means.shape[1] != channels:
        raise ConfigError(
            f"The directions have shape {means.shape}, expected (n, {channels}): layer {layer!r} has {channels} "
            "channels."
        )
    if second_moment.shape != (channels, channels):
        raise ConfigError(
            f"The second moment has shape {second_moment.shape}, expected ({channels}, {channels}) for layer {layer!r}."
        )
    bad = np.flatnonzero(~np.isfinite(means).all(1) | ~means.any(1))
    if len(bad):
        raise ConfigError(
            f"Direction {bad[0]} holds NaN or infinity, or is all zero ({len(bad)} of {len(means)} are so). Leave such "
            "directions out."
        )
    return described


def render(
    network: Network,
    layer: str,
    directions: Float32,
    *,
    size: int = SIZE,
    steps: int | None = None,
    second_moment: NDArray[np.float64] | None = None,
    power: float = POWER,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Bytes:
    """Pictures of any directions of a layer, without a pipeline.

        network = load("efficientnet_lite0")
        pixels = render(network, "_blocks.10", directions, size=128)
        Image.fromarray(pixels[0]).save("direction.png")

    ``directions``: float32 (n, channels), or (channels,) for one. ``second_moment``: (channels, channels), the layer's
    uncentred Σ, for whitened directions. Returns uint8 (n, size, size, 3). See draw for the rest.
    """
    rows = np.atleast_2d(np.asarray(directions, dtype=np.float32))
    moment = np.eye(rows.shape[1]) if second_moment is None else second_moment
    seeds = np.full(len(rows), seed)
    return draw(
        network, layer, rows, second_moment=moment, size=size, steps=steps, power=power, seeds=seeds, progress=progress
    ).pixels


def neuron(
    network: Network, layer: str, unit: int, *, size: int = SIZE, steps: int | None = None, seed: int = 0
) -> Bytes:
    """The picture that most excites one channel of a layer at its centre, uint8 (size, size, 3).

        network = load("efficientnet_lite0")
        pixels = neuron(network, "_blocks.10", 7)
        Image.fromarray(pixels).save("neuron.png")

    Activation maximisation (Erhan et al. 2009): the plain activation, no cosine. Raises ConfigError for a
    layer or unit that does not exist.
    """
    with torch.no_grad():
        channels = network.activations(
            torch.zeros(1, 3, network.size, network.size, device=network.device), layer
        ).shape[1]
    if not 0 <= unit < channels:
        raise ConfigError(f"Layer {layer!r} of {network.name} has no unit {unit}: it has {channels}, counted from 0.")
    direction = np.eye(channels, dtype=np.float32)[unit]
    return render(network, layer, direction, size=size, steps=steps, power=0.0, seed=seed)[0]

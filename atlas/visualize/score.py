"""Scores of icons: how well the network agrees that an icon shows its direction.

Everything is measured on the stored picture, in bytes, at its own size and untransformed (but for ``cosine_robust``),
never on what the optimiser worked with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from atlas.arrays import Float32, Float64, Integers, Pixels
from atlas.errors import ConfigError
from atlas.networks.network import Network
from atlas.store.moments import power_of_moment
from atlas.visualize.objective import centre
from atlas.visualize.parametrize import from_bytes
from atlas.visualize.transform import Moves, move

# The 16 moves under which cosine_robust is measured, the same for every icon.
ROBUST_MOVES, ROBUST_COUNT, ROBUST_SEED = Moves(shift=5, turn=10, scale=0.1), 16, 20_190_306
# An icon below one of these is flagged: its cosine, its pixels' deviation in [0, 1], its norm as a share of the usual.
LOW_COSINE, GREY_DEVIATION, DEAD_SHARE = 0.6, 4 / 255, 0.01
_TINY = 1e-12


@dataclass(frozen=True)
class Scores:
    """Scores of n icons, each an array (n,); all but ``rank`` and ``flag`` are float32.

    ``cosine``: of the activation at the map's position (H // 2, W // 2) to the mean. ``cosine_whitened``: the same
    after whitening. ``cosine_robust``: mean cosine under 16 shifts (±5 px), turns (±10°) and scales (0.9–1.1).
    ``percentile``: where ``cosine`` lies among the members' own, 0–100, NaN if these are not given. ``rank`` (int32):
    rank of the right cell when all drawn cells are sorted by whitened cosine to the activation; 1 is best.
    ``norm``: of the activation. ``flag``: "dead", "grey", "low" or None.
    """

    cosine: Float32
    cosine_whitened: Float32
    cosine_robust: Float32
    percentile: Float32
    rank: NDArray[np.int32]
    norm: Float32
    flag: list[str | None]


def score(
    network: Network,
    layer: str,
    pixels: Pixels,
    means: Float32,
    *,
    second_moment: Float64,
    all_means: Float32 | None = None,
    own_index: Integers | None = None,
    quantiles: Float32 | None = None,
    norms: Float32 | None = None,
    batch: int = 16,
) -> Scores:
    """Score the icons ``pixels``, uint8 (n, size, size, 3), against ``means``, float32 (n, channels).

    ``second_moment``: float64 (channels, channels), the layer's uncentred Σ. ``all_means``: float32 (N, channels) of
    the level's drawn cells, and ``own_index``: int (n,), each icon's row in it; by default the icons' own means.
    ``quantiles``: float32 (n, 101), the members' cosines to the mean at 0, 1, … 100 %. ``norms``: float32 (n,), the
    members' median norm; by default the layer's root mean square norm. ``batch``: icons in one pass.
    Raises ConfigError when the arguments do not fit each other or the layer.
    """
    _check_arguments(pixels, means, second_moment, all_means, own_index, quantiles, norms)
    all_means = means if all_means is None else all_means
    own_index = np.arange(len(means)) if own_index is None else own_index
    activations = centre_activations(network, layer, pixels, batch=batch)
    if activations.shape != means.shape:
        raise ConfigError(
            f"score: the means have {means.shape[1]} channels, but layer {layer!r} of {network.name} has "
            f"{activations.shape[1]}. Give the means of that layer."
        )
    moves = ROBUST_MOVES.draw(ROBUST_SEED, ROBUST_COUNT)
    robust = [cosines(centre_activations(network, layer, pixels, batch=batch, moves=row), means) for row in moves]
    whiten = power_of_moment(second_moment, -0.5)
    whitened_cosines = _normalized(activations @ whiten) @ _normalized(all_means @ whiten).T
    own = whitened_cosines[np.arange(len(means)), own_index]
    cosine = cosines(activations, means)
    norm = np.linalg.norm(activations, axis=1)
    return Scores(
        cosine=cosine,
        cosine_whitened=own,
        cosine_robust=np.mean(robust, axis=0, dtype=np.float32),
        percentile=_percentiles(cosine, quantiles),
        rank=(1 + (whitened_cosines > own[:, None]).sum(1)).astype(np.int32),
        norm=norm,
        flag=flags(pixels, cosine, norm, usual_norm(second_moment) if norms is None else norms),
    )


def _check_arguments(
    pixels: Pixels,
    means: Float32,
    second_moment: Float64,
    all_means: Float32 | None,
    own_index: Integers | None,
    quantiles: Float32 | None,
    norms: Float32 | None,
) -> None:
    """Raises ConfigError, in a sentence, when the arguments of score do not belong together."""
    for name, array in {"pixels": pixels, "means": means, "second_moment": second_moment}.items():
        if not isinstance(array, np.ndarray):
            raise ConfigError(f"score: {name} is {type(array).__name__}, expected a NumPy array.")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not len(pixels):
        raise ConfigError(
            f"score: pixels have shape {pixels.shape} and type {pixels.dtype}, expected (n, size, size, 3) and uint8."
        )
    channels = second_moment.shape[0] if second_moment.ndim == 2 else -1
    if second_moment.shape != (channels, channels) or means.shape != (len(pixels), channels):
        raise ConfigError(
            f"score: {len(pixels)} pictures, means of shape {means.shape} and a second moment of shape "
            f"{second_moment.shape} do not belong together. Expected (n, channels) and (channels, channels)."
        )
    if not np.isfinite(means).all():
        raise ConfigError("score: the means hold NaN or infinity. Leave such directions out.")
    if all_means is not None and own_index is None:
        raise ConfigError("score: all_means is given without own_index. Give each icon's row in all_means.")
    level = means if all_means is None else all_means
    if level.ndim != 2 or level.shape[1] != channels:
        raise ConfigError(f"score: all_means have shape {level.shape}, expected (N, {channels}).")
    if own_index is not None and (
        np.shape(own_index) != (len(pixels),) or np.min(own_index) < 0 or np.max(own_index) >= len(level)
    ):
        raise ConfigError(
            f"score: own_index does not name a row of all_means for each icon. Expected {len(pixels)} numbers from 0 "
            f"to {len(level) - 1}."
        )
    for name, array, dimensions in (("quantiles", quantiles, 2), ("norms", norms, 1)):
        if array is not None and (np.ndim(array) != dimensions or len(array) != len(pixels)):
            raise ConfigError(
                f"score: {name} have shape {np.shape(array)}, expected a row for each of {len(pixels)} icons."
            )


def centre_activations(
    network: Network, layer: str, pixels: Pixels, *, batch: int = 16, moves: torch.Tensor | None = None
) -> Float32:
    """The activations at the map's centre, float32 (n, channels), for ``pixels``, uint8 (n, h, w, 3); ``moves`` (4,):
    move all pictures by it first."""
    batches = []
    with torch.no_grad():
        for first in range(0, len(pixels), batch):
            part = from_bytes(pixels[first : first + batch], network.device)
            if moves is not None:
                part = move(part, moves.expand(len(part), 4))
            batches.append(centre(network.activations(network.normalize(part), layer)).float().cpu())
    rows: Float32 = torch.cat(batches).numpy()
    return rows


def score_seconds(network: Network, layer: str, size: int, batch: int = 16) -> float:
    """Seconds that the scores of one picture of ``size`` px at ``layer`` take on this machine."""
    pixels = np.zeros((batch, size, size, 3), np.uint8)
    seconds = []
    for moves in ROBUST_MOVES.draw(ROBUST_SEED, 2):
        started = time.perf_counter()
        centre_activations(network, layer, pixels, batch=batch, moves=moves)
        seconds.append(time.perf_counter() - started)
    # Under all moves, at rest, and once more when the picture was finished.
    return min(seconds) * (ROBUST_COUNT + 2) / batch


def flags(pixels: Pixels, cosine: Float32, norm: Float32, usual: Float32 | float) -> list[str | None]:
    """What is wrong with each icon, the worst first: "dead", "grey", "low" or None.

    ``pixels``: uint8 (n, size, size, 3); ``cosine`` and ``norm`` (n,) of their activations; ``usual``: the norm of the
    layer's activations, or of each cell's (n,).
    """
    deviation = np.sqrt((pixels / 255).var(axis=(1, 2)).mean(axis=1))
    dead, grey, low = norm < DEAD_SHARE * usual, deviation < GREY_DEVIATION, ~(cosine >= LOW_COSINE)
    return ["dead" if d else "grey" if g else "low" if l else None for d, g, l in zip(dead, grey, low)]


def usual_norm(second_moment: Float64) -> float:
    """The root mean square norm of a layer's activations, by their second moment (channels, channels)."""
    return float(np.sqrt(np.trace(second_moment)))


def cosines(rows: Float32, others: Float32) -> Float32:
    """The cosine of each row (n, channels) to its row in ``others``, float32 (n,); 0 where one has no length."""
    products: Float32 = (_normalized(rows) * _normalized(others)).sum(1)
    return products


def _normalized(rows: Float32) -> Float32:
    """``rows`` (n, channels) scaled to length 1 in their own precision (double for whitened ones); rows of zeros
    stay so."""
    scaled: Float32 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)
    return scaled


def _percentiles(cosine: Float32, quantiles: Float32 | None) -> Float32:
    if quantiles is None:
        return np.full(len(cosine), np.nan, dtype=np.float32)
    steps = np.linspace(0, 100, quantiles.shape[1])
    return np.array([np.interp(value, row, steps) for value, row in zip(cosine, quantiles)], dtype=np.float32)

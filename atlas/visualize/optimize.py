"""Draw icons: for each direction the picture that excites a layer most in it.

A batch of icons is one tensor: one inverse FFT, one batched move, one pass through the network up to the layer, one
objective. An icon does not depend on the others of its batch, but for rounding in the last bit. On a CPU, batches run
side by side, each in its own thread: two threads that share one small batch wait for each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.arrays import Float32, Float64, Int64, Integers, Pixels
from atlas.errors import ConfigError
from atlas.networks.network import Network
from atlas.networks.precision import AskedPrecision
from atlas.visualize.ascent import Ascent, Progress, run_batches
from atlas.visualize.objective import Objective, centre
from atlas.visualize.recipe import ATLAS, Recipe
from atlas.visualize.score import centre_activations, cosines, flags, usual_norm
from atlas.visualize.subnetwork import Subnetwork, cached_subnetwork
from atlas.visualize.validation import (
    check_directions,
    check_kinds,
    check_settings,
    check_whole_number,
    directions_of,
    moment_of,
    seeds_of,
    start_of,
)

SIZE = 80
# Pixels in one batch where nothing was measured: 32 icons of 80 px.
_BATCH_PIXELS = 32 * 80 * 80
# The batches that measure_batch tries, and how much better a larger one must be.
_BATCHES, _WORTH = (1, 2, 4, 8, 16, 32, 64), 1.03
# Added to the seed of an icon that is tried again.
_RETRY = 7_919


@dataclass(frozen=True)
class Icons:
    """Finished icons: ``pixels`` uint8 (n, size, size, 3), exactly what is stored; ``steps`` int32 (n,) and ``seeds``
    int64 (n,) of the better try."""

    pixels: Pixels
    steps: NDArray[np.int32]
    seeds: Int64


@torch.inference_mode(False)  # also when called within inference mode
@torch.enable_grad()
def draw(
    network: Network,
    layer: str,
    means: Float32,
    *,
    second_moment: Float64,
    size: int = SIZE,
    recipe: Recipe = ATLAS,
    steps: int | None = None,
    start: Pixels | None = None,
    seeds: Integers | None = None,
    batch: int | None = None,
    precision: AskedPrecision = "auto",
    compile: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Icons:
    """Draw an icon for each of ``means``.

    ``means``: float32 (n, channels), raw means of the cells' activations at ``layer``. ``second_moment``: float64
    (channels, channels), the layer's uncentred Σ. ``size``: side in pixels. ``recipe``: how, see recipe.py; ``steps``
    in place of its own. ``start``: uint8 (n, size, size, 3), pictures to begin with, such as those of the parent
    cells. ``seeds``: (n,), the noise and the moves of each icon; icons with equal seeds begin alike. ``batch``: icons
    in one tensor; by default as many as hold 205,000 pixels, see measure_batch. ``precision`` and ``compile``: see
    Subnetwork. ``progress`` is called every few steps with the share that is done, in [0, 1].

    An icon that comes out dead, grey or with a cosine under 0.6 is tried once more from other noise, and the better
    one is returned. Equal arguments give equal bytes on the same machine with the same number of threads. Raises
    ConfigError when the arguments do not fit the layer.
    """
    check_kinds(network, recipe, progress)
    means = directions_of(means)
    count = len(means) if means.ndim else 0
    check_whole_number("size", size)
    moment = moment_of(second_moment)
    field = check_directions(network, layer, means, moment, size).effective_receptive_field
    own_seeds = seeds_of(np.zeros(count, dtype=np.int64) if seeds is None else seeds, count)
    check_settings(steps, batch, precision)
    start = start_of(start, count, size)
    if not count:
        return Icons(np.zeros((0, size, size, 3), np.uint8), np.zeros(0, np.int32), own_seeds)
    batch = batch or max(1, _BATCH_PIXELS // size**2)
    ascent = Ascent(
        subnetwork=cached_subnetwork(network, layer, size, precision, compile),
        objective=Objective.make(means, moment, recipe=recipe, device=network.device),
        recipe=recipe,
        size=size,
        outside=1 - min(1.0, recipe.wide * field / size) ** 2,
        progress=Progress(progress),
    )
    pixels, lengths = _draw_batches(ascent, np.arange(count), own_seeds, start, steps, batch)
    usual, by_cosine = usual_norm(moment), recipe.power > 0
    rank, flagged = _judge(network, layer, pixels, means, usual, by_cosine, batch)
    seeds_of_icons, again = own_seeds.copy(), np.flatnonzero(flagged)
    if len(again):
        retry, retry_lengths = _draw_batches(ascent, again, own_seeds[again] + _RETRY, None, steps, batch)
        retry_rank, _ = _judge(network, layer, retry, means[again], usual, by_cosine, batch)
        better = retry_rank > rank[again]
        icon_rows = again[better]
        pixels[icon_rows], lengths[icon_rows] = retry[better], retry_lengths[better]
        seeds_of_icons[icon_rows] = own_seeds[icon_rows] + _RETRY
    return Icons(pixels, lengths, seeds_of_icons)


def _draw_batches(
    ascent: Ascent, rows: NDArray[np.intp], seeds: Int64, start: Pixels | None, steps: int | None, batch: int
) -> tuple[Pixels, NDArray[np.int32]]:
    """Icons ``rows`` (n,) of the ascent's objective, drawn in batches side by side: uint8 (n, size, size, 3), and the
    steps that each took (n,). ``seeds`` (n,) and ``start`` (n, size, size, 3) are theirs."""
    pixels = np.zeros((len(rows), ascent.size, ascent.size, 3), dtype=np.uint8)
    lengths = np.zeros(len(rows), dtype=np.int32)

    def work(numbers: NDArray[np.intp]) -> None:
        begin = None if start is None else start[numbers]
        pixels[numbers], lengths[numbers] = ascent(rows[numbers], seeds[numbers], begin, steps)

    ascent.progress.expect(len(rows) * ascent.length(start is not None, steps))
    run_batches(work, np.arange(len(rows)), batch, ascent.subnetwork.device)
    return pixels, lengths


@torch.inference_mode(False)
@torch.enable_grad()
def measure_batch(
    network: Network, layer: str, size: int = SIZE, precision: AskedPrecision = "auto", compile: bool = False
) -> int:
    """How many icons of ``size`` px at ``layer`` a batch should hold, measured on this machine.

    Large batches cost fewer calls, small ones fit into the processor's cache. Larger ones are tried until they are no
    faster.
    """
    subnetwork = cached_subnetwork(network, layer, size, precision, compile)
    best, best_rate, worse = 1, 0.0, 0
    for count in _BATCHES:
        pixels = torch.full((count, 3, size, size), 0.5, device=network.device, requires_grad=True)
        rate = count / min(_step_seconds(subnetwork, pixels) for _ in range(5))
        if rate >= best_rate * _WORTH:
            best, best_rate, worse = count, rate, 0
        else:
            worse += 1
        if worse == 2:  # once may be chance
            break
    return best


@torch.inference_mode(False)
@torch.enable_grad()
def step_seconds(network: Network, layer: str, size: int = SIZE, precision: AskedPrecision = "auto") -> float:
    """Seconds that a step of the ascent takes for one picture of ``size`` px at ``layer`` on this machine, moves,
    spectrum and optimiser with it.

    Raises ConfigError when the layer cannot take pictures of that size.
    """
    pictures = max(1, _BATCH_PIXELS // size**2 // 2)
    try:
        subnetwork = cached_subnetwork(network, layer, size, precision)
        with torch.no_grad():
            channels = centre(subnetwork(torch.full((pictures, 3, size, size), 0.5, device=network.device))).shape[1]
    except RuntimeError as error:
        raise ConfigError(
            f"render.size: layer {layer} of {network.name} cannot take icons of {size} px ({error}). Give a larger "
            "size."
        ) from error
    means = np.ones((pictures, channels), np.float32)
    recipe = replace(ATLAS, relaxed=0)
    objective = Objective.make(means, np.eye(channels), recipe=recipe, device=network.device)
    ascent = Ascent(subnetwork, objective, recipe, size, 0.5, Progress(None))
    ascent.progress.expect(1)

    def seconds(steps: int) -> float:
        started = time.perf_counter()
        ascent(np.arange(pictures), np.arange(pictures), None, steps)
        return time.perf_counter() - started

    seconds(1)
    beginning = seconds(1)
    return max(seconds(3) - beginning, 0.1 * beginning) / 2 / pictures


def _step_seconds(subnetwork: Subnetwork, pixels: Tensor) -> float:
    """Seconds that one forward and one backward pass take."""
    started = time.perf_counter()
    (gradient,) = torch.autograd.grad(centre(subnetwork(pixels)).sum(), pixels)
    gradient[0, 0, 0, 0].item()  # waits for a GPU
    return time.perf_counter() - started


def _judge(
    network: Network, layer: str, pixels: Pixels, means: Float32, usual: float, by_cosine: bool, batch: int
) -> tuple[Float32, NDArray[np.bool_]]:
    """How good each finished icon is, (n,), larger is better, and whether it should be tried again; ``by_cosine``: also
    where its cosine is low."""
    activations = centre_activations(network, layer, pixels, batch=batch)
    cosine, norm = cosines(activations, means), np.linalg.norm(activations, axis=1)
    icon_flags = flags(pixels, cosine, norm, usual)
    # Where the objective has no cosine (a single neuron), only what shows nothing is tried again.
    flagged = np.array([flag is not None and (by_cosine or flag != "low") for flag in icon_flags], dtype=bool)
    empty = np.array([flag in ("dead", "grey") for flag in icon_flags])
    return np.where(empty, cosine - 2, cosine).astype(np.float32), flagged

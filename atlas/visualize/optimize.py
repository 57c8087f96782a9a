"""Draw icons: turn directions into the pictures that a layer would most like to see.

A batch of icons is one tensor: one inverse FFT, one batched move, one pass through the network cut at the layer, one
objective. What becomes of an icon does not depend on the others of its batch, but for rounding in the last bit. On a
CPU, batches run side by side, each in a thread of its own: two threads that share one small batch wait for each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from atlas.errors import ConfigError
from atlas.networks import Layer, Network, calls, describe_layer
from atlas.operations import Precision
from atlas.visualize.climb import Climb, Told, side_by_side
from atlas.visualize.cut import CutNetwork, cut
from atlas.visualize.objective import Objective, centre
from atlas.visualize.recipe import ALONE, ATLAS, Recipe
from atlas.visualize.score import answers, cosines, flags, usual_norm

SIZE = 80
PRECISIONS: tuple[str, ...] = get_args(Precision)
# Pixels in one batch where nothing was measured: 32 icons of 80 px.
_BATCH_PIXELS = 32 * 80 * 80
# Larger pictures that stand alone are drawn from coarse to fine.
_LARGEST_AT_ONCE = 160
# … in which the finer ones add detail: their spectrum falls off less, and what the coarse one showed is disturbed less.
_FINE_DECAY, _FINE_NOISE = 0.8, 0.4
# The batches that measure_batch tries, and how much better a larger one must be.
_BATCHES, _WORTH = (1, 2, 4, 8, 16, 32, 64), 1.03
# Added to the seed of an icon that is tried again.
_RETRY = 7_919

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Icons:
    """Finished icons: ``pixels`` uint8 (n, size, size, 3), exactly what is stored; ``steps`` int32 (n,) and ``seeds``
    int64 (n,) of the try that was kept."""

    pixels: Bytes
    steps: NDArray[np.int32]
    seeds: NDArray[np.int64]


@torch.inference_mode(False)  # whatever the caller is in the middle of
@torch.enable_grad()
def draw(
    network: Network,
    layer: str,
    means: Float32,
    *,
    second_moment: NDArray[np.float64],
    size: int = SIZE,
    recipe: Recipe = ATLAS,
    steps: int | None = None,
    start: Bytes | None = None,
    seeds: NDArray[np.integer] | None = None,
    batch: int | None = None,
    precision: Precision = "auto",
    compile: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Icons:
    """Draw an icon for each of ``means``.

    ``means``: float32 (n, channels), raw means of the cells' activations at ``layer``. ``second_moment``: float64
    (channels, channels), the layer's uncentred Σ. ``size``: side in pixels. ``recipe``: how, see recipe.py; ``steps``
    in place of its own. ``start``: uint8 (n, size, size, 3), pictures to begin with, such as those of the parent
    cells. ``seeds``: (n,), the noise and the moves of each icon; icons with equal seeds begin alike. ``batch``: icons
    in one tensor; by default as many as hold 205,000 pixels, see measure_batch. ``precision`` and ``compile``: see
    CutNetwork. ``progress`` is called every few steps with the share that is done, in [0, 1].

    An icon that comes out dead, grey or with a cosine under 0.6 is tried once more from other noise, and the better
    one is kept. Equal arguments give equal bytes on the same machine with the same number of threads. Raises
    ConfigError when the arguments do not fit the layer.
    """
    _expect(network, recipe, progress)
    means = _numbers(means)
    count = len(means) if means.ndim else 0
    _whole("size", size)
    moment = _moment(second_moment)
    field = check(network, layer, means, moment, size).effective_receptive_field
    own_seeds = _seeds(np.zeros(count, dtype=np.int64) if seeds is None else seeds, count)
    if steps is not None:
        _whole("steps", steps)
    if batch is not None:
        _whole("batch", batch)
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}.")
    if start is not None and (start.shape != (count, size, size, 3) or start.dtype != np.uint8):
        raise ConfigError(
            f"The start pictures have shape {start.shape} and type {start.dtype}, expected "
            f"({count}, {size}, {size}, 3) and uint8: one RGB picture of the icons' size for each direction."
        )
    if not count:
        return Icons(np.zeros((0, size, size, 3), np.uint8), np.zeros(0, np.int32), own_seeds)
    batch = batch or max(1, _BATCH_PIXELS // size**2)
    told = Told(progress)
    climb = Climb(
        network=cut(network, layer, size, precision, compile),
        objective=Objective.make(means, moment, recipe=recipe, device=network.device),
        recipe=recipe,
        size=size,
        unseen=1 - min(1.0, recipe.wide * field / size) ** 2,
        told=told,
    )
    pixels, made = np.zeros((count, size, size, 3), dtype=np.uint8), np.zeros(count, dtype=np.int32)

    def first_try(rows: NDArray[np.intp]) -> None:
        begin = None if start is None else start[rows]
        pixels[rows], made[rows] = climb(rows, own_seeds[rows], begin, steps)

    told.expect(count * climb.length(start is not None, steps))
    side_by_side(first_try, np.arange(count), batch, network.device)

    usual, asked = usual_norm(moment), recipe.power > 0
    rank, flagged = _judge(network, layer, pixels, means, usual, asked, batch)
    kept, again = own_seeds.copy(), np.flatnonzero(flagged)
    if len(again):
        other, length = pixels[again].copy(), climb.length(False, steps)

        def second_try(places: NDArray[np.intp]) -> None:
            rows = again[places]
            other[places], _ = climb(rows, own_seeds[rows] + _RETRY, None, steps)

        told.expect(len(again) * length)
        side_by_side(second_try, np.arange(len(again)), batch, network.device)
        other_rank, _ = _judge(network, layer, other, means[again], usual, asked, batch)
        better = other_rank > rank[again]
        chosen = again[better]
        pixels[chosen], made[chosen], kept[chosen] = other[better], length, own_seeds[chosen] + _RETRY
    return Icons(pixels, made, kept)


@torch.inference_mode(False)
@torch.enable_grad()
def measure_batch(
    network: Network, layer: str, size: int = SIZE, precision: Precision = "auto", compile: bool = False
) -> int:
    """How many icons of ``size`` px at ``layer`` a batch should hold, measured here and now.

    Large batches cost fewer calls, small ones stay in the cache. Larger ones are tried until they stop paying.
    """
    answer = cut(network, layer, size, precision, compile)
    best, best_rate, worse = 1, 0.0, 0
    for count in _BATCHES:
        pixels = torch.full((count, 3, size, size), 0.5, device=network.device, requires_grad=True)
        rate = count / min(_step_seconds(answer, pixels) for _ in range(5))
        if rate >= best_rate * _WORTH:
            best, best_rate, worse = count, rate, 0
        else:
            worse += 1
        if worse == 2:  # once may be chance
            break
    return best


@torch.inference_mode(False)
@torch.enable_grad()
def step_seconds(network: Network, layer: str, size: int = SIZE, precision: Precision = "auto") -> float:
    """How long a pass to ``layer`` and back takes for one picture of ``size`` px, here and now.

    Raises ConfigError when the layer cannot take pictures of that size.
    """
    pictures = max(1, _BATCH_PIXELS // size**2 // 4)
    try:
        answer = cut(network, layer, size, precision)
        pixels = torch.full((pictures, 3, size, size), 0.5, device=network.device, requires_grad=True)
        return min(_step_seconds(answer, pixels) for _ in range(3)) / pictures
    except RuntimeError as error:
        raise ConfigError(
            f"render.size: layer {layer} of {network.name} cannot take icons of {size} px ({error}). Give a larger "
            "size."
        ) from error


def _step_seconds(answer: CutNetwork, pixels: Tensor) -> float:
    """How long one pass to the layer and back takes."""
    started = time.perf_counter()
    (gradient,) = torch.autograd.grad(centre(answer(pixels)).sum(), pixels)
    gradient[0, 0, 0, 0].item()  # waits for a GPU
    return time.perf_counter() - started


def _expect(network: object, recipe: object, progress: object) -> None:
    """Raises ConfigError where what is no matter of numbers is of another kind."""
    if not isinstance(network, Network):
        raise ConfigError(
            f"The network is {type(network).__name__}. Give a module of your own through atlas.networks.load(module) "
            "first, which prepares it."
        )
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"The recipe is {recipe!r}, expected a Recipe, such as Recipe(steps=64).")
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress is {progress!r}, expected a function of the share that is done.")


def _numbers(values: Any) -> Float32:
    """Directions as float32. Raises ConfigError when they are no numbers."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "fiub":
            raise ValueError(f"they are of type {given.dtype}")
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, and is told as that
            rows: Float32 = given.astype(np.float32)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"The directions cannot be read as numbers ({error}). Expected float32 of shape (n, channels)."
        ) from error
    # Only where they point counts; squares of very long ones would not fit in float32.
    longest = np.abs(rows).max(axis=-1, keepdims=True, initial=0)
    return np.where(longest > 1e9, rows / np.maximum(longest, 1), rows).astype(np.float32)


def _moment(values: Any) -> NDArray[np.float64]:
    """A second moment as float64. Raises ConfigError when it is no matrix of numbers."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "fiub" or given.ndim != 2:
            raise ValueError(f"it has shape {given.shape} and type {given.dtype}")
        return given.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"The second moment cannot be read ({error}). Expected float64 of shape (channels, channels)."
        ) from error


def _seeds(values: Any, count: int) -> NDArray[np.int64]:
    given = np.asarray(values)
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise ConfigError(
            f"The seeds have shape {given.shape} and type {given.dtype}, expected ({count},) and whole numbers."
        )
    if len(given) != count:
        raise ConfigError(f"There are {count} directions, but {len(given)} seeds. Give one seed for each direction.")
    return given.astype(np.int64)


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{name} is {value!r}, expected a whole number of at least 1.")


def _judge(
    network: Network, layer: str, pixels: Bytes, means: Float32, usual: float, asked: bool, batch: int
) -> tuple[Float32, NDArray[np.bool_]]:
    """How good each finished icon is, (n,), larger is better, and whether it should be tried again."""
    activations = answers(network, layer, pixels, batch=batch)
    cosine, norm = cosines(activations, means), np.linalg.norm(activations, axis=1)
    found = flags(pixels, cosine, norm, usual)
    # Where no cosine was asked for (a single neuron), only what shows nothing is tried again.
    flagged = np.array([flag is not None and (asked or flag != "low") for flag in found], dtype=bool)
    hopeless = np.array([flag in ("dead", "grey") for flag in found])
    return np.where(hopeless, cosine - 2, cosine).astype(np.float32), flagged


def check(network: Network, layer: str, means: Float32, second_moment: NDArray[np.float64], size: int) -> Layer:
    """The layer as it is for pictures of ``size`` pixels. Raises ConfigError, in a sentence, when ``means``
    (n, channels) or ``size`` do not fit it, or the layer has no map of its own."""
    network.submodule(layer)
    if size < 8:
        raise ConfigError(f"Icons of {size}×{size} pixels are too small to show anything. Choose a size of at least 8.")
    described = _described(network, layer, size)
    called = calls(replace(network, size=size), layer)
    if called > 1:
        raise ConfigError(
            f"Layer {layer!r} of {network.name} is called {called} times in one pass, so it has no map of its own. "
            "Choose the block around it."
        )
    channels = described.channels
    if means.ndim != 2 or means.shape[1] != channels:
        turned = " They seem to be turned: give directions.T." if means.ndim == 2 and means.shape[0] == channels else ""
        raise ConfigError(
            f"The directions have shape {means.shape}, expected (n, {channels}): layer {layer!r} has {channels} "
            f"channels, and a direction is a number for each.{turned}"
        )
    if second_moment.shape != (channels, channels):
        raise ConfigError(
            f"The second moment has shape {second_moment.shape}, expected ({channels}, {channels}) for layer {layer!r}."
        )
    if not np.isfinite(second_moment).all() or not np.trace(second_moment) > 0 or (np.diag(second_moment) < 0).any():
        raise ConfigError(
            "The second moment holds NaN or infinity, or a diagonal that is negative or sums to nothing. Expected the "
            "layer's uncentred Σ: the mean of a · aᵀ over activations a."
        )
    if not np.allclose(second_moment, second_moment.T, rtol=1e-3, atol=1e-3 * np.abs(second_moment).max()):
        raise ConfigError("The second moment is not symmetric. Expected the mean of a · aᵀ over activations a.")
    infinite, zero = ~np.isfinite(means).all(1), ~means.any(1)
    for wrong, what in ((infinite, "holds NaN or infinity"), (zero, "is all zero")):
        if wrong.any():
            raise ConfigError(
                f"Direction {np.flatnonzero(wrong)[0]} {what} ({wrong.sum()} of {len(means)} are so). Leave such "
                "directions out."
            )
    return described


def _described(network: Network, layer: str, size: int) -> Layer:
    """describe_layer for pictures of ``size``. Raises ConfigError that names a size that would do."""
    try:
        return describe_layer(replace(network, size=size), layer)
    except torch.OutOfMemoryError:
        raise _too_large(network, layer, size) from None
    except RuntimeError as error:
        if "memory" in str(error):
            raise _too_large(network, layer, size) from None
        larger = 2 * size
        while larger <= 2 * network.size:
            with suppress(RuntimeError):
                describe_layer(replace(network, size=larger), layer)
                break
            larger *= 2
        raise ConfigError(
            f"{network.name} cannot take pictures of {size}×{size} pixels up to layer {layer!r} ({error}). Choose a "
            f"larger size: {larger} will do."
        ) from error


def _too_large(network: Network, layer: str, size: int) -> ConfigError:
    return ConfigError(
        f"Pictures of {size}×{size} pixels up to layer {layer!r} of {network.name} do not fit into memory. Choose a "
        "smaller size."
    )


def render(
    network: Network,
    layer: str,
    directions: Float32,
    *,
    size: int = SIZE,
    recipe: Recipe = ALONE,
    steps: int | None = None,
    second_moment: NDArray[np.float64] | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Bytes:
    """Pictures of any directions of a layer, without a pipeline.

        network = load("efficientnet_lite0")
        pixels = render(network, "_blocks.10", directions, size=128)
        Image.fromarray(pixels[0]).save("direction.png")

    ``directions``: float32 (n, channels), or (channels,) for one. ``second_moment``: (channels, channels), the layer's
    uncentred Σ, for whitened directions; without it they are taken as they are. Returns uint8 (n, size, size, 3). See
    draw for the rest.

    Pictures of more than 160 px are drawn from coarse to fine, each from the one of half its side: a climb at full size
    alone fills them with small repeated detail.
    """
    _expect(network, recipe, progress)
    rows = np.atleast_2d(_numbers(directions))
    _whole("size", size)
    moment = _plain_moment(network, layer, rows.shape[1]) if second_moment is None else second_moment
    seeds = np.array([seed] * len(rows), dtype=None if len(rows) else np.int64)
    if size > _LARGEST_AT_ONCE:
        _described(network, layer, size)  # before the coarse ones, not after them
    sizes = [size]
    while sizes[0] > _LARGEST_AT_ONCE:
        sizes.insert(0, -(-sizes[0] // 2))
    work = np.cumsum([0, *(side**2 * (1 if number else 2) for number, side in enumerate(sizes))])
    pixels: Bytes | None = None
    finer = replace(recipe, decay=recipe.decay * _FINE_DECAY, noise=recipe.noise * _FINE_NOISE)
    for number, side in enumerate(sizes):

        def told(share: float, number: int = number) -> None:
            if progress:
                progress(float(work[number] + share * (work[number + 1] - work[number])) / float(work[-1]))

        pixels = draw(
            network,
            layer,
            rows,
            second_moment=moment,
            size=side,
            recipe=finer if number else recipe,
            steps=steps,
            start=None if pixels is None else _enlarged(pixels, side),
            seeds=seeds,
            progress=told,
        ).pixels
    assert pixels is not None
    return pixels


def _enlarged(pixels: Bytes, side: int) -> Bytes:
    resized = [Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC) for picture in pixels]
    return np.stack([np.asarray(picture) for picture in resized]) if resized else np.zeros((0, side, side, 3), np.uint8)


def _plain_moment(network: Network, layer: str, channels: int) -> NDArray[np.float64]:
    """A second moment that whitens nothing, of the size that the layer's answers to noise have: by it, what is dead is
    told from what is only small."""
    noise = torch.rand(4, 3, network.size, network.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = network.activations(network.normalize(noise.to(network.device)), layer)
    usual = float(maps.float().square().mean())
    return np.eye(channels) * (usual if np.isfinite(usual) and usual > 0 else 1.0)


def neuron(
    network: Network,
    layer: str,
    unit: int,
    *,
    size: int = SIZE,
    recipe: Recipe = ALONE,
    steps: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Bytes:
    """The picture that most excites one channel of a layer, at all its positions: uint8 (size, size, 3).

        network = load("efficientnet_lite0")
        pixels = neuron(network, "_blocks.10", 7)
        Image.fromarray(pixels).save("neuron.png")

    Activation maximisation (Erhan et al. 2009): the plain activation, no cosine, whatever the ``recipe`` says of it.
    Raises ConfigError for a layer or unit that does not exist. See render for the rest.
    """
    _expect(network, recipe, progress)
    with torch.no_grad():
        channels = network.activations(
            torch.zeros(1, 3, network.size, network.size, device=network.device), layer
        ).shape[1]
    if isinstance(unit, bool) or not isinstance(unit, int | np.integer) or not 0 <= unit < channels:
        raise ConfigError(f"Layer {layer!r} of {network.name} has no unit {unit!r}: it has {channels}, counted from 0.")
    direction = np.eye(channels, dtype=np.float32)[unit]
    recipe = replace(recipe, dot=recipe.dot or 1.0, power=0, power_whitened=0)
    return render(network, layer, direction, size=size, recipe=recipe, steps=steps, seed=seed, progress=progress)[0]

"""Single pictures of any directions and units of a layer, without a pipeline: not icons of an atlas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from atlas.arrays import Float32, Float64, Pixels
from atlas.errors import ConfigError
from atlas.networks.network import Network
from atlas.visualize.optimize import SIZE, draw
from atlas.visualize.recipe import SINGLE, Recipe
from atlas.visualize.validation import check_kinds, check_whole_number, describe_at_size, directions_of

# Larger pictures, in pixels a side, are drawn from coarse to fine.
_LARGEST_AT_ONCE = 160
# In these the finer ones add detail: factors by which the recipe's decay and noise are smaller for them.
_FINE_DECAY, _FINE_NOISE = 0.8, 0.4


def render(
    network: Network,
    layer: str,
    directions: Float32,
    *,
    size: int = SIZE,
    recipe: Recipe = SINGLE,
    steps: int | None = None,
    second_moment: Float64 | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Pixels:
    """Pictures of any directions of a layer, without a pipeline.

        network = load("efficientnet_lite0")
        pixels = render(network, "_blocks.10", directions, size=128)
        Image.fromarray(pixels[0]).save("direction.png")

    ``directions``: float32 (n, channels), or (channels,) for one. ``second_moment``: (channels, channels), the layer's
    uncentred Σ, for whitened directions; by default they are not whitened. ``seed``: of the noise and the moves.
    Returns uint8 (n, size, size, 3). See draw for the rest.

    Pictures of more than 160 px are drawn from coarse to fine, each from the one of half its side: drawn at full
    size only they fill with small repeated detail.
    """
    check_kinds(network, recipe, progress)
    rows = np.atleast_2d(directions_of(directions))
    check_whole_number("size", size)
    moment = _plain_moment(network, layer, rows.shape[1]) if second_moment is None else second_moment
    seeds = np.array([seed] * len(rows), dtype=None if len(rows) else np.int64)
    if size > _LARGEST_AT_ONCE:
        describe_at_size(network, layer, size)  # before the coarse ones, not after them
    sizes = [size]
    while sizes[0] > _LARGEST_AT_ONCE:
        sizes.insert(0, -(-sizes[0] // 2))
    work = np.cumsum([0, *(side**2 * (1 if number else 2) for number, side in enumerate(sizes))])
    pixels: Pixels | None = None
    finer = replace(recipe, decay=recipe.decay * _FINE_DECAY, noise=recipe.noise * _FINE_NOISE)
    for number, side in enumerate(sizes):

        def on_progress(share: float, number: int = number) -> None:
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
            progress=on_progress,
        ).pixels
    assert pixels is not None
    return pixels


def _enlarged(pixels: Pixels, side: int) -> Pixels:
    resized = [Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC) for picture in pixels]
    return np.stack([np.asarray(picture) for picture in resized]) if resized else np.zeros((0, side, side, 3), np.uint8)


def _plain_moment(network: Network, layer: str, channels: int) -> Float64:
    """A second moment that whitens nothing, in the size of the layer's activations for noise, by which dead pictures
    are recognised."""
    with torch.no_grad():
        maps = network.activations(network.noise(4), layer)
    usual = float(maps.float().square().mean())
    return np.eye(channels) * (usual if np.isfinite(usual) and usual > 0 else 1.0)


def neuron(
    network: Network,
    layer: str,
    unit: int,
    *,
    size: int = SIZE,
    recipe: Recipe = SINGLE,
    steps: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Pixels:
    """The picture that most excites one channel of a layer, at all its positions: uint8 (size, size, 3).

        network = load("efficientnet_lite0")
        pixels = neuron(network, "_blocks.10", 7)
        Image.fromarray(pixels).save("neuron.png")

    Activation maximisation (Erhan et al. 2009): the plain activation, no cosine, whatever the ``recipe`` says of it.
    Raises ConfigError for a layer or unit that does not exist. See render for the rest.
    """
    check_kinds(network, recipe, progress)
    with torch.no_grad():
        channels = network.activations(
            torch.zeros(1, 3, network.size, network.size, device=network.device), layer
        ).shape[1]
    if isinstance(unit, bool) or not isinstance(unit, int | np.integer) or not 0 <= unit < channels:
        raise ConfigError(f"Layer {layer!r} of {network.name} has no unit {unit!r}: it has {channels}, counted from 0.")
    direction = np.eye(channels, dtype=np.float32)[unit]
    recipe = replace(recipe, dot=recipe.dot or 1.0, power=0, power_whitened=0)
    return render(network, layer, direction, size=size, recipe=recipe, steps=steps, seed=seed, progress=progress)[0]

"""Checks of the arguments of drawing against the network and the layer: each mistake is a sentence, before the work
begins."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from atlas.arrays import Float32, Float64, Int64, Pixels
from atlas.errors import ConfigError
from atlas.networks.network import Layer, Network, call_count, describe_layer
from atlas.networks.precision import AskedPrecision
from atlas.visualize.recipe import Recipe

PRECISIONS: tuple[str, ...] = get_args(AskedPrecision)


def check_kinds(network: object, recipe: object, progress: object) -> None:
    """Raises ConfigError where ``network`` is no Network, ``recipe`` no Recipe, or ``progress`` cannot be called."""
    if not isinstance(network, Network):
        raise ConfigError(
            f"The network is {type(network).__name__}. Give a module of your own through atlas.load(module) first, "
            "which prepares it."
        )
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"The recipe is {recipe!r}, expected a Recipe, such as Recipe(steps=64).")
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress is {progress!r}, expected a function of the share that is done.")


def directions_of(values: Any) -> Float32:
    """Directions as float32 (n, channels) or (channels,); very long ones are scaled down. Raises ConfigError when they
    are no numbers."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"they are of type {array.dtype}")
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, which is found later
            rows: Float32 = array.astype(np.float32)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"The directions cannot be read as numbers ({error}). Expected float32 of shape (n, channels)."
        ) from error
    # Their length does not matter; squares of very long ones would overflow float32.
    longest = np.abs(rows).max(axis=-1, keepdims=True, initial=0)
    return np.where(longest > 1e9, rows / np.maximum(longest, 1), rows).astype(np.float32)


def moment_of(values: Any) -> Float64:
    """A second moment as float64 (channels, channels). Raises ConfigError when it is no matrix of numbers."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub" or array.ndim != 2:
            raise ValueError(f"it has shape {array.shape} and type {array.dtype}")
        return array.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"The second moment cannot be read ({error}). Expected float64 of shape (channels, channels)."
        ) from error


def seeds_of(values: Any, count: int) -> Int64:
    """Seeds as int64 (``count``,). Raises ConfigError when they are no whole numbers, or more or fewer."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ConfigError(
            f"The seeds have shape {array.shape} and type {array.dtype}, expected ({count},) and whole numbers."
        )
    if len(array) != count:
        raise ConfigError(f"There are {count} directions, but {len(array)} seeds. Give one seed for each direction.")
    return array.astype(np.int64)


def start_of(pictures: Any, count: int, size: int) -> Pixels | None:
    """Pictures to begin with, or None. Raises ConfigError unless they are uint8 (``count``, ``size``, ``size``, 3)."""
    if pictures is not None and (pictures.shape != (count, size, size, 3) or pictures.dtype != np.uint8):
        raise ConfigError(
            f"The start pictures have shape {pictures.shape} and type {pictures.dtype}, expected "
            f"({count}, {size}, {size}, 3) and uint8: one RGB picture of the icons' size for each direction."
        )
    return pictures


def check_settings(steps: object, batch: object, precision: object) -> None:
    """Raises ConfigError where ``steps`` or ``batch`` is neither None nor a whole number of at least 1, or
    ``precision`` is not known."""
    if steps is not None:
        check_whole_number("steps", steps)
    if batch is not None:
        check_whole_number("batch", batch)
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}.")


def check_whole_number(name: str, value: object) -> None:
    """Raises ConfigError where ``value`` is no whole number of at least 1; ``name``: the argument's name."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{name} is {value!r}, expected a whole number of at least 1.")


def check_directions(network: Network, layer: str, means: Float32, second_moment: Float64, size: int) -> Layer:
    """The layer as it is for pictures of ``size`` pixels. Raises ConfigError when ``means`` (n, channels),
    ``second_moment`` (channels, channels) or ``size`` do not fit it, or the layer does not exist or has no map of its
    own."""
    network.submodule(layer)
    if size < 8:
        raise ConfigError(f"Icons of {size}×{size} pixels are too small to show anything. Choose a size of at least 8.")
    layer_at_size = describe_at_size(network, layer, size)
    count = call_count(replace(network, size=size), layer)
    if count > 1:
        raise ConfigError(
            f"Layer {layer!r} of {network.name} is called {count} times in one pass, so it has no map of its own. "
            "Choose the block around it."
        )
    channels = layer_at_size.channels
    if means.ndim != 2 or means.shape[1] != channels:
        is_transposed = means.ndim == 2 and means.shape[0] == channels
        hint = " They seem to be transposed: give directions.T." if is_transposed else ""
        raise ConfigError(
            f"The directions have shape {means.shape}, expected (n, {channels}): layer {layer!r} has {channels} "
            f"channels, and a direction is a number for each.{hint}"
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
    return layer_at_size


def describe_at_size(network: Network, layer: str, size: int) -> Layer:
    """The layer as it is for pictures of ``size`` pixels. Raises ConfigError where the network cannot take them, with a
    size that it can take."""
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

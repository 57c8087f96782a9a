"""What one unit does for the classes: the first-order effect of its own activation on every logit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from atlas.arrays import Float32
from atlas.networks.observer import Observer

# Views in one pass.
_BATCH = 8


def class_effects(observer: Observer, layer: str, inputs: Tensor, positions: Tensor, units: Tensor) -> Float32:
    """The effects (n, classes): h · ∂logit/∂h of unit ``units[i]`` of ``layer`` at ``positions[i]`` of view i, on all
    classes at once, by dual numbers.

    ``inputs``: normalised, float32 (n, 3, size, size); ``positions``: int64 (n, 2) as (y, x); ``units``: int64 (n,).
    """
    parts: list[Tensor] = []
    for first in range(0, len(inputs), _BATCH):
        part = slice(first, first + _BATCH)
        views, count = inputs[part], len(inputs[part])
        # The last batch is filled up: for another number of views the observer would record the network again.
        filled = torch.arange(_BATCH if first else count) % count
        observation = observer.observe(
            views[filled],
            {layer: positions[part][filled][:, None]},
            attributions=True,
            channels={layer: units[part][filled][:, None]},
        )
        parts.append(observation.attributions[layer][:count, 0])
    effects: Float32 = torch.cat(parts).numpy()
    return effects


def strongest(effects: Float32, count: int, *, opposing: bool = False) -> list[dict[str, float]]:
    """The classes of largest mean effect over ``effects`` (n, classes), those above 0 alone, the strongest first; with
    ``opposing`` those of the smallest, below 0."""
    mean = effects.mean(0) if len(effects) else np.zeros(0, np.float32)
    sign = -1 if opposing else 1
    order = np.argsort(-sign * mean, kind="stable")[:count].tolist()
    return [{"class": number, "effect": float(mean[number])} for number in order if sign * mean[number] > 0]

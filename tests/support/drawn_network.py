"""A small network that icons are drawn of, and directions of its layer "linear"."""

from functools import cache

import numpy as np
import torch
from made_pictures import smooth_pictures
from torch import nn

from atlas.networks.network import Network
from atlas.store.moments import Moments
from atlas.visualize.score import centre_activations

SIZE = 32


@cache
def drawn_network() -> Network:
    """Two convolutions and a layer "linear" of 16 channels, whose directions differ. Not to be changed."""
    torch.manual_seed(0)
    module = nn.Sequential()
    for name, channels, out in (("one", 3, 12), ("two", 12, 24)):
        module.add_module(name, nn.Conv2d(channels, out, 5, stride=2, padding=2))
        module.add_module(f"{name}_relu", nn.ReLU())
    module.add_module("linear", nn.Conv2d(24, 16, 1))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.eval().requires_grad_(False)
    small = Network("small", module, tuple("abcdefghijklmnop"), SIZE, (0.5,) * 3, (0.25,) * 3)
    # Directions of random networks all lie close to their common mean: take it out, so that they differ.
    module.linear.bias -= torch.from_numpy(
        centre_activations(small, "linear", smooth_pictures(240, SIZE, seed=1)).mean(0)
    )
    return small


@cache
def drawn_directions() -> tuple[np.ndarray, np.ndarray]:
    """Means (6, 16) of a few real activations each of layer "linear", and its second moment."""
    network = drawn_network()
    rows = centre_activations(network, "linear", smooth_pictures(240, SIZE, seed=1))
    moments = Moments.empty(16)
    moments.add(rows)
    anchors = rows[:6] / np.linalg.norm(rows[:6], axis=1, keepdims=True)
    near = np.argsort(-anchors @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T, axis=1)[:, :4]
    return rows[near].mean(1), moments.second_moment

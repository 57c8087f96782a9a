"""What a direction of a layer pushes the network towards: the logits that it adds in a neutral context.

A vector is put into a few positions in the middle of a map that holds the layer's mean everywhere, and the tail of the
network says what it makes of that. A position's own derivative (h · ∂logit/∂h) or its removal says less: among the
positions around it, which show the same thing, one decides nothing. Replacing what a model sees by a neutral mean is
mean ablation (as in Wang et al. 2023, "Interpretability in the Wild"); here the mean is the rule, and the vector the
exception.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from atlas.arrays import Float32
from atlas.errors import ConfigError
from atlas.networks.network import Network
from atlas.networks.tail import BATCH, Tail

# The side, in positions, of the square that a vector is put into.
SIDE = 3


class Evidence:
    """The logits that vectors of ``layer`` add where they are put into ``side`` × ``side`` positions in the middle of a
    map that holds ``mean``, float32 (channels,), everywhere.

    The network's tail is recorded once. Raises ConfigError when there is no such layer, or when ``mean`` has another
    number of channels.
    """

    def __init__(self, network: Network, layer: str, mean: Float32, *, side: int = SIDE) -> None:
        inputs = network.normalize(torch.full((1, 3, network.size, network.size), 0.5, device=network.device))
        with torch.no_grad():
            _, channels, height, width = network.activations(inputs, layer).shape
        self._check(mean, channels, layer)
        self._layer, self._inputs = layer, inputs
        self._tail = Tail(network, layer, inputs.shape)
        self._context = torch.from_numpy(mean).float().to(network.device)[:, None, None].expand(-1, height, width)
        self._rows, self._cols = (_middle(count, side) for count in (height, width))
        (logits,) = self._tail(inputs, iter([self._maps(torch.from_numpy(mean).float()[None])]))
        self._neutral = logits[0]

    def __call__(self, directions: Float32) -> Float32:
        """The logits gained by each of ``directions``, float32 (n, channels): float32 (n, classes), less their mean
        over the classes, which changes no probability. Raises ConfigError for another number of channels."""
        channels = len(self._context)
        if directions.ndim != 2 or directions.shape[1] != channels:
            raise ConfigError(f"Layer {self._layer!r} has {channels} channels, the directions are {directions.shape}.")
        if not len(directions):
            return np.zeros((0, len(self._neutral)), np.float32)
        vectors = torch.from_numpy(np.ascontiguousarray(directions, np.float32))

        def batches() -> Iterator[Tensor]:
            for batch in vectors.split(BATCH):
                yield self._maps(batch)

        gains = torch.cat(list(self._tail(self._inputs, batches()))) - self._neutral
        centred: Float32 = (gains - gains.mean(1, keepdim=True)).numpy()
        return centred

    def _maps(self, vectors: Tensor) -> Tensor:
        """The neutral map with each of ``vectors`` (n, channels) in its middle: (n, channels, H, W)."""
        maps = self._context.expand(len(vectors), -1, -1, -1).clone()
        maps[:, :, self._rows, self._cols] = vectors.to(maps.device)[:, :, None, None]
        return maps.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def _check(mean: Float32, channels: int, layer: str) -> None:
        if mean.shape != (channels,):
            raise ConfigError(f"Layer {layer!r} has {channels} channels, the mean is {mean.shape}.")


def evidence(network: Network, layer: str, directions: Float32, mean: Float32, *, side: int = SIDE) -> Float32:
    """What each of ``directions``, float32 (n, channels), pushes ``network`` towards: the logits gained, float32
    (n, classes), where it stands in the middle of a map that holds ``mean`` (channels,) everywhere. See `Evidence`."""
    return Evidence(network, layer, mean, side=side)(directions)


def _middle(count: int, side: int) -> slice:
    """The ``side`` positions in the middle of ``count``, or all of them."""
    side = min(side, count)
    first = (count - side) // 2
    return slice(first, first + side)

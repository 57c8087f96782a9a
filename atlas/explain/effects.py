"""What each position of a layer adds to a class: to first order, and by taking the position out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from atlas.arrays import Float32
from atlas.explain.groups import Groups
from atlas.networks.hooks import hooked
from atlas.networks.network import Network
from atlas.networks.tail import BATCH, Tail


@torch.inference_mode(False)
@torch.enable_grad()
def first_order_attributions(
    network: Network, layers: Sequence[str], inputs: Tensor, classes: Sequence[int]
) -> dict[str, Float32]:
    """The first-order attributions h · ∂logit/∂h of every position, the store's ``attribution`` for a whole map.

    ``inputs``: one normalised picture (1, 3, h, w). Returns for each of ``layers`` float32 (classes, H, W), the sums
    over the channels.
    """
    maps: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:

            def record(output: Tensor, layer: str = layer) -> Tensor:
                maps[layer] = output
                return output.clone()  # what comes later may write into it

            stack.enter_context(hooked(network.submodule(layer), record))
        logits = network.module(inputs.detach().requires_grad_(True))
    outputs = [maps[layer] for layer in layers]
    effects: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for number, index in enumerate(classes):
        last = number + 1 == len(classes)
        gradients = torch.autograd.grad(logits[0, index], outputs, retain_graph=not last, allow_unused=True)
        for layer, output, gradient in zip(layers, outputs, gradients):
            effect = torch.zeros_like(output[0, 0]) if gradient is None else (output * gradient)[0].sum(0)
            effects[layer].append(effect.detach().float().cpu())
    return {layer: torch.stack(rows).numpy() for layer, rows in effects.items()}


def without_each(tail: Tail, inputs: Tensor, maps: Tensor, logits: Tensor, classes: Sequence[int]) -> Iterator[Float32]:
    """How much lower each logit is when one position of a layer is set to zero: for a few positions after the other,
    row by row, float32 (classes, positions).

    ``inputs``: one normalised picture (1, 3, h, w), with the layer's ``maps`` (channels, H, W) and ``logits`` (classes
    of the network,).
    """
    height, width = maps.shape[1:]

    def ablated_maps() -> Iterator[Tensor]:
        for first in range(0, height * width, BATCH):
            positions = range(first, min(first + BATCH, height * width))
            batch = maps.expand(len(positions), -1, -1, -1).clone()
            for row, position in enumerate(positions):
                batch[row, :, position // width, position % width] = 0
            yield batch.contiguous(memory_format=torch.channels_last)

    for ablated_logits in tail(inputs, ablated_maps()):
        yield (logits[None, classes] - ablated_logits[:, classes]).T.numpy()


def without_groups(tail: Tail, inputs: Tensor, maps: Tensor, logits: Tensor, groups: Groups) -> Float32:
    """How much lower each logit is when one of ``groups`` is taken out of a layer's map: float32 (groups, classes). The
    rest as for `without_each`."""
    parts = groups.masks[:, None] * groups.directions[:, :, None, None]
    rest = maps[None] - torch.from_numpy(parts).to(maps.device)
    batches = [batch.contiguous(memory_format=torch.channels_last) for batch in rest.split(BATCH)]
    effects: Float32 = (logits[None] - torch.cat(list(tail(inputs, iter(batches))))).numpy()
    return effects

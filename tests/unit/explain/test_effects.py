"""Effects of positions and groups, against the plain network."""

import numpy as np
import pytest
import torch
from explained import photo

from atlas.explain.effects import first_order_attributions, without_each, without_groups
from atlas.explain.groups import factorise
from atlas.networks.hooks import hooked
from atlas.networks.network import Network, load
from atlas.networks.tail import Tail


@pytest.mark.parametrize("layer", ["residual", "depthwise.spread", "branches", "branches.wide"])
@pytest.mark.parametrize("factory", ["factory", "forking_factory"])
def test_effects_are_those_of_the_plain_network(factory: str, layer: str) -> None:
    network = load(f"small_network:{factory}", size=32, keep=(layer,), device="cpu")
    inputs = network.from_bytes(torch.from_numpy(photo(3, 32, 32)[None].copy()))
    differentiable = inputs.clone().requires_grad_(True)
    outputs: list[torch.Tensor] = []
    with hooked(network.submodule(layer), lambda output: (outputs.append(output), output.clone())[1]):
        logits = network.module(differentiable)
    maps = outputs[0]
    attributions = first_order_attributions(network, [layer], inputs, [4, 1])[layer]
    for row, number in enumerate((4, 1)):
        (gradient,) = torch.autograd.grad(logits[0, number], maps, retain_graph=True)
        np.testing.assert_allclose(attributions[row], (maps * gradient)[0].sum(0).detach(), rtol=1e-4, atol=1e-6)
    maps, logits = maps.detach(), logits.detach()
    tail = Tail(network, layer, inputs.shape)
    assert (tail._program is None) == (factory == "forking_factory")
    position_effects = np.concatenate(list(without_each(tail, inputs, maps[0], logits[0], [4, 1])), axis=1)
    height, width = maps.shape[2:]
    assert position_effects.shape == (2, height * width)
    assert np.abs(position_effects).max() > 0.01
    for position in (0, width + 2, height * width - 1):
        changed = maps.clone()
        changed[0, :, position // width, position % width] = 0
        with torch.no_grad(), hooked(network.submodule(layer), lambda _, changed=changed: changed):
            rest = network.module(inputs)
        np.testing.assert_allclose(position_effects[:, position], (logits - rest)[0, [4, 1]], rtol=1e-3, atol=1e-5)
    groups = factorise(maps[0].numpy(), 3)
    effects = without_groups(tail, inputs, maps[0], logits[0], groups)
    part = torch.from_numpy(groups.directions[2, :, None, None] * groups.masks[2])
    with torch.no_grad(), hooked(network.submodule(layer), lambda _: maps - part):
        np.testing.assert_allclose(effects[2], (logits - network.module(inputs))[0], rtol=1e-3, atol=1e-5)


def test_the_tail_costs_less_than_the_whole(efficientnet: Network) -> None:
    """What comes before the layer is run once: most steps of the list stand before a late layer."""
    tail = Tail(efficientnet, "_blocks.10", torch.Size((1, 3, 64, 64)))
    assert tail._program is not None
    assert len(tail._program._behind) < 0.45 * len(tail._program._nodes)

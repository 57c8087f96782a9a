"""What comes behind a layer: the logits for other maps there, by the list of operations and by the whole network."""

import pytest
import torch
from torch import Tensor

from atlas.errors import ConfigError
from atlas.networks.hooks import hooked
from atlas.networks.network import Network, load
from atlas.networks.tail import BATCH, Tail


def plain(network: Network, layer: str, inputs: Tensor, maps: Tensor) -> Tensor:
    """The logits of each map, one by one."""
    logits = []
    for one in maps:
        with torch.no_grad(), hooked(network.submodule(layer), lambda _, one=one: one[None].clone()):
            logits.append(network.module(inputs)[0])
    return torch.stack(logits)


@pytest.mark.parametrize("factory", ["factory", "forking_factory"])
@pytest.mark.parametrize("layer", ["stem", "depthwise.spread", "branches"])
def test_logits_are_those_of_the_network_with_the_map_in_place(factory: str, layer: str) -> None:
    network = load(f"small_network:{factory}", size=32, keep=(layer,), device="cpu")
    generator = torch.Generator().manual_seed(2)
    inputs = network.normalize(torch.rand(1, 3, 32, 32, generator=generator))
    with torch.no_grad():
        shape = network.activations(inputs, layer).shape[1:]
    maps = torch.randn(BATCH + 3, *shape, generator=generator)
    tail = Tail(network, layer, inputs.shape)
    assert (tail._program is None) == (factory == "forking_factory")
    before = maps.clone()
    parts = list(tail(inputs, iter([maps[:BATCH], maps[BATCH:]])))
    assert torch.equal(maps, before), "the network writes into what its layers give, not into the maps"
    assert [len(part) for part in parts] == [BATCH, 3], "what fills up the last batch is not returned"
    torch.testing.assert_close(torch.cat(parts), plain(network, layer, inputs, maps), rtol=1e-3, atol=1e-4)
    assert not any(module._forward_hooks for module in network.module.modules())


def test_before_the_layer_each_picture_has_its_own(small: Network) -> None:
    """A skip past the layer reads from before it: the same map behind two pictures gives two answers."""
    network = load("small_network:factory", size=32, keep=("residual.second",), device="cpu")
    first, second = (
        network.normalize(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(n))) for n in (1, 2)
    )
    maps = torch.zeros(1, 8, 16, 16)
    tail = Tail(network, "residual.second", first.shape)
    (one,), (other,) = (list(tail(inputs, iter([maps]))) for inputs in (first, second))
    assert not torch.allclose(one, other, atol=1e-3)
    torch.testing.assert_close(one, plain(network, "residual.second", first, maps), rtol=1e-3, atol=1e-4)


def test_a_layer_that_is_not_there_is_a_sentence(small: Network) -> None:
    with pytest.raises(ConfigError, match="has no layer 'stm'"):
        Tail(small, "stm", torch.Size((1, 3, 32, 32)))

"""A recorded list, run again: what depends on the picture, and what is kept of it."""

import torch
from torch import Tensor, nn

from atlas.networks.program.record import record
from atlas.networks.program.replay import constants_of, replay


class Scaled(nn.Module):
    """A convolution whose kernel is computed from a weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2, 3, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        maps = nn.functional.conv2d(inputs, 2 * self.weight.abs())
        return maps.relu() + maps


PROBE = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_what_weights_alone_give_is_constant() -> None:
    module = Scaled().requires_grad_(False)
    recorded = record(module, PROBE)
    assert recorded is not None
    constants = constants_of(recorded)
    kernels = [value for node, value in constants.items() if node.op == "call_function"]
    torch.testing.assert_close(kernels[-1], 2 * module.weight.abs())
    assert not any(node in constants for node in recorded.graph.find_nodes(op="placeholder"))


def test_each_output_is_that_of_its_operation() -> None:
    module = Scaled().requires_grad_(False)
    recorded = record(module, PROBE)
    assert recorded is not None
    constants = constants_of(recorded)
    inputs = torch.randn(1, 3, 4, 4)
    values = replay(recorded, inputs, constants)
    maps = nn.functional.conv2d(inputs, 2 * module.weight.abs())
    expected = [inputs, maps, maps.relu(), maps.relu() + maps]
    assert len(values) == len(expected), "constants are left out"
    for value_of_node, value in zip(values.values(), expected):
        torch.testing.assert_close(value_of_node, value)


def test_only_what_is_wanted_is_kept() -> None:
    recorded = record(Scaled().requires_grad_(False), PROBE)
    assert recorded is not None
    constants = constants_of(recorded)
    nodes = [node for node in recorded.graph.nodes if node.op == "call_function" and node not in constants]
    whole = replay(recorded, PROBE, constants)
    some = replay(recorded, PROBE, constants, {nodes[1]})
    assert set(some) == {nodes[1], nodes[-1]}, "the last has no further reader"
    torch.testing.assert_close(some[nodes[1]], whole[nodes[1]])


def test_no_gradient_is_kept_whatever_the_callers_mode() -> None:
    recorded = record(Scaled(), PROBE)
    assert recorded is not None
    constants = constants_of(recorded)
    with torch.inference_mode():
        values = replay(recorded, PROBE, constants)
    assert not any(
        value.requires_grad or value.is_inference() for node, value in values.items() if node.op != "placeholder"
    )

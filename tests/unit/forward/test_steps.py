"""A forward pass as numbered steps: their names, what they read, and the row of layers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from small_network import factory, forking_factory
from torch import Tensor, nn
from traced import view

from atlas.errors import ConfigError
from atlas.forward.steps import recording
from atlas.networks.network import Network, load


class OddModule(nn.Module):
    """A module that is called twice, a sum in no module, a copy, a dropout, and zeros in front of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        self.drop, self.last, self.head = nn.Dropout(0.5), nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.block(self.block(inputs))
        maps = (maps + inputs).clone()
        maps = self.last(functional.pad(self.drop(maps), (1, 1, 1, 1)))
        return self.head(maps.mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> Network:
    return load(OddModule(), size=8, device="cpu")


def test_steps_are_named_after_their_modules(network: Network) -> None:
    steps = recording(network).steps
    assert [(step.name, step.operation) for step in steps] == [
        ("picture", "input"),
        ("block.0, call 1", "convolution 3×3"),
        ("block.1, call 1", "ReLU"),
        ("block.0, call 2", "convolution 3×3"),
        ("block.1, call 2", "ReLU"),
        ("add", "add"),
        ("last", "convolution 3×3"),
        ("mean over height and width", "mean over height and width"),
        ("head", "linear, 4 → 2"),
    ]
    assert [step.reads for step in steps] == [(), (0,), (1,), (2,), (3,), (4, 0), (5,), (6,), (7,)]
    assert steps[6].geometry["padding"] == [[1, 1], [1, 1]], "zeros in front are the convolution's own padding"
    assert [step.shape for step in steps[5:]] == [(3, 8, 8), (4, 8, 8), (4,), (2,)]
    assert recording(network).logits == 8


def test_a_run_gives_the_output_of_each_step(network: Network) -> None:
    inputs = view(network)
    outputs = recording(network).run(inputs)
    module: Any = network.module
    with torch.no_grad():
        block = module.block(module.block(inputs))
        torch.testing.assert_close(outputs[4], block, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs[5], block + inputs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs[8], network.module(inputs), rtol=1e-4, atol=1e-5)
    assert torch.equal(outputs[0], inputs)


def test_the_row_has_the_layers_asked_for_and_those_that_make_sense(small: Network) -> None:
    whole = recording(small, ["stem.conv", "branches.wide"])
    names = [name for name, _ in whole.layers]
    assert names[0] == "picture"
    assert {"stem.conv", "branches.wide", "residual", "branches"} <= set(names)
    numbers = [number for _, number in whole.layers]
    assert numbers == sorted(set(numbers))
    for name, number in whole.layers[1:]:
        with torch.no_grad():
            expected = small.activations(view(small), name)
        torch.testing.assert_close(whole.run(view(small))[number], expected, rtol=1e-4, atol=1e-5)
    for step in whole.steps:
        assert step.layer == sum(number < step.number for number in numbers)


def test_a_convolution_names_the_norm_that_is_folded_into_it(small: Network) -> None:
    folded = {step.name: step.folded for step in recording(small).steps if step.folded}
    assert folded == dict(small.folded)


def test_a_recording_is_cached_by_network_and_layers() -> None:
    network = load(factory(), size=32, device="cpu")
    assert recording(network) is recording(network)
    assert recording(network, ["stem"]) is not recording(network)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.module.modules())


def test_what_cannot_be_recorded_is_a_sentence_each_time() -> None:
    network = load(forking_factory(), size=32, device="cpu")
    for _ in range(2):
        with pytest.raises(
            ConfigError, match="cannot be shown step by step: its path depends on the picture or on cha"
        ):
            recording(network)
    with pytest.raises(ConfigError, match=r"has no layer 'stm'\. Near names: stem"):
        recording(network, ["stm"])


def test_parts_of_an_operation_with_several_outputs() -> None:
    class Split(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            first, second = inputs.split([1, 2], 1)
            return torch.cat([first * 2, second.amax(1, keepdim=True)], 1).mean((2, 3))

    network = load(Split(), size=8, device="cpu")
    steps = [step for step in recording(network).steps if step.operation == "slice"]
    assert [(step.part, step.shape) for step in steps] == [(0, (1, 8, 8)), (1, (2, 8, 8))]
    assert steps[0].node is steps[1].node

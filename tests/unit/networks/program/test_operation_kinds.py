"""Kinds of operations: what each is called, its geometry, and where a moved number comes from."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, fx, nn

from atlas.networks.program import operation_kinds as kinds
from atlas.networks.program.record import record
from atlas.networks.program.replay import constants_of, replay

INPUTS = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(0))


class Recorded:
    """A function of a map as its operations."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        recorded = record(function, INPUTS)
        assert recorded is not None
        self.constants = constants_of(recorded)
        self.values = replay(recorded, INPUTS, self.constants)
        self.output: fx.Node = recorded.graph.find_nodes(op="output")[0].args[0]  # type: ignore[assignment]
        self.nodes = [node for node in recorded.graph.nodes if node.op == "call_function" and node in self.values]

    def describe(self, node: fx.Node) -> kinds.Description:
        core, part = self.core(node)
        return kinds.describe_operation(core, part, self.values[node], self.values, self.constants)

    @staticmethod
    def core(node: fx.Node) -> tuple[fx.Node, int | None]:
        arguments: Any = node.args
        return arguments if "getitem" in str(node.target) else (node, None)


def describe_output(function: Callable[[Tensor], Tensor]) -> kinds.Description:
    """What the operation is that gives the output."""
    recorded = Recorded(function)
    return recorded.describe(recorded.output)


CONVOLUTION = nn.Conv2d(6, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 3), groups=2)
ONES = torch.ones(1, 6, 8, 8)


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (nn.Conv2d(6, 4, 1), "convolution", "convolution 1×1"),
        (nn.Conv2d(6, 6, 3, 2, groups=6), "convolution", "depthwise convolution 3×3, stride 2"),
        (CONVOLUTION, "convolution", "convolution 3×2, stride 2×1, dilation 2×3, 2 groups"),
        (lambda x: nn.Linear(384, 1000)(x.flatten(1)), "linear", "linear, 384 → 1,000"),
        (lambda x: nn.Linear(384, 5, bias=False)(x.flatten(1)), "linear", "linear, 384 → 5"),
        (lambda x: x + x.abs(), "add", "add"),
        (lambda x: 1 - x, "add", "subtract"),
        (lambda x: x.sum((2, 3)), "add", "sum"),
        (lambda x: x * x.abs(), "multiply", "multiply"),
        (lambda x: x / 3, "multiply", "divide"),
        (lambda x: x / x.abs(), "other", "div"),
        (lambda x: torch.cat([x, x.abs()], 1), "concatenate", "concatenate"),
        (nn.SiLU(), "activation", "SiLU"),
        (nn.PReLU(6), "activation", "PReLU"),
        (lambda x: functional.max_pool2d(x, 3, 2), "max_pool", "max pooling 3×3, stride 2"),
        (lambda x: functional.avg_pool2d(x, (2, 3), 1), "average_pool", "average pooling 2×3"),
        (lambda x: functional.adaptive_avg_pool2d(x, (3, 5)), "average_pool", "average pooling to 3×5"),
        (lambda x: x.mean((2, 3)), "average_pool", "mean over height and width"),
        (lambda x: x.mean(1), "average_pool", "mean"),
        (lambda x: x.amax((2, 3)), "max_pool", "largest over height and width"),
        (nn.BatchNorm2d(6).eval(), "batch_norm", "batch norm"),
        (lambda x: x.permute(0, 2, 3, 1), "reshape", "transpose"),
        (lambda x: functional.pad(x, (1, 1, 1, 1)), "reshape", "padding"),
        (lambda x: x.flip(3), "reshape", "flip"),
        (lambda x: x.softmax(1), "other", "softmax"),
        (nn.GroupNorm(2, 6), "other", "group norm"),
        (lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"), "other", "bilinear enlargement"),
    ],
)  # fmt: skip
def test_an_operation_has_a_kind_and_words(function: Callable[[Tensor], Tensor], kind: str, words: str) -> None:
    assert describe_output(function)[:2] == (kind, words)


def test_a_convolution_has_its_geometry_and_that_of_a_padding_in_front() -> None:
    recorded = Recorded(lambda x: nn.Conv2d(6, 6, 3, 2, 1)(functional.pad(x, (0, 1, 2, 3))))
    padding, convolution = recorded.nodes
    assert kinds.is_padding_of_convolutions(padding, recorded.constants)
    assert recorded.describe(convolution)[2] == {
        "kernel": [3, 3], "stride": [2, 2], "padding": [[3, 4], [1, 2]], "dilation": [1, 1], "groups": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    "function",
    [
        lambda x: nn.Conv2d(6, 6, 3)(functional.pad(x, (1, 1, 1, 1), value=0.5)),  # not of zeros
        lambda x: nn.Conv2d(6, 6, 3)(functional.pad(x, (-1, 1, 0, 0))),  # takes away
        lambda x: (y := functional.pad(x, (1, 1, 1, 1)), nn.Conv2d(6, 6, 3)(y).sum() + y)[1],  # is read by more
    ],
)
def test_other_paddings_stay_steps_of_their_own(function: Callable[[Tensor], Tensor]) -> None:
    recorded = Recorded(function)
    assert not kinds.is_padding_of_convolutions(recorded.nodes[0], recorded.constants)


def test_shapes_are_without_the_batch() -> None:
    shapes = {
        (1, 6, 8, 8): (6, 8, 8),
        (1, 2, 3, 8, 8): (6, 8, 8),
        (1, 10): (10,),
        (4, 5): (1, 4, 5),
        (): (1,),
        (7,): (7,),
    }
    assert {shape: kinds.map_shape(torch.Size(shape)) for shape in shapes} == shapes


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.flip(2), lambda x: x.reshape(1, 2, 3, 8, 8).transpose(1, 2), lambda x: x[:, [5, 0, 0]],
        lambda x: x[:, 1:4, 2::3, 1::2], lambda x: x.roll(3, 1), lambda x: functional.pixel_shuffle(x[:, :4], 2),
        lambda x: functional.interpolate(x, scale_factor=2), lambda x: x.expand(3, 6, 8, 8),
        lambda x: functional.pad(x, (1, 2, 0, 1), mode="reflect"), lambda x: x.permute(0, 2, 3, 1).contiguous(),
    ],
)  # fmt: skip
def test_a_moved_number_is_that_at_its_source(move: Callable[[Tensor], Tensor]) -> None:
    recorded = Recorded(move)
    for node in recorded.nodes:
        source = recorded.values[node.args[0]]
        indices = kinds.source_indices(node, None, source, recorded.constants)
        assert indices.shape == recorded.values[node].shape
        assert torch.equal(source.reshape(-1)[indices.long()], recorded.values[node])


def test_padding_comes_from_nowhere() -> None:
    recorded = Recorded(lambda x: functional.pad(x, (1, 0, 0, 0), value=7.0))
    (node,) = recorded.nodes
    indices = kinds.source_indices(node, None, INPUTS, recorded.constants)
    assert (indices[..., 0] == -1).all()
    assert torch.equal(indices[..., 1:], kinds.index_tensor(INPUTS))


def test_parts_of_a_split_have_their_own_sources() -> None:
    recorded = Recorded(lambda x: x.split(2, 1)[2])
    core, part = recorded.core(recorded.nodes[-1])
    indices = kinds.source_indices(core, part, INPUTS, recorded.constants)
    assert torch.equal(indices, kinds.index_tensor(INPUTS)[:, 4:])


@pytest.mark.parametrize(
    ("move", "same"),
    [
        (lambda x: x.clone(), True),
        (lambda x: x.roll(6, 1), True),  # all the way around
        (lambda x: x.roll(1, 1), False),
        (lambda x: x.reshape(1, 6, 64), False),  # another shape
        (lambda x: x.double(), False),  # another type
    ],
)
def test_what_leaves_every_number_in_its_place_is_an_identity(move: Callable[[Tensor], Tensor], same: bool) -> None:
    recorded = Recorded(move)
    node = recorded.nodes[-1]
    assert kinds.is_identity(node, None, recorded.values, recorded.constants) is same


def test_arguments_of_poolings_and_reductions() -> None:
    assert [kinds.pair(value) for value in (3, [2], [2, 5], [])] == [[3, 3], [2, 2], [2, 5], [1, 1]]
    assert kinds.pair([], [4, 4]) == kinds.pair(None, [4, 4]) == [4, 4]
    dimensions = {}
    for name, function in {
        "two": lambda x: x.mean((-1, 2)),
        "all": lambda x: x.mean(),
        "one": lambda x: x.mean(1),
    }.items():
        dimensions[name] = kinds.reduced_dimensions(Recorded(function).nodes[0], 4)
    assert dimensions == {"two": [2, 3], "all": [0, 1, 2, 3], "one": [1]}
    assert kinds.is_height_and_width([2, 3], 4)
    assert not kinds.is_height_and_width([0, 1], 2)


def test_a_norm_in_training_uses_the_batch() -> None:
    norms = {training: Recorded(nn.BatchNorm2d(6).train(training)) for training in (True, False)}
    for training, recorded in norms.items():
        (core,) = {
            Recorded.core(node)[0] for node in recorded.nodes if "batch_norm" in str(Recorded.core(node)[0].target)
        }
        assert kinds.is_training(core) is training

"""A network as a list of operations, and the list rewritten so that it runs fast."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, fx, nn

from atlas.networks.program import record as recording
from atlas.networks.program.fused import Clip, FusedConvolution
from atlas.networks.program.record import record, rewrite

PROBE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def recorded_of(function: Callable[[Tensor], object]) -> fx.GraphModule:
    program = record(function, PROBE)
    assert program is not None
    return program


def parts_of(program: fx.GraphModule) -> list[str]:
    """What the list calls, the modules by their class."""
    calls = [node for node in program.graph.nodes if node.op.startswith("call")]
    return [
        type(program.get_submodule(node.target)).__name__ if node.op == "call_module" else str(node.target)
        for node in calls
    ]


def test_the_list_computes_what_the_function_does() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()).eval()
    program = recorded_of(module)
    other = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(program(other), module(other))
    assert len(program.graph.find_nodes(op="placeholder")) == 1


def test_writing_in_place_becomes_an_operation() -> None:
    def in_place(inputs: Tensor) -> Tensor:
        out = inputs.clone()
        out += 1
        return functional.relu(out, inplace=True)

    program = recorded_of(in_place)
    assert not [node for node in program.graph.nodes if str(node.target).rpartition(".")[0].endswith("_")]
    torch.testing.assert_close(program(PROBE), in_place(PROBE))


def test_what_depends_on_the_values_cannot_be_recorded() -> None:
    assert record(lambda inputs: inputs if float(inputs.sum()) > 0 else -inputs, PROBE) is None

    def failing(inputs: Tensor) -> Tensor:
        raise RuntimeError("whatever a user's forward raises")

    assert record(failing, PROBE) is None


class Everything(nn.Module):
    """A convolution with a clip behind it, one read by two, and a clip behind a sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = functional.relu6(self.one(inputs))
        branch = self.two(maps)
        return functional.relu(branch + maps) * branch


def test_clips_are_done_by_the_convolution_that_only_they_read() -> None:
    module = Everything().eval().requires_grad_(False)
    program = rewrite(recorded_of(module), torch.float32, fuse=True)
    assert parts_of(program) == ["FusedConvolution", "FusedConvolution", "aten.add.Tensor", "Clip", "aten.mul.Tensor"]
    first, second = (part for part in program.modules() if isinstance(part, FusedConvolution))
    assert (first.bounds, second.bounds) == ((0.0, 6.0), None)
    torch.testing.assert_close(program(PROBE, 0.0), module(PROBE), rtol=1e-4, atol=1e-5)
    unfused = rewrite(recorded_of(module), torch.float32, fuse=False)
    assert parts_of(unfused).count("FusedConvolution") == 0
    assert parts_of(unfused).count("Clip") == 2
    torch.testing.assert_close(unfused(PROBE, 0.0), module(PROBE), rtol=1e-4, atol=1e-5)


def test_a_clip_is_left_alone_where_others_read_the_convolution_too() -> None:
    """They would read what is clipped."""
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 4, 3).requires_grad_(False)

    def function(inputs: Tensor) -> Tensor:
        maps = convolution(inputs)
        return functional.relu(maps) * maps

    program = rewrite(recorded_of(function), torch.float32, fuse=True)
    assert parts_of(program) == ["FusedConvolution", "Clip", "aten.mul.Tensor"]
    torch.testing.assert_close(program(PROBE, 0.0), function(PROBE), rtol=1e-4, atol=1e-5)


def test_the_leak_reaches_every_clip() -> None:
    module = Everything().eval().requires_grad_(False)
    gradients = {}
    for fuse in (True, False):
        program = rewrite(recorded_of(module), torch.float32, fuse=fuse)
        for leak in (0.0, 0.5):
            inputs = PROBE.clone().requires_grad_(True)
            (gradients[fuse, leak],) = torch.autograd.grad(program(inputs, leak).sum(), inputs)
    torch.testing.assert_close(gradients[True, 0.5], gradients[False, 0.5], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(gradients[True, 0.0], gradients[True, 0.5], atol=1e-2)


@pytest.mark.parametrize(
    ("zeros", "groups", "merged"),
    [
        ((1, 1, 1, 1), 1, True),
        ((0, 1, 0, 1), 1, True),  # one row and column more behind: the kernel grows
        ((0, 1, 0, 1), 3, True),
        ((1, 1, 2, 2), 3, True),
        ((0, 2, 0, 2), 1, False),
        ((1, 0, 1, 0), 1, False),
    ],
)
def test_zeros_in_front_become_padding_where_they_can(zeros: tuple[int, ...], groups: int, merged: bool) -> None:
    module = nn.Sequential(nn.ZeroPad2d(zeros), nn.Conv2d(3, 3, 3, 2, groups=groups)).eval().requires_grad_(False)
    program = rewrite(recorded_of(module), torch.float32, fuse=True)
    assert ("aten.constant_pad_nd.default" not in parts_of(program)) is merged
    torch.testing.assert_close(program(PROBE, 0.0), module(PROBE), rtol=1e-4, atol=1e-5)


def test_padding_with_another_value_stays() -> None:
    module = nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Conv2d(3, 3, 3)).eval().requires_grad_(False)
    program = rewrite(recorded_of(module), torch.float32, fuse=True)
    assert "aten.constant_pad_nd.default" in parts_of(program)
    torch.testing.assert_close(program(PROBE, 0.0), module(PROBE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("convolves", [True, False])
def test_constants_are_of_the_type_that_is_computed_in(monkeypatch: pytest.MonkeyPatch, convolves: bool) -> None:
    monkeypatch.setattr(recording, "convolves_in", lambda dtype: convolves)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval().requires_grad_(False)
    (part,) = (
        part
        for part in rewrite(recorded_of(module), torch.bfloat16, fuse=True).modules()
        if isinstance(part, FusedConvolution)
    )
    assert part.weight.dtype == (torch.bfloat16 if convolves else torch.float32)
    torch.testing.assert_close(part.weight.float(), module[0].weight.bfloat16().float(), rtol=0, atol=0)
    assert issubclass(Clip, nn.Module)

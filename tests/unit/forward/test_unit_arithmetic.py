"""Each kind of step by hand: where a number of the network comes from."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from small_network import Mixed, odd_factory
from torch import Tensor, nn
from traced import check, network_of, some_units, trace_of, view

from atlas.forward.trace import Trace, trace
from atlas.forward.unit_arithmetic import unit_arithmetic
from atlas.networks.network import load


class Wrapped(nn.Module):
    """Any operation on maps, and a mean behind it."""

    def __init__(self, operation: Callable[[Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.operation = operation
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.operation(pictures).flatten(2).mean(2)


def wrapped(operation: Callable[[Tensor], Tensor], size: int = 12, **modules: nn.Module) -> Trace:
    network = load(Wrapped(operation, **modules), size=size, mean=[0.5] * 3, std=[0.5] * 3, device="cpu")
    return trace(network, view(network))


def every_unit(followed: Trace, step: int, terms: int = 12) -> Iterator[dict[str, Any]]:
    channels, height, width = followed.recording.steps[step].shape
    for channel in range(channels):
        for y in range(height):
            for x in range(width):
                answer = unit_arithmetic(followed, step, channel, y, x, terms)
                check(answer)
                yield answer


def test_a_grouped_dilated_strided_padded_convolution_by_hand() -> None:
    torch.manual_seed(2)
    convolution = nn.Conv2d(6, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 3), groups=2)
    widen = nn.Conv2d(3, 6, 1, bias=False)
    followed = wrapped(lambda maps: convolution(widen(maps)), widen=widen, convolution=convolution)
    first, step = followed.recording.steps[1:3]
    assert (first.operation, step.operation) == (
        "convolution 1×1", "convolution 3×2, stride 2×1, dilation 2×3, 2 groups"
    )  # fmt: skip
    assert step.geometry == {
        "kernel": [3, 2], "stride": [2, 1], "padding": [[2, 2], [1, 1]], "dilation": [2, 3], "groups": 2
    }  # fmt: skip
    source, weights = followed.maps(1).double().numpy(), convolution.weight.detach().double().numpy()
    for answer in every_unit(followed, 2):
        total = float(convolution.bias[answer["channel"]])
        by_channel = {term["channel"]: term for term in answer["terms"]}
        assert sorted(by_channel) == ([0, 1, 2] if answer["channel"] < 2 else [3, 4, 5])
        for place, (channel, term) in enumerate(sorted(by_channel.items())):
            for row in range(3):
                for column in range(2):
                    y, x = 2 * answer["y"] - 2 + 2 * row, answer["x"] - 1 + 3 * column
                    inside = 0 <= y < 12 and 0 <= x < 12
                    number, weight = (
                        source[channel, y, x] if inside else 0.0,
                        weights[answer["channel"], place, row, column],
                    )
                    assert term["patch"][row][column] == pytest.approx(number, rel=1e-6)
                    assert term["kernel"][row][column] == pytest.approx(weight, rel=1e-6)
                    total += number * weight
            assert (term["y"], term["x"]) == (2 * answer["y"] - 2, answer["x"] - 1)
        assert answer["total"] == pytest.approx(total, rel=1e-6, abs=1e-7)
    assert unit_arithmetic(followed, 1, 0, 0, 0)["bias"] is None


def test_the_largest_terms_come_first_and_the_rest_is_one_sum() -> None:
    followed = trace_of("efficientnet_lite0")
    wide = next(step for step in followed.recording.steps if step.name == "_conv_head")
    whole, few = (unit_arithmetic(followed, wide.number, 7, 3, 3, terms) for terms in (64, 2))
    assert (len(few["terms"]), few["other_terms"]["count"], whole["other_terms"]["count"]) == (2, 318, 256)
    assert few["terms"] == whole["terms"][:2]
    source, weights = followed.maps(wide.number - 1)[:, 3, 3], network_of("efficientnet_lite0").module._conv_head.weight
    products = (source * weights[7, :, 0, 0]).double()
    order = products.abs().argsort(descending=True)
    assert [term["channel"] for term in few["terms"]] == order[:2].tolist()
    assert few["other_terms"]["sum"] == pytest.approx(float(products[order[2:]].sum()), rel=1e-4)
    check(few)


def test_a_max_pooling_in_ceil_mode_reaches_over_the_edge() -> None:
    followed = wrapped(lambda maps: functional.max_pool2d(maps, 3, 2, 1, ceil_mode=True))
    step = followed.recording.steps[1]
    assert (step.operation, step.shape) == ("max pooling 3×3, stride 2", (3, 7, 7))
    picture = followed.maps(0)
    answers = {(a["channel"], a["y"], a["x"]): a for a in every_unit(followed, 1)}
    corner = answers[1, 0, 0]["terms"][0]
    assert (corner["y"], corner["x"], corner["kernel"]) == (-1, -1, None)
    assert corner["patch"][0] == [None] * 3
    assert [row[0] for row in corner["patch"]] == [None] * 3
    last = answers[1, 6, 6]["terms"][0]
    assert last["largest"] == [0, 0]
    assert answers[1, 6, 6]["total"] == pytest.approx(float(picture[1, 11, 11]))
    for (channel, y, x), answer in answers.items():
        (term,) = answer["terms"]
        row, column = term["largest"]
        assert answer["value"] == pytest.approx(float(picture[channel, 2 * y - 1 + row, 2 * x - 1 + column]), rel=1e-6)


@pytest.mark.parametrize(
    "operation",
    [
        lambda maps: functional.max_pool2d(maps, (3, 2), 2, (1, 0), dilation=(1, 2)),
        lambda maps: functional.avg_pool2d(maps, 3, 2, 1, ceil_mode=True),
        lambda maps: functional.avg_pool2d(maps, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        lambda maps: functional.avg_pool2d(maps, (2, 3), divisor_override=4),
        lambda maps: functional.adaptive_avg_pool2d(maps, (5, 7)),
        lambda maps: functional.adaptive_max_pool2d(maps, (5, 7)),
        lambda maps: maps.mean((2, 3), keepdim=True),
        lambda maps: maps.mean(1, keepdim=True),
        lambda maps: maps.amax((2, 3), keepdim=True),
        lambda maps: maps.sum(3, keepdim=True),
        lambda maps: functional.adaptive_avg_pool2d(maps, 1),
    ],
)
def test_every_pooling(operation: Callable[[Tensor], Tensor]) -> None:
    followed = wrapped(operation)
    assert followed.recording.steps[1].kind in ("max_pool", "average_pool", "add")
    assert len(list(every_unit(followed, 1))) == followed.maps(1).numel()


def test_the_mean_of_a_large_map_shows_a_part_of_it_and_sums_all() -> None:
    followed = wrapped(lambda maps: maps.mean((2, 3), keepdim=True), size=60)
    answer = unit_arithmetic(followed, 1, 2, 0, 0)
    (term,) = answer["terms"]
    assert np.shape(term["patch"]) == np.shape(term["kernel"]) == (49, 49)
    assert term["kernel"][0][0] == pytest.approx(1 / 3600)
    assert answer["total"] == pytest.approx(float(followed.maps(0)[2].double().mean()), rel=1e-6)


@pytest.mark.parametrize(
    "operation",
    [
        nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.3, 0.4), nn.SiLU(), nn.Sigmoid(), nn.Hardswish(), nn.Hardsigmoid(),
        nn.GELU(), nn.GELU(approximate="tanh"), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SELU(), nn.CELU(0.8), nn.Softplus(),
        nn.Softplus(3, 1), nn.Mish(), nn.Tanh(), nn.PReLU(3, 0.3), lambda maps: maps.clamp(min=-0.2),
        lambda maps: maps.clamp(-0.2, 0.1), lambda maps: maps**2, torch.abs, torch.neg, torch.exp,
        lambda maps: maps.clamp(max=0.3),
    ],
)  # fmt: skip
def test_every_non_linearity(operation: Callable[[Tensor], Tensor]) -> None:
    modules = {"module": operation} if isinstance(operation, nn.Module) else {}
    followed = wrapped(operation, size=6, **modules)
    assert followed.recording.steps[1].kind == "activation"
    assert float(followed.maps(0).min()) < -0.5
    assert float(followed.maps(0).max()) > 0.5
    for answer in every_unit(followed, 1):
        assert answer["formula"]["input"] == answer["terms"][0]["sum"] == answer["inner"]["value"]
        assert "x" in answer["formula"]["text"]


def test_sums_products_and_constants() -> None:
    weights = nn.ParameterDict({"shift": nn.Parameter(torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))})

    def operation(maps: Tensor) -> Tensor:
        tall, wide = maps.mean(3, keepdim=True), maps.mean(2, keepdim=True)
        difference = torch.sub(tall, wide, alpha=2)  # each is broadcast
        moved = (1 - difference) * 0.25 / 3 + weights["shift"]
        return moved * tall

    followed = wrapped(operation, size=6, weights=weights)
    words = [step.operation for step in followed.recording.steps[3:8]]
    assert words == ["subtract", "subtract", "multiply", "divide", "add"]
    for step in followed.recording.steps[1:9]:
        assert len(list(every_unit(followed, step.number))) == followed.maps(step.number).numel()
    difference = unit_arithmetic(followed, 3, 2, 4, 5)
    assert {(term["step"], term["channel"], term["y"], term["x"]) for term in difference["terms"]} == {
        (1, 2, 4, 0), (2, 2, 0, 5)
    }  # fmt: skip
    assert unit_arithmetic(followed, 4, 2, 4, 5)["bias"] == 1
    factor = unit_arithmetic(followed, 6, 2, 4, 5)["terms"][1]
    assert (factor["step"], factor["sum"]) == (None, pytest.approx(1 / 3))
    assert unit_arithmetic(followed, 7, 2, 4, 5)["bias"] == pytest.approx(0.3)
    assert [term["step"] for term in unit_arithmetic(followed, 8, 2, 4, 5, terms=1)["terms"]] == [7, 1]


def test_moves_say_where_a_number_comes_from() -> None:
    convolution = nn.Conv2d(3, 6, 1)

    def operation(maps: Tensor) -> Tensor:
        wide = convolution(maps)
        n, channels, height, width = wide.shape
        shuffled = wide.view(n, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(wide.shape)
        left, right = shuffled.chunk(2, dim=1)
        both = torch.cat([right, functional.pad(left, (1, -1, 0, 0), value=0.5)], dim=1)
        return both.flip(3)[:, [5, 0, 1]].permute(0, 1, 3, 2)

    followed = wrapped(operation, size=6, convolution=convolution)
    wide, final = followed.maps(1), followed.recording.steps[-3]
    assert (final.operation, final.shape) == ("transpose", (3, 6, 6))
    for answer in every_unit(followed, final.number):
        while answer["inner"]:
            answer = answer["inner"]
            if answer["kind"] == "concatenate":
                (term,) = answer["terms"]
                answer = unit_arithmetic(followed, term["step"], term["channel"], term["y"], term["x"])
                check(answer)
        if answer["kind"] == "convolution":
            assert answer["step"] == 1
            assert answer["value"] == pytest.approx(float(wide[answer["channel"], answer["y"], answer["x"]]), rel=1e-6)
        else:
            assert (answer["formula"]["name"], answer["value"], answer["terms"]) == ("padding", 0.5, [])
    shuffle = [step for step in followed.recording.steps if step.operation == "reshape" and len(step.shape) == 3][1]
    come_from = []
    for channel in range(6):
        answer = unit_arithmetic(followed, shuffle.number, channel, 2, 3)
        while answer["step"] != 1:
            answer = answer["inner"]
        assert (answer["y"], answer["x"]) == (2, 3)
        come_from.append(answer["channel"])
    assert come_from == [0, 3, 1, 4, 2, 5]


def test_concatenated_channels_come_from_the_branch_that_they_are_in() -> None:
    followed = trace_of("googlenet")
    step = next(step for step in followed.recording.steps if step.name == "inception3a")
    assert [followed.recording.steps[read].shape[0] for read in step.reads] == [64, 128, 32, 32]
    for channel, read, inside in ((0, 0, 0), (63, 0, 63), (64, 1, 0), (191, 1, 127), (192, 2, 0), (255, 3, 31)):
        (term,) = unit_arithmetic(followed, step.number, channel, 5, 6)["terms"]
        assert (term["step"], term["channel"], term["y"], term["x"]) == (step.reads[read], inside, 5, 6)


def test_a_gate_is_the_product_of_a_map_and_one_number_a_channel() -> None:
    followed = trace_of("timm/test_efficientnet")
    gate = next(step for step in followed.recording.steps if step.kind == "multiply")
    answer = unit_arithmetic(followed, gate.number, 3, 2, 1)
    by_size = sorted(answer["terms"], key=lambda term: followed.maps(term["step"]).numel())
    gate_term, map_term = by_size
    assert (gate_term["channel"], gate_term["y"], gate_term["x"]) == (3, 0, 0)
    assert (map_term["channel"], map_term["y"], map_term["x"]) == (3, 2, 1)
    assert 0 < gate_term["sum"] < 1
    assert followed.recording.steps[gate_term["step"]].operation == "sigmoid"
    assert answer["formula"]["name"] == "product"


def test_a_norm_that_could_not_be_folded_is_a_step_of_its_own() -> None:
    module = odd_factory()
    module.bn3.running_mean.uniform_(-1, 1)
    network = load(module, size=12, device="cpu")
    followed = trace(network, view(network))
    steps = {step.name: step for step in followed.recording.steps}
    assert (steps["bn3"].kind, steps["conv3"].folded, steps["conv1"].folded) == ("batch_norm", None, "bn1")
    norm = network.module.bn3
    for answer in every_unit(followed, steps["bn3"].number):
        channel = answer["channel"]
        scale = float(norm.weight[channel] / (norm.running_var[channel] + norm.eps).sqrt())
        assert answer["terms"][0]["kernel"][0][0] == pytest.approx(scale, rel=1e-5)
        assert answer["bias"] == pytest.approx(float(norm.bias[channel] - norm.running_mean[channel] * scale), abs=1e-6)
        assert answer["inner"]["kind"] == "convolution"


def test_what_is_not_understood_says_so() -> None:
    torch.manual_seed(5)
    network = load(Mixed(), size=32, device="cpu")
    followed = trace(network, view(network))
    others = {step.operation: step for step in followed.recording.steps if step.kind == "other"}
    assert set(others) == {"group norm", "matrix product", "softmax"}
    for step in followed.recording.steps:
        for channel, y, x in some_units(step, 12):
            check(unit_arithmetic(followed, step.number, channel, y, x))
    product = unit_arithmetic(followed, others["matrix product"].number, 0, 1, 1)
    assert product["formula"] == {"name": "matrix product", "text": None, "input": None}
    assert (product["terms"], product["total"]) == ([], product["value"])
    step = others["softmax"]
    answer = unit_arithmetic(followed, step.number, 0, 2, 3)
    line = followed.maps(step.reads[0])[0, 2].double()
    assert answer["total"] == pytest.approx(float(line.softmax(0)[3]), rel=1e-6)

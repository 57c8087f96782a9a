"""The forward pass step by step: the shown arithmetic comes to the network's own numbers, for every kind of step."""

import base64
import gc
import json
import random
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from small_network import Mixed, factory, forking_factory, odd_factory
from torch import Tensor, nn

from atlas.errors import ConfigError
from atlas.explain.arithmetic import unit
from atlas.explain.recording import Step, recording
from atlas.explain.trace import Trace, describe, maps, trace
from atlas.networks import Network, load


def view(network: Network, seed: int = 5) -> Tensor:
    """A smooth picture with some noise, normalised."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 7, 7, generator=generator)
    smooth = functional.interpolate(coarse, (network.size, network.size), mode="bicubic").clamp(0, 1)
    noise = torch.rand(smooth.shape, generator=generator)
    return network.normalize(0.8 * smooth + 0.2 * noise)


def stirred(module: nn.Module) -> nn.Module:
    """Norms that are not the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                for values, low, high in ((child.weight, 0.6, 1.4), (child.running_var, 0.6, 1.4)):
                    values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
                for values in (child.bias, child.running_mean):
                    values.copy_(torch.randn(values.shape, generator=generator) * 0.3)
    return module


@cache
def network_of(name: str) -> Network:
    """A network with random weights, made once."""
    import timm
    from torchvision import models

    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        return load(name, device="cpu")
    if name == "googlenet":
        # As with torchvision's own weights, the input is scaled once more inside.
        return load(stirred(models.googlenet(aux_logits=False, init_weights=False, transform_input=True)), device="cpu")
    if name.startswith("timm/"):
        return load(stirred(timm.create_model(name.removeprefix("timm/"))), size=96, device="cpu")
    return load(stirred(models.get_model(name)), size=224 if name == "resnet18" else 96, device="cpu")


@cache
def trace_of(name: str) -> Trace:
    return trace(network_of(name), view(network_of(name)))


def some_units(step: Step, count: int, seed: int = 0) -> Iterator[tuple[int, int, int]]:
    generator = random.Random(f"{seed} {step.number}")
    _, height, width = step.shape if len(step.shape) == 3 else (1, 1, 1)
    for _ in range(count):
        yield generator.randrange(step.shape[0]), generator.randrange(height), generator.randrange(width)


def size_of(answer: dict[str, Any]) -> float:
    """Against what a difference is judged: the number, or a hundredth of what it is the sum of."""
    parts = [abs(term["sum"]) for term in answer["terms"]]
    if answer["rest"]:
        parts.append(abs(answer["rest"]["sum"]))
    return max(abs(answer["value"]), 0.01 * sum(parts), 1e-9)


def check(answer: dict[str, Any]) -> None:
    """The total is the network's number, and the terms are whole: what is shown comes to the total."""
    assert abs(answer["total"] - answer["value"]) <= 1e-4 * size_of(answer), answer
    sums = [term["sum"] for term in answer["terms"]]
    whole = sum(sums) + (answer["rest"] or {"sum": 0})["sum"] + (answer["bias"] or 0)
    if answer["kind"] == "multiply":
        assert np.isclose(np.prod(sums), answer["total"], rtol=1e-6, atol=1e-12)
    elif answer["kind"] not in ("activation", "other", "input"):
        assert abs(whole - answer["total"]) <= 1e-6 * max(size_of(answer), sum(map(abs, sums))), answer
    assert sums == sorted(sums, key=abs, reverse=True) or answer["kind"] == "multiply"
    for term in answer["terms"]:
        if term["kernel"] is not None and max(np.shape(term["patch"])) < 49:
            product = float((np.array(term["patch"]) * np.array(term["kernel"])).sum())
            assert np.isclose(product, term["sum"], rtol=1e-5, atol=1e-6)
    if answer["inner"]:
        read = answer["terms"][0]
        assert {key: answer["inner"][key] for key in ("step", "channel", "y", "x")} == {
            key: read[key] for key in ("step", "channel", "y", "x")
        }
        check(answer["inner"])


def hooked(network: Network, inputs: Tensor) -> dict[str, list[Tensor]]:
    """What each module of the network gives, call by call."""
    outputs: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in network.module.named_modules():

        def keep(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            outputs.setdefault(name, []).append(output.clone())

        handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        network.module(inputs)
    for handle in handles:
        handle.remove()
    return outputs


KINDS = {
    "efficientnet_lite0": {"convolution", "activation", "add", "average_pool", "move", "linear"},
    "resnet18": {"convolution", "activation", "add", "max_pool", "average_pool", "move", "linear"},
    "googlenet": {
        "convolution", "activation", "add", "multiply", "max_pool", "concatenate", "average_pool", "move", "linear"
    },
    "shufflenet_v2_x0_5": {"convolution", "activation", "concatenate", "max_pool", "average_pool", "move", "linear"},
    "timm/test_efficientnet": {"convolution", "activation", "multiply", "average_pool", "move", "linear"},
    "timm/test_convnext": {"convolution", "activation", "add", "multiply", "average_pool", "move", "linear", "other"},
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_the_arithmetic_comes_to_the_networks_own_numbers(name: str) -> None:
    followed = trace_of(name)
    steps = followed.recording.steps
    assert {step.kind for step in steps} == KINDS[name] | {"input"}
    for step in steps:
        for channel, y, x in some_units(step, 12):
            answer = unit(followed, step.number, channel, y, x)
            assert (answer["kind"], answer["step"]) == (step.kind, step.number)
            check(answer)
            values = followed.maps(step.number)
            expected = values[channel, y, x] if values.ndim == 3 else values[channel]
            assert answer["value"] == pytest.approx(float(expected), rel=1e-7)
            if step.kind not in ("other", "input"):
                assert answer["terms"]
            if step.kind in ("activation", "max_pool", "other"):
                assert answer["formula"]["name"]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "googlenet", "timm/test_efficientnet"])
def test_steps_have_the_names_and_the_numbers_of_the_modules(name: str) -> None:
    followed, network = trace_of(name), network_of(name)
    outputs = hooked(network, view(network))
    seen = 0
    for step in followed.recording.steps[1:]:
        module, _, call = step.name.partition(", call ")
        if module in outputs:
            expected = outputs[module][int(call or 1) - 1]
            found = followed.maps(step.number).reshape(expected.shape)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
            seen += 1
    convolutions = [step for step in followed.recording.steps if step.kind == "convolution"]
    modules = {name for name, module in network.module.named_modules() if isinstance(module, nn.Conv2d)}
    assert {step.name for step in convolutions} == modules
    assert seen > 0.7 * len(followed.recording.steps)
    logits = outputs[""][0][0]
    torch.testing.assert_close(followed.maps(followed.recording.logits), logits, rtol=1e-4, atol=1e-4)
    answer = describe(followed)["answer"]
    shares = logits.softmax(0)
    for place, known in enumerate(answer["classes"]):
        assert known["class"] == int(logits.argsort(descending=True)[place])
        assert known["logit"] == pytest.approx(float(logits[known["class"]]), rel=1e-4, abs=1e-5)
        assert known["probability"] == pytest.approx(float(shares[known["class"]]), rel=1e-3)
    assert len(answer["classes"]) == 10
    assert answer["others"] == pytest.approx(1 - float(shares.topk(10).values.sum()), abs=1e-4)


def test_a_convolution_says_which_norm_it_holds_and_gives_that_norms_numbers(small: Network) -> None:
    followed = trace(small, view(small))
    steps = {step.name: step for step in followed.recording.steps}
    assert (steps["stem.conv"].folded, steps["stem.relu"].folded) == ("stem.bn", None)
    plain = factory().eval()
    found: dict[str, Tensor] = {}
    plain.stem.bn.register_forward_hook(lambda _module, _inputs, output: found.update(stem=output.clone()))
    with torch.no_grad():
        plain(view(small))
    for channel, y, x in some_units(steps["stem.conv"], 12):
        answer = unit(followed, steps["stem.conv"].number, channel, y, x)
        assert answer["total"] == pytest.approx(float(found["stem"][0, channel, y, x]), rel=1e-4, abs=1e-5)
        assert answer["bias"] is not None


def test_the_padding_in_front_of_a_convolution_belongs_to_it() -> None:
    """EfficientNet-Lite0 pads one row and column behind, and none in front."""
    followed = trace_of("efficientnet_lite0")
    stem = describe(followed)["steps"][1]
    assert stem == {
        "step": 1, "name": "_conv_stem", "kind": "convolution", "operation": "convolution 3×3, stride 2",
        "shape": [32, 112, 112], "reads": [0], "layer": 1, "folded": "_bn0", "kernel": [3, 3], "stride": [2, 2],
        "padding": [[0, 1], [0, 1]], "dilation": [1, 1], "groups": 1,
    }  # fmt: skip
    corner = unit(followed, 1, 4, 111, 111)
    check(corner)
    picture = followed.maps(0)
    assert [term["step"] for term in corner["terms"]] == [0, 0, 0]
    for term in corner["terms"]:
        patch = np.array(term["patch"])
        assert (term["y"], term["x"]) == (222, 222)
        assert not patch[2].any()
        assert not patch[:, 2].any()
        np.testing.assert_allclose(patch[:2, :2], picture[term["channel"], 222:, 222:], rtol=1e-6)
    assert {term["title"] for term in corner["terms"]} == {f"{c} of the picture" for c in ("red", "green", "blue")}
    assert not any(step.operation == "padding" for step in followed.recording.steps)


def test_modules_that_do_nothing_name_no_step() -> None:
    """A dropout in use, and what is left of a norm that was folded."""
    names = [(step.name, step.operation) for step in trace_of("efficientnet_lite0").recording.steps]
    assert names[:6] == [
        ("picture", "input"),
        ("_conv_stem", "convolution 3×3, stride 2"),
        ("_swish, call 1", "ReLU6"),
        ("_blocks.0._depthwise_conv", "depthwise convolution 3×3"),
        ("_blocks.0._swish", "ReLU6"),
        ("_blocks.0._project_conv", "convolution 1×1"),
    ]
    assert names[-5:] == [
        ("_conv_head", "convolution 1×1"),
        ("_swish, call 2", "ReLU6"),
        ("_avg_pooling", "mean over height and width"),
        ("reshape", "reshape"),
        ("_fc", "linear, 1,280 → 1,000"),
    ]


# Tiny networks, by hand


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
                answer = unit(followed, step, channel, y, x, terms)
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
        shown = {term["channel"]: term for term in answer["terms"]}
        assert sorted(shown) == ([0, 1, 2] if answer["channel"] < 2 else [3, 4, 5])
        for place, (channel, term) in enumerate(sorted(shown.items())):
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
    assert unit(followed, 1, 0, 0, 0)["bias"] is None


def test_the_largest_terms_come_first_and_the_rest_is_one_sum() -> None:
    followed = trace_of("efficientnet_lite0")
    wide = next(step for step in followed.recording.steps if step.name == "_conv_head")
    whole, few = (unit(followed, wide.number, 7, 3, 3, terms) for terms in (64, 2))
    assert (len(few["terms"]), few["rest"]["count"], whole["rest"]["count"]) == (2, 318, 256)
    assert few["terms"] == whole["terms"][:2]
    source, weights = followed.maps(wide.number - 1)[:, 3, 3], network_of("efficientnet_lite0").module._conv_head.weight
    products = (source * weights[7, :, 0, 0]).double()
    order = products.abs().argsort(descending=True)
    assert [term["channel"] for term in few["terms"]] == order[:2].tolist()
    assert few["rest"]["sum"] == pytest.approx(float(products[order[2:]].sum()), rel=1e-4)
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
    answer = unit(followed, 1, 2, 0, 0)
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
    difference = unit(followed, 3, 2, 4, 5)
    assert {(term["step"], term["channel"], term["y"], term["x"]) for term in difference["terms"]} == {
        (1, 2, 4, 0), (2, 2, 0, 5)
    }  # fmt: skip
    assert unit(followed, 4, 2, 4, 5)["bias"] == 1
    factor = unit(followed, 6, 2, 4, 5)["terms"][1]
    assert (factor["step"], factor["sum"]) == (None, pytest.approx(1 / 3))
    assert unit(followed, 7, 2, 4, 5)["bias"] == pytest.approx(0.3)
    assert [term["step"] for term in unit(followed, 8, 2, 4, 5, terms=1)["terms"]] == [7, 1]


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
                answer = unit(followed, term["step"], term["channel"], term["y"], term["x"])
                check(answer)
        if answer["kind"] == "convolution":
            assert answer["step"] == 1
            assert answer["value"] == pytest.approx(float(wide[answer["channel"], answer["y"], answer["x"]]), rel=1e-6)
        else:
            assert (answer["formula"]["name"], answer["value"], answer["terms"]) == ("padding", 0.5, [])
    shuffle = [step for step in followed.recording.steps if step.operation == "reshape" and len(step.shape) == 3][1]
    come_from = []
    for channel in range(6):
        answer = unit(followed, shuffle.number, channel, 2, 3)
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
        (term,) = unit(followed, step.number, channel, 5, 6)["terms"]
        assert (term["step"], term["channel"], term["y"], term["x"]) == (step.reads[read], inside, 5, 6)


def test_a_gate_is_the_product_of_a_map_and_one_number_a_channel() -> None:
    followed = trace_of("timm/test_efficientnet")
    gate = next(step for step in followed.recording.steps if step.kind == "multiply")
    answer = unit(followed, gate.number, 3, 2, 1)
    by_size = sorted(answer["terms"], key=lambda term: followed.maps(term["step"]).numel())
    shut, given = by_size
    assert (shut["channel"], shut["y"], shut["x"]) == (3, 0, 0)
    assert (given["channel"], given["y"], given["x"]) == (3, 2, 1)
    assert 0 < shut["sum"] < 1
    assert followed.recording.steps[shut["step"]].operation == "sigmoid"
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
            check(unit(followed, step.number, channel, y, x))
    product = unit(followed, others["matrix product"].number, 0, 1, 1)
    assert product["formula"] == {"name": "matrix product", "text": None, "input": None}
    assert (product["terms"], product["total"]) == ([], product["value"])
    step = others["softmax"]
    answer = unit(followed, step.number, 0, 2, 3)
    line = followed.maps(step.reads[0])[0, 2].double()
    assert answer["total"] == pytest.approx(float(line.softmax(0)[3]), rel=1e-6)


def test_a_wrong_number_of_the_network_would_be_seen(small: Network) -> None:
    """The total does not come from the network's own output: were that wrong, they would differ."""
    followed = trace(small, view(small))
    for step in followed.recording.steps[1:]:
        values = list(followed.values)
        values[step.number] = values[step.number] + 1
        answer = unit(Trace(followed.recording, tuple(values)), step.number, 0)
        assert abs(answer["total"] - answer["value"]) == pytest.approx(1, rel=1e-3)


# What the page is given


def test_the_row_of_layers_and_their_strongest_channels(small: Network) -> None:
    told = describe(trace(small, view(small), ["stem.conv", "branches.wide"]))
    json.dumps(told, allow_nan=False)
    assert (told["network"], told["size"]) == ("small_network:factory", 32)
    assert told["mean"] == pytest.approx(small.mean)
    names = [layer["name"] for layer in told["layers"]]
    assert names[0] == "picture"
    assert {"stem.conv", "stem", "branches.wide", "residual", "depthwise", "branches"} <= set(names)
    assert [layer["step"] for layer in told["layers"]] == sorted(layer["step"] for layer in told["layers"])
    assert told["layers"][0] | {"strongest": 0} == {"name": "picture", "step": 0, "shape": [3, 32, 32], "strongest": 0}
    with torch.no_grad():
        inside = small.activations(view(small), "residual")[0, :, 1:-1, 1:-1]
        expected = inside.amax((1, 2)).sort(descending=True, stable=True)
    residual = next(layer for layer in told["layers"] if layer["name"] == "residual")
    assert residual["shape"] == [8, 16, 16]
    assert [channel["channel"] for channel in residual["strongest"]] == expected.indices[:8].tolist()
    assert [channel["largest"] for channel in residual["strongest"]] == pytest.approx(expected.values[:8].tolist())
    ends = [layer["step"] for layer in told["layers"]]
    for step in told["steps"]:
        assert step["layer"] == sum(end < step["step"] for end in ends)
        assert all(read < step["step"] for read in step["reads"])
    assert told["steps"][-1]["layer"] == len(ends)
    assert told["steps"][0]["kind"] == "input"
    assert [known["class"] for known in told["answer"]["classes"]] == sorted(
        range(5), key=lambda each: -next(k["logit"] for k in told["answer"]["classes"] if k["class"] == each)
    )
    assert told["answer"]["others"] == 0
    assert told["steps"][told["answer"]["step"]]["name"] == "head"


def test_maps_travel_as_float32(small: Network) -> None:
    followed = trace(small, view(small))
    step = next(step for step in followed.recording.steps if step.name == "residual")
    with torch.no_grad():
        expected = small.activations(view(small), "residual")[0]
    found = maps(followed, step.number, [5, 2, 5])["maps"]
    assert list(found) == ["5", "2"]
    for channel, text in found.items():
        values = np.frombuffer(base64.b64decode(text), "<f4").reshape(16, 16)
        np.testing.assert_allclose(values, expected[int(channel)], rtol=1e-4, atol=1e-5)
    (whole,) = maps(followed, followed.recording.logits)["maps"].values()
    with torch.no_grad():
        logits = small.module(view(small))[0]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(whole), "<f4"), logits, rtol=1e-4, atol=1e-5)


def test_what_is_no_number_becomes_null() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))
    with torch.no_grad():
        module[0].weight.mul_(1e30)
    network = load(module, size=12, device="cpu")
    followed = trace(network, view(network))
    with torch.no_grad():
        module[1].weight.mul_(1e30)
    broken = trace(network, view(network))  # the weights are the network's own, also after it was recorded
    assert not bool(broken.maps(2).isfinite().all())
    told = [describe(broken), maps(broken, 2, [0, 1]), *(unit(broken, step, 0) for step in range(6))]
    assert "NaN" not in json.dumps(told, allow_nan=False)
    assert followed.recording is broken.recording


def test_networks_are_recorded_once_and_forgotten_with_their_module() -> None:
    network = load(factory(), size=32, device="cpu")
    followed = trace(network, view(network))
    assert recording(network) is followed.recording
    assert recording(network, ["stem"]) is not followed.recording
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.module.modules())
    module = weakref.ref(network.module)
    del network, followed
    gc.collect()
    assert module() is None


def test_pictures_at_the_same_time_do_not_mix() -> None:
    network = load(factory(), size=32, device="cpu")
    inputs = [view(network, seed) for seed in range(8)]
    with torch.no_grad():
        expected = [network.module(each)[0] for each in inputs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: trace(network, each), inputs))
    for followed, logits in zip(found, expected):
        torch.testing.assert_close(followed.maps(followed.recording.logits), logits, rtol=1e-4, atol=1e-5)


# Bad input


def test_a_network_whose_path_depends_on_the_picture_is_refused() -> None:
    network = load(forking_factory(), size=32, device="cpu")
    passes: list[int] = []
    sentence = r"Forking cannot be shown step by step: its path depends on the picture"
    with pytest.raises(ConfigError, match=sentence):
        trace(network, view(network))
    network.module.register_forward_pre_hook(lambda _module, _inputs: passes.append(1))
    with pytest.raises(ConfigError, match=sentence):
        trace(network, view(network))
    assert not passes  # it is known by now


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda t: unit(t, 99, 0), r"has no step 99\. Its steps are 0 to \d+\."),
        (lambda t: unit(t, -1, 0), r"has no step -1\."),
        (lambda t: unit(t, 1, 8), r"Step 1 \(stem\.conv\) of .* has no channel 8\. Its channels are 0 to 7\."),
        (lambda t: unit(t, 1, -1), r"has no channel -1\."),
        (lambda t: unit(t, 1, 0, 16), r"has no place with y = 16\. It has 16 rows, 0 to 15\."),
        (lambda t: unit(t, 1, 0, 0, -1), r"has no place with x = -1\. It has 16 columns, 0 to 15\."),
        (lambda t: unit(t, t.recording.logits, 0, 1), r"has no place with y = 1\. It has 1 row, number 0\."),
        (lambda t: unit(t, 1, 0, terms=0), r"0 terms were asked for\. Ask for 1 to 64"),
        (lambda t: unit(t, 1, 0, terms=65), r"65 terms were asked for\. Ask for 1 to 64"),
        (lambda t: maps(t, 99, [0]), r"has no step 99\."),
        (lambda t: maps(t, 1, [0, 8]), r"has no channel 8\."),
        (lambda t: maps(t, 1), r"0 channels of step 1 were asked for\. Ask for 1 to 256 of its 8\."),
        (lambda t: maps(t, t.recording.logits, range(300)), r"300 channels of step \d+ were asked for\."),
    ],
)
def test_what_there_is_not_is_a_sentence(small: Network, ask: Callable[[Trace], Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ask(trace(small, view(small)))


def test_wrong_layers_and_pictures_are_sentences(small: Network) -> None:
    with pytest.raises(ConfigError, match=r"has no layer 'residul'\. Near names: residual"):
        trace(small, view(small), ["residul"])
    with pytest.raises(ConfigError, match=r"Layer 'head' of .* gives no map of activations"):
        trace(small, view(small), ["head"])
    with pytest.raises(ConfigError, match=r"one picture of shape \(1, 3, 32, 32\), and \(2, 3, 32, 32\) was given"):
        trace(small, torch.zeros(2, 3, 32, 32))

"""The rules of the kinds of operations, each by hand for one number."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import nn
from traced import trace_operation, view

from atlas.forward.rules import arithmetic
from atlas.forward.terms import Arithmetic
from atlas.forward.trace import Trace, trace
from atlas.networks.network import load


def last_of(run: Trace, kind: str, index: int, terms: int = 9) -> Arithmetic:
    """The arithmetic of a number of the last step of a kind or operation; its total is the network's number."""
    step = [step for step in run.recording.steps if kind in (step.kind, step.operation)][-1]
    result = arithmetic(run, step, index, terms)
    assert result.total == pytest.approx(run.number(step.number, index), rel=1e-5, abs=1e-6)
    return result


def test_a_convolution_is_kernels_times_patches_and_a_bias() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    run = trace_operation(convolution)
    result = last_of(run, "convolution", 2 * 36 + 1 * 6 + 4, terms=2)  # channel 2 at (1, 4)
    picture, weight = run.maps(0).double(), convolution.weight.detach().double()
    sums = [(picture[channel, 0:3, 3:6] * weight[2, channel]).sum() for channel in range(3)]
    order = sorted(range(3), key=lambda channel: -abs(float(sums[channel])))
    assert [part["channel"] for part in result.terms] == order[:2]
    assert [part["sum"] for part in result.terms] == pytest.approx([float(sums[channel]) for channel in order[:2]])
    assert result.rest == (1, pytest.approx(float(sums[order[2]])))
    assert result.bias == pytest.approx(float(convolution.bias[2]))  # type: ignore[index]
    assert {(part["y"], part["x"]) for part in result.terms} == {(0, 3)}


def test_of_groups_only_a_channels_own_are_read() -> None:
    torch.manual_seed(0)
    run = trace_operation(nn.Conv2d(3, 6, 1, groups=3, bias=False))
    result = last_of(run, "convolution", 5 * 36)
    assert [part["channel"] for part in result.terms] == [2]
    assert (result.bias, result.rest) == (None, None)


def test_a_linear_layer_is_weights_times_numbers() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))
    network = load(module, size=6, device="cpu")
    run = trace(network, view(network))
    result = last_of(run, "linear", 3)
    numbers, weight = run.maps(run.recording.logits - 1).double(), module[2].weight.detach().double()[3]
    by_number = {part["channel"]: part["sum"] for part in result.terms}
    assert len(by_number) == 9
    for number, value in by_number.items():
        assert value == pytest.approx(float(numbers.flatten()[number] * weight[number]))
    assert result.rest is not None
    assert result.rest[0] == 3


def test_sums_and_differences_have_signs_and_constants() -> None:
    run = trace_operation(lambda maps: torch.sub(maps.abs(), maps, alpha=2))
    result = last_of(run, "add", 40)
    by_step = {part["step"]: part["sum"] for part in result.terms}
    assert by_step == {1: pytest.approx(abs(run.number(0, 40))), 0: pytest.approx(-2 * run.number(0, 40))}
    reverse = last_of(trace_operation(lambda maps: 1 - maps), "add", 40)
    assert (reverse.bias, len(reverse.terms)) == (1, 1)
    whole = last_of(trace_operation(lambda maps: maps.sum(3, keepdim=True)), "add", 2, terms=4)  # row 2 of channel 0
    assert whole.rest is not None
    assert (len(whole.terms), whole.rest[0]) == (4, 2)


def test_a_product_has_all_of_its_factors() -> None:
    run = trace_operation(lambda maps: maps.abs() * maps / 4)
    quotient = last_of(run, "multiply", 40)
    assert [factor["step"] for factor in quotient.terms] == [2, None]
    assert quotient.terms[1]["sum"] == 0.25
    assert quotient.terms[1]["title"] == "a constant of the network"


def test_a_concatenation_says_which_part_it_is() -> None:
    constant = torch.full((1, 1, 6, 6), 7.0)
    run = trace_operation(lambda maps: torch.cat([maps.abs(), constant.expand(len(maps), 1, 6, 6), maps], 1))
    (first,), (last,) = last_of(run, "concatenate", 36 + 3).terms, last_of(run, "concatenate", 5 * 36 + 3).terms
    assert (first["step"], first["channel"], first["x"]) == (1, 1, 3)
    assert (last["step"], last["channel"], last["x"]) == (0, 1, 3)
    between = last_of(run, "concatenate", 3 * 36)
    assert (between.terms, between.bias) == ([], 7)
    stacked = trace_operation(lambda maps: torch.stack([maps.abs(), maps], 2).flatten(1, 2))
    (part,) = last_of(stacked, "concatenate", 36).terms
    assert (part["step"], part["channel"]) == (0, 0)


def test_a_move_leads_to_where_the_number_was() -> None:
    run = trace_operation(lambda maps: functional.pad(maps.flip(3), (1, 0, 0, 0), value=0.5))
    padded = last_of(run, "padding", 7)  # row 1, column 0 of seven
    assert (padded.terms, padded.bias, padded.inner) == ([], 0.5, None)
    assert padded.formula == {"name": "padding", "text": "0.5, put around the map", "input": None}
    assert last_of(run, "padding", 1).inner == (1, 0)
    assert last_of(run, "flip", 0).inner == (0, 5)


def test_an_activation_has_its_formula_and_its_input() -> None:
    run = trace_operation(nn.PReLU(3, 0.25))
    index = int(run.maps(0).flatten().argmin())
    result = last_of(run, "activation", index)
    assert result.total == pytest.approx(0.25 * run.number(0, index))
    assert result.formula == {"name": "leaky ReLU", "text": "x if x > 0, else 0.25 · x", "input": run.number(0, index)}
    assert result.inner == (0, index)


def test_a_batch_norm_is_a_scale_and_a_shift() -> None:
    norm = nn.BatchNorm2d(3).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 3.0, 4.0]))
        norm.bias.fill_(0.5)
        norm.running_mean.fill_(1.0)  # type: ignore[union-attr]
        norm.running_var.fill_(4.0 - norm.eps)  # type: ignore[union-attr]
    result = last_of(trace_operation(norm), "batch_norm", 36)
    assert result.terms[0]["kernel"].item() == pytest.approx(1.5)
    assert result.bias == pytest.approx(0.5 - 1.5)


@pytest.mark.parametrize(
    ("operation", "name", "text"),
    [
        (lambda maps: maps.softmax(3), "softmax", "exp(x) / the sum of exp over 6 numbers"),
        (nn.LayerNorm([6], elementwise_affine=False), "layer norm", None),
        (nn.GroupNorm(1, 3), "group norm", None),
    ],
)
def test_what_has_no_terms_has_a_name(operation: Any, name: str, text: str | None) -> None:
    run = trace_operation(operation)
    result = last_of(run, "other", 50)
    assert result.terms == []
    assert result.formula is not None
    assert result.formula["name"] == name
    if text:
        assert result.formula["text"] == text
    if name == "layer norm":
        line = run.maps(0).double()[1, 2]
        assert result.formula["text"].startswith(f"(x − {float(line.mean()):.4g}) / ")
        assert result.total == pytest.approx(float((line[2] - line.mean()) / (line.var(correction=0) + 1e-5).sqrt()))


def test_the_picture_is_its_own_number() -> None:
    run = trace_operation(torch.relu)
    result = arithmetic(run, run.recording.steps[0], 5, 9)
    assert result.total == run.number(0, 5)
    assert result.formula == {"name": "the picture", "text": None, "input": None}
    assert np.isfinite(result.total)

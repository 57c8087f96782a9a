"""Non-linearities: the formula that is shown, computed, is what torch computes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from atlas.networks.program.nonlinearities import Formula, formula, leaky
from atlas.networks.program.record import record

NUMBERS = torch.tensor([-30.0, -4.0, -1.5, -0.3, 0.0, 0.2, 1.0, 2.9, 7.0, 40.0])


def nodes_of(function: Callable[[Tensor], Tensor], inputs: Tensor = NUMBERS) -> list[fx.Node]:
    recorded = record(function, inputs)
    assert recorded is not None
    return [node for node in recorded.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    ("function", "name", "text"),
    [
        (torch.relu, "ReLU", "max(x, 0)"),
        (nn.ReLU6(), "ReLU6", "min(max(x, 0), 6)"),
        (nn.Hardtanh(-0.5, 2), "clip", "min(max(x, -0.5), 2)"),
        (lambda x: x.clamp(min=-1), "clip", "max(x, -1)"),
        (lambda x: x.clamp(max=1), "clip", "min(x, 1)"),
        (torch.sigmoid, "sigmoid", "1 / (1 + exp(−x))"),
        (nn.SiLU(), "SiLU", "x / (1 + exp(−x))"),
        (nn.Hardsigmoid(), "hard sigmoid", "min(max(x + 3, 0), 6) / 6"),
        (nn.Hardswish(), "hard swish", "x · min(max(x + 3, 0), 6) / 6"),
        (nn.GELU(), "GELU", "x / 2 · (1 + erf(x / √2))"),
        (nn.GELU("tanh"), "GELU", "x / 2 · (1 + tanh(√(2 / π) · (x + 0.044715 · x³)))"),
        (nn.LeakyReLU(0.2), "leaky ReLU", "x if x > 0, else 0.2 · x"),
        (nn.ELU(), "ELU", "x if x > 0, else (exp(x) − 1)"),
        (nn.ELU(0.7), "ELU", "x if x > 0, else 0.7 · (exp(x) − 1)"),
        (nn.SELU(), "SELU", "1.051 · x if x > 0, else 1.758 · (exp(x) − 1)"),
        (nn.CELU(0.8), "CELU", "x if x > 0, else 0.8 · (exp(x / 0.8) − 1)"),
        (nn.Softplus(), "softplus", "log(1 + exp(x))"),
        (nn.Softplus(3, 1), "softplus", "log(1 + exp(3 · x)) / 3"),
        (nn.Mish(), "Mish", "x · tanh(log(1 + exp(x)))"),
        (torch.tanh, "tanh", "tanh(x)"),
        (torch.exp, "exponential", "exp(x)"),
        (torch.log, "logarithm", "log(x)"),
        (torch.sqrt, "square root", "√x"),
        (torch.rsqrt, "inverse square root", "1 / √x"),
        (torch.reciprocal, "reciprocal", "1 / x"),
        (torch.abs, "absolute value", "|x|"),
        (torch.neg, "negative", "−x"),
        (torch.erf, "error function", "erf(x)"),
        (lambda x: x**2, "power", "x to the power 2"),
        (lambda x: x**0.5, "power", "x to the power 0.5"),
    ],
)
def test_the_formula_computes_what_torch_does(function: Callable[[Tensor], Tensor], name: str, text: str) -> None:
    (node,) = nodes_of(function)
    result = formula(node)
    assert result is not None
    assert (result.name, result.text) == (name, text)
    for value, expected in zip(NUMBERS.double().tolist(), function(NUMBERS.double()).tolist()):
        computed = result.function(value)
        if math.isinf(expected):
            assert math.isnan(computed), "what has no value is no number"
        else:
            assert computed == pytest.approx(expected, rel=1e-6, abs=1e-12, nan_ok=True), value


def test_other_operations_have_none() -> None:
    for function in (lambda x: x + 1, lambda x: x.softmax(0), lambda x: x.reshape(2, 5)):
        assert [formula(node) for node in nodes_of(function)] == [None]


def test_bounds_that_are_computed_are_no_formula() -> None:
    """A clip at another tensor's value is no function of one number."""
    nodes = nodes_of(lambda x: torch.clamp(x, min=x.mean()))
    assert all(formula(node) is None for node in nodes)


def test_a_slope_that_is_a_weight() -> None:
    result: Formula = leaky(0.25)
    assert (result.function(-2.0), result.function(3.0), result.text) == (-0.5, 3.0, "x if x > 0, else 0.25 · x")


def test_large_numbers_do_not_overflow() -> None:
    results: dict[str, Any] = {}
    for function in (nn.Softplus(), nn.Mish(), nn.SiLU(), torch.sigmoid):
        result = formula(nodes_of(function)[0])
        assert result is not None
        results[result.name] = (result.function(-1e4), result.function(1e4))
    assert results == {"softplus": (0, 1e4), "Mish": (0, 1e4), "SiLU": (0, 1e4), "sigmoid": (0, 1)}

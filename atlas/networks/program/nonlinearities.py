"""Non-linearities, one number in and one out: the name of each, its formula in words, and a function that computes it
in double precision.

The formulas are those of torch's documentation; GELU is of Hendrycks and Gimpel (2016), SiLU of Elfwing et al. (2017),
hard swish of Howard et al. (2019), Mish of Misra (2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten


@dataclass(frozen=True)
class Formula:
    """A non-linearity: its ``name``, its ``text`` as a formula of x, and the ``function`` itself, in double
    precision."""

    name: str
    text: str
    function: Callable[[float], float]


def formula(node: fx.Node) -> Formula | None:
    """The non-linearity that the recorded operation ``node`` is; None for any other operation."""
    make = _FORMULAS.get(node.target)
    if make is None:
        return None
    settings: Any = node.args[1:]
    if any(isinstance(setting, fx.Node) for setting in settings):
        return None
    return make(*settings, **node.kwargs)


def leaky(slope: float) -> Formula:
    """A ReLU that multiplies negative numbers by ``slope``."""
    return Formula("leaky ReLU", f"x if x > 0, else {slope:.4g} · x", lambda x: x if x > 0 else slope * x)


def _clip(low: float | None = None, high: float | None = None) -> Formula:
    if (low, high) == (0, 6):
        return Formula("ReLU6", "min(max(x, 0), 6)", lambda x: min(max(x, 0.0), 6.0))
    if high is None:
        return Formula("clip", f"max(x, {low:.4g})", lambda x: max(x, _number(low)))
    if low is None:
        return Formula("clip", f"min(x, {high:.4g})", lambda x: min(x, high))
    return Formula("clip", f"min(max(x, {low:.4g}), {high:.4g})", lambda x: min(max(x, _number(low)), high))


def _number(value: float | None) -> float:
    return -math.inf if value is None else value


def _elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Formula:
    factor = f"{alpha * scale:.4g} · " if alpha * scale != 1 else ""
    above = "x" if scale == 1 else f"{scale:.4g} · x"
    inside = "x" if input_scale == 1 else f"{input_scale:.4g} · x"
    name = "ELU" if scale == 1 else "SELU"
    return Formula(
        name,
        f"{above} if x > 0, else {factor}(exp({inside}) − 1)",
        lambda x: scale * x if x > 0 else scale * alpha * math.expm1(x * input_scale),
    )


def _celu(alpha: float = 1.0) -> Formula:
    text = f"x if x > 0, else {alpha:.4g} · (exp(x / {alpha:.4g}) − 1)"
    return Formula("CELU", text, lambda x: x if x > 0 else alpha * math.expm1(x / alpha))


def _gelu(approximate: str = "none") -> Formula:
    if approximate == "tanh":
        return Formula(
            "GELU",
            "x / 2 · (1 + tanh(√(2 / π) · (x + 0.044715 · x³)))",
            lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        )
    return Formula("GELU", "x / 2 · (1 + erf(x / √2))", lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)))


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Formula:
    text = "log(1 + exp(x))" if beta == 1 else f"log(1 + exp({beta:.4g} · x)) / {beta:.4g}"
    return Formula("softplus", text, lambda x: x if x * beta > threshold else math.log1p(_exp(x * beta)) / beta)


def _power(exponent: float) -> Formula:
    return Formula("power", f"x to the power {exponent:.4g}", lambda x: _real(lambda: x**exponent))


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))  # beyond, a double overflows


def _real(function: Callable[[], Any]) -> float:
    """What ``function`` returns; NaN where it has no real value (a root of a negative number)."""
    try:
        value = function()
    except (ValueError, ZeroDivisionError, OverflowError):
        return math.nan
    return value if isinstance(value, float) else math.nan


def _sigmoid(x: float) -> float:
    return 1 / (1 + _exp(-x)) if x >= 0 else _exp(x) / (1 + _exp(x))


def _fixed(name: str, text: str, function: Callable[[float], float]) -> Callable[[], Formula]:
    return lambda: Formula(name, text, function)


_FORMULAS: dict[Any, Callable[..., Formula]] = {
    _aten.relu.default: _fixed("ReLU", "max(x, 0)", lambda x: max(x, 0.0)),
    _aten.relu6.default: lambda: _clip(0, 6),
    _aten.hardtanh.default: lambda low=-1.0, high=1.0: _clip(low, high),
    _aten.clamp.default: lambda min=None, max=None: _clip(min, max),
    _aten.clamp_min.default: lambda low: _clip(low),
    _aten.clamp_max.default: lambda high: _clip(None, high),
    _aten.sigmoid.default: _fixed("sigmoid", "1 / (1 + exp(−x))", _sigmoid),
    _aten.silu.default: _fixed("SiLU", "x / (1 + exp(−x))", lambda x: x * _sigmoid(x)),
    _aten.hardsigmoid.default: _fixed(
        "hard sigmoid", "min(max(x + 3, 0), 6) / 6", lambda x: min(max(x + 3, 0.0), 6.0) / 6
    ),
    _aten.hardswish.default: _fixed(
        "hard swish", "x · min(max(x + 3, 0), 6) / 6", lambda x: x * min(max(x + 3, 0.0), 6.0) / 6
    ),
    _aten.gelu.default: _gelu,
    _aten.leaky_relu.default: lambda slope=0.01: leaky(slope),
    _aten.elu.default: _elu,
    _aten.celu.default: _celu,
    _aten.softplus.default: _softplus,
    _aten.mish.default: _fixed("Mish", "x · tanh(log(1 + exp(x)))", lambda x: x * math.tanh(math.log1p(_exp(x)))),
    _aten.tanh.default: _fixed("tanh", "tanh(x)", math.tanh),
    _aten.exp.default: _fixed("exponential", "exp(x)", _exp),
    _aten.log.default: _fixed("logarithm", "log(x)", lambda x: _real(lambda: math.log(x))),
    _aten.sqrt.default: _fixed("square root", "√x", lambda x: _real(lambda: math.sqrt(x))),
    _aten.rsqrt.default: _fixed("inverse square root", "1 / √x", lambda x: _real(lambda: 1 / math.sqrt(x))),
    _aten.reciprocal.default: _fixed("reciprocal", "1 / x", lambda x: _real(lambda: 1 / x)),
    _aten.abs.default: _fixed("absolute value", "|x|", abs),
    _aten.neg.default: _fixed("negative", "−x", lambda x: -x),
    _aten.erf.default: _fixed("error function", "erf(x)", math.erf),
    _aten.pow.Tensor_Scalar: _power,
}

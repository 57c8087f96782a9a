"""The arithmetic of one unit: which numbers the network multiplies and adds to get the number at one place of a step.

Everything is computed anew in double precision from what the step reads, so that the total can be compared with the
number that the network gave. An operation without a rule has the kind "other", and its total is the network's own
number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from atlas.errors import ConfigError
from atlas.forward.rules import arithmetic
from atlas.forward.terms import multi_index_of
from atlas.forward.trace import Trace, check_channel, check_step, json_number

# At most so many terms are shown one by one.
TERMS = 64


@torch.inference_mode(False)
@torch.no_grad()
def unit_arithmetic(trace: Trace, step: int, channel: int, y: int = 0, x: int = 0, terms: int = 12) -> dict[str, Any]:
    """The arithmetic of the number at ``channel``, ``y``, ``x`` of ``step``, ready for JSON: value, total, at most
    ``terms`` terms (the largest first) and the rest of them, summed, bias, formula, and the arithmetic inside.

    The total is the terms, the rest and the bias summed, or what the formula gives. Of a product all factors are given.
    A constant factor is a term whose step is None; where a patch lies over the edge, it has 0, or None for a maximum.
    Raises ConfigError for a step, channel or place that does not exist, and for other than 1 to 64 terms.
    """
    check_step(trace, step)
    check_channel(trace, step, channel)
    forward_step = trace.recording.steps[step]
    height, width = forward_step.shape[1:] if len(forward_step.shape) == 3 else (1, 1)
    for letter, index, side, word in (("y", y, height, "row"), ("x", x, width, "column")):
        if not 0 <= index < side:
            count = f"1 {word}, number 0" if side == 1 else f"{side} {word}s, 0 to {side - 1}"
            raise ConfigError(
                f"Step {step} ({forward_step.name}) of {trace.recording.name} has no place with {letter} = {index}. "
                f"It has {count}."
            )
    if not 1 <= terms <= TERMS:
        raise ConfigError(f"{terms} terms were asked for. Ask for 1 to {TERMS}; the others are shown as one sum.")
    return _arithmetic(trace, step, (channel * height + y) * width + x, terms)


def _arithmetic(trace: Trace, step: int, index: int, terms: int) -> dict[str, Any]:
    forward_step = trace.recording.steps[step]
    parts = arithmetic(trace, forward_step, index, terms)
    channel, y, x = multi_index_of(trace, step, index)
    return {
        "step": step,
        "channel": channel,
        "y": y,
        "x": x,
        "kind": forward_step.kind,
        "value": json_number(trace.number(step, index)),
        "total": json_number(parts.total),
        "terms": [_rounded(term) for term in parts.terms],
        "other_terms": None if parts.rest is None else {"count": parts.rest[0], "sum": json_number(parts.rest[1])},
        "bias": None if parts.bias is None else json_number(parts.bias),
        "formula": None if parts.formula is None else _rounded(parts.formula),
        "inner": None if parts.inner is None else _arithmetic(trace, *parts.inner, terms),
    }


def _rounded(entries: dict[str, Any]) -> dict[str, Any]:
    """The ``entries`` with numbers and arrays as JSON has them."""
    rounded: dict[str, Any] = {}
    for key, value in entries.items():
        if isinstance(value, np.ndarray):
            rounded[key] = [[json_number(float(number)) for number in row] for row in value]
        else:
            rounded[key] = json_number(value) if isinstance(value, float) else value
    return rounded

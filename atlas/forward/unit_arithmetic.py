"""The arithmetic of one unit: which numbers the network multiplies and adds to get the number at one place of a step.

Everything is worked out anew in double precision from what the step reads, so that the total can be compared with the
number that the network gave. What is not understood says so: its kind is "other" and its total the network's own
number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from atlas.errors import ConfigError
from atlas.forward.rules import working
from atlas.forward.terms import place_of
from atlas.forward.trace import Trace, check_channel, check_step, shown

# At most so many terms are shown one by one.
TERMS = 64


@torch.inference_mode(False)
@torch.no_grad()
def unit(trace: Trace, step: int, channel: int, y: int = 0, x: int = 0, terms: int = 12) -> dict[str, Any]:
    """The arithmetic of the number at ``channel``, ``y``, ``x`` of ``step``, ready for JSON: value, total, at most
    ``terms`` terms (the largest first) and the rest of them, summed, bias, formula, and the arithmetic inside.

    The total is the terms, the rest and the bias summed, or what the formula gives. Of a product all factors are given.
    A constant factor is a term whose step is None; where a patch lies over the edge, it has 0, or None for a maximum.
    Raises ConfigError for a step, channel or place that there is not, and for other than 1 to 64 terms.
    """
    check_step(trace, step)
    check_channel(trace, step, channel)
    known = trace.recording.steps[step]
    height, width = known.shape[1:] if len(known.shape) == 3 else (1, 1)
    for letter, given, side, word in (("y", y, height, "row"), ("x", x, width, "column")):
        if not 0 <= given < side:
            count = f"1 {word}, number 0" if side == 1 else f"{side} {word}s, 0 to {side - 1}"
            raise ConfigError(
                f"Step {step} ({known.name}) of {trace.recording.name} has no place with {letter} = {given}. It has "
                f"{count}."
            )
    if not 1 <= terms <= TERMS:
        raise ConfigError(f"{terms} terms were asked for. Ask for 1 to {TERMS}; the others are shown as one sum.")
    return _unit(trace, step, (channel * height + y) * width + x, terms)


def _unit(trace: Trace, step: int, index: int, terms: int) -> dict[str, Any]:
    known = trace.recording.steps[step]
    found = working(trace, known, index, terms)
    channel, y, x = place_of(trace, step, index)
    return {
        "step": step,
        "channel": channel,
        "y": y,
        "x": x,
        "kind": known.kind,
        "value": shown(trace.number(step, index)),
        "total": shown(found.total),
        "terms": [_rounded(each) for each in found.terms],
        "rest": None if found.rest is None else {"count": found.rest[0], "sum": shown(found.rest[1])},
        "bias": None if found.bias is None else shown(found.bias),
        "formula": None if found.formula is None else _rounded(found.formula),
        "inner": None if found.inner is None else _unit(trace, *found.inner, terms),
    }


def _rounded(given: dict[str, Any]) -> dict[str, Any]:
    """``given`` with its numbers and arrays as JSON has them."""
    made: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, np.ndarray):
            made[key] = [[shown(float(each)) for each in row] for row in value]
        else:
            made[key] = shown(value) if isinstance(value, float) else value
    return made

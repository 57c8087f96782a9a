"""The forward pass of one picture: the output of every step, and what a page shows of it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from atlas.errors import ConfigError
from atlas.forward.steps import Recording, recording
from atlas.networks.network import Network

# How many of a layer's channels are named, the strongest, and how many classes, the most likely.
_STRONGEST = 8
_CLASSES = 10
# Smaller maps, in positions a side, have no inside without the edge.
_INNER = 5
# At most so many maps in one answer.
MAPS = 256


@dataclass(frozen=True, eq=False)
class Trace:
    """One picture's forward pass: the steps of the network, and the output of each, a tensor with a batch of 1."""

    recording: Recording
    values: tuple[Tensor, ...] = field(repr=False)

    def maps(self, step: int) -> Tensor:
        """The output of ``step`` in the step's own shape: (channels, height, width) or (numbers,), float32."""
        return self.values[step].detach().reshape(self.recording.steps[step].shape).float()

    def number(self, step: int, index: int) -> float:
        """The number at the flat index ``index`` (row by row) of the output of ``step``."""
        value = self.values[step]
        return float(value[unravel(index, value.shape)])


def trace(network: Network, inputs: Tensor, layers: Sequence[str] = ()) -> Trace:
    """Run ``network`` on normalised ``inputs``, float32 (1, 3, size, size), and hold the output of every step;
    ``layers`` stand in the row of layers beside those that make sense for an atlas.

    The first call for a network records it, which takes about a second; `atlas.forward.steps.recording` does it ahead.
    Raises ConfigError for inputs of another shape, and as ``recording`` does.
    """
    expected = (1, 3, network.size, network.size)
    if tuple(inputs.shape) != expected:
        raise ConfigError(
            f"The forward pass of {network.name} is shown for one picture of shape {expected}, and "
            f"{tuple(inputs.shape)} was given. Cut the picture to the network's size first."
        )
    recorded = recording(network, layers)
    return Trace(recorded, tuple(recorded.run(inputs.to(network.device))))


def unravel(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The multi-index at the flat index ``index`` (row by row) of a tensor of ``shape``, one index a dimension."""
    multi_index: list[int] = []
    for side in reversed(shape):
        index, rest = divmod(index, side)
        multi_index.append(rest)
    return tuple(reversed(multi_index))


def json_number(value: float) -> float | None:
    """A number for JSON, rounded to eight significant digits; None for NaN and infinity, which JSON does not have."""
    return float(f"{value:.8g}") if math.isfinite(value) else None


def trace_facts(trace: Trace) -> dict[str, Any]:
    """The steps, the row of layers with their strongest channels, and the most likely classes, ready for JSON."""
    recorded = trace.recording
    return {
        "network": recorded.name,
        "size": recorded.size,
        "mean": [json_number(value) for value in recorded.mean],
        "std": [json_number(value) for value in recorded.std],
        "steps": [
            {
                "step": step.number,
                "name": step.name,
                "kind": step.kind,
                "operation": step.operation,
                "shape": list(step.shape),
                "reads": list(step.reads),
                "layer": step.layer,
                "folded": step.folded,
                **step.geometry,
            }
            for step in recorded.steps
        ],
        "layers": [
            {
                "name": name,
                "step": step,
                "shape": list(recorded.steps[step].shape),
                "strongest": _strongest(trace, step),
            }
            for name, step in recorded.layers
        ],
        "output": _output(trace),
    }


def _strongest(trace: Trace, step: int) -> list[dict[str, Any]]:
    """The channels with the largest numbers on their maps, away from the edge, where the padding itself can make large
    ones."""
    maps = trace.maps(step)
    if maps.ndim == 3 and min(maps.shape[1:]) >= _INNER:
        maps = maps[:, 1:-1, 1:-1]
    largest = maps.flatten(1).amax(1).nan_to_num(-math.inf, math.inf, -math.inf)
    values, channels = largest.topk(min(_STRONGEST, len(largest)))
    return [
        {"channel": channel, "largest": json_number(value)}
        for channel, value in zip(channels.tolist(), values.tolist())
    ]


def _output(trace: Trace) -> dict[str, Any]:
    """The most likely classes with their logits and probabilities (the softmax), what the other classes
    share, and the logarithm of the sum of all classes' exponentials."""
    step = trace.recording.logits
    logits = trace.maps(step).double().flatten()
    probabilities = logits.softmax(0)
    order = logits.nan_to_num(-math.inf).argsort(descending=True, stable=True)
    classes = [
        {
            "class": index,
            "logit": json_number(float(logits[index])),
            "probability": json_number(float(probabilities[index])),
        }
        for index in order[:_CLASSES].tolist()
    ]
    others = json_number(float(probabilities[order[_CLASSES:]].sum()))
    return {"step": step, "classes": classes, "others": others, "log_sum": json_number(float(logits.logsumexp(0)))}


def maps(trace: Trace, step: int, channels: Iterable[int] = ()) -> dict[str, Any]:
    """The maps of ``channels`` of a step, each as base64 of little-endian float32, row by row; of a step without
    height and width all numbers as the one map "0", where no channel is named.

    NaN becomes 0. Raises ConfigError for a step or channel that does not exist, for no channel of a step that has maps,
    and for more than 256.
    """
    check_step(trace, step)
    values, forward_step = trace.maps(step), trace.recording.steps[step]
    numbers = list(dict.fromkeys(channels))
    if not numbers and len(forward_step.shape) == 1:
        return {"maps": {"0": _packed(values)}}
    if not 1 <= len(numbers) <= MAPS:
        raise ConfigError(
            f"{len(numbers)} channels of step {step} were asked for. Ask for 1 to {MAPS} of its "
            f"{forward_step.shape[0]:,}."
        )
    for channel in numbers:
        check_channel(trace, step, channel)
    return {"maps": {str(channel): _packed(values[channel]) for channel in numbers}}


def _packed(values: Tensor) -> str:
    finite = torch.nan_to_num(values.cpu()).numpy().astype("<f4")
    return base64.b64encode(finite.tobytes()).decode()


def check_step(trace: Trace, step: int) -> None:
    """Raises ConfigError with a sentence where there is no such step."""
    count = len(trace.recording.steps)
    if not 0 <= step < count:
        raise ConfigError(f"{trace.recording.name} has no step {step}. Its steps are 0 to {count - 1}.")


def check_channel(trace: Trace, step: int, channel: int) -> None:
    """Raises ConfigError with a sentence where the step has no such channel."""
    forward_step = trace.recording.steps[step]
    if not 0 <= channel < forward_step.shape[0]:
        raise ConfigError(
            f"Step {step} ({forward_step.name}) of {trace.recording.name} has no channel {channel}. Its channels are 0 "
            f"to {forward_step.shape[0] - 1}."
        )

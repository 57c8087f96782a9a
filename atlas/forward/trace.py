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

# How many of a layer's channels are named, and how many classes.
_STRONGEST = 8
_CLASSES = 10
# Maps with so many positions a side have an inside.
_INNER = 5
# At most so many maps in one answer.
MAPS = 256


@dataclass(frozen=True, eq=False)
class Trace:
    """One picture's way through a network: the steps, and the output of each as the network gave it."""

    recording: Recording
    values: tuple[Tensor, ...] = field(repr=False)

    def maps(self, step: int) -> Tensor:
        """The output of ``step`` in the step's own shape: (channels, height, width) or (numbers,), float32."""
        return self.values[step].detach().reshape(self.recording.steps[step].shape).float()

    def number(self, step: int, index: int) -> float:
        """The number at the place ``index`` of the output of ``step``, counted row by row."""
        value = self.values[step]
        return float(value[unravelled(index, value.shape)])


def trace(network: Network, inputs: Tensor, layers: Sequence[str] = ()) -> Trace:
    """Send normalised ``inputs`` (1, 3, size, size) through ``network`` and keep everything; ``layers`` are shown in
    the row of layers beside those that make sense for an atlas.

    The first call for a network records it, which takes about a second; ``atlas.forward.steps`` does it beforehand.
    Raises ConfigError for inputs of another shape, and as ``recording`` does.
    """
    expected = (1, 3, network.size, network.size)
    if tuple(inputs.shape) != expected:
        raise ConfigError(
            f"The forward pass of {network.name} is shown for one picture of shape {expected}, and "
            f"{tuple(inputs.shape)} was given. Cut the picture to the network's size first."
        )
    known = recording(network, layers)
    return Trace(known, tuple(known.run(inputs.to(network.device))))


def unravelled(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The place number ``index`` of a tensor of ``shape``, counted row by row, as one number a side."""
    place: list[int] = []
    for side in reversed(shape):
        index, rest = divmod(index, side)
        place.append(rest)
    return tuple(reversed(place))


def shown(value: float) -> float | None:
    """A number for JSON, of eight digits that count; None for what JSON has no word for (no number, infinity)."""
    return float(f"{value:.8g}") if math.isfinite(value) else None


def describe(trace: Trace) -> dict[str, Any]:
    """The steps, the row of layers with their strongest channels, and the answer, ready for JSON."""
    known = trace.recording
    return {
        "network": known.name,
        "size": known.size,
        "mean": [shown(value) for value in known.mean],
        "std": [shown(value) for value in known.std],
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
            for step in known.steps
        ],
        "layers": [
            {"name": name, "step": step, "shape": list(known.steps[step].shape), "strongest": _strongest(trace, step)}
            for name, step in known.layers
        ],
        "answer": _answer(trace),
    }


def _strongest(trace: Trace, step: int) -> list[dict[str, Any]]:
    """The channels with the largest numbers on their maps, away from the edge, where zeros that are padded on make
    large ones of their own."""
    maps = trace.maps(step)
    if maps.ndim == 3 and min(maps.shape[1:]) >= _INNER:
        maps = maps[:, 1:-1, 1:-1]
    largest = maps.flatten(1).amax(1).nan_to_num(-math.inf, math.inf, -math.inf)
    values, channels = largest.topk(min(_STRONGEST, len(largest)))
    return [{"channel": channel, "largest": shown(value)} for channel, value in zip(channels.tolist(), values.tolist())]


def _answer(trace: Trace) -> dict[str, Any]:
    """The most likely classes with their logits and probabilities (the softmax), what the other classes
    share, and the logarithm of the sum of all classes' exponentials."""
    step = trace.recording.logits
    logits = trace.maps(step).double().flatten()
    probabilities = logits.softmax(0)
    order = logits.nan_to_num(-math.inf).argsort(descending=True, stable=True)
    classes = [
        {"class": index, "logit": shown(float(logits[index])), "probability": shown(float(probabilities[index]))}
        for index in order[:_CLASSES].tolist()
    ]
    others = shown(float(probabilities[order[_CLASSES:]].sum()))
    return {"step": step, "classes": classes, "others": others, "log_sum": shown(float(logits.logsumexp(0)))}


def maps(trace: Trace, step: int, channels: Iterable[int] = ()) -> dict[str, Any]:
    """The maps of ``channels`` of a step, each as base64 of little-endian float32, row by row; of a step without
    height and width all numbers as the one map "0", where no channel is named.

    What is no number becomes 0. Raises ConfigError for a step or channel that there is not, for no channel of a step
    that has maps, and for more than 256.
    """
    check_step(trace, step)
    values, known = trace.maps(step), trace.recording.steps[step]
    wanted = list(dict.fromkeys(channels))
    if not wanted and len(known.shape) == 1:
        return {"maps": {"0": _packed(values)}}
    if not 1 <= len(wanted) <= MAPS:
        raise ConfigError(
            f"{len(wanted)} channels of step {step} were asked for. Ask for 1 to {MAPS} of its {known.shape[0]:,}."
        )
    for channel in wanted:
        check_channel(trace, step, channel)
    return {"maps": {str(channel): _packed(values[channel]) for channel in wanted}}


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
    known = trace.recording.steps[step]
    if not 0 <= channel < known.shape[0]:
        raise ConfigError(
            f"Step {step} ({known.name}) of {trace.recording.name} has no channel {channel}. Its channels are 0 to "
            f"{known.shape[0] - 1}."
        )

"""Circuits: which units of an earlier layer build a unit, and which inhibit it.

Three figures stand for each pair of units, as each alone misleads (Voss et al. 2021, "Visualizing Weights"; Olah et al.
2020, "Zoom In"):

- ``let_through``, the expanded weight with all non-linearities passed through, summed over the kernel;
- ``strength``, the same with each non-linearity replaced by its average slope on pictures that excite the layer;
- ``effect``, what the data say: a_source · ∂a_unit/∂a_source, summed over the positions and averaged over the pictures
  that excite the unit most. It is what the source adds to the unit's activation, to first order.

Positive is excitatory: the source builds the unit. An activation may be negative, where a layer does not end in a ReLU;
then a source may build by its absence: the unit answers more where it sees the opposite of its picture. ``present`` is
the part of the effect from positions where the source is above 0. Weights can cancel, and far apart they say little;
``agreement`` tells how far strength and effect say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from atlas.arrays import Float32
from atlas.circuits.average_slopes import Gates, average_gates
from atlas.circuits.expanded_weights import expanded, summed
from atlas.circuits.linear_path import LinearPath, NotLinearError
from atlas.errors import ConfigError
from atlas.networks.hooks import hooked
from atlas.networks.network import Network

Integers = NDArray[np.integer]
# A kernel is cut to the square around its middle that holds this share of its magnitude, for all sources told of:
# of what is cut off nothing would be seen in a picture of it.
_HELD = 0.9


@dataclass(frozen=True)
class Effects:
    """What the channels of one source do for units, a row for each view: ``effect`` (n, channels), in the units'
    activation; ``mean`` (n, channels), the mean of the channel's activation over the view's map; and ``present``
    (n, channels), the part of the effect from positions where the channel is above 0. The rest of it is from where it
    is below 0. float32."""

    effect: Float32
    mean: Float32
    present: Float32

    def of(self, rows: NDArray[np.bool_]) -> Effects:
        """The same of some of the views: ``rows`` bool (n,)."""
        return Effects(self.effect[rows], self.mean[rows], self.present[rows])


@torch.inference_mode(False)
@torch.enable_grad()
def effects(
    network: Network,
    sources: Sequence[str],
    target: str,
    inputs: Tensor | NDArray[np.floating],
    units: Integers,
    positions: Tensor | Integers,
    *,
    batch: int = 16,
) -> dict[str, Effects]:
    """The effect of every channel of the layers ``sources`` on one unit of ``target`` in each view.

    ``inputs``: normalised (n, 3, h, w), a tensor or an array. ``units`` (n,): the unit that each view is asked about,
    and ``positions`` (n, 2) as (y, x): where on the target's map. One pass forwards and back for each view, for all
    sources together. A source that does not act on the target has effects of 0. Any network will do, also one whose
    path is not linear.
    Raises ConfigError for layers, units or positions that are not there, and a source that the pass does not reach.
    """
    inputs, places = _views(inputs, positions)
    asked_units = np.asarray(units).reshape(-1)
    if len(asked_units) != len(inputs):
        raise ConfigError(
            f"{len(asked_units)} units were given for {len(inputs)} pictures. Give one unit and one position for each."
        )
    where = np.column_stack([asked_units, places]).astype(np.int64)
    found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {source: [] for source in sources}
    for first in range(0, len(where), batch):
        part = inputs[first : first + batch].to(network.device)
        asked = torch.from_numpy(where[first : first + batch]).to(network.device)
        for source, told in _effects(network, sources, target, part, asked).items():
            found[source].append(told)
    return {
        source: Effects(*(torch.cat(each).numpy() for each in zip(*parts, strict=True)))
        for source, parts in found.items()
    }


def _views(inputs: Tensor | NDArray[np.floating], positions: Tensor | Integers) -> tuple[Tensor, Integers]:
    """Pictures as float32 and one position for each as int64 (n, 2). Raises ConfigError for what is neither."""
    pictures = inputs if isinstance(inputs, Tensor) else torch.from_numpy(np.array(inputs))
    places = positions.cpu().numpy() if isinstance(positions, Tensor) else np.asarray(positions)
    if not pictures.is_floating_point():
        raise ConfigError(
            f"Pictures of {pictures.dtype} were given, expected normalised ones, as Network.from_bytes makes."
        )
    if pictures.ndim != 4 or len(pictures) == 0 or places.shape != (len(pictures), 2):
        raise ConfigError(
            f"Positions of shape {places.shape} were given for pictures of shape {tuple(pictures.shape)}. Give "
            "pictures (n, 3, height, width), one at least, and positions (n, 2) as (y, x), one for each picture."
        )
    return pictures.float(), places.astype(np.int64)


def _effects(
    network: Network, sources: Sequence[str], target: str, inputs: Tensor, asked: Tensor
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    maps: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for source in sources:

            def keep(output: Tensor, source: str = source) -> Tensor:
                # The first that is reached is where the way back ends.
                maps[source] = output if output.requires_grad else output.detach().requires_grad_(True)
                return maps[source].clone()  # what comes later may write into it

            stack.enter_context(hooked(network.submodule(source), keep))
        outputs = network.activations(inputs, target)
    if missing := [source for source in sources if source not in maps]:
        raise ConfigError(
            f"{missing[0]} of {network.name} is not reached before {target}. Choose as source a layer that {target} is "
            "made from."
        )
    limits = torch.tensor([outputs.shape[1], *outputs.shape[2:]], device=asked.device)
    if bool(((asked < 0) | (asked >= limits)).any()):
        channels, height, width = limits.tolist()
        raise ConfigError(
            f"A unit or position that {target} of {network.name} does not have was asked for. Its units are 0 to "
            f"{channels - 1}, its positions (0, 0) to ({height - 1}, {width - 1})."
        )
    given = [maps[source] for source in sources]
    rows = torch.arange(len(asked), device=asked.device)
    total = outputs[rows, asked[:, 0], asked[:, 1], asked[:, 2]].sum()
    gradients: Sequence[Tensor | None] = [None] * len(given)
    if total.requires_grad:
        gradients = torch.autograd.grad(total, given, allow_unused=True)
    found = {}
    for source, output, gradient in zip(sources, given, gradients):
        effect = torch.zeros_like(output) if gradient is None else output * gradient
        parts = effect.sum((2, 3)), output.mean((2, 3)), (effect * (output > 0)).sum((2, 3))
        effect, mean, present = (part.detach().float().cpu() for part in parts)
        found[source] = effect, mean, present
    return found


class Wiring:
    """The weights between two layers of a network: ``strength`` and ``let_through``, float32 (units of the target,
    channels of the source), and what was ``passed`` over.

    ``inputs``: normalised pictures (n, 3, size, size) that excite the target, by which average slopes are measured.
    ``told`` is None, or a sentence why there are no weights: then both are no numbers (NaN), and effects are all that
    there is. Raises ConfigError where there is no path, as `LinearPath`.
    """

    def __init__(self, network: Network, source: str, target: str, inputs: Tensor) -> None:
        self.network, self.source, self.target = network, source, target
        self.told: str | None = None
        self.path: LinearPath | None = None
        self.gates: Gates | None = None
        self.passed: tuple[str, ...] = ()
        try:
            self.path = LinearPath(network, source, target)
            self.gates = average_gates(self.path, inputs)
        except NotLinearError as error:
            self.told, self.path = str(error), None
        if self.path is None:
            with torch.no_grad():
                counts = [
                    network.activations(inputs[:1].to(network.device), layer).shape[1] for layer in (target, source)
                ]
            self.strength: Float32 = np.full(counts, np.nan, np.float32)
            self.let_through: Float32 = self.strength.copy()
        else:
            self.passed = self.path.passed
            units = np.eye(self.path.target_channels, dtype=np.float32)
            self.strength = summed(self.path, units, self.gates)
            self.let_through = summed(self.path, units)

    def kernels(self, unit: int, sources: Integers) -> Float32:
        """The kernels of strength (sources, height, width) of one unit, float32, cut alike to the smallest square
        around their middle that holds 90 % of the magnitude of all of them. Of no height and width where there are no
        weights."""
        if self.path is None:
            return np.zeros((len(sources), 0, 0), np.float32)
        direction = np.zeros((1, self.path.target_channels), np.float32)
        direction[0, unit] = 1
        return _cut(expanded(self.path, direction, self.gates).kernels[0, np.asarray(sources)])


@torch.inference_mode(False)
@torch.no_grad()
def predicted(wiring: Wiring, unit: int, inputs: Tensor, positions: Integers, *, batch: int = 16) -> Float32:
    """What the kernels of strength say the effects of the source on ``unit`` are, float32 (n, channels of the source):
    each kernel times the source's map of each view, around the place that the unit is at. Arguments as for `effects`.

    It asks whether average slopes hold, with nothing summed beforehand. On EfficientNet-Lite0 its median correlation of
    ranks with the effects on `_blocks.10` is .33 from `_blocks.9`, .36 from 8, .43 from 6 and .29 from 4; that of
    strength times mean activation .11, .11, .11 and .06, and .05 to −.03 where all is let through. Of the twelve
    largest effects, the way past the block left out, it has the sign of 71 to 92 %; strength has that of half, as a
    source's activation may be negative. Raises ConfigError where there are no weights.
    """
    path = wiring.path
    if path is None:
        raise ConfigError(wiring.told or f"There are no weights from {wiring.source} to {wiring.target}.")
    direction = np.zeros((1, path.target_channels), np.float32)
    direction[0, unit] = 1
    found = expanded(path, direction, wiring.gates)
    kernel = torch.from_numpy(found.kernels[0]).to(path.network.device)
    sides = kernel.shape[1:]
    steps = [
        each / other if each < other else round(each / other)
        for each, other in zip(path.shapes[path.source_node][2:], path.shapes[path.target_node][2:])
    ]
    places = np.asarray(positions).reshape(-1, 2) - np.array(found.unit)
    corners = np.array(found.centre) + np.floor(places * np.array(steps)).astype(np.int64) - np.array(sides) // 2
    rows = []
    for first in range(0, len(inputs), batch):
        maps = wiring.network.activations(inputs[first : first + batch].to(path.network.device), wiring.source)
        for each, (top, left) in zip(maps, corners[first : first + batch].tolist()):
            window = F.pad(each, (sides[1],) * 2 + (sides[0],) * 2)  # a kernel may reach beyond the map
            top, left = (
                min(max(0, at + side), most - side) for at, side, most in zip((top, left), sides, window.shape[1:])
            )
            rows.append((kernel * window[:, top : top + sides[0], left : left + sides[1]]).sum((1, 2)).cpu())
    return torch.stack(rows).numpy()


def _cut(kernels: Float32) -> Float32:
    """The middle of ``kernels`` (n, height, width) that holds most of their magnitude, with odd sides."""
    magnitude = np.abs(kernels).sum(0, dtype=np.float64)
    middle = [side // 2 for side in magnitude.shape]
    for reach in range(max(middle) + 1):
        near = tuple(slice(max(0, each - reach), each + reach + 1) for each in middle)
        if magnitude[near].sum() >= _HELD * magnitude.sum():
            return kernels[:, *near]
    return kernels


@dataclass(frozen=True)
class Circuit:
    """The sources that one unit is told to be built by, the largest effect first, arrays of k: ``source``, their
    numbers; ``strength``, ``let_through`` and ``effect`` (positive: builds the unit; negative: inhibits it);
    ``present``, the part of the effect from where the source is above 0: where the rest of it, from where the source is
    below 0, is larger, the source acts by its absence; ``reliability`` of the effect, |mean| / (|mean| + standard
    error) over the patches, 0 to 1 (0 for a single patch);
    ``kernels`` (k, height, width) of strength around the position below the unit.

    ``agreement``: the correlation of ranks (Spearman) over all channels of the source between effect and what the
    weights say it is: the kernels on the sources' maps (`predicted`), or strength × the source's mean activation where
    these were not given. None where one of them does not vary. Of ranks, because a block's way past itself adds a unit
    to itself: that one source has half of all effect, and Pearson's correlation would tell of nothing else.
    ``passed`` tells in words what the weights pass over; ``told`` why something is missing, or None.
    """

    source: NDArray[np.int64]
    strength: Float32
    let_through: Float32
    effect: Float32
    present: Float32
    reliability: Float32
    kernels: Float32
    agreement: float | None
    passed: tuple[str, ...]
    told: str | None


def circuit_of(
    wiring: Wiring,
    unit: int,
    found: Effects,
    count: int = 12,
    *,
    told_by_kernels: Float32 | None = None,
) -> Circuit:
    """The ``count`` sources that matter most to ``unit``, from what `effects` ``found``: the rows that are of this
    unit (patches, channels of the source).

    They are taken in turns, the largest |effect| and the largest |strength|, so that neither is hidden by the other; of
    each sign of effect there are at least a quarter of ``count``, where so many exist. ``told_by_kernels`` is what
    `predicted` gives for the same patches; the agreement is measured by it where it is given.
    Raises ConfigError for a unit that is not there and for arrays of another width.
    """
    units, channels = wiring.strength.shape
    if not 0 <= unit < units:
        raise ConfigError(f"{wiring.target} has no unit {unit}. Its units are 0 to {units - 1}.")
    shapes = found.effect.shape, found.mean.shape, found.present.shape
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or shapes[0][1] != channels or shapes[0][0] == 0 or count < 1:
        raise ConfigError(
            f"Effects, means and present parts of shapes {', '.join(map(str, shapes))} and {count} sources were given. "
            f"Give one row of {channels} numbers for each patch, and ask for 1 source at least."
        )
    added = found.effect.mean(0, dtype=np.float64)
    strength = wiring.strength[unit]
    expected = strength * found.mean.mean(0, dtype=np.float64) if told_by_kernels is None else told_by_kernels.mean(0)
    chosen = _chosen(added, strength, count)
    told = wiring.told
    if told is None and not added.any():
        told = (
            f"Unit {unit} of {wiring.target} does not answer to {wiring.source} on its patches (it never fires, or "
            "every way to it is shut), so that there are weights but no effects."
        )
    return Circuit(
        chosen,
        strength[chosen],
        wiring.let_through[unit, chosen],
        added[chosen].astype(np.float32),
        found.present.mean(0, dtype=np.float64)[chosen].astype(np.float32),
        _reliability(found.effect)[chosen],
        wiring.kernels(unit, chosen),
        _agreement(expected, added),
        wiring.passed,
        told,
    )


def circuit(
    network: Network,
    source: str,
    target: str,
    unit: int,
    inputs: Tensor | NDArray[np.floating],
    positions: Tensor | Integers,
    *,
    count: int = 12,
) -> Circuit:
    """The circuit of one unit of the layer ``target`` from the layer ``source``.

    ``inputs``: the pictures that excite the unit most, normalised (n, 3, size, size); ``positions`` (n, 2) as (y, x):
    where on the target's map it fires; tensors or arrays. Of a run's unit ``Run.top_views`` gives both. Average slopes
    are measured on these pictures too.
    Raises ConfigError as `Wiring`, `effects` and `circuit_of`.
    """
    inputs, positions = _views(inputs, positions)
    wiring = Wiring(network, source, target, inputs)
    found = effects(network, [source], target, inputs, np.full(len(inputs), unit), positions)[source]
    told = predicted(wiring, unit, inputs, positions) if wiring.path is not None else None
    return circuit_of(wiring, unit, found, count, told_by_kernels=told)


def _chosen(effect: NDArray[np.float64], strength: Float32, count: int) -> NDArray[np.int64]:
    """Which sources are told of, the largest effect first."""
    by_effect = np.argsort(-np.abs(effect), kind="stable")
    by_strength = np.argsort(-np.abs(strength), kind="stable") if np.isfinite(strength).all() else by_effect
    turns = list(dict.fromkeys(np.column_stack([by_effect, by_strength]).ravel().tolist()))
    sign = np.sign(effect if effect.any() else np.nan_to_num(strength))
    wanted: list[int] = []
    for each in (1, -1):
        wanted += [index for index in by_effect.tolist() if sign[index] == each][: count // 4]
    found = list(dict.fromkeys(wanted + turns))[:count]
    return np.array(
        sorted(found, key=lambda index: (-abs(effect[index]), -abs(np.nan_to_num(strength[index])))), np.int64
    )


def _reliability(effect: Float32) -> Float32:
    if len(effect) < 2:
        return np.zeros(effect.shape[1], np.float32)
    values = effect.astype(np.float64)
    mean, error = np.abs(values.mean(0)), values.std(0, ddof=1) / np.sqrt(len(values))
    total = mean + error
    return np.divide(mean, total, out=np.zeros_like(total), where=total > 0).astype(np.float32)


def _agreement(first: NDArray[np.floating], second: NDArray[np.floating]) -> float | None:
    if len(first) < 2 or not np.isfinite(first).all() or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])

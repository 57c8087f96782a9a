"""Circuits: which units of an earlier layer build a unit, and which inhibit it.

Three figures stand for each pair of units, as each alone misleads (Voss et al. 2021, "Visualizing Weights"; Olah et al.
2020, "Zoom In"):

- ``linear_weight``, the expanded weight with a slope of 1 for every non-linearity, summed over the kernel;
- ``weight``, the same with each non-linearity replaced by its average slope on pictures that excite the layer;
- ``effect``, what the data say: a_source · ∂a_unit/∂a_source, summed over the positions and averaged over the pictures
  that excite the unit most. It is what the source adds to the unit's activation, to first order.

Positive is excitatory: the source builds the unit. An activation may be negative, where a layer does not end in a ReLU;
then a source may build by its absence: the unit's activation is larger where the source is below 0. ``present`` is the
part of the effect from positions where the source is above 0. Weights can cancel, and far apart they say little;
``agreement`` says how far weights and effects rank the sources alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from atlas.arrays import Float32, Float64, Int64, Integers
from atlas.circuits.average_slopes import AverageSlopes, measure_slopes
from atlas.circuits.expanded_weights import expand_weights, sum_weights
from atlas.circuits.linear_path import LinearPath, NotLinearError
from atlas.errors import ConfigError
from atlas.networks.hooks import hooked
from atlas.networks.network import Network

# Kernels are cropped to the square around their middle that holds this share of their magnitude: of the rest nothing
# would be visible in a picture of them.
_KERNEL_SHARE = 0.9


@dataclass(frozen=True)
class Effects:
    """What the channels of one source layer do for units, a row for each view, float32: ``effect`` (n, channels), in
    the units' activation; ``mean`` (n, channels), the mean of the channel's activation over the view's map; and
    ``present`` (n, channels), the part of the effect from positions where the channel is above 0. The rest of it is
    from where the channel is below 0."""

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

    ``inputs``: normalised (n, 3, h, w), a float tensor or array. ``units`` (n,): the unit of each view, and
    ``positions`` (n, 2) as (y, x): where on the target's map. Each view takes one forward and one backward pass for all
    sources. A source that does not act on the target has effects of 0. Any network will do, also one whose path is not
    linear. Returns `Effects` by source.
    Raises ConfigError for layers, units or positions that do not exist, and a source that the pass does not reach.
    """
    inputs, indices = _views(inputs, positions)
    numbers = np.asarray(units).reshape(-1)
    if len(numbers) != len(inputs):
        raise ConfigError(
            f"{len(numbers)} units were given for {len(inputs)} pictures. Give one unit and one position for each."
        )
    indices = np.column_stack([numbers, indices]).astype(np.int64)
    batches: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {source: [] for source in sources}
    for first in range(0, len(indices), batch):
        part = inputs[first : first + batch].to(network.device)
        where = torch.from_numpy(indices[first : first + batch]).to(network.device)
        for source, parts in _effects(network, sources, target, part, where).items():
            batches[source].append(parts)
    return {
        source: Effects(*(torch.cat(arrays).numpy() for arrays in zip(*parts, strict=True)))
        for source, parts in batches.items()
    }


def _views(inputs: Tensor | NDArray[np.floating], positions: Tensor | Integers) -> tuple[Tensor, Integers]:
    """Pictures as float32 and one position for each as int64 (n, 2). Raises ConfigError for what is neither."""
    pictures = inputs if isinstance(inputs, Tensor) else torch.from_numpy(np.array(inputs))
    coordinates = positions.cpu().numpy() if isinstance(positions, Tensor) else np.asarray(positions)
    if not pictures.is_floating_point():
        raise ConfigError(
            f"Pictures of {pictures.dtype} were given, expected normalised ones, as Network.from_bytes makes."
        )
    if pictures.ndim != 4 or len(pictures) == 0 or coordinates.shape != (len(pictures), 2):
        raise ConfigError(
            f"Positions of shape {coordinates.shape} were given for pictures of shape {tuple(pictures.shape)}. Give "
            "pictures (n, 3, height, width), one at least, and positions (n, 2) as (y, x), one for each picture."
        )
    return pictures.float(), coordinates.astype(np.int64)


def _effects(
    network: Network, sources: Sequence[str], target: str, inputs: Tensor, where: Tensor
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Effects, means and present parts by source; ``where`` (n, 3) holds (unit, y, x) of each view."""
    maps: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for source in sources:

            def begin_gradient(output: Tensor, source: str = source) -> Tensor:
                # At the first layer that is reached the backward pass ends.
                maps[source] = output if output.requires_grad else output.detach().requires_grad_(True)
                return maps[source].clone()  # what comes later may write into it

            stack.enter_context(hooked(network.submodule(source), begin_gradient))
        outputs = network.activations(inputs, target)
    if missing := [source for source in sources if source not in maps]:
        raise ConfigError(
            f"{missing[0]} of {network.name} is not reached before {target}. Choose as source a layer that {target} is "
            "made from."
        )
    limits = torch.tensor([outputs.shape[1], *outputs.shape[2:]], device=where.device)
    if bool(((where < 0) | (where >= limits)).any()):
        channels, height, width = limits.tolist()
        raise ConfigError(
            f"A unit or position that {target} of {network.name} does not have was asked for. Its units are 0 to "
            f"{channels - 1}, its positions (0, 0) to ({height - 1}, {width - 1})."
        )
    outputs_of_sources = [maps[source] for source in sources]
    rows = torch.arange(len(where), device=where.device)
    total = outputs[rows, where[:, 0], where[:, 1], where[:, 2]].sum()
    gradients: Sequence[Tensor | None] = [None] * len(outputs_of_sources)
    if total.requires_grad:
        gradients = torch.autograd.grad(total, outputs_of_sources, allow_unused=True)
    results = {}
    for source, output, gradient in zip(sources, outputs_of_sources, gradients):
        effect = torch.zeros_like(output) if gradient is None else output * gradient
        parts = effect.sum((2, 3)), output.mean((2, 3)), (effect * (output > 0)).sum((2, 3))
        effect, mean, present = (part.detach().float().cpu() for part in parts)
        results[source] = effect, mean, present
    return results


class Wiring:
    """The weights between two layers of a network: ``weight`` and ``linear_weight``, float32 (units of the target,
    channels of the source); ``nonlinearities`` says in words what they take as linear.

    ``inputs``: normalised pictures (n, 3, size, size) that excite the target, on which average slopes are measured.
    ``note`` is None, or a sentence why there are no weights: then both are NaN, and there are effects only. Raises
    ConfigError where there is no path, as `LinearPath`, and as `measure_slopes`.
    """

    def __init__(self, network: Network, source: str, target: str, inputs: Tensor) -> None:
        self.network, self.source, self.target = network, source, target
        self.note: str | None = None
        self.path: LinearPath | None = None
        self.slopes: AverageSlopes | None = None
        self.nonlinearities: tuple[str, ...] = ()
        try:
            self.path = LinearPath(network, source, target)
            self.slopes = measure_slopes(self.path, inputs)
        except NotLinearError as error:
            self.note, self.path = str(error), None
        if self.path is None:
            with torch.no_grad():
                counts = [
                    network.activations(inputs[:1].to(network.device), layer).shape[1] for layer in (target, source)
                ]
            self.weight: Float32 = np.full(counts, np.nan, np.float32)
            self.linear_weight: Float32 = self.weight.copy()
        else:
            self.nonlinearities = self.path.nonlinearities
            units = np.eye(self.path.target_channels, dtype=np.float32)
            self.weight = sum_weights(self.path, units, self.slopes)
            self.linear_weight = sum_weights(self.path, units)

    def kernels(self, unit: int, sources: Integers) -> Float32:
        """The kernels of ``weight`` from the channels ``sources`` to one unit, float32 (sources, height, width),
        cropped to the smallest square around their middle that holds 90 % of the magnitude of all of them. Height and
        width are 0 where there are no weights."""
        if self.path is None:
            return np.zeros((len(sources), 0, 0), np.float32)
        direction = np.zeros((1, self.path.target_channels), np.float32)
        direction[0, unit] = 1
        return _crop(expand_weights(self.path, direction, self.slopes).kernels[0, np.asarray(sources)])


@torch.inference_mode(False)
@torch.no_grad()
def predicted_effects(wiring: Wiring, unit: int, inputs: Tensor, positions: Integers, *, batch: int = 16) -> Float32:
    """The effects of the source on ``unit`` that the kernels of ``weight`` predict, float32 (n, channels of the
    source): each kernel times the source's map of each view, around the unit's position. Arguments as for `effects`.

    It asks whether average slopes hold, with no sum over positions taken beforehand. On EfficientNet-Lite0 its median
    rank correlation with the effects on `_blocks.10` is .33 from `_blocks.9`, .36 from 8, .43 from 6 and .29 from 4;
    that of weight times mean activation .11, .11, .11 and .06, and with all slopes at 1 .05 to −.03. Of the twelve
    largest effects, the block's shortcut left out, it has the sign of 71 to 92 %; weight has that of half, as a
    source's activation may be negative. Raises ConfigError where there are no weights.
    """
    path = wiring.path
    if path is None:
        raise ConfigError(wiring.note or f"There are no weights from {wiring.source} to {wiring.target}.")
    direction = np.zeros((1, path.target_channels), np.float32)
    direction[0, unit] = 1
    expanded = expand_weights(path, direction, wiring.slopes)
    kernel = torch.from_numpy(expanded.kernels[0]).to(path.network.device)
    sides = kernel.shape[1:]
    steps = [
        of_source / of_target if of_source < of_target else round(of_source / of_target)
        for of_source, of_target in zip(path.shapes[path.source_node][2:], path.shapes[path.target_node][2:])
    ]
    offsets = np.asarray(positions).reshape(-1, 2) - np.array(expanded.unit)
    corners = np.array(expanded.centre) + np.floor(offsets * np.array(steps)).astype(np.int64) - np.array(sides) // 2
    rows = []
    for first in range(0, len(inputs), batch):
        maps = wiring.network.activations(inputs[first : first + batch].to(path.network.device), wiring.source)
        for source_map, (top, left) in zip(maps, corners[first : first + batch].tolist()):
            padded = F.pad(source_map, (sides[1],) * 2 + (sides[0],) * 2)  # a kernel may reach beyond the map
            top, left = (
                min(max(0, at + side), whole - side) for at, side, whole in zip((top, left), sides, padded.shape[1:])
            )
            rows.append((kernel * padded[:, top : top + sides[0], left : left + sides[1]]).sum((1, 2)).cpu())
    return torch.stack(rows).numpy()


def _crop(kernels: Float32) -> Float32:
    """The middle of ``kernels`` (n, height, width) that holds most of their magnitude, with odd sides."""
    magnitude = np.abs(kernels).sum(0, dtype=np.float64)
    middle = [side // 2 for side in magnitude.shape]
    for reach in range(max(middle) + 1):
        near = tuple(slice(max(0, centre - reach), centre + reach + 1) for centre in middle)
        if magnitude[near].sum() >= _KERNEL_SHARE * magnitude.sum():
            return kernels[:, *near]
    return kernels


@dataclass(frozen=True)
class Circuit:
    """The sources that build or inhibit one unit, the largest effect first, arrays of k: ``source``, their numbers;
    ``weight``, ``linear_weight`` and ``effect`` (positive: builds the unit; negative: inhibits it); ``present``, the
    part of the effect from where the source is above 0: where the rest, from where it is below 0, is larger, the source
    acts by its absence; ``reliability`` of the effect, |mean| / (|mean| + standard error) over the patches, 0 to 1 (0
    for a single patch); ``kernels`` (k, height, width) of ``weight`` around the position below the unit.

    ``agreement``: the rank correlation (Spearman) over all channels of the source between effects and what the weights
    predict: the kernels on the sources' maps (`predicted_effects`), or weight × the source's mean activation where
    these were not given. None where one of them does not vary. Of ranks, because a block's shortcut adds a unit to
    itself: that one source has half of all effect, and Pearson's correlation would measure nothing else.
    ``nonlinearities`` says in words what the weights take as linear; ``note`` why something is missing, or None.
    """

    source: Int64
    weight: Float32
    linear_weight: Float32
    effect: Float32
    present: Float32
    reliability: Float32
    kernels: Float32
    agreement: float | None
    nonlinearities: tuple[str, ...]
    note: str | None


def circuit_of(
    wiring: Wiring,
    unit: int,
    unit_effects: Effects,
    count: int = 12,
    *,
    kernel_effects: Float32 | None = None,
) -> Circuit:
    """The ``count`` sources that matter most to ``unit``, by its ``unit_effects``: the rows of `effects` that are
    of this unit (patches, channels of the source).

    They are taken in turns, the largest |effect| and the largest |weight|, so that neither is hidden by the other; of
    each sign of effect there are at least a quarter of ``count``, where so many exist. ``kernel_effects``: what
    `predicted_effects` gives for the same patches; with it the agreement is measured by them.
    Raises ConfigError for a unit that does not exist and for arrays of another width.
    """
    units, channels = wiring.weight.shape
    if not 0 <= unit < units:
        raise ConfigError(f"{wiring.target} has no unit {unit}. Its units are 0 to {units - 1}.")
    shapes = unit_effects.effect.shape, unit_effects.mean.shape, unit_effects.present.shape
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or shapes[0][1] != channels or shapes[0][0] == 0 or count < 1:
        raise ConfigError(
            f"Effects, means and present parts of shapes {', '.join(map(str, shapes))} and {count} sources were given. "
            f"Give one row of {channels} numbers for each patch, and ask for 1 source at least."
        )
    added = unit_effects.effect.mean(0, dtype=np.float64)
    weight = wiring.weight[unit]
    mean = unit_effects.mean.mean(0, dtype=np.float64)
    expected = weight * mean if kernel_effects is None else kernel_effects.mean(0)
    sources = _choose_sources(added, weight, count)
    note = wiring.note
    if note is None and not added.any():
        note = (
            f"Unit {unit} of {wiring.target} does not answer to {wiring.source} on its patches (it never fires, or "
            "every way to it is shut), so that there are weights but no effects."
        )
    return Circuit(
        sources,
        weight[sources],
        wiring.linear_weight[unit, sources],
        added[sources].astype(np.float32),
        unit_effects.present.mean(0, dtype=np.float64)[sources].astype(np.float32),
        _reliability(unit_effects.effect)[sources],
        wiring.kernels(unit, sources),
        _rank_correlation(expected, added),
        wiring.nonlinearities,
        note,
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
    unit_effects = effects(network, [source], target, inputs, np.full(len(inputs), unit), positions)[source]
    predicted = predicted_effects(wiring, unit, inputs, positions) if wiring.path is not None else None
    return circuit_of(wiring, unit, unit_effects, count, kernel_effects=predicted)


def _choose_sources(effect: Float64, weight: Float32, count: int) -> Int64:
    """The numbers of the sources that a circuit has, the largest effect first."""
    by_effect = np.argsort(-np.abs(effect), kind="stable")
    by_weight = np.argsort(-np.abs(weight), kind="stable") if np.isfinite(weight).all() else by_effect
    turns = list(dict.fromkeys(np.column_stack([by_effect, by_weight]).ravel().tolist()))
    sign = np.sign(effect if effect.any() else np.nan_to_num(weight))
    of_each_sign: list[int] = []
    for direction in (1, -1):
        of_each_sign += [index for index in by_effect.tolist() if sign[index] == direction][: count // 4]
    sources = list(dict.fromkeys(of_each_sign + turns))[:count]
    return np.array(
        sorted(sources, key=lambda index: (-abs(effect[index]), -abs(np.nan_to_num(weight[index])))), np.int64
    )


def _reliability(effect: Float32) -> Float32:
    if len(effect) < 2:
        return np.zeros(effect.shape[1], np.float32)
    values = effect.astype(np.float64)
    mean, error = np.abs(values.mean(0)), values.std(0, ddof=1) / np.sqrt(len(values))
    total = mean + error
    return np.divide(mean, total, out=np.zeros_like(total), where=total > 0).astype(np.float32)


def _rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float | None:
    if len(first) < 2 or not np.isfinite(first).all() or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    from scipy.stats import rankdata  # .7 s of every process that imports the stages: only where it is used

    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])

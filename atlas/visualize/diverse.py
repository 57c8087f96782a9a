"""Several pictures of one unit: the plain one, and others that excite it as well but look different.

One picture shows one kind of what excites a unit; the same unit may fire for flowers and for the corners of tables. So
the pictures of a unit are drawn together, and all but the first are pushed away from each other: what two of them have
in common is the cosine of their Gram matrices at the layer, which say which channels are active together, at whatever
position (Olah, Mordvintsev and Schubert 2017, "Feature Visualization", after the style of Gatys et al. 2015). Here each
channel is measured in units of its deviation in the store, and the unit itself is left out: else its own channel and
the largest ones would decide alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.arrays import Float32, Pixels
from atlas.errors import ConfigError
from atlas.networks.network import Layer, Network
from atlas.networks.precision import AskedPrecision
from atlas.visualize.ascent import Ascent, Progress, run_batches
from atlas.visualize.objective import centre, floored_log
from atlas.visualize.recipe import SINGLE, Recipe
from atlas.visualize.score import centre_activations
from atlas.visualize.subnetwork import cached_subnetwork
from atlas.visualize.transform import Moves

# A unit of a layer is shown this many times the layer's effective receptive field, at least so many pixels.
FIELDS_SHOWN, SMALLEST_SIDE = 1.3, 32
# How a unit is drawn: at first all positions count, in the end mostly the centre, so that what it looks for is there.
UNIT_RECIPE = replace(SINGLE, steps=96, dot=1.0, power=0.0, power_whitened=0.0, around=0.25, moves=Moves(9, 12, 0.12))
# The weight of being unlike the others, against the logarithm of the unit's activation.
DIVERSITY = 2.0
# Pixels of one batch where nothing was measured.
_BATCH_PIXELS = 16 * 128 * 128
_TINY = 1e-12


@dataclass(frozen=True)
class DiversePictures:
    """Pictures of n units: ``pixels`` uint8 (n, pictures, size, size, 3), the plain one first, and ``activations``
    float32 (n, pictures), the unit's activation at the centre of the map for each."""

    pixels: Pixels
    activations: Float32


def picture_size(layer: Layer, network: Network) -> int:
    """The side in pixels, even, of a picture that shows what a unit of ``layer`` sees, and a little around it."""
    side = 2 * round(FIELDS_SHOWN * layer.effective_receptive_field / 2)
    return min(max(SMALLEST_SIDE, side), network.size // 2 * 2)


@torch.inference_mode(False)
@torch.enable_grad()
def diverse(
    network: Network,
    layer: str,
    units: Sequence[int],
    *,
    size: int,
    pictures: int = 4,
    activation_scale: Float32 | None = None,
    deviations: Float32 | None = None,
    recipe: Recipe = UNIT_RECIPE,
    steps: int | None = None,
    diversity: float = DIVERSITY,
    seed: int = 0,
    batch: int | None = None,
    precision: AskedPrecision = "auto",
    compile: bool = False,
) -> DiversePictures:
    """Draw ``pictures`` of each of ``units``, ``size`` pixels wide.

    ``activation_scale``: float32 (n,), a large activation of each unit, such as the mean of its top rows, by which its
    activations are divided in the objective. ``deviations``: float32 (channels,), the standard deviation of each
    channel of the layer. By default both are measured on noise. ``diversity``: the weight of being unlike the others.
    ``batch``: pictures in one tensor. ``precision`` and ``compile``: see Subnetwork. Picture k of a unit begins with
    its own noise, the same for all units. Equal arguments give equal bytes. Raises ConfigError for a unit that the
    layer does not have.
    """
    noise = _noise_activations(network, layer, size)
    channels = noise.shape[1]
    for unit in units:
        if not 0 <= unit < channels:
            raise ConfigError(f"Layer {layer!r} of {network.name} has no unit {unit}: it has {channels}, from 0.")
    measured_deviations = noise.std(axis=0) if deviations is None else deviations
    scale = np.abs(noise[:, list(units)]).max(axis=0) if activation_scale is None else activation_scale
    device = network.device
    objective = _DiverseObjective(
        units=torch.tensor(list(units), device=device).repeat_interleave(pictures),
        scale=torch.from_numpy(np.maximum(scale, _TINY).astype(np.float32)).to(device).repeat_interleave(pictures),
        weights=torch.from_numpy(_inverse_deviations(measured_deviations)).to(device),
        pictures=pictures,
        diversity=diversity,
        floor=recipe.floor,
    )
    ascent = Ascent(
        subnetwork=cached_subnetwork(network, layer, size, precision, compile),
        objective=objective,
        recipe=recipe,
        size=size,
        outside=1.0,
        progress=Progress(None),
    )
    pixels = np.zeros((len(units) * pictures, size, size, 3), np.uint8)
    seeds = np.tile(seed + np.arange(pictures, dtype=np.int64), len(units))

    def work(groups: NDArray[np.intp]) -> None:
        rows = (groups[:, None] * pictures + np.arange(pictures)).ravel()
        pixels[rows], _ = ascent(rows, seeds[rows], None, steps)

    ascent.progress.expect(len(pixels) * ascent.length(False, steps))
    units_in_batch = max(1, (batch or _BATCH_PIXELS // size**2) // pictures)
    run_batches(work, np.arange(len(units)), units_in_batch, device)
    activations = centre_activations(network, layer, pixels) if len(pixels) else np.zeros((0, channels), np.float32)
    unit_maps = activations[np.arange(len(pixels)), np.repeat(np.array(units, dtype=np.intp), pictures)]
    shape = len(units), pictures
    return DiversePictures(pixels.reshape(*shape, size, size, 3), unit_maps.reshape(shape))


@dataclass(frozen=True)
class _DiverseObjective:
    """The objective of whole groups of ``pictures``, one group a unit: the log of the unit's activation, less
    ``diversity`` times what the picture has in common with the others of its group. ``units``, ``scale``: (n,);
    ``weights``: (channels,)."""

    units: Tensor
    scale: Tensor
    weights: Tensor
    pictures: int
    diversity: float
    floor: float

    def take(self, rows: NDArray[np.intp]) -> _DiverseObjective:
        return replace(self, units=self.units[rows], scale=self.scale[rows])

    def __call__(self, maps: Tensor, share: float) -> Tensor:
        unit_maps = maps[torch.arange(len(maps), device=maps.device), self.units]
        scaled = unit_maps / self.scale[:, None, None]
        value = floored_log(centre(scaled[:, None])[:, 0], self.floor)
        if share > 0:
            edge = 1 if min(maps.shape[2:]) >= 3 else 0
            inner = scaled[:, edge : maps.shape[2] - edge, edge : maps.shape[3] - edge].flatten(1)
            value = (1 - share) * value + share * floored_log(inner, self.floor).mean(1)
        return value - self.diversity * self._similarity(maps) if self.diversity and self.pictures > 1 else value

    def _similarity(self, maps: Tensor) -> Tensor:
        """The mean cosine of each picture's Gram matrix to those of the others of its group, through which no gradient
        flows: (n,); 0 for the first of each group, which is drawn as if there were no others."""
        weights = self.weights.expand(len(maps), -1).clone()
        weights[torch.arange(len(maps), device=maps.device), self.units] = 0
        features = (maps * weights[:, :, None, None]).flatten(2)
        gram = (features @ features.transpose(1, 2)).flatten(1)
        gram = gram / gram.norm(dim=1, keepdim=True).clamp(min=_TINY)
        groups = gram.view(-1, self.pictures, gram.shape[1])
        cosines = groups @ groups.detach().transpose(1, 2)
        others = 1 - torch.eye(self.pictures, device=maps.device)
        others[0] = 0
        return ((cosines * others).sum(2) / (self.pictures - 1)).flatten()


def _inverse_deviations(deviations: Float32) -> Float32:
    """One over each deviation (channels,); 0 for channels that hardly vary."""
    least = 1e-3 * float(np.max(deviations, initial=0))
    weights: Float32 = np.where(deviations > least, 1 / np.maximum(deviations, max(least, _TINY)), 0).astype(np.float32)
    return weights


def _noise_activations(network: Network, layer: str, size: int) -> Float32:
    """Activations (n, channels) of all positions of a few pictures of noise."""
    with torch.no_grad():
        maps = network.activations(network.noise(2, size), layer)
    rows: Float32 = maps.permute(0, 2, 3, 1).flatten(0, 2).float().cpu().numpy()
    return rows

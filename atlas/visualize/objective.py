"""The objective of an icon: the dot product with the whitened direction, times powers of its cosines, raw and whitened.

A dot product alone is maximal for pictures that excite everything; a cosine alone does not care how strongly. The
activation atlas (Carter et al. 2019) multiplies both, with a direction that is whitened so that the layer's common
directions do not rule, and a floor under the cosine. Its code leaves out the norm of the direction, so that the floor
depends on the layer's scale; here the cosine is the true one. The cosine between whitened vectors is a factor as well:
the raw one hardly notices the channels in which a layer varies least, and these tell neighbouring cells apart. The
logarithm is maximised: the same pictures are best, and the gradient keeps its scale while the objective grows by orders
of magnitude.

The centre position is what counts. In early layers it sees only a spot in the middle of an icon and would leave the
rest grey, so the other positions count for the same direction too, with a weight that falls to 0: the direction
becomes a texture first, and the centre is made exact afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.arrays import Float32, Float64
from atlas.store.moments import power_of_moment
from atlas.visualize.recipe import Recipe

_TINY = 1e-12


@dataclass(frozen=True)
class Objective:
    """The objective of a batch of icons, one direction each.

    ``means``: unit rows (n, channels), the raw directions. ``whitened``: the same times Σ⁻¹ (to the power of the
    recipe's whitening), against which the dot product is taken, and ``half_whitened`` times Σ^−½, against which
    ``whiten`` (channels, channels), Σ^−½, is held: unit rows both. ``scale``: the root mean square norm of the layer's
    activations, the unit in which the dot product is measured. ``dot``, ``power``, ``power_whitened``: the weights of
    the three logarithms, straight under ``floor``.
    """

    means: Tensor
    whitened: Tensor
    half_whitened: Tensor
    whiten: Tensor
    scale: float
    dot: float
    power: float
    power_whitened: float
    floor: float

    @classmethod
    def make(
        cls,
        means: Float32,
        second_moment: Float64,
        recipe: Recipe,
        device: torch.device | str = "cpu",
    ) -> Objective:
        """For ``means`` (n, channels) of a layer whose uncentred second moment (channels, channels) is given."""
        whiten = power_of_moment(second_moment, -0.5, recipe.ridge)
        return cls(
            means=_unit(means, device),
            whitened=_unit(means @ power_of_moment(second_moment, -recipe.whitening, recipe.ridge), device),
            half_whitened=_unit(means @ whiten, device),
            whiten=torch.from_numpy(whiten.astype(np.float32)).to(device),
            scale=float(np.sqrt(max(np.trace(second_moment), _TINY))),
            dot=recipe.dot,
            power=recipe.power,
            power_whitened=recipe.power_whitened,
            floor=recipe.floor,
        )

    def take(self, rows: NDArray[np.intp]) -> Objective:
        """The objective of some of the icons, by their numbers (k,)."""
        return replace(
            self, means=self.means[rows], whitened=self.whitened[rows], half_whitened=self.half_whitened[rows]
        )

    def __call__(self, maps: Tensor, share: float = 0.0) -> Tensor:
        """Log of dotᵈ · cosineᵖ · whitened cosineʷ for ``maps`` (n, channels, H, W): (n,), larger is better.

        ``share`` in [0, 1] is the weight of the mean over all positions but the outermost; the rest is the centre's.
        """
        value = self._at(centre(maps)[:, :, None])[:, 0]
        if share <= 0:
            return value
        # Positions at the border see the padding of the network as much as the icon.
        edge = 1 if min(maps.shape[2:]) >= 3 else 0
        inner = maps[:, :, edge : maps.shape[2] - edge, edge : maps.shape[3] - edge].flatten(2)
        return (1 - share) * value + share * self._at(inner).mean(1)

    def _at(self, activations: Tensor) -> Tensor:
        """The same at each of k positions, for ``activations`` (n, channels, k): (n, k)."""
        value = self.dot * floored_log((activations * self.whitened[:, :, None]).sum(1) / self.scale, self.floor)
        if self.power:
            value = value + self.power * floored_log(
                _cosine(activations, self.means, _TINY * self.scale**2), self.floor
            )
        if self.power_whitened:
            whitened = torch.einsum("nck,cd->ndk", activations, self.whiten)
            value = value + self.power_whitened * floored_log(_cosine(whitened, self.half_whitened, _TINY), self.floor)
        return value


def _cosine(activations: Tensor, directions: Tensor, tiny: float) -> Tensor:
    """Cosine of ``activations`` (n, channels, k) to unit rows ``directions`` (n, channels): (n, k)."""
    norms = activations.square().sum(1).add(tiny).sqrt()
    return (activations * directions[:, :, None]).sum(1) / norms


def floored_log(values: Tensor, floor: float) -> Tensor:
    """The logarithm of ``values``, in their shape, continued under ``floor`` by its tangent."""
    return torch.where(values > floor, values.clamp(min=floor).log(), math.log(floor) + (values - floor) / floor)


def _unit(rows: Float32, device: torch.device | str) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)).to(device)
    return tensor / tensor.norm(dim=1, keepdim=True).clamp(min=_TINY)


def centre(maps: Tensor) -> Tensor:
    """The activations at position (H // 2, W // 2) of ``maps`` (n, channels, H, W): (n, channels)."""
    return maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]

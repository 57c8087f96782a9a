"""What an icon is asked for: the whitened direction, times a power of the true cosine.

A dot product alone is maximal for pictures that excite everything; a cosine alone does not care how strongly. The
activation atlas (Carter et al. 2019) multiplies both, with a direction that is whitened so that the layer's common
directions do not rule, and a floor under the cosine. Its code leaves out the norm of the direction, so that the floor
depends on the layer's scale; here the cosine is the true one. The logarithm is maximised: the same pictures are best,
and the gradient keeps its scale while the objective grows by orders of magnitude.

The centre position is what counts. In early layers it sees only a spot in the middle of an icon and would leave the
rest grey, so there the other positions are asked for the same direction too, with a share that fades out: the
direction becomes a texture first, and the centre is made exact afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.whitening import power_of_moment

# Where a cosine is smaller than this, its logarithm goes on as a straight line: there is a slope at 0 and under it.
FLOOR = 0.1
_TINY = 1e-12


@dataclass(frozen=True)
class Objective:
    """The objective of a batch of icons, one direction each.

    ``means`` and ``whitened``: unit rows (n, channels), the raw and the whitened directions. ``scale``: the root mean
    square norm of the layer's activations, the unit in which the dot product is measured.
    """

    means: Tensor
    whitened: Tensor
    scale: float
    power: float

    @classmethod
    def make(
        cls,
        means: NDArray[np.float32],
        second_moment: NDArray[np.float64],
        *,
        power: float,
        ridge: float,
        device: torch.device | str = "cpu",
    ) -> Objective:
        """For ``means`` (n, channels) of a layer whose uncentred second moment (channels, channels) is given."""
        whitened = means @ power_of_moment(second_moment, -1, ridge)
        scale = float(np.sqrt(max(np.trace(second_moment), _TINY)))
        return cls(_unit(means, device), _unit(whitened, device), scale, power)

    def take(self, rows: NDArray[np.intp]) -> Objective:
        """The objective of some of the icons."""
        return Objective(self.means[rows], self.whitened[rows], self.scale, self.power)

    def __call__(self, maps: Tensor, share: float = 0.0) -> Tensor:
        """Log of dot · cosine ** power for ``maps`` (n, channels, H, W): (n,), larger is better.

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
        norms = activations.square().sum(1).add(_TINY * self.scale**2).sqrt()
        cosine = (activations * self.means[:, :, None]).sum(1) / norms
        dot = (activations * self.whitened[:, :, None]).sum(1) / self.scale
        return _log(dot) + self.power * _log(cosine)


def _log(values: Tensor, floor: float = FLOOR) -> Tensor:
    """The logarithm, continued under ``floor`` by its tangent."""
    return torch.where(values > floor, values.clamp(min=floor).log(), math.log(floor) + (values - floor) / floor)


def _unit(rows: NDArray[np.float32], device: torch.device | str) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)).to(device)
    return tensor / tensor.norm(dim=1, keepdim=True).clamp(min=_TINY)


def centre(maps: Tensor) -> Tensor:
    """The activations at position (H // 2, W // 2) of ``maps`` (n, channels, H, W): (n, channels)."""
    return maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]

"""Small random moves between picture and network, so that an icon does not depend on single pixels.

Every icon of a batch is shifted, turned and scaled by its own random amounts, from its own seed: an icon does not
depend on the others of its batch. The moves fade out, so that the last steps refine the picture as it will be stored.
Transformation robustness is an idea of Olah, Mordvintsev and Schubert (2017); fading it out is this project's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atlas.arrays import Integers


@dataclass(frozen=True)
class Moves:
    """How far pictures are moved at full strength: ``shift`` in pixels, ``turn`` in degrees, ``scale`` as a share.

    Amounts are drawn evenly from −limit to +limit (scale: from 1 − limit to 1 + limit).
    """

    shift: float
    turn: float
    scale: float

    def draw(self, seed: int, count: int) -> Tensor:
        """``count`` moves (count, 4), equal for equal seeds: shift x, shift y (pixels), turn (radians), scale − 1."""
        # The stream differs from that of the noise, which is drawn from the seed itself.
        generator = torch.Generator().manual_seed((seed ^ 0x5DEECE66D) & (2**63 - 1))
        limits = torch.tensor([self.shift, self.shift, math.radians(self.turn), self.scale])
        return (torch.rand(count, 4, generator=generator) * 2 - 1) * limits

    def draw_each(self, seeds: Integers, count: int) -> Tensor:
        """The moves of several pictures, (count, n, 4)."""
        return torch.stack([self.draw(int(seed), count) for seed in seeds], dim=1)


def fade(step: int, steps: int, share: float) -> float:
    """Strength of the moves in ``step`` (from 0) of ``steps``: from 1 down to 0 after ``share`` of them, evenly."""
    return max(0.0, 1 - step / max(steps * share, 1))


def move(pixels: Tensor, moves: Tensor) -> Tensor:
    """``pixels`` (n, 3, h, w) moved by ``moves`` (n, 4) as Moves.draw gives them; outside, the picture is mirrored."""
    height, width = pixels.shape[2:]
    x, y, turn, scale = moves.to(pixels.device).unbind(1)
    cosine, sine = torch.cos(turn) / (1 + scale), torch.sin(turn) / (1 + scale)
    rows = (cosine, -sine, 2 * x / width, sine, cosine, 2 * y / height)
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

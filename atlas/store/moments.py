"""Streaming moments of a layer, and the whitening transform made from them.

Channels of a layer are correlated and of very different scale, so a plain dot product mostly asks for the common
directions. Whitening takes that out: the activation atlas (Carter et al. 2019) optimises whitened directions. The
moments are uncentred, because a cosine is taken from the origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32, Float64

# The ridge of every score, whatever ridge an objective uses, so that scores can be compared.
SCORE_RIDGE = 1e-3


@dataclass
class Moments:
    """Count, sum (channels,) and uncentred second sum (channels, channels) of the rows seen so far, in float64."""

    count: int
    total: Float64
    second: Float64

    @classmethod
    def empty(cls, channels: int) -> Moments:
        """Moments of no rows."""
        return cls(0, np.zeros(channels), np.zeros((channels, channels)))

    def add(self, rows: NDArray[np.floating]) -> None:
        """Take in ``rows`` of shape (n, channels)."""
        block = rows.astype(np.float32)
        self.count += len(block)
        self.total += block.sum(0, dtype=np.float64)
        self.second += block.T @ block

    @property
    def second_moment(self) -> Float64:
        """The uncentred second moment Σ, shape (channels, channels)."""
        return self.second / max(self.count, 1)

    def save(self, path: Path) -> None:
        """Write them as a .npz file, from which ``load`` reads them."""
        with path.open("wb") as file:
            np.savez(file, count=self.count, total=self.total, second=self.second)

    @classmethod
    def load(cls, path: Path) -> Moments:
        """The moments that ``save`` wrote."""
        with np.load(path) as arrays:
            return cls(int(arrays["count"]), arrays["total"], arrays["second"])


def power_of_moment(second_moment: Float64, exponent: float, ridge: float = SCORE_RIDGE) -> Float32:
    """(Σ + εI)^exponent with ε = ridge · trace(Σ) / channels, shape (channels, channels), symmetric.

    The exponent −½ whitens (used by the scores); −1 turns a mean into the whitened direction of the objective.
    """
    channels = len(second_moment)
    epsilon = ridge * np.trace(second_moment) / channels
    values, vectors = np.linalg.eigh(second_moment + max(epsilon, 1e-12) * np.eye(channels))
    return ((vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T).astype(np.float32)

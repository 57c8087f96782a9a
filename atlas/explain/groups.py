"""A layer's map of one picture in a few groups: where each is, and what it holds.

Non-negative matrix factorisation of the positions' activations, as in "The Building Blocks of Interpretability" (Olah
et al. 2018). A layer that has negative activations too is taken as its positive and its negative part side by side.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from atlas.arrays import Float32
from atlas.errors import ConfigError

FEWEST_GROUPS, MOST_GROUPS = 2, 10
_ITERATIONS = 300


@dataclass(frozen=True)
class Groups:
    """n groups, the largest first: ``masks`` float32 (n, H, W) in [0, 1], ``directions`` float32 (n, channels), so that
    the map is nearly Σ mask · direction; ``shares`` float32 (n,) of their lengths, summing to 1; ``explained_share``:
    the share of the map's squares that they hold; ``signed``: whether the layer has negative activations.
    """

    masks: Float32
    directions: Float32
    shares: Float32
    explained_share: float
    signed: bool


def check_count(count: int) -> None:
    """Raises ConfigError for a number of groups that no map is factorised into."""
    if not FEWEST_GROUPS <= count <= MOST_GROUPS:
        raise ConfigError(f"{count} groups were asked for, expected {FEWEST_GROUPS} to {MOST_GROUPS}.")


def factorise(maps: Float32, count: int) -> Groups:
    """``maps`` (channels, H, W) in ``count`` groups, the same ones every time.

    Raises ConfigError for a count below 2 or above 10, and for a map of zeros or of fewer positions.
    """
    check_count(count)
    channels, height, width = maps.shape
    if count > min(height * width, channels):
        raise ConfigError(
            f"{count} groups were asked for, but the layer has {height * width} positions of {channels} channels. Ask "
            "for fewer, or take an earlier layer."
        )
    rows = maps.reshape(channels, -1).T.astype(np.float64)
    if not rows.any():
        raise ConfigError("The layer answers this picture with zeros alone, which have no groups. Take another layer.")
    signed = bool((rows < 0).any())
    parts = np.concatenate([rows.clip(0), (-rows).clip(0)], axis=1) if signed else rows
    scale = np.abs(parts).max()
    model = NMF(count, init="nndsvda", max_iter=_ITERATIONS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what is left to gain cannot be seen
        weights = model.fit_transform(parts / scale)
    vectors = model.components_ * scale
    if signed:
        vectors = vectors[:, :channels] - vectors[:, channels:]
    largest = np.maximum(weights.max(0), 1e-12)
    masks, directions = weights / largest, vectors * largest[:, None]
    lengths = np.linalg.norm(masks, axis=0) * np.linalg.norm(directions, axis=1)
    rest = np.square(rows - masks @ directions).sum() / np.square(rows).sum()
    order = np.argsort(-lengths, kind="stable")
    return Groups(
        masks.T[order].reshape(count, height, width).astype(np.float32),
        directions[order].astype(np.float32),
        (lengths[order] / max(lengths.sum(), 1e-12)).astype(np.float32),
        float(max(0.0, 1 - rest)),
        signed,
    )

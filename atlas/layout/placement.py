"""New points on a finished map: each is placed among the fitted rows that are most like it, with a confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from atlas.arrays import Float32
from atlas.errors import ConfigError
from atlas.layout.lattice import cell_of
from atlas.layout.neighbors import load_index, nearest
from atlas.layout.projection import Projection
from atlas.rundir.directory import RunDirectory

# Neighbours by which a point is placed and its confidence is measured; and quantiles of the latter's scale.
PLACING_NEIGHBORS = 15
NEARNESS_QUANTILES = 101
# Queries at a time: a million of them would need a gigabyte for their neighbours.
_BLOCK = 65_536


@dataclass(frozen=True)
class PlacedPoints:
    """Points on the map: ``coordinates`` float32 (n, 2), NaN where no neighbour has any; ``confidence``
    float32 (n,) in [0, 1], the share of the map's own rows that are less near to their neighbours than the point is to
    its: 0 means that nothing like it was in the data.
    """

    coordinates: Float32
    confidence: Float32


def nearness_quantiles(cosines: Float32) -> Float32:
    """Quantiles (101,) of the mean cosine of rows to their nearest others, given nearest first (n, neighbors); zeros
    where there are none."""
    if not cosines.size:
        return np.zeros(NEARNESS_QUANTILES, np.float32)
    mean = cosines[:, :PLACING_NEIGHBORS].mean(1)
    return np.quantile(mean, np.linspace(0, 1, NEARNESS_QUANTILES)).astype(np.float32)


def place_rows(
    index: faiss.Index, coordinates: Float32, rows: Float32, nearness: Float32, *, threads: int = 1
) -> PlacedPoints:
    """Place unit ``rows`` (n, width) among those of ``index``, at ``coordinates`` (m, 2), NaN where dropped, and with
    ``nearness`` (101,), see nearness_quantiles. Rows of zeros have no coordinates.

    A point lies where the neighbours are that agree: at the weighted mean of all, and then twice at that of those near
    the last. The plain mean would put a point whose neighbours lie in two groups between these, where no row lies.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    points = np.full((len(rows), 2), np.nan, np.float32)
    confidence = np.zeros(len(rows), np.float32)
    alive = np.flatnonzero(rows.any(1)) if index.ntotal else np.zeros(0, np.int64)
    for first in range(0, len(alive), _BLOCK):
        block = alive[first : first + _BLOCK]
        neighbors, cosines = nearest(index, rows[block], min(PLACING_NEIGHBORS, index.ntotal))
        points[block] = _mean_of_agreeing(coordinates[neighbors], cosines, neighbors)
        mean = np.nanmean(np.where(neighbors >= 0, cosines, np.nan), axis=1)
        confidence[block] = np.interp(mean, nearness, np.linspace(0, 1, len(nearness)))
    faiss.omp_set_num_threads(before)  # the caller's own
    return PlacedPoints(points, confidence)


@dataclass(frozen=True)
class Placement:
    """Points on a run's map: ``u``, ``v`` float32 (n,) in [0, 1], NaN where it has none; ``cells`` int32 (n, 2), row
    and column at each grid, −1 where there is none; ``confidence`` as in PlacedPoints."""

    u: Float32
    v: Float32
    cells: dict[int, NDArray[np.int32]]
    confidence: Float32


class Placer:
    """Places activations on the finished map of one layer of a run."""

    def __init__(
        self, projection: Projection, index: faiss.Index, coordinates: Float32, nearness: Float32, grids: Sequence[int]
    ) -> None:
        self._projection, self._index, self._coordinates = projection, index, coordinates
        self._nearness, self._grids = nearness, tuple(grids)

    @classmethod
    def load(cls, run: RunDirectory, layer: str, u: Float32, v: Float32, grids: Sequence[int]) -> Placer:
        """For the layer whose rows lie at ``u``, ``v`` (n,), NaN where dropped."""
        with np.load(run.coordinates(layer)) as arrays:
            rows = arrays["fitted"][arrays["alive"]]
            nearness = arrays["nearness"]
        coordinates = np.stack([u[rows], v[rows]], axis=1).astype(np.float32)
        projection = Projection.load(run.projection(layer))
        return cls(projection, load_index(run.index(layer)), coordinates, nearness, grids)

    def place(self, activations: ArrayLike) -> Placement:
        """Place ``activations`` (n, channels). Raises ConfigError for another shape or for what is not finite."""
        channels = len(self._projection.components)
        try:
            rows = np.asarray(activations, dtype=np.float32)
        except (TypeError, ValueError):
            rows = np.zeros(0, np.float32)
        if rows.ndim != 2 or rows.shape[1] != channels:
            raise ConfigError(
                f"The activations have shape {np.shape(activations)}, expected numbers of shape (n, {channels}): a row "
                "for each point, a column for each channel of the layer."
            )
        if not np.isfinite(rows).all():
            row = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
            raise ConfigError(f"Row {row} of the activations is not finite; leave out such rows.")
        points = place_rows(self._index, self._coordinates, self._projection.apply(rows), self._nearness)
        u, v = points.coordinates.T
        numbers = {grid: cell_of(u, v, grid) for grid in self._grids}
        cells = {
            grid: np.where(number[:, None] < 0, -1, np.stack([number // grid, number % grid], 1)).astype(np.int32)
            for grid, number in numbers.items()
        }
        return Placement(u, v, cells, points.confidence)


def _mean_of_agreeing(coordinates: Float32, cosines: Float32, neighbors: NDArray[np.int64]) -> Float32:
    """Where neighbours at ``coordinates`` (n, k, 2) agree, (n, 2); ``neighbors`` (n, k): their numbers, −1 for
    none."""
    distance = np.clip(1 - cosines, 0, 2)
    # The nearest neighbour sets the scale, so that a row that was fitted comes back to its own coordinates.
    weights = np.exp(-distance / np.maximum(distance[:, :1], 1e-4))
    weights *= (neighbors >= 0) & np.isfinite(coordinates).all(2)
    coordinates = np.nan_to_num(coordinates)
    centre = _mean(coordinates, weights)
    for _ in range(2):
        offset = np.linalg.norm(coordinates - centre[:, None], axis=2)
        median = np.median(offset, axis=1, keepdims=True)
        centre = _mean(coordinates, weights / (1 + (offset / np.maximum(median, 1e-6)) ** 2))
    return centre


def _mean(coordinates: Float32, weights: Float32) -> Float32:
    """Weighted means (n, 2) of ``coordinates`` (n, k, 2); NaN where all weights are 0."""
    total = weights.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.einsum("nk,nkd->nd", weights, coordinates) / total).astype(np.float32)

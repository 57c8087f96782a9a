"""The map: activations → two coordinates a row, by UMAP over a FAISS kNN graph (McInnes et al. 2018).

Rows line up across layers, so a layer starts from the coordinates of the layer before it and is then turned, mirrored
and scaled onto them (Procrustes): the same place of the same view stays in the same part of the map. All layers share
one box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import curve_fit

from atlas.config import LayoutConfig
from atlas.neighbors import build_index, knn_graph, nearest, unit_rows
from atlas.store import iterate
from atlas.whitening import Moments

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

# Layers with more channels are projected before neighbours are searched.
PROJECT_ABOVE = 64
ENERGY = 0.99
# Where one direction (a strong mean) holds nearly all energy, this many are kept all the same.
FEWEST = 16
# UMAP's own scale for a start: coordinates of some ten units across.
_START_SPAN = 10.0
# A row is an outlier when it lies this many widths of the inner 99 % outside of it.
_OUTLIER_WIDTHS = 0.25
# Empty bands of the map are narrowed to this share of it.
_WIDEST_GAP = 0.02

ZERO, OUTLIER = "no activation", "outlier"

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("view", pa.int32(), nullable=False),
        pa.field("draw", pa.int16(), nullable=False),
        pa.field("u", pa.float32()),
        pa.field("v", pa.float32()),
        pa.field("dropped", pa.string()),
    ]
)


@dataclass(frozen=True)
class Projection:
    """An uncentred projection (channels, kept) that keeps ``energy`` of the rows' squared length."""

    components: Float32
    energy: float

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, components=self.components, energy=self.energy)

    @classmethod
    def load(cls, path: Path) -> Projection:
        with np.load(path) as saved:
            return cls(saved["components"], float(saved["energy"]))


def read_moments(shards: Sequence[Path], channels: int) -> Moments:
    """The moments of a layer in one pass over its shards."""
    moments = Moments.empty(channels)
    for block in iterate(shards, ["activation"]):
        moments.add(block["activation"])
    return moments


def fit_projection(moments: Moments) -> Projection:
    """The fewest directions of the second moment that hold 99 % of the energy; the identity for narrow layers.

    Uncentred, because centring would change the cosines that the layout is judged by.
    """
    channels = len(moments.total)
    if channels <= PROJECT_ABOVE:
        return Projection(np.eye(channels, dtype=np.float32), 1.0)
    values, vectors = np.linalg.eigh(moments.second_moment)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    held = np.cumsum(values) / max(values.sum(), 1e-30)
    kept = min(channels, max(int(np.searchsorted(held, ENERGY)) + 1, FEWEST))
    return Projection(np.ascontiguousarray(vectors[:, :kept], dtype=np.float32), float(held[kept - 1]))


def project(shards: Sequence[Path], projection: Projection) -> Float32:
    """Unit rows (n, kept) of a whole layer; rows without activation are zeros."""
    blocks = [
        unit_rows(block["activation"].astype(np.float32) @ projection.components)
        for block in iterate(shards, ["activation"])
    ]
    return np.concatenate(blocks) if blocks else np.zeros((0, projection.components.shape[1]), np.float32)


@dataclass(frozen=True)
class Fit:
    """Raw coordinates (n, 2) float32, NaN where dropped; the reason for each row (None: kept); the index of the fitted
    rows; and which rows those are."""

    coordinates: Float32
    dropped: NDArray[np.object_]
    index: faiss.Index
    fitted: NDArray[np.int64]


def fit_layout(rows: Float32, config: LayoutConfig, *, seed: int, threads: int, previous: Float32 | None = None) -> Fit:
    """Lay out unit ``rows`` (n, kept). ``previous``: coordinates (n, 2) of the layer before, NaN where dropped.

    More than ``fit_rows`` rows are sampled; the rest are placed among their nearest fitted neighbours.
    """
    generator = np.random.default_rng(seed)
    dropped = np.full(len(rows), None, dtype=object)
    alive = np.flatnonzero((rows != 0).any(1))
    dropped[(rows == 0).all(1)] = ZERO
    fitted = alive
    if len(alive) > config.fit_rows:
        fitted = np.sort(generator.choice(alive, config.fit_rows, replace=False))
    # A graph index that several threads build differs from build to build.
    index = build_index(rows[fitted], threads=1 if config.deterministic else threads)
    coordinates = np.full((len(rows), 2), np.nan, np.float32)
    if not len(alive):
        return Fit(coordinates, dropped, index, fitted)
    start = _start(rows[fitted], None if previous is None else previous[fitted], generator)
    coordinates[fitted] = _umap(rows[fitted], index, start, config, seed=seed)
    rest = np.setdiff1d(alive, fitted, assume_unique=True)
    if len(rest):
        coordinates[rest] = place_rows(index, coordinates[fitted], rows[rest], config.neighbors)
    outside = _outliers(coordinates)
    dropped[outside] = OUTLIER
    coordinates[outside] = np.nan
    if previous is not None:
        coordinates = align(coordinates, previous)
    return Fit(coordinates, dropped, index, fitted)


def place_rows(index: faiss.Index, coordinates: Float32, rows: Float32, neighbors: int) -> Float32:
    """Coordinates (n, 2) of new unit ``rows``: the mean of their nearest fitted rows', the nearer the more."""
    found, cosines = nearest(index, rows, min(neighbors, index.ntotal))
    distance = np.clip(1 - cosines, 0, 2)
    # The nearest neighbour sets the scale, so that a row that was fitted comes back to its own place.
    weights = np.exp(-distance / np.maximum(distance[:, :1], 1e-4)) * (found >= 0)
    weights /= weights.sum(1, keepdims=True)
    return np.einsum("nk,nkd->nd", weights, coordinates[found]).astype(np.float32)


def _start(rows: Float32, previous: Float32 | None, generator: np.random.Generator) -> Float32:
    if previous is None or not np.isfinite(previous).any():
        centred = rows - rows.mean(0)
        # The two widest directions of the rows themselves (a PCA start keeps the map's large shape).
        _, vectors = np.linalg.eigh(centred.T @ centred)
        widest = (centred @ vectors[:, ::-1][:, :2]).astype(np.float32)
        start = np.zeros((len(rows), 2), np.float32)
        start[:, : widest.shape[1]] = widest  # rows of one channel have one direction only
    else:
        start = previous.copy()
        missing = ~np.isfinite(start).all(1)
        start[missing] = generator.choice(start[~missing], int(missing.sum()))
    start = start - start.mean(0)
    start *= _START_SPAN / max(float(np.abs(start).max()), 1e-12)
    return (start + generator.normal(scale=1e-3, size=start.shape)).astype(np.float32)


def _umap(rows: Float32, index: faiss.Index, start: Float32, config: LayoutConfig, *, seed: int) -> Float32:
    from umap.umap_ import fuzzy_simplicial_set, simplicial_set_embedding  # seconds of compiling: only where it is used

    neighbors = min(config.neighbors, len(rows) - 1)
    if neighbors < 2:
        return start
    state = np.random.RandomState(seed)
    indices, distances = knn_graph(index, rows, neighbors)
    graph, _, _ = fuzzy_simplicial_set(rows, neighbors, state, "cosine", knn_indices=indices, knn_dists=distances)
    a, b = _curve(config.min_dist)
    embedding, _ = simplicial_set_embedding(
        rows, graph, 2, 1.0, a, b, 1.0, 5, None, start, state, "cosine", {}, False, {}, False,
        parallel=not config.deterministic,
    )  # fmt: skip
    return np.asarray(embedding, dtype=np.float32)


def _curve(min_dist: float, spread: float = 1.0) -> tuple[float, float]:
    """UMAP's a and b: 1 / (1 + a·x^(2b)) fitted to a plateau of ``min_dist`` with an exponential tail."""
    x = np.linspace(0, 3 * spread, 300)
    y = np.where(x < min_dist, 1.0, np.exp(-(x - min_dist) / spread))
    (a, b), _ = curve_fit(lambda x, a, b: 1 / (1 + a * x ** (2 * b)), x, y)
    return float(a), float(b)


def _outliers(coordinates: Float32) -> NDArray[np.bool_]:
    """Rows (n,) far outside the inner 99 % of the map: one stray island would shrink everything else."""
    if not np.isfinite(coordinates).any():
        return np.zeros(len(coordinates), bool)
    low, high = np.nanpercentile(coordinates, [0.5, 99.5], axis=0)
    slack = _OUTLIER_WIDTHS * (high - low)
    with np.errstate(invalid="ignore"):
        return ((coordinates < low - slack) | (coordinates > high + slack)).any(1)


def align(coordinates: Float32, reference: Float32) -> Float32:
    """``coordinates`` (n, 2) turned, mirrored, scaled and shifted onto ``reference`` (n, 2) over the rows both have.

    Turning and mirroring are Procrustes'. The scale makes both maps equally wide (root mean square): the scale of least
    squares would shrink a layer the more, the less it agrees with the one before.
    """
    both = np.isfinite(coordinates).all(1) & np.isfinite(reference).all(1)
    if both.sum() < 3:
        return coordinates
    own, other = coordinates[both].astype(np.float64), reference[both].astype(np.float64)
    own_mean, other_mean = own.mean(0), other.mean(0)
    rotation, _ = orthogonal_procrustes(own - own_mean, other - other_mean)
    factor = np.linalg.norm(other - other_mean) / max(float(np.linalg.norm(own - own_mean)), 1e-12)
    return ((coordinates - own_mean) @ rotation * factor + other_mean).astype(np.float32)


def unit_box(layouts: Sequence[Float32]) -> list[Float32]:
    """Layouts (n, 2) moved into [0, 1]² by one map for all, so that an alignment survives.

    Along each axis, bands that hold no row of any layout are narrowed to 2 % of the map: islands far from the rest,
    which mean no more than "apart", would leave most of the cells empty. Order along the axes stays.
    """
    kept = [layout[np.isfinite(layout).all(1)] for layout in layouts]
    every = np.concatenate(kept) if kept else np.zeros((0, 2), np.float32)
    if not len(every):
        return list(layouts)
    boxed = [np.full(layout.shape, np.nan, np.float32) for layout in layouts]
    for axis in range(2):
        values = np.unique(every[:, axis].astype(np.float64))
        gaps = np.diff(values)
        low, high = np.percentile(values, [0.5, 99.5])
        moved = np.r_[0, np.cumsum(np.minimum(gaps, max(_WIDEST_GAP * (high - low), 1e-12)))]
        moved /= max(moved[-1], 1e-12)
        for layout, out in zip(layouts, boxed):
            finite = np.isfinite(layout).all(1)
            out[finite, axis] = np.interp(layout[finite, axis].astype(np.float64), values, moved)
    return boxed

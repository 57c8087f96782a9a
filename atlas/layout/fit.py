"""The map: activations → two coordinates a row, by UMAP over a FAISS kNN graph (McInnes et al. 2018).

Rows line up across layers, so all layers start from one common layout and are then turned, mirrored and scaled onto it
(Procrustes): the same place of the same view stays in the same part of the map. All layers share one box.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from atlas.arrays import Float32
from atlas.config.sections import LayoutConfig
from atlas.layout.gpu import embed_on_gpu, faiss_finds_gpu, nearest_on_gpu, uses_gpu
from atlas.layout.neighbors import build_index, knn_graph, unit_rows
from atlas.layout.placement import NEARNESS_QUANTILES, nearness_quantiles

# UMAP's own scale for a start: coordinates of some ten units across.
_START_SPAN = 10.0
# UMAP's own numbers of epochs.
_MANY_ROWS, _FEW_EPOCHS, _MANY_EPOCHS = 10_000, 200, 500
# The learning rate of the last optimization of a map (UMAP's own is 1): of an independent one, and of one of several
# that start from a common layout and are to stay alike. A larger one makes aligned maps truer and less alike.
_LEARNING_RATE, _ALIGNED_LEARNING_RATE = 0.02, 0.0125
# A row is an outlier when it lies this many widths of the inner 99 % outside of it.
_OUTLIER_WIDTHS = 0.25
# Empty bands of the map are narrowed to this share of it.
_WIDEST_GAP = 0.02

# Why a row is not on the map, by number; 0: it is.
ZERO, OUTLIER, OTHER = "no activation", "outlier", "other class"
REASONS: tuple[str | None, ...] = (None, ZERO, OUTLIER, OTHER)


def choose_fitted(count: int, limit: int, seed: int) -> NDArray[np.int64]:
    """The rows of a layer of ``count`` that are laid out, int64 (n,), ascending: all, or a fair sample of ``limit``."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


@dataclass(frozen=True)
class Fit:
    """A layer's fitted rows on the map.

    ``coordinates``: raw, float32 (n, 2), NaN where dropped. ``dropped``: int8 (n,), numbers of REASONS. ``index``:
    FAISS over the unit rows ``alive``, int64 (m,): those with any activation. ``nearness``: float32 (101,), the
    quantiles of the mean cosine of an indexed row to its nearest others.
    """

    coordinates: Float32
    dropped: NDArray[np.int8]
    index: faiss.Index
    alive: NDArray[np.int64]
    nearness: Float32


def fit_layout(
    rows: Float32,
    config: LayoutConfig,
    *,
    seed: int,
    threads: int,
    common: Float32 | None = None,
    attribution_rows: Float32 | None = None,
    line: bool = False,
) -> Fit:
    """Lay out unit ``rows`` (n, width). ``common``: where all layers start from (n, 2), NaN where it has none.

    ``attribution_rows``: unit rows (n, width) by which the rows are laid out in place of themselves; new points are
    still placed by the rows. ``line``: in one dimension, the second coordinate is 0.
    """
    dropped = np.zeros(len(rows), np.int8)
    dead = ~rows.any(1)
    dropped[dead] = REASONS.index(ZERO)
    alive = np.flatnonzero(~dead)
    living = rows if len(alive) == len(rows) else rows[alive]
    # A graph index that several threads build differs from build to build.
    index = build_index(living, threads=1 if config.deterministic else threads)
    coordinates = np.full((len(rows), 2), np.nan, np.float32)
    if not len(alive):
        return Fit(coordinates, dropped, index, alive, np.zeros(NEARNESS_QUANTILES, np.float32))
    if common is not None and not np.isfinite(common[alive]).any():
        common = None
    on_gpu = uses_gpu(config.backend, deterministic=config.deterministic)
    search = nearest_on_gpu if on_gpu and faiss_finds_gpu() else None
    own = knn_graph(index, living, config.neighbors, search)
    search_rows, graph = living, own
    if attribution_rows is not None:
        search_rows = attribution_rows[alive]
        by_attribution = index if search else build_index(search_rows, threads=1 if config.deterministic else threads)
        graph = knn_graph(by_attribution, search_rows, config.neighbors, search)
    if config.axes == "pca":
        coordinates[alive] = principal_axes(search_rows)
    else:
        generator = np.random.default_rng(seed)
        start = principal_axes(search_rows) if common is None else _completed(common[alive], generator)
        start = _scaled(start, generator)
        if line:
            start[:, 1] = 0
        if graph[0].shape[1] >= 2:
            optimize = _Optimizer(search_rows, *graph, config, seed=seed, threads=threads, on_gpu=on_gpu and not line)
            if common is None:
                start = optimize(_scaled(optimize(start), generator), learning_rate=_LEARNING_RATE)
            else:
                start = optimize(start, learning_rate=_ALIGNED_LEARNING_RATE)
        coordinates[alive] = start
    outside = outliers(coordinates)
    dropped[outside] = REASONS.index(OUTLIER)
    coordinates[outside] = np.nan
    if common is not None:
        coordinates = mirror(coordinates, common) if config.axes == "pca" else align(coordinates, common)
    nearness = nearness_quantiles(1 - own[1][:, 1:])
    return Fit(coordinates, dropped, index, alive, nearness)


def principal_axes(rows: Float32) -> Float32:
    """The two widest directions of ``rows`` (n, width), centred: float32 (n, 2). Signs are fixed."""
    centred = rows - rows.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    widest = vectors[:, ::-1][:, :2]
    widest = widest * np.where(widest[np.abs(widest).argmax(0), range(widest.shape[1])] < 0, -1, 1)
    axes = np.zeros((len(rows), 2), np.float32)
    axes[:, : widest.shape[1]] = centred @ widest  # rows of one channel have one direction only
    return axes


def _completed(common: Float32, generator: np.random.Generator) -> Float32:
    """``common`` (n, 2), and for rows that have none there, those of any other row."""
    start = common.copy()
    missing = ~np.isfinite(start).all(1)
    start[missing] = generator.choice(start[~missing], int(missing.sum()))
    return start


def _scaled(start: Float32, generator: np.random.Generator) -> Float32:
    """``start`` at UMAP's own scale, with a little noise, without which equal rows would never part."""
    start = start - start.mean(0)
    start = start * (_START_SPAN / max(float(np.abs(start).max()), 1e-12))
    return (start + generator.normal(scale=1e-3, size=start.shape)).astype(np.float32)


class _Optimizer:
    """Optimizes a map of unit ``rows`` (n, width) by their kNN graph: ``indices`` and ``distances`` (n, neighbors)."""

    def __init__(
        self,
        rows: Float32,
        indices: NDArray[np.int32],
        distances: Float32,
        config: LayoutConfig,
        *,
        seed: int,
        threads: int,
        on_gpu: bool,
    ) -> None:
        self._rows, self._neighbors = rows, (indices, distances)
        from umap.umap_ import find_ab_params  # seconds of importing: only where it is used

        self._a, self._b = map(float, find_ab_params(1.0, config.min_dist))
        self._seed, self._threads = seed, 1 if config.deterministic else threads
        self._graph = None
        if not on_gpu:
            self._graph = _fuzzy_graph(rows, indices, distances, seed)

    def __call__(self, start: Float32, *, learning_rate: float | None = None) -> Float32:
        """Coordinates (n, 2) from ``start`` (n, 2); a small ``learning_rate`` keeps its large shape."""
        epochs = _FEW_EPOCHS if learning_rate or len(start) > _MANY_ROWS else _MANY_EPOCHS
        shape: dict[str, Any] = {"a": self._a, "b": self._b, "epochs": epochs, "seed": self._seed}
        if learning_rate:
            shape["learning_rate"] = learning_rate
        if self._graph is None:
            return embed_on_gpu(self._rows, *self._neighbors, start, **shape)
        from atlas.layout.umap_optimizer import embed

        if learning_rate:
            shape["decay"] = 1.0
        return embed(self._graph, start, **shape, threads=self._threads)


def _fuzzy_graph(rows: Float32, indices: NDArray[np.int32], distances: Float32, seed: int) -> scipy.sparse.csr_matrix:
    """UMAP's weighted graph (n, n) of the kNN graph ``indices`` and ``distances`` (n, neighbors)."""
    from umap import umap_  # seconds of importing: only where it is used

    for function in (umap_.smooth_knn_dist, umap_.compute_membership_strengths):
        # Else numba compiles them in every process, 6 s each time. RuntimeError: no folder can be written for a cache.
        with suppress(RuntimeError):
            function.enable_caching()
    graph, _, _ = umap_.fuzzy_simplicial_set(
        rows, indices.shape[1], np.random.RandomState(seed), "cosine", knn_indices=indices, knn_dists=distances
    )
    return graph


def common_start(parts: Sequence[Float32], config: LayoutConfig, *, seed: int, threads: int) -> Float32:
    """Where several layers start from, float32 (n, 2): one layout by the mean of their cosines, NaN for rows that have
    no activation. ``parts``: for each layer unit rows (n, width).

    Layers that are optimized from here with a small learning rate stay alike: from one to the next the median row moves
    half as far as between independent layouts (scripts/benchmarks/layout.md).
    """
    rows = join_layers(parts)
    alive = np.flatnonzero(rows.any(1))
    coordinates = np.full((len(rows), 2), np.nan, np.float32)
    if not len(alive):
        return coordinates
    living = rows[alive]
    start = principal_axes(living)
    if config.axes != "pca" and len(living) > 3:
        threads = 1 if config.deterministic else threads
        on_gpu = uses_gpu(config.backend, deterministic=config.deterministic)
        search = nearest_on_gpu if on_gpu and faiss_finds_gpu() else None
        graph = knn_graph(build_index(living, threads=threads), living, config.neighbors, search)
        optimize = _Optimizer(living, *graph, config, seed=seed, threads=threads, on_gpu=on_gpu)
        start = optimize(_scaled(start, np.random.default_rng(seed)))
    coordinates[alive] = start
    return coordinates


def join_layers(parts: Sequence[Float32]) -> Float32:
    """Unit rows of several layers side by side, each layer with the same weight: their cosine is the mean of the
    layers' cosines."""
    return parts[0] if len(parts) == 1 else unit_rows(np.concatenate(parts, axis=1))


def outliers(coordinates: Float32) -> NDArray[np.bool_]:
    """Rows (n,) far outside the inner 99 % of the map: one far group would shrink everything else."""
    if not np.isfinite(coordinates).any():
        return np.zeros(len(coordinates), bool)
    low, high = np.nanpercentile(coordinates, [0.5, 99.5], axis=0)
    slack = _OUTLIER_WIDTHS * (high - low)
    with np.errstate(invalid="ignore"):
        return ((coordinates < low - slack) | (coordinates > high + slack)).any(1)


def align(coordinates: Float32, reference: Float32) -> Float32:
    """``coordinates`` (n, 2) turned, mirrored, scaled and shifted onto ``reference`` (n, 2) over the rows both have.

    Turning and mirroring are Procrustes'. The scale makes both maps equally wide (root mean square): the scale of least
    squares would shrink a layer the more, the less it agrees with the reference.
    """
    both = np.isfinite(coordinates).all(1) & np.isfinite(reference).all(1)
    if both.sum() < 3:
        return coordinates
    own, other = coordinates[both].astype(np.float64), reference[both].astype(np.float64)
    own_mean, other_mean = own.mean(0), other.mean(0)
    rotation, _ = orthogonal_procrustes(own - own_mean, other - other_mean)
    factor = np.linalg.norm(other - other_mean) / max(float(np.linalg.norm(own - own_mean)), 1e-12)
    return ((coordinates - own_mean) @ rotation * factor + other_mean).astype(np.float32)


def mirror(coordinates: Float32, reference: Float32) -> Float32:
    """``coordinates`` (n, 2) with each axis in the direction in which it agrees with ``reference`` (n, 2)."""
    both = np.isfinite(coordinates).all(1) & np.isfinite(reference).all(1)
    own, other = coordinates[both] - coordinates[both].mean(0), reference[both] - reference[both].mean(0)
    return coordinates * np.where((own * other).sum(0) < 0, -1, 1).astype(np.float32)


def unit_box(layouts: Sequence[Float32]) -> list[Float32]:
    """Layouts (n, 2) moved into [0, 1]² by one map for all, so that an alignment survives.

    Along each axis, bands that hold no row of any layout are narrowed to 2 % of the map: groups far from the rest would
    leave most of the cells empty. Order along the axes stays.
    """
    finite_rows = [layout[np.isfinite(layout).all(1)] for layout in layouts]
    every = np.concatenate(finite_rows) if finite_rows else np.zeros((0, 2), np.float32)
    if not len(every):
        return list(layouts)
    box_coordinates = [np.full(layout.shape, np.nan, np.float32) for layout in layouts]
    for axis in range(2):
        values = np.unique(every[:, axis].astype(np.float64))
        gaps = np.diff(values)
        low, high = np.percentile(values, [0.5, 99.5])
        moved = np.r_[0, np.cumsum(np.minimum(gaps, max(_WIDEST_GAP * (high - low), 1e-12)))]
        moved /= max(moved[-1], 1e-12)
        for layout, out in zip(layouts, box_coordinates):
            finite = np.isfinite(layout).all(1)
            out[finite, axis] = np.interp(layout[finite, axis].astype(np.float64), values, moved)
    return box_coordinates

"""How true a map is to the activations: trustworthiness, neighbour recall, agreement between layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import faiss
import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.layout.neighbors import unit_rows

Blocks = Callable[[], Iterable[NDArray[np.floating]]]

# Two cosines nearer than this are the same: they come from matrix products of different shapes.
_SAME = 1e-6
# Rows of which a figure says something.
FEWEST_MEASURED = 10


def quality(
    blocks: Blocks,
    coordinates: Float32,
    *,
    neighbors: int = 15,
    sample: int = 1000,
    seed: int = 0,
    among: NDArray[np.bool_] | None = None,
) -> dict[str, float | None]:
    """Trustworthiness (Venna & Kaski 2001) and neighbour recall of a map, over ``sample`` rows against all on it.

    ``blocks()`` gives the activations in order, block by block, each (b, channels); it is called twice, and one block
    is held at a time. ``coordinates``: (n, 2), NaN where dropped. ``among``: rows (n,) of which the sample is taken; it
    is compared with all. Near is by cosine in the full space, by distance in the map.
    None where there are too few rows: of so few each would be among the nearest.
    """
    on_map = np.asarray(np.isfinite(coordinates).all(axis=1))
    rows = np.flatnonzero(on_map)
    k = min(neighbors, (len(rows) - 1) // 2)
    if len(rows) < FEWEST_MEASURED:
        return {"trustworthiness": None, "recall": None}
    points = np.ascontiguousarray(coordinates[rows], dtype=np.float32)
    candidates = np.arange(len(rows)) if among is None else np.flatnonzero(among[rows])
    query_numbers = np.random.default_rng(seed).choice(candidates, min(sample, len(candidates)), replace=False)
    index = faiss.IndexFlatL2(2)
    index.add(points)
    _, neighbors_on_map = index.search(points[query_numbers], k + 1)
    near = np.stack([line[line != query][:k] for query, line in zip(query_numbers, neighbors_on_map)])
    queries, limits = _cosines(blocks, rows[query_numbers], rows[near])
    ranks = 1 + _count_above(blocks, on_map, rows[query_numbers], queries, limits)
    penalty = float(np.maximum(ranks - k, 0).sum())
    worst = len(query_numbers) * k * (2 * len(rows) - 3 * k - 1) / 2
    return {"trustworthiness": 1 - penalty / max(worst, 1e-12), "recall": float((ranks <= k).mean())}


def _cosines(blocks: Blocks, query_rows: NDArray[np.int64], near: NDArray[np.int64]) -> tuple[Float32, Float32]:
    """Unit vectors (s, channels) of ``query_rows`` (s,), and their cosines (s, k) to the rows ``near`` (s, k)."""
    needed, start, parts = np.unique(np.r_[query_rows, near.ravel()]), 0, []
    for block in blocks():
        inside = needed[(needed >= start) & (needed < start + len(block))] - start
        parts.append(unit_rows(block[inside]))
        start += len(block)
    vectors = np.concatenate(parts)
    queries = vectors[np.searchsorted(needed, query_rows)]
    return queries, np.einsum("sc,skc->sk", queries, vectors[np.searchsorted(needed, near)])


def _count_above(
    blocks: Blocks, on_map: NDArray[np.bool_], query_rows: NDArray[np.int64], queries: Float32, limits: Float32
) -> NDArray[np.int64]:
    """How many rows on the map but the query itself have a larger cosine to it than each of its limits: (s, k)."""
    order = np.argsort(limits, axis=1)
    ascending = np.take_along_axis(limits, order, 1) + _SAME
    histogram = np.zeros((len(limits), limits.shape[1] + 1), np.int64)
    start = 0
    for block in blocks():
        cosines = queries @ unit_rows(block).T
        cosines[:, ~on_map[start : start + len(block)]] = -2
        own = np.flatnonzero((query_rows >= start) & (query_rows < start + len(block)))
        cosines[own, query_rows[own] - start] = -2
        start += len(block)
        for line, (levels, values) in enumerate(zip(ascending, cosines)):
            high = values[values > levels[0]]  # few: most rows are less like the query than its neighbours on the map
            histogram[line] += np.bincount(np.searchsorted(levels, high), minlength=histogram.shape[1])
    # histogram[i] rows lie above exactly i of the sorted limits, so those above limit i are all that lie above more
    # than i of them.
    above = histogram[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    counts = np.empty_like(above)
    np.put_along_axis(counts, order, above, 1)
    return counts


def distance_between(first: Float32, second: Float32) -> float | None:
    """The median distance between the two places of the same row, in shares of the map's side; None without rows."""
    distance = np.linalg.norm(first - second, axis=1)
    return float(np.nanmedian(distance)) if np.isfinite(distance).any() else None

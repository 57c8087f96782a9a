"""UMAP's optimisation in two dimensions: neighbours attract, negative samples repel (McInnes et al. 2018).

The forces and the schedule are UMAP's; what differs is how they are worked out, which is where the time goes:

- Both forces depend on the squared distance alone. They are read from a table, by the leading bits of the distance, in
  place of a power for each pair.
- Rows lie in memory as they lie on the map, in Z-order, so that a row's neighbours are near it there too.
- The negative samples of a row are read one after the other from a shuffled copy of the map, made once an epoch. In
  the map itself each would cost a look at another part of the memory.
- The negative samples of one move are summed before the row is moved, so that they do not wait for each other.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import scipy.sparse
from numba import njit, prange
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.layout.lattice import morton

# Negative samples for each neighbour, and what a row is moved at the most along an axis: UMAP's.
NEGATIVE_SAMPLES, LONGEST = 5, 4.0
# The table goes from 2^_LOWEST to 2^_HIGHEST of the squared distance, with 2^_BITS entries for each power of two.
_LOWEST, _HIGHEST, _BITS = -24, 16, 6
_SHIFT = 23 - _BITS
_FIRST = (127 + _LOWEST) << _BITS
# Beside a negative sample at the same point the force would be infinite.
_APART = 0.001
# The Z-order is of a grid of so many cells a side.
_ORDER = 1024


def embed(
    graph: scipy.sparse.spmatrix,
    start: Float32,
    *,
    a: float,
    b: float,
    epochs: int,
    seed: int,
    threads: int,
    learning_rate: float = 1.0,
    decay: float = 3.0,
) -> Float32:
    """The map (n, 2) of the weighted ``graph`` (n, n), symmetric, optimized from ``start`` (n, 2) in ``epochs``.

    ``a`` and ``b`` shape the forces, as in UMAP. The learning rate falls from ``learning_rate`` to 0, with the power
    ``decay`` of the share of epochs that are left: with UMAP's own power, 1, the map has not come to rest at the end.
    With one thread, equal arguments give equal maps; several threads move rows that another one reads.
    """
    order = _z_order(start)
    sorted_graph = graph.tocsr()
    sorted_graph.data[sorted_graph.data < sorted_graph.data.max(initial=0) / epochs] = 0  # would not move once
    sorted_graph.eliminate_zeros()
    sorted_graph = sorted_graph[order][:, order]
    share = (sorted_graph.data / sorted_graph.data.max(initial=1e-30)).astype(np.float32)
    generator = np.random.default_rng(seed)
    points = np.ascontiguousarray(start[order], dtype=np.float32)
    shuffled = generator.permutation(len(points))
    attraction, repulsion = _tables(a, b)
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        for epoch in range(epochs):
            samples = points[shuffled]
            _move(
                points, samples, sorted_graph.indptr, sorted_graph.indices, share, attraction, repulsion,
                np.float32(learning_rate * (1 - epoch / epochs) ** decay), epoch,
                generator.integers(0, len(points), threads),
            )  # fmt: skip
    finally:
        numba.set_num_threads(before)
    embedded = np.empty_like(points)
    embedded[order] = points
    return embedded


def _z_order(points: Float32) -> NDArray[np.int64]:
    low, high = points.min(0), points.max(0)
    cells = ((points - low) / np.maximum(high - low, 1e-12) * (_ORDER - 1)).astype(np.int64)
    order: NDArray[np.int64] = np.argsort(morton(cells[:, 1], cells[:, 0]), kind="stable")
    return order


def _tables(a: float, b: float) -> tuple[Float32, Float32]:
    """What a row is moved for a difference of 1 to its neighbour, and to a negative sample, by distance."""
    bits = ((np.arange((_HIGHEST - _LOWEST) << _BITS) + _FIRST) << _SHIFT) + (1 << (_SHIFT - 1))
    squared = bits.astype(np.int32).view(np.float32).astype(np.float64)
    attraction = -2 * a * b * squared ** (b - 1) / (1 + a * squared**b)
    repulsion = 2 * b / ((_APART + squared) * (1 + a * squared**b))
    return attraction.astype(np.float32), repulsion.astype(np.float32)


@njit(inline="always")
def _entry(table: Any, across: Any, down: Any) -> Any:
    entry = (np.float32(across * across + down * down).view(np.int32) >> _SHIFT) - _FIRST
    return table[min(max(entry, 0), len(table) - 1)]


@njit(inline="always")
def _bounded(move: Any) -> Any:
    return min(max(move, np.float32(-LONGEST)), np.float32(LONGEST))


@njit(fastmath=True, parallel=True, nogil=True, cache=True)
def _move(
    points: Any, samples: Any, starts: Any, neighbours: Any, share: Any, attraction: Any, repulsion: Any,
    learning_rate: Any, epoch: int, cursors: Any,
) -> None:  # fmt: skip
    """One epoch. A neighbour of ``share`` 1 moves its row at every epoch, one of 0.1 at every tenth."""
    rows, lanes = len(points), len(cursors)
    now, then = np.float32(epoch), np.float32(epoch + 1)
    for lane in prange(lanes):
        cursor = cursors[lane]
        for row in range(rows * lane // lanes, rows * (lane + 1) // lanes):
            x, y = points[row, 0], points[row, 1]
            for edge in range(starts[row], starts[row + 1]):
                if np.int32(then * share[edge]) == np.int32(now * share[edge]):
                    continue
                other = neighbours[edge]
                across, down = x - points[other, 0], y - points[other, 1]
                force = _entry(attraction, across, down)
                right, below = learning_rate * _bounded(force * across), learning_rate * _bounded(force * down)
                x += right
                y += below
                points[other, 0] -= right
                points[other, 1] -= below
                if cursor + NEGATIVE_SAMPLES > rows:
                    cursor = 0
                right = below = np.float32(0)
                for sample in range(cursor, min(cursor + NEGATIVE_SAMPLES, rows)):
                    across, down = x - samples[sample, 0], y - samples[sample, 1]
                    force = _entry(repulsion, across, down)
                    right += _bounded(force * across)
                    below += _bounded(force * down)
                cursor += NEGATIVE_SAMPLES
                x += learning_rate * right
                y += learning_rate * below
            points[row, 0], points[row, 1] = x, y

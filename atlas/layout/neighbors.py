"""Neighbours by cosine, with FAISS: the kNN graph of a layout, and the rows nearest to new points.

Rows are scaled to unit length, so that the inner product is the cosine; FAISS's L2 would be squared distances.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32

Search = Callable[[Float32, Float32, int], tuple[NDArray[np.int64], Float32]]
"""Unit rows (m, channels), queries (n, channels) and a count → numbers and cosines of the nearest rows, (n, count)."""

# Below this many rows exact search is quicker than building a graph index, and it is reproducible.
EXACT_ROWS = 30_000
# Measured on a million real activations of 112 channels: recall over 0.97 of the true neighbours
# (scripts/benchmarks/layout.md).
_HNSW_LINKS, _HNSW_CONSTRUCTION, _HNSW_SEARCH = 16, 40, 56


def unit_rows(rows: NDArray[np.floating]) -> Float32:
    """Rows (n, channels) scaled to length 1, float32; rows of zeros stay zeros."""
    block = np.ascontiguousarray(rows, dtype=np.float32)
    norms = np.linalg.norm(block, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return block / norms


def build_index(rows: Float32, *, threads: int) -> faiss.Index:
    """An index of unit ``rows`` (n, channels) for inner products: exact when small, HNSW when large."""
    faiss.omp_set_num_threads(threads)
    channels = rows.shape[1]
    index: faiss.Index
    if len(rows) <= EXACT_ROWS:
        index = faiss.IndexFlatIP(channels)
    else:
        graph = faiss.IndexHNSWFlat(channels, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _HNSW_CONSTRUCTION
        graph.hnsw.efSearch = _HNSW_SEARCH
        index = graph
    index.add(rows)
    return index


def save_index(index: faiss.Index, path: Path) -> None:
    """Write an index so that ``load_index`` can map it."""
    faiss.write_index(index, str(path))


def load_index(path: Path) -> faiss.Index:
    """The index in a file, which is mapped: workers of one machine share its memory, and only what is asked is read."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def nearest(index: faiss.Index, queries: Float32, count: int) -> tuple[NDArray[np.int64], Float32]:
    """For unit ``queries`` (n, channels): row numbers and cosines of the ``count`` nearest rows, each (n, count)."""
    cosines, rows = index.search(np.ascontiguousarray(queries, dtype=np.float32), count)
    return rows, cosines


def knn_graph(
    index: faiss.Index, rows: Float32, neighbors: int, search: Search | None = None
) -> tuple[NDArray[np.int32], Float32]:
    """The kNN graph of the indexed unit ``rows``: indices and cosine distances, each (n, neighbors), nearest first;
    fewer columns where there are not that many other rows.

    Each row stands in its own column 0, even among exact duplicates: UMAP takes column 0 for the point itself.
    ``search``: what finds neighbours in place of the index, given rows, queries and their number.
    """
    neighbors = min(neighbors, max(len(rows) - 1, 1))
    neighbor_rows, cosines = search(rows, rows, neighbors) if search else nearest(index, rows, neighbors)
    own = np.arange(len(rows))
    # Where the row is not among its own neighbours (duplicates, or an approximate search), it takes the last column.
    is_own = neighbor_rows == own[:, None]
    own_column = np.where(is_own.any(1), is_own.argmax(1), neighbors - 1)
    order = np.tile(np.arange(neighbors), (len(rows), 1))
    # Shift everything before the own column one to the right, and put the own column first.
    order = np.where(order == 0, own_column[:, None], np.where(order <= own_column[:, None], order - 1, order))
    indices = np.take_along_axis(neighbor_rows, order, 1)
    distances = np.clip(1 - np.take_along_axis(cosines, order, 1), 0, 2)
    indices[:, 0], distances[:, 0] = own, 0
    missing = indices < 0  # an approximate search may come back short
    indices[missing] = np.broadcast_to(own[:, None], indices.shape)[missing]
    distances[missing] = 2
    return indices.astype(np.int32), distances.astype(np.float32)

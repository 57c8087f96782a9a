"""The layout's two heavy steps on a GPU: exact neighbours by FAISS, and UMAP by cuML."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.errors import AtlasError

# Queries that are compared with all rows at a time.
_BLOCK = 65_536


def uses_gpu(backend: Literal["auto", "umap", "cuml"], *, deterministic: bool) -> bool:
    """Whether a layout is made on the GPU here: "auto" where there is one and cuML, unless it is to be deterministic.

    Raises AtlasError for "cuml" where it cannot be done.
    """
    from atlas.networks.network import has_gpu  # torch comes with it

    cuml_runs = find_spec("cuml") is not None and has_gpu()
    if backend == "cuml" and not cuml_runs:
        reason = "cuML is not installed" if has_gpu() else "there is no GPU"
        raise AtlasError(
            f"layout.backend: cuml was asked for, but on this worker {reason}. Install cuml (26.2 or newer) on a "
            "machine with a GPU, or give --set layout.backend=umap."
        )
    return backend == "cuml" or (backend == "auto" and cuml_runs and not deterministic)


def faiss_finds_gpu() -> bool:
    """Whether FAISS was built for a GPU and finds one."""
    return hasattr(faiss, "knn_gpu") and faiss.get_num_gpus() > 0


def nearest_on_gpu(rows: Float32, queries: Float32, count: int) -> tuple[NDArray[np.int64], Float32]:
    """For unit ``queries`` (n, channels): row numbers and cosines of the ``count`` nearest of ``rows``, (n, count)
    each, by comparing with all."""
    resources = faiss.StandardGpuResources()
    neighbors = np.empty((len(queries), count), np.int64)
    cosines = np.empty((len(queries), count), np.float32)
    for first in range(0, len(queries), _BLOCK):
        block = slice(first, first + _BLOCK)
        cosines[block], neighbors[block] = faiss.knn_gpu(
            resources, queries[block], rows, count, metric=faiss.METRIC_INNER_PRODUCT
        )
    return neighbors, cosines


def embed_on_gpu(
    rows: Float32,
    indices: NDArray[np.int32],
    distances: Float32,
    start: Float32,
    *,
    a: float,
    b: float,
    epochs: int,
    seed: int,
    learning_rate: float = 1.0,
) -> Float32:
    """The map (n, 2) that cuML's UMAP makes of the kNN graph of ``rows``, (n, neighbors) each, from ``start`` (n, 2).

    The learning rate falls linearly from ``learning_rate``, as in cuML.
    """
    from cuml.manifold import UMAP

    umap: Any = UMAP(
        n_neighbors=indices.shape[1],
        n_components=2,
        metric="cosine",
        n_epochs=epochs,
        learning_rate=learning_rate,
        init=start,
        a=a,
        b=b,
        precomputed_knn=(indices.astype(np.int64), distances),
        random_state=seed,
        output_type="numpy",
    )
    return np.asarray(umap.fit_transform(rows), dtype=np.float32)

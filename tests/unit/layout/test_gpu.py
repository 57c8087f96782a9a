"""The layout on a GPU: what FAISS and cuML are given, and what is said where they are missing."""

import importlib.machinery
import sys
import types
from typing import Any, ClassVar

import faiss
import numpy as np
import pytest
from made_rows import SETTINGS, Float32, clusters

from atlas.errors import AtlasError
from atlas.layout import fit as layout
from atlas.layout import gpu, neighbors
from atlas.layout.fit import fit_layout
from atlas.networks import network


class FakeUMAP:
    """Stands for cuML's: keeps what it is given, and moves the start a little."""

    calls: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **options: Any) -> None:
        self.calls.append(options)

    def fit_transform(self, rows: Float32) -> Float32:
        assert rows.dtype == np.float32
        return self.calls[-1]["init"] + 1


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU with FAISS and cuML, as far as the layout can tell; returns how many queries each search had."""
    query_counts: list[int] = []

    def knn(_resources: object, queries: Float32, rows: Float32, count: int, metric: int) -> tuple[Float32, Any]:
        assert metric == faiss.METRIC_INNER_PRODUCT
        query_counts.append(len(queries))
        exact = faiss.IndexFlatIP(rows.shape[1])
        exact.add(rows)
        cosines, indices = exact.search(np.ascontiguousarray(queries), count)
        return cosines, indices

    module = types.ModuleType("cuml")
    module.__spec__ = importlib.machinery.ModuleSpec("cuml", None)
    manifold = types.ModuleType("cuml.manifold")
    manifold.UMAP = FakeUMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuml", module)
    monkeypatch.setitem(sys.modules, "cuml.manifold", manifold)
    monkeypatch.setattr(FakeUMAP, "calls", [])
    monkeypatch.setattr(network, "has_gpu", lambda: True)
    monkeypatch.setattr(gpu, "_BLOCK", 150)
    monkeypatch.setattr(faiss, "knn_gpu", knn, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    return query_counts


def test_on_a_gpu_faiss_searches_and_cuml_lays_out(fake_gpu: list[int]) -> None:
    rows, _ = clusters(400)
    usual = SETTINGS.model_copy(update={"deterministic": False, "backend": "umap"})
    fit_layout(rows, usual, seed=0, threads=1)
    assert fake_gpu == []
    fit = fit_layout(rows, usual.model_copy(update={"backend": "auto"}), seed=0, threads=1)
    assert fake_gpu == [150, 150, 100]
    first, again = FakeUMAP.calls
    expected = neighbors.knn_graph(neighbors.build_index(rows, threads=1), rows, 10)
    for options in (first, again):
        indices, distances = options["precomputed_knn"]
        assert indices.dtype == np.int64
        np.testing.assert_array_equal(indices, expected[0])
        np.testing.assert_allclose(distances, expected[1], atol=1e-6)
        assert (options["n_neighbors"], options["metric"], options["random_state"]) == (10, "cosine", 0)
        assert options["a"] == pytest.approx(1.93, abs=0.05)
    assert (first["n_epochs"], first["learning_rate"]) == (500, 1)
    assert (again["n_epochs"], again["learning_rate"]) == (200, 0.02)
    np.testing.assert_array_equal(fit.coordinates, again["init"] + 1)
    axes = layout.principal_axes(rows)
    assert np.corrcoef(first["init"][:, 0], axes[:, 0])[0, 1] > 0.999
    # A layout that must come again exactly stays on the CPU.
    fit_layout(rows, SETTINGS, seed=0, threads=1)
    assert len(fake_gpu) == 3


def test_a_gpu_that_is_asked_for_and_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = clusters(50)
    settings = SETTINGS.model_copy(update={"backend": "cuml"})
    monkeypatch.setattr(network, "has_gpu", lambda: False)
    with pytest.raises(AtlasError, match=r"there is no GPU. Install cuml .* or give --set layout.backend=umap"):
        fit_layout(rows, settings, seed=0, threads=1)
    monkeypatch.setattr(network, "has_gpu", lambda: True)
    with pytest.raises(AtlasError, match="cuML is not installed"):
        fit_layout(rows, settings, seed=0, threads=1)

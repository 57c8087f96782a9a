"""The map of one layer: likeness is kept, and odd layers do no harm."""

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np
import pytest
from made_rows import SETTINGS, Float32, clusters, quality
from numpy.typing import NDArray
from umap.umap_ import fuzzy_simplicial_set, simplicial_set_embedding

from atlas.errors import AtlasError
from atlas.layout import fit as layout
from atlas.layout import gpu, neighbors
from atlas.layout.fit import OUTLIER, REASONS, ZERO, choose_fitted, fit_layout, outliers, unit_box
from atlas.layout.neighbors import unit_rows
from atlas.layout.projection import Projection, fit_projection, project, read_moments
from atlas.layout.umap_optimizer import embed
from atlas.networks import network
from atlas.store.moments import Moments
from atlas.store.shards import ShardWriter, schema


@pytest.fixture(scope="module")
def fitted() -> tuple[Float32, NDArray[np.int64], Float32]:
    rows, group = clusters()
    return rows, group, fit_layout(rows, SETTINGS, seed=0, threads=1).coordinates


def test_like_lies_next_to_like(fitted: tuple[Float32, NDArray[np.int64], Float32]) -> None:
    rows, group, coordinates = fitted
    kept = np.isfinite(coordinates).all(1)
    assert kept.mean() > 0.98
    apart = np.linalg.norm(coordinates[kept, None] - coordinates[None, kept], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (group[kept][apart.argmin(1)] == group[kept]).mean() > 0.97
    found = quality(rows, coordinates)
    assert found["trustworthiness"] > 0.85
    shuffled = coordinates.copy()
    np.random.default_rng(0).shuffle(shuffled)
    assert quality(rows, shuffled)["trustworthiness"] < 0.6


def test_quality_is_that_of_scikit_learn(fitted: tuple[Float32, NDArray[np.int64], Float32]) -> None:
    from sklearn import manifold

    rows, _, coordinates = fitted
    kept = np.isfinite(coordinates).all(1)
    for k in (5, 15):
        expected = manifold.trustworthiness(rows[kept], coordinates[kept], n_neighbors=k, metric="cosine")
        assert quality(rows, coordinates, neighbors=k)["trustworthiness"] == pytest.approx(expected, abs=1e-4)
    true = np.argsort(-(rows[kept] @ rows[kept].T), axis=1)[:, 1:16]
    apart = np.linalg.norm(coordinates[kept, None] - coordinates[None, kept], axis=2)
    near = np.argsort(apart, axis=1, kind="stable")[:, 1:16]
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(true.tolist(), near.tolist())])
    assert quality(rows, coordinates)["recall"] == pytest.approx(recall, abs=2e-3)
    perfect = np.array([[np.cos(angle), np.sin(angle)] for angle in 3 * np.linspace(0, 1, 50) ** 1.7], np.float32)
    assert quality(perfect, perfect, neighbors=5)["trustworthiness"] == pytest.approx(1)


def test_one_thread_gives_the_same_map_every_time_and_several_one_as_good() -> None:
    rows, _ = clusters(1500)
    generator = np.random.default_rng(0)
    indices, distances = neighbors.knn_graph(neighbors.build_index(rows, threads=1), rows, 10)
    graph, _, _ = fuzzy_simplicial_set(
        rows, 10, np.random.RandomState(0), "cosine", knn_indices=indices, knn_dists=distances
    )
    start = generator.normal(size=(1500, 2)).astype(np.float32)
    maps = [embed(graph, start, a=1.9, b=0.8, epochs=200, seed=0, threads=threads) for threads in (1, 1, 2)]
    np.testing.assert_array_equal(maps[0], maps[1])
    umap, _ = simplicial_set_embedding(
        rows, graph, 2, 1.0, 1.9, 0.8, 1.0, 5, 200, start, np.random.RandomState(0), "cosine", {}, False, {}, False
    )
    expected = quality(rows, umap)
    for found in (quality(rows, maps[0]), quality(rows, maps[2])):
        assert found["trustworthiness"] > expected["trustworthiness"] - 0.01
        assert found["recall"] > expected["recall"] - 0.02


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10, 11])
def test_fewer_rows_than_neighbours(count: int) -> None:
    rows, _ = clusters(count)
    fit = fit_layout(rows, SETTINGS, seed=0, threads=1)
    assert fit.coordinates.shape == (count, 2)
    assert np.isfinite(fit.coordinates).any()
    (boxed,) = unit_box([fit.coordinates])
    kept = np.isfinite(boxed).all(1)
    assert ((boxed[kept] >= 0) & (boxed[kept] <= 1)).all()


def test_rows_that_are_all_the_same() -> None:
    rows = np.tile(clusters(1)[0], (60, 1))
    fit = fit_layout(rows, SETTINGS, seed=0, threads=1)
    assert np.isfinite(fit.coordinates).all(1).mean() > 0.9
    assert quality(rows, fit.coordinates)["trustworthiness"] == pytest.approx(1)


def test_rows_of_one_channel() -> None:
    rows = np.ones((30, 1), np.float32)
    rows[::2] = -1
    assert fit_layout(rows, SETTINGS, seed=0, threads=1).coordinates.shape == (30, 2)


def test_rows_without_activation_leave_the_map_with_their_reason() -> None:
    rows, _ = clusters(100)
    rows[[3, 50]] = 0
    fit = fit_layout(rows, SETTINGS, seed=0, threads=1)
    assert REASONS[fit.dropped[3]] == REASONS[fit.dropped[50]] == ZERO == "no activation"
    assert np.isnan(fit.coordinates[[3, 50]]).all()
    for row, reason in enumerate(fit.dropped):
        assert (REASONS[reason] is None) == np.isfinite(fit.coordinates[row]).all()
    assert not {3, 50} & set(fit.alive.tolist())


def test_a_layer_without_any_activation() -> None:
    fit = fit_layout(np.zeros((8, 4), np.float32), SETTINGS, seed=0, threads=1)
    assert [REASONS[reason] for reason in fit.dropped] == [ZERO] * 8
    assert np.isnan(fit.coordinates).all()
    assert np.isnan(unit_box([fit.coordinates])[0]).all()


def test_outliers_leave_the_map_with_their_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    points = generator.uniform(0, 10, (1000, 2)).astype(np.float32)
    points[7], points[8], points[9] = (40, 5), (5, -30), (11, 5)  # the last one is near enough
    np.testing.assert_array_equal(np.flatnonzero(outliers(points)), [7, 8])
    rows, _ = clusters(1000)
    monkeypatch.setattr("atlas.layout.umap_optimizer.embed", lambda *_arguments, **_named: points.copy())
    fit = fit_layout(rows, SETTINGS, seed=0, threads=1)
    assert np.flatnonzero(fit.dropped == REASONS.index(OUTLIER)).tolist() == [7, 8]
    assert np.isnan(fit.coordinates[[7, 8]]).all()
    np.testing.assert_array_equal(fit.coordinates[10:], points[10:])


def test_a_deterministic_layout_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "EXACT_ROWS", 100)  # the graph index too, with several threads offered
    rows, _ = clusters(600)
    first, second = (fit_layout(rows, SETTINGS, seed=0, threads=4).coordinates for _ in range(2))
    np.testing.assert_array_equal(first, second)
    # Several threads build a graph index that differs from build to build, though seldom enough to see it here.
    offered: list[int] = []

    def watched(rows: Float32, *, threads: int) -> object:
        offered.append(threads)
        return neighbors.build_index(rows, threads=threads)

    monkeypatch.setattr("atlas.layout.fit.build_index", watched)
    other = fit_layout(rows, SETTINGS, seed=1, threads=4).coordinates
    assert not np.array_equal(first, other)
    assert offered == [1]


class FakeUMAP:
    """Stands for cuML's: keeps what it is given, and moves the start a little."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **options: Any) -> None:
        self.asked.append(options)

    def fit_transform(self, rows: Float32) -> Float32:
        assert rows.dtype == np.float32
        return self.asked[-1]["init"] + 1


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU with FAISS and cuML, as far as the layout can tell; returns how many queries each search had."""
    searched: list[int] = []

    def knn(_resources: object, queries: Float32, rows: Float32, count: int, metric: int) -> tuple[Float32, Any]:
        assert metric == faiss.METRIC_INNER_PRODUCT
        searched.append(len(queries))
        exact = faiss.IndexFlatIP(rows.shape[1])
        exact.add(rows)
        cosines, found = exact.search(np.ascontiguousarray(queries), count)
        return cosines, found

    module = types.ModuleType("cuml")
    module.__spec__ = importlib.machinery.ModuleSpec("cuml", None)
    manifold = types.ModuleType("cuml.manifold")
    manifold.UMAP = FakeUMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuml", module)
    monkeypatch.setitem(sys.modules, "cuml.manifold", manifold)
    monkeypatch.setattr(FakeUMAP, "asked", [])
    monkeypatch.setattr(network, "has_gpu", lambda: True)
    monkeypatch.setattr(gpu, "_BLOCK", 150)
    monkeypatch.setattr(faiss, "knn_gpu", knn, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    return searched


def test_on_a_gpu_faiss_searches_and_cuml_lays_out(fake_gpu: list[int]) -> None:
    rows, _ = clusters(400)
    usual = SETTINGS.model_copy(update={"deterministic": False, "backend": "umap"})
    fit_layout(rows, usual, seed=0, threads=1)
    assert fake_gpu == []
    fit = fit_layout(rows, usual.model_copy(update={"backend": "auto"}), seed=0, threads=1)
    assert fake_gpu == [150, 150, 100]
    first, again = FakeUMAP.asked
    expected = neighbors.knn_graph(neighbors.build_index(rows, threads=1), rows, 10)
    for asked in (first, again):
        indices, distances = asked["precomputed_knn"]
        assert indices.dtype == np.int64
        np.testing.assert_array_equal(indices, expected[0])
        np.testing.assert_allclose(distances, expected[1], atol=1e-6)
        assert (asked["n_neighbors"], asked["metric"], asked["random_state"]) == (10, "cosine", 0)
        assert asked["a"] == pytest.approx(1.93, abs=0.05)
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
    asked = SETTINGS.model_copy(update={"backend": "cuml"})
    monkeypatch.setattr(network, "has_gpu", lambda: False)
    with pytest.raises(AtlasError, match=r"there is no GPU. Install cuml .* or give --set layout.backend=umap"):
        fit_layout(rows, asked, seed=0, threads=1)
    monkeypatch.setattr(network, "has_gpu", lambda: True)
    with pytest.raises(AtlasError, match="cuML is not installed"):
        fit_layout(rows, asked, seed=0, threads=1)


def test_the_graph_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """umap-learn would search again, without a word, were it given a graph that does not fit."""

    def searched_again(*_arguments: object, **_named: object) -> None:
        raise AssertionError("umap-learn searched for neighbours")

    monkeypatch.setattr("umap.umap_.nearest_neighbors", searched_again)
    rows, _ = clusters(300)  # few rows: umap-learn leaves k as it is
    rows[:30] = rows[0]
    used: list[Any] = []
    monkeypatch.setattr("atlas.layout.umap_optimizer.embed", lambda graph, start, **_: used.append(graph) or start)
    fit_layout(rows, SETTINGS, seed=0, threads=1)
    links = np.asarray((used[0] > 0).sum(1)).ravel()
    assert links.min() >= SETTINGS.neighbors - 1, "each row's own neighbours"
    assert (used[0].diagonal() == 0).all(), "no row is its own neighbour, even among duplicates"
    assert abs(used[0] - used[0].T).max() < 1e-6


def test_a_fair_sample_is_fitted_where_there_are_more_rows() -> None:
    chosen = choose_fitted(600, 300, seed=0)
    assert len(set(chosen.tolist())) == 300
    assert (np.diff(chosen) > 0).all()
    assert 120 < (chosen < 300).sum() < 180
    np.testing.assert_array_equal(chosen, choose_fitted(600, 300, seed=0))
    np.testing.assert_array_equal(choose_fitted(300, 300, seed=0), np.arange(300))


def write_shards(folder: Path, activations: NDArray[np.floating]) -> list[Path]:
    """Two shards that hold these activations; the other columns are of no interest."""
    paths = []
    for number, part in enumerate(np.array_split(activations.astype(np.float16), 2)):
        rows = len(part)
        columns = {name: np.zeros(rows) for name in ("place_x", "place_y", "confidence")}
        whole = {name: np.zeros(rows, int) for name in ("image_id", "view", "draw", "y", "x", "label", "predicted")}
        paths.append(folder / f"part-{number:05d}.parquet")
        with ShardWriter(paths[-1], schema(False, {})) as writer:
            writer.append({**columns, **whole, "image": ["a"] * rows, "box": np.zeros((rows, 4)), "activation": part})
    return paths


def test_a_wide_layer_is_projected_with_99_percent_of_its_energy_and_its_cosines(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(500, 12)) @ generator.normal(size=(12, 100)) + 0.05 * generator.normal(
        size=(500, 100)
    )
    rows[9] = 0
    shards = write_shards(tmp_path, rows)
    moments = read_moments(shards, 100)
    stored = rows.astype(np.float16).astype(np.float64)
    assert moments.count == 500
    np.testing.assert_allclose(moments.second_moment, stored.T @ stored / 500, rtol=1e-3, atol=1e-3)
    projection = fit_projection(moments)
    assert projection.components.shape[1] == 16, "the fewest that are kept"
    assert 0.99 <= projection.energy <= 1
    kept = project(shards, projection)
    chosen = np.array([0, 7, 249, 250, 251, 499])  # on both sides of where the shards meet
    # The products of few rows and of many may differ in the last bit.
    np.testing.assert_allclose(project(shards, projection, chosen), kept[chosen], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.delete(kept, 9, 0), axis=1), 1, atol=1e-5)
    assert not kept[9].any()
    full = unit_rows(stored)
    assert np.abs(kept @ kept.T - full @ full.T).max() < 0.1
    energy = ((stored @ projection.components) ** 2).sum() / (stored**2).sum()
    assert energy == pytest.approx(projection.energy, abs=1e-4)
    projection.save(tmp_path / "projection.npz")
    again = Projection.load(tmp_path / "projection.npz")
    np.testing.assert_array_equal(again.components, projection.components)
    assert again.energy == projection.energy


@pytest.mark.parametrize("channels", [64, 112])
def test_a_layer_of_which_little_could_be_left_out_is_not_projected(channels: int) -> None:
    moments = Moments.empty(channels)
    rows = np.random.default_rng(0).normal(size=(400, channels))
    moments.add(rows)
    projection = fit_projection(moments)
    np.testing.assert_array_equal(projection.components, np.eye(channels))
    np.testing.assert_array_equal(projection.apply(rows), unit_rows(rows))
    assert projection.energy == 1

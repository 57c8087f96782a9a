"""The map of one layer: likeness is kept, and odd layers do no harm."""

from typing import Any

import numpy as np
import pytest
from made_rows import SETTINGS, Float32, clusters, quality
from numpy.typing import NDArray

from atlas.layout import neighbors
from atlas.layout.fit import OUTLIER, REASONS, ZERO, choose_fitted, fit_layout, outliers, unit_box


@pytest.fixture(scope="module")
def clusters_layout() -> tuple[Float32, NDArray[np.int64], Float32]:
    rows, group = clusters()
    return rows, group, fit_layout(rows, SETTINGS, seed=0, threads=1).coordinates


def test_like_lies_next_to_like(clusters_layout: tuple[Float32, NDArray[np.int64], Float32]) -> None:
    rows, group, coordinates = clusters_layout
    mask = np.isfinite(coordinates).all(1)
    assert mask.mean() > 0.98
    apart = np.linalg.norm(coordinates[mask, None] - coordinates[None, mask], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (group[mask][apart.argmin(1)] == group[mask]).mean() > 0.97
    figures = quality(rows, coordinates)
    assert figures["trustworthiness"] > 0.85
    shuffled = coordinates.copy()
    np.random.default_rng(0).shuffle(shuffled)
    assert quality(rows, shuffled)["trustworthiness"] < 0.6


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10, 11])
def test_fewer_rows_than_neighbours(count: int) -> None:
    rows, _ = clusters(count)
    fit = fit_layout(rows, SETTINGS, seed=0, threads=1)
    assert fit.coordinates.shape == (count, 2)
    assert np.isfinite(fit.coordinates).any()
    (box_coordinates,) = unit_box([fit.coordinates])
    mask = np.isfinite(box_coordinates).all(1)
    assert ((box_coordinates[mask] >= 0) & (box_coordinates[mask] <= 1)).all()


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
    monkeypatch.setattr("atlas.layout.umap_optimizer.embed", lambda *_arguments, **_options: points.copy())
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


def test_the_graph_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """umap-learn would search again, without a word, were it given a graph that does not fit."""

    def searched_again(*_arguments: object, **_options: object) -> None:
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
    sample = choose_fitted(600, 300, seed=0)
    assert len(set(sample.tolist())) == 300
    assert (np.diff(sample) > 0).all()
    assert 120 < (sample < 300).sum() < 180
    np.testing.assert_array_equal(sample, choose_fitted(600, 300, seed=0))
    np.testing.assert_array_equal(choose_fitted(300, 300, seed=0), np.arange(300))

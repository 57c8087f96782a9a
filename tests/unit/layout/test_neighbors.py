"""Neighbours by cosine: against brute force, among duplicates, and the graph index above its threshold."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.layout import neighbors
from atlas.layout.neighbors import build_index, knn_graph, load_index, nearest, save_index, unit_rows


def clusters(rows: int, channels: int = 16, centres: int = 8, seed: int = 0) -> Float32:
    generator = np.random.default_rng(seed)
    middle = generator.normal(size=(centres, channels)) * 3
    return unit_rows(middle[np.arange(rows) % centres] + generator.normal(size=(rows, channels)))


def test_unit_rows_have_length_one_and_zeros_stay() -> None:
    rows = unit_rows(np.array([[3, 4], [0, 0], [-1e-3, 0], [6e4, 6e4]], np.float16))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [-1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-3)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous


def test_the_graph_is_that_of_brute_force() -> None:
    rows = clusters(300)
    indices, distances = knn_graph(build_index(rows, threads=1), rows, 10)
    cosine = 1 - rows @ rows.T
    np.fill_diagonal(cosine, -1)
    expected = np.argsort(cosine, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(indices, expected)
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(indices[:, 0], np.arange(300))
    np.testing.assert_array_equal(distances[:, 0], 0)
    np.testing.assert_allclose(distances[:, 1:], np.take_along_axis(cosine, expected, 1)[:, 1:], atol=1e-6)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_each_row_comes_first_among_exact_duplicates() -> None:
    rows = np.concatenate([np.tile(clusters(1), (40, 1)), clusters(60, seed=1)])
    indices, distances = knn_graph(build_index(rows, threads=1), rows, 6)
    np.testing.assert_array_equal(indices[:, 0], np.arange(100))
    assert all(len(set(line)) == 6 for line in indices.tolist())
    assert (indices[:40] < 40).all()
    np.testing.assert_allclose(distances[:40], 0, atol=1e-6)
    assert (np.diff(distances, axis=1) >= 0).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 1), (3, 2), (5, 4), (6, 5), (9, 5)])
def test_asking_for_more_than_there_are_gives_fewer(rows: int, columns: int) -> None:
    vectors = clusters(rows)
    indices, distances = knn_graph(build_index(vectors, threads=1), vectors, 5)
    assert indices.shape == distances.shape == (rows, columns)
    np.testing.assert_array_equal(indices[:, 0], range(rows))
    assert all(len(set(line)) == columns for line in indices.tolist())


def test_a_search_that_comes_back_short_is_filled_up_with_oneself_far_away() -> None:
    rows = clusters(6)

    def short(_rows: Float32, queries: Float32, count: int) -> tuple[NDArray[np.int64], Float32]:
        indices = np.full((len(queries), count), -1, np.int64)
        indices[:, 0], indices[:, 1] = np.arange(len(queries)), 0
        return indices, np.ones(indices.shape, np.float32)

    indices, distances = knn_graph(build_index(rows, threads=1), rows, 4, short)
    np.testing.assert_array_equal(indices[:, 2:], np.repeat(np.arange(6)[:, None], 2, 1))
    np.testing.assert_array_equal(distances[:, 2:], 2)


def test_nearest_gives_rows_and_cosines() -> None:
    rows, queries = clusters(200), clusters(7, seed=5)
    indices, cosines = nearest(build_index(rows, threads=1), queries, 3)
    expected = queries @ rows.T
    np.testing.assert_array_equal(indices, np.argsort(-expected, axis=1)[:, :3])
    np.testing.assert_allclose(cosines, np.take_along_axis(expected, indices, 1), atol=1e-6)


def test_above_the_threshold_the_graph_index_finds_nearly_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "EXACT_ROWS", 1000)
    rows = clusters(4000)
    index = build_index(rows, threads=1)
    assert type(index).__name__ == "IndexHNSWFlat"
    assert type(build_index(rows[:1000], threads=1)).__name__ == "IndexFlatIP"
    indices, distances = knn_graph(index, rows, 15)
    cosine = 1 - rows @ rows.T
    np.fill_diagonal(cosine, -1)
    expected = np.argpartition(cosine, 15, axis=1)[:, :15]
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(indices.tolist(), expected.tolist())])
    assert recall > 0.95
    np.testing.assert_array_equal(indices[:, 0], np.arange(4000))
    others = np.arange(4000)[:, None] != indices
    true = np.take_along_axis(cosine, indices.astype(np.int64), 1)
    np.testing.assert_allclose(distances[others], true[others], atol=1e-5)


@pytest.mark.parametrize("exact", [10, 1000])
def test_an_index_is_kept_and_mapped(tmp_path: Path, exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "EXACT_ROWS", exact)
    rows = clusters(50)
    index = build_index(rows, threads=1)
    save_index(index, tmp_path / "index.faiss")
    again = load_index(tmp_path / "index.faiss")
    assert str(tmp_path / "index.faiss") in Path("/proc/self/maps").read_text()
    for a, b in zip(nearest(index, rows, 4), nearest(again, rows, 4)):
        np.testing.assert_array_equal(a, b)

"""How true a map is to its rows, and how far two maps lie apart."""

import numpy as np
import pytest
from made_rows import SETTINGS, Float32, clusters, quality
from numpy.typing import NDArray

from atlas.layout.fit import fit_layout
from atlas.layout.quality import distance_between


@pytest.fixture(scope="module")
def clusters_layout() -> tuple[Float32, NDArray[np.int64], Float32]:
    rows, group = clusters()
    return rows, group, fit_layout(rows, SETTINGS, seed=0, threads=1).coordinates


def test_quality_is_that_of_scikit_learn(clusters_layout: tuple[Float32, NDArray[np.int64], Float32]) -> None:
    from sklearn import manifold

    rows, _, coordinates = clusters_layout
    mask = np.isfinite(coordinates).all(1)
    for k in (5, 15):
        expected = manifold.trustworthiness(rows[mask], coordinates[mask], n_neighbors=k, metric="cosine")
        assert quality(rows, coordinates, neighbors=k)["trustworthiness"] == pytest.approx(expected, abs=1e-4)
    true = np.argsort(-(rows[mask] @ rows[mask].T), axis=1)[:, 1:16]
    apart = np.linalg.norm(coordinates[mask, None] - coordinates[None, mask], axis=2)
    near = np.argsort(apart, axis=1, kind="stable")[:, 1:16]
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(true.tolist(), near.tolist())])
    assert quality(rows, coordinates)["recall"] == pytest.approx(recall, abs=2e-3)
    perfect = np.array([[np.cos(angle), np.sin(angle)] for angle in 3 * np.linspace(0, 1, 50) ** 1.7], np.float32)
    assert quality(perfect, perfect, neighbors=5)["trustworthiness"] == pytest.approx(1)


def test_the_distance_between_layouts_is_the_median() -> None:
    first = np.zeros((4, 2), np.float32)
    second = np.array([[0.3, 0.4], [0, 0.1], [np.nan, np.nan], [0, 0.2]], np.float32)
    assert distance_between(first, second) == pytest.approx(0.2)

"""The bench of words: each way of saying what a vector pushes towards, by what other pictures say."""

import importlib
from types import ModuleType

import numpy as np
import pytest

import atlas
from atlas.rundir.directory import RunDirectory
from atlas.words.evidence import evidence


@pytest.fixture(scope="module")
def words(bench: ModuleType) -> ModuleType:
    """scripts/bench_words.py as a module."""
    return importlib.import_module("bench_words")


def test_every_way_has_its_row(words: ModuleType, made_run: RunDirectory) -> None:
    rows = list(words.bench_words(atlas.open_run(made_run.path), "branches", 2))
    ways = [row["way"] for row in rows]
    assert len(ways) == len(set(ways)) == 9
    assert ways[-1] == "the store's attribution"
    for row in rows:
        assert (row["bench"], row["layer"]) == ("words", "branches")
        assert 1 <= row["own_rank"] <= 5
        assert 1 <= row["cell_rank"] <= 5
        assert row["first_ten_again"] == 0.5, "there are five classes, which all are among ten"
    assert len({(row["own_rank"], row["cell_rank"]) for row in rows}) > 1


def test_ours_is_what_the_product_measures(words: ModuleType, made_run: RunDirectory) -> None:
    run = atlas.open_run(made_run.path)
    vectors = run.store("branches").take(np.arange(56), ["activation"])["activation"].astype(np.float32)
    network = run.network()
    insertion = words._Insertion(network, "branches", vectors.mean(0), words._pictures(run, network))
    gains = insertion(vectors[:5], 3)
    expected = evidence(network, "branches", vectors[:5], vectors.mean(0))
    np.testing.assert_allclose(gains - gains.mean(1, keepdims=True), expected, rtol=1e-3, atol=1e-4)
    other = insertion(vectors[:5], 3, context="pictures")
    assert other.shape == gains.shape
    assert not np.allclose(other, gains, atol=1e-2)

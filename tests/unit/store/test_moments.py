"""Streaming moments and the whitening made from them."""

from pathlib import Path

import numpy as np

from atlas.store.moments import Moments, power_of_moment


def rows(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 6)) @ rng.standard_normal((6, 6)) + 1).astype(np.float16)


def test_moments_in_pieces_equal_moments_at_once() -> None:
    data = rows(1000)
    pieces = Moments.empty(6)
    for first in range(0, 1000, 170):
        pieces.add(data[first : first + 170])
    exact = data.astype(np.float64)
    assert pieces.count == 1000
    assert np.allclose(pieces.total, exact.sum(0))
    assert np.allclose(pieces.second_moment, exact.T @ exact / 1000, rtol=1e-5, atol=1e-5)


def test_moments_are_uncentred() -> None:
    moments = Moments.empty(2)
    moments.add(np.full((10, 2), 3.0))
    assert np.allclose(moments.second_moment, 9)


def test_moments_come_back_from_disk(tmp_path: Path) -> None:
    moments = Moments.empty(6)
    moments.add(rows(50))
    moments.save(tmp_path / "layer.moments.npz")
    again = Moments.load(tmp_path / "layer.moments.npz")
    assert again.count == 50
    assert np.array_equal(again.second, moments.second)
    assert np.array_equal(again.total, moments.total)


def test_power_minus_half_whitens() -> None:
    moments = Moments.empty(6)
    moments.add(rows(5000))
    whiten = power_of_moment(moments.second_moment, -0.5, ridge=0)
    assert np.allclose(whiten @ moments.second_moment @ whiten, np.eye(6), atol=1e-3)
    assert np.allclose(whiten, whiten.T, atol=1e-5)


def test_power_minus_one_inverts_with_the_ridge() -> None:
    moments = Moments.empty(6)
    moments.add(rows(500))
    sigma = moments.second_moment
    ridged = sigma + 0.1 * np.trace(sigma) / 6 * np.eye(6)
    assert np.allclose(power_of_moment(sigma, -1, ridge=0.1) @ ridged, np.eye(6), atol=1e-4)


def test_a_layer_of_rank_one_stays_finite() -> None:
    moments = Moments.empty(3)
    moments.add(np.outer(np.arange(1, 9), [1.0, 2.0, 0.0]))
    for exponent in (-1, -0.5):
        assert np.isfinite(power_of_moment(moments.second_moment, exponent)).all()
    assert np.isfinite(power_of_moment(np.zeros((3, 3)), -1)).all()

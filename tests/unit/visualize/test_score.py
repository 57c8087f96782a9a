"""Scores of icons: as they are defined, and what does not belong together."""

import time

import numpy as np
import pytest
import torch
from drawn_network import SIZE, drawn_directions, drawn_network
from made_pictures import smooth_pictures

from atlas.errors import ConfigError
from atlas.networks.network import Network
from atlas.visualize import score
from atlas.visualize.parametrize import from_bytes
from atlas.visualize.score import (
    ROBUST_COUNT,
    ROBUST_MOVES,
    ROBUST_SEED,
    centre_activations,
    cosines,
    flags,
    score_seconds,
)
from atlas.visualize.transform import Moves, move


@pytest.fixture
def network() -> Network:
    return drawn_network()


@pytest.fixture
def directions() -> tuple[np.ndarray, np.ndarray]:
    return drawn_directions()


def test_rank_percentile_and_cosine_are_as_defined(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    _, moment = directions
    pixels = smooth_pictures(5, SIZE, seed=3)
    own = centre_activations(network, "linear", pixels)
    every = np.concatenate([-own, own[::-1]])
    quantiles = np.tile(np.linspace(-1, 1, 101, dtype=np.float32), (5, 1))
    result = score(
        network,
        "linear",
        pixels,
        own,
        second_moment=moment,
        all_means=every,
        own_index=np.arange(9, 4, -1),
        quantiles=quantiles,
        norms=np.full(5, 1.0, dtype=np.float32),
    )
    assert np.allclose(result.cosine, 1, atol=1e-5)
    assert np.allclose(result.cosine_whitened, 1, atol=1e-4)
    assert (result.rank == 1).all()
    assert np.allclose(result.percentile, 100, atol=0.1)
    assert np.allclose(result.norm, np.linalg.norm(own, axis=1))
    wrong = score(
        network,
        "linear",
        pixels,
        -own,
        second_moment=moment,
        all_means=every,
        own_index=np.arange(5),
        quantiles=quantiles,
    )
    assert (wrong.rank == len(every)).mean() >= 0.8  # the opposite direction comes last
    assert np.allclose(wrong.percentile, 0, atol=0.1)
    assert wrong.flag == ["low"] * 5
    assert np.isnan(score(network, "linear", pixels, own, second_moment=moment).percentile).all()


def test_percentile_between_quantiles(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    pixels = smooth_pictures(6, SIZE, seed=4)
    cosine = score(network, "linear", pixels, means, second_moment=moment).cosine
    members = np.sort(np.concatenate([cosine[:, None] - 0.3, cosine[:, None] + 0.1], axis=1), axis=1)
    quantiles = np.linspace(members[:, 0], members[:, 1], 101, axis=1).astype(np.float32)
    percentiles = score(network, "linear", pixels, means, second_moment=moment, quantiles=quantiles).percentile
    assert np.allclose(percentiles, 75, atol=0.1)


def test_robust_cosine_is_the_mean_over_the_moved_pictures(
    network: Network, directions: tuple[np.ndarray, np.ndarray]
) -> None:
    means, moment = directions
    pixels = smooth_pictures(6, SIZE, seed=5)
    cosines_by_move = []
    for move_by in ROBUST_MOVES.draw(ROBUST_SEED, ROBUST_COUNT):
        moved = move(from_bytes(pixels), move_by.expand(6, 4))
        with torch.no_grad():
            maps = network.module[:5](network.normalize(moved))
        cosines_by_move.append(cosines(maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].numpy(), means))
    result = score(network, "linear", pixels, means, second_moment=moment, batch=4)
    assert np.allclose(result.cosine_robust, np.mean(cosines_by_move, axis=0), atol=1e-5)
    assert Moves(shift=5, turn=10, scale=0.1) == ROBUST_MOVES
    assert ROBUST_COUNT == 16


def test_score_refuses_what_does_not_belong_together(directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    pixels = smooth_pictures(6, SIZE, seed=3)
    wrong = [
        (pixels / 255, means, {}, "expected .n, size, size, 3. and uint8"),
        (pixels[0], means, {}, "pixels have shape"),
        (pixels[:4], means, {}, "4 pictures, means of shape .6, 16."),
        (pixels, means * np.nan, {}, "means hold NaN"),
        (pixels, means, {"all_means": means}, "without own_index"),
        (pixels, means, {"all_means": means, "own_index": np.arange(6) + 1}, "Expected 6 numbers from 0 to 5"),
        (pixels, means, {"all_means": means[:, :3], "own_index": np.arange(6)}, "all_means have shape .6, 3."),
        (pixels, means, {"norms": np.ones(3)}, "norms have shape .3,., expected a row for each of 6 icons"),
        (pixels, means, {"quantiles": np.ones(6)}, "quantiles have shape"),
    ]
    for pictures, rows, options, sentence in wrong:
        with pytest.raises(ConfigError, match=sentence):
            score(None, "linear", pictures, rows, second_moment=moment, **options)  # type: ignore[arg-type]


def test_score_knows_the_means_of_another_layer(network: Network) -> None:
    with pytest.raises(ConfigError, match=r"the means have 3 channels, but layer 'linear' of .* has 16"):
        score(network, "linear", smooth_pictures(2, SIZE, seed=0), np.ones((2, 3), np.float32), second_moment=np.eye(3))


def test_flags_name_the_worst() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    pixels[1] = [10, 120, 240]  # flat, though coloured
    norm = np.array([0.001, 1, 1, 1], dtype=np.float32)
    cosine = np.array([0.9, 0.9, 0.59, 0.61], dtype=np.float32)
    assert flags(pixels, cosine, norm, 1.0) == ["dead", "grey", "low", None]
    assert flags(pixels[3:], np.array([np.nan], dtype=np.float32), norm[3:], 1.0) == ["low"]


def test_seconds_of_scores_are_those_of_all_passes(small: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """At rest twice, and under 16 moves; a pass of 4 pictures takes what the clock says, a second."""
    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    assert score_seconds(small, "residual", 32, batch=4) == pytest.approx(18 / 4)

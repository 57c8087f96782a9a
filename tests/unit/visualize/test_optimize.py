"""Icons of a small network: they agree with their directions, and bad input gets a sentence."""

from typing import Any

import numpy as np
import pytest
import torch
from drawn_network import SIZE, drawn_directions, drawn_network
from made_pictures import smooth_pictures
from torch import nn

from atlas.networks.network import Network
from atlas.visualize import Icons, Recipe, draw, measure_batch, neuron, render, score
from atlas.visualize.parametrize import Fourier, from_bytes, to_bytes, variation
from atlas.visualize.score import centre_activations, cosines


@pytest.fixture
def network() -> Network:
    return drawn_network()


@pytest.fixture
def directions() -> tuple[np.ndarray, np.ndarray]:
    return drawn_directions()


def test_smoothness_is_obeyed(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    pictures = [
        draw(network, "linear", means, second_moment=moment, size=SIZE, steps=24, recipe=Recipe(smooth=smooth)).pixels
        for smooth in (0.0, 1000.0)
    ]
    rough, smooth = (float(variation(from_bytes(pixels)).mean()) for pixels in pictures)
    assert smooth < 0.7 * rough


# The loop


def test_icons_agree_with_their_directions(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    icons = draw(network, "linear", means, second_moment=moment, size=SIZE, seeds=np.arange(6))
    assert isinstance(icons, Icons)
    assert icons.pixels.shape == (6, SIZE, SIZE, 3)
    assert icons.pixels.dtype == np.uint8
    noise = to_bytes(Fourier.make(SIZE).decode(Fourier.make(SIZE).noise(np.arange(6))))
    before = score(network, "linear", noise, means, second_moment=moment)
    after = score(network, "linear", icons.pixels, means, second_moment=moment)
    assert np.median(after.cosine) > 0.95
    assert np.median(after.cosine) > np.median(before.cosine) + 0.1
    assert np.median(after.cosine_whitened) > np.median(before.cosine_whitened) + 0.3
    assert (after.rank == 1).all()
    assert after.flag == [None] * 6


def test_equal_arguments_give_equal_bytes(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    torch.manual_seed(1)
    first = draw(network, "linear", means, second_moment=moment, size=SIZE, steps=12, seeds=np.arange(6))
    torch.manual_seed(2)  # the global generator must not matter
    second = draw(network, "linear", means, second_moment=moment, size=SIZE, steps=12, seeds=np.arange(6))
    assert np.array_equal(first.pixels, second.pixels)
    other = draw(network, "linear", means, second_moment=moment, size=SIZE, steps=12, seeds=np.arange(6) + 50)
    assert not np.array_equal(first.pixels, other.pixels)


def test_an_icon_does_not_depend_on_its_company(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    seeds = np.arange(6)
    together = draw(network, "linear", means, second_moment=moment, size=SIZE, steps=12, seeds=seeds, batch=4)
    alone = draw(network, "linear", means[5:], second_moment=moment, size=SIZE, steps=12, seeds=seeds[5:])
    difference = np.abs(together.pixels[5].astype(int) - alone.pixels[0].astype(int))
    assert difference.mean() < 1  # rounding only


def test_start_from_a_parent_beats_noise_and_stays_alike(
    network: Network, directions: tuple[np.ndarray, np.ndarray]
) -> None:
    means, moment = directions
    spread = np.random.default_rng(0).standard_normal(means.shape).astype(np.float32)
    children = means + 0.2 * spread * np.linalg.norm(means, axis=1, keepdims=True) / 4
    seeds = np.arange(6)
    parents = draw(network, "linear", means, second_moment=moment, size=SIZE, seeds=seeds).pixels
    some = {"second_moment": moment, "size": SIZE, "steps": 6, "seeds": seeds + 9}
    started = draw(network, "linear", children, start=parents, **some).pixels
    from_noise = draw(network, "linear", children, **some).pixels
    reached = [
        np.median(score(network, "linear", p, children, second_moment=moment).cosine) for p in (started, from_noise)
    ]
    assert reached[0] > reached[1]

    def likeness(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.corrcoef(one.ravel().astype(float), other.ravel().astype(float))[0, 1])

    assert likeness(started, parents) > likeness(from_noise, parents) + 0.2


def test_auto_steps_are_fewer_from_a_start(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    first = draw(network, "linear", means, second_moment=moment, size=SIZE, batch=4)
    second = draw(network, "linear", means, second_moment=moment, size=SIZE, start=first.pixels)
    assert set(first.steps) == {Recipe().steps} == {160}
    assert set(second.steps) == {Recipe().steps_from_start} == {92}


def test_progress_is_reported_while_an_icon_is_drawn(network: Network) -> None:
    shares: list[float] = []
    neuron(network, "linear", 0, size=24, steps=40, progress=shares.append)
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_flagged_icon_is_tried_again_and_the_better_kept(
    network: Network, directions: tuple[np.ndarray, np.ndarray]
) -> None:
    means, moment = directions
    black = np.zeros((6, SIZE, SIZE, 3), dtype=np.uint8)  # one step from black leads nowhere
    icons = draw(network, "linear", means, second_moment=moment, size=SIZE, steps=1, start=black, seeds=np.arange(6))
    tried_again = icons.seeds != np.arange(6)
    assert tried_again.any()
    assert (icons.pixels[tried_again].std(axis=(1, 2)).mean(axis=1) > 0).all()


def test_batches_run_side_by_side_and_change_nothing(
    network: Network, directions: tuple[np.ndarray, np.ndarray]
) -> None:
    means, moment = directions
    threads, shares = torch.get_num_threads(), []
    pictures = {}
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            pictures[count] = draw(
                network, "linear", means, second_moment=moment, size=SIZE, steps=8, seeds=np.arange(6), batch=2,
                progress=shares.append,
            ).pixels  # fmt: skip
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(pictures[1], pictures[3])
    assert sorted(shares) == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1])


def test_mistake_in_one_thread_is_raised(
    network: Network, directions: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    means, moment = directions
    threads = torch.get_num_threads()

    def stop(_share: float) -> None:
        raise KeyboardInterrupt

    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            draw(network, "linear", means, second_moment=moment, size=SIZE, steps=2, batch=1, progress=stop)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_batch_is_measured_up_to_where_it_stops_paying(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    from atlas.visualize import optimize

    assert measure_batch(network, "linear", SIZE) in optimize._BATCHES
    monkeypatch.setattr(optimize, "_step_seconds", lambda answer, pixels: 1 + len(pixels) ** 2 / 64)
    assert measure_batch(network, "linear", SIZE) == 8  # 1 + n² / 64 seconds for n: best at 8


# The library, and its errors


def test_neuron_excites_its_unit_more_than_real_pictures(network: Network) -> None:
    pixels = neuron(network, "linear", 3, size=SIZE, steps=32)
    assert pixels.shape == (SIZE, SIZE, 3)
    reached = centre_activations(network, "linear", pixels[None])[0]
    usual = centre_activations(network, "linear", smooth_pictures(200, SIZE, seed=6))[:, 3]
    assert reached[3] > usual.max()


def test_render_takes_one_direction_or_many(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    assert render(network, "linear", means[0], size=48, steps=2).shape == (1, 48, 48, 3)
    pixels = render(network, "linear", means[:2], size=SIZE, second_moment=moment)
    assert (cosines(centre_activations(network, "linear", pixels), means[:2]) > 0.9).all()


def test_directions_may_be_tensors_lists_or_none(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, _ = directions
    expected = render(network, "linear", means, size=SIZE, steps=2)
    for values in (torch.from_numpy(means).requires_grad_(True), means.tolist(), means.astype(np.float64)):
        assert np.array_equal(render(network, "linear", values, size=SIZE, steps=2), expected)
    assert render(network, "linear", means[:0], size=SIZE, steps=2).shape == (0, SIZE, SIZE, 3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_gradient_mode_does_not_matter(network: Network, mode: Any) -> None:
    expected = neuron(network, "linear", 3, size=SIZE, steps=4)
    with mode():
        assert np.array_equal(neuron(network, "linear", 3, size=SIZE, steps=4), expected)


def test_long_directions_are_like_short_ones(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, _ = directions
    long = render(network, "linear", means * np.float32(1e30), size=SIZE, steps=8)
    short = render(network, "linear", means, size=SIZE, steps=8)
    assert np.abs(long.astype(int) - short.astype(int)).mean() < 1


def test_a_changed_network_is_recorded_anew(directions: tuple[np.ndarray, np.ndarray]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 16, 3)).eval().requires_grad_(False)
    own = Network("own", module, ("a",), SIZE, (0.5,) * 3, (0.25,) * 3)
    before = render(own, "2", directions[0][:1], size=SIZE, steps=8)
    module[0].weight.data.mul_(-1)
    changed = render(own, "2", directions[0][:1], size=SIZE, steps=8)
    assert not np.array_equal(changed, before)
    module[0].weight.mul_(-1)
    assert np.array_equal(render(own, "2", directions[0][:1], size=SIZE, steps=8), before)


def test_a_large_picture_is_drawn_from_coarse_to_fine(network: Network, directions: Any) -> None:
    means, _ = directions
    shares: list[float] = []
    large = render(network, "linear", means[:1], size=176, steps=8, progress=shares.append)
    small = render(network, "linear", means[:1], size=88, steps=8)
    assert large.shape == (1, 176, 176, 3)
    shrunk = large.reshape(1, 88, 2, 88, 2, 3).mean((2, 4))
    assert np.corrcoef(shrunk.ravel(), small.ravel().astype(float))[0, 1] > 0.3
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_seconds_of_a_step_are_those_of_more_steps(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    from atlas.visualize import optimize

    monkeypatch.setattr(optimize, "_BATCH_PIXELS", 8 * SIZE**2)  # 4 pictures
    assert 0 < optimize.step_seconds(network, "linear", SIZE) < 1
    now = 0.0

    def ascend(self: object, rows: np.ndarray, seeds: object, start: object, steps: int) -> None:
        nonlocal now
        now += 3 + 2 * steps * len(rows)

    monkeypatch.setattr(optimize.Ascent, "__call__", ascend)
    monkeypatch.setattr(optimize.time, "perf_counter", lambda: now)
    assert optimize.step_seconds(network, "linear", SIZE) == pytest.approx(2)

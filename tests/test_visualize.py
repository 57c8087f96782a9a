"""The icon engine: its parts on arithmetic, the whole on a small network made here, and on the demo's network."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from atlas.errors import ConfigError
from atlas.networks import Network, load
from atlas.visualize import Icons, Recipe, draw, measure_batch, neuron, render, score
from atlas.visualize.objective import Objective
from atlas.visualize.parametrize import Fourier, from_bytes, to_bytes, variation
from atlas.visualize.recipe import ALONE
from atlas.visualize.score import ROBUST_COUNT, ROBUST_MOVES, ROBUST_SEED, answers, cosines, flags
from atlas.visualize.transform import Moves, fade, move
from atlas.whitening import Moments, power_of_moment

SIZE = 32


def smooth_pictures(count: int, size: int, seed: int) -> np.ndarray:
    """Colourful pictures with contours, uint8 (count, size, size, 3)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    return to_bytes(nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    module = nn.Sequential()
    for name, channels, out in (("one", 3, 12), ("two", 12, 24)):
        module.add_module(name, nn.Conv2d(channels, out, 5, stride=2, padding=2))
        module.add_module(f"{name}_relu", nn.ReLU())
    module.add_module("linear", nn.Conv2d(24, 16, 1))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.eval().requires_grad_(False)
    small = Network("small", module, tuple("abcdefghijklmnop"), SIZE, (0.5,) * 3, (0.25,) * 3)
    # Directions of random networks all lie close to their common mean: take it out, so that they can be told apart.
    module.linear.bias -= torch.from_numpy(answers(small, "linear", smooth_pictures(240, SIZE, seed=1)).mean(0))
    return small


@pytest.fixture(scope="module")
def directions(network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Means (6, 16) of a few real activations each of layer "linear", and its second moment."""
    rows = answers(network, "linear", smooth_pictures(240, SIZE, seed=1))
    moments = Moments.empty(16)
    moments.add(rows)
    anchors = rows[:6] / np.linalg.norm(rows[:6], axis=1, keepdims=True)
    near = np.argsort(-anchors @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T, axis=1)[:, :4]
    return rows[near].mean(1), moments.second_moment


# Parametrisation


@pytest.mark.parametrize("size", [32, 33, 80])
def test_encoded_picture_decodes_to_itself(size: int) -> None:
    pixels = smooth_pictures(3, size, seed=2)
    fourier = Fourier.make(size)
    again = to_bytes(fourier.decode(fourier.encode(from_bytes(pixels))))
    assert np.abs(again.astype(int) - pixels.astype(int)).max() <= 1


def test_encoded_coefficients_are_contiguous_for_the_fused_optimiser() -> None:
    assert Fourier.make(80).encode(torch.rand(2, 3, 80, 80)).is_contiguous()


def test_phases_alone_leave_the_magnitudes_of_the_falloff() -> None:
    fourier = Fourier.make(SIZE, Recipe(phase_only=True, decay=1.0))
    noise = fourier.noise(np.arange(2))
    assert torch.allclose(fourier.decode(noise), fourier.decode(7 * noise), atol=1e-5)
    planes = torch.einsum("cr,nrhw->nchw", torch.linalg.inv(fourier.colour), torch.logit(fourier.decode(noise)))
    magnitudes = torch.fft.rfft2(planes, norm="ortho").abs()[:, :, 1:16, 1:16]  # away from the edges of the half plane
    assert torch.allclose(magnitudes, fourier.falloff[1:16, 1:16, 0].expand_as(magnitudes), rtol=1e-2)


def test_variation_is_the_mean_step_between_pixels() -> None:
    stripes = (torch.arange(8) % 2).float().expand(1, 3, 8, 8)
    assert float(variation(stripes)) == 0.5  # 1 across, 0 down
    assert float(variation(torch.full((1, 3, 8, 8), 0.3))) == 0


def test_smoothness_is_obeyed(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    found = [
        draw(network, "linear", means, second_moment=moment, size=SIZE, steps=24, recipe=Recipe(smooth=smooth)).pixels
        for smooth in (0.0, 1000.0)
    ]
    rough, smooth = (float(variation(from_bytes(pixels)).mean()) for pixels in found)
    assert smooth < 0.7 * rough


def test_noise_depends_on_its_seed_only() -> None:
    fourier = Fourier.make(SIZE)
    noise = fourier.noise(np.array([5, 6, 5]))
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[1], fourier.noise(np.array([6]))[0])
    assert fourier.decode(noise).std() < 0.05


def test_step_in_coefficients_moves_pixels_equally_at_every_size() -> None:
    spread = []
    for size in (40, 160):
        fourier = Fourier.make(size)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(4, 3, size, size // 2 + 1, 2, generator=generator) * 0.1
        spread.append(float(fourier.decode(noise).std(dim=(2, 3)).mean()))
    assert spread[0] == pytest.approx(spread[1], rel=0.2)


# Transforms


def test_moves_fade_to_identity() -> None:
    pixels = torch.rand(2, 3, SIZE, SIZE)
    assert fade(0, 64, 0.9) == 1
    assert fade(63, 64, 0.9) == 0
    assert all(fade(step, 64, 0.9) >= fade(step + 1, 64, 0.9) for step in range(63))
    assert torch.allclose(move(pixels, torch.zeros(2, 4)), pixels, atol=1e-5)


def test_shift_moves_by_whole_pixels() -> None:
    pixels = torch.rand(1, 3, SIZE, SIZE)
    moved = move(pixels, torch.tensor([[3.0, -2.0, 0.0, 0.0]]))
    assert torch.allclose(moved[:, :, 2:, : SIZE - 3], pixels[:, :, : SIZE - 2, 3:], atol=1e-4)


def test_quarter_turn_and_doubling() -> None:
    pixels = torch.rand(1, 3, SIZE, SIZE)
    turned = move(pixels, torch.tensor([[0.0, 0.0, np.pi / 2, 0.0]]))
    assert torch.allclose(turned, pixels.rot90(1, (2, 3)), atol=1e-3) or torch.allclose(
        turned, pixels.rot90(-1, (2, 3)), atol=1e-3
    )
    ramp = torch.linspace(-1, 1, SIZE).expand(1, 3, SIZE, SIZE)
    doubled = move(ramp, torch.tensor([[0.0, 0.0, 0.0, 1.0]]))
    assert torch.allclose(doubled, ramp / 2, atol=1e-4)


def test_moves_stay_within_their_limits_and_follow_the_seed() -> None:
    moves = Moves(shift=4, turn=10, scale=0.1)
    drawn = moves.draw(3, 1000)
    assert torch.equal(drawn, moves.draw(3, 1000))
    assert not torch.equal(drawn, moves.draw(4, 1000))
    limits = torch.tensor([4, 4, np.deg2rad(10), 0.1])
    assert bool((drawn.abs() <= limits + 1e-6).all())
    assert bool((drawn.abs().max(0).values > 0.95 * limits).all())
    assert bool((drawn.mean(0).abs() < 0.1 * limits).all())


# Objective


def test_objective_is_the_log_of_whitened_dot_times_powers_of_the_true_cosines() -> None:
    rng = np.random.default_rng(0)
    means = rng.standard_normal((3, 5)).astype(np.float32)
    rows = rng.standard_normal((200, 5)) * np.array([5, 1, 1, 1, 0.2])
    moments = Moments.empty(5)
    moments.add(rows)
    objective = Objective.make(means, moments.second_moment, recipe=Recipe(dot=2, power=4, power_whitened=3))
    activations = (3 * means + 0.1 * rng.standard_normal((3, 5))).astype(np.float32)
    whitened = means @ power_of_moment(moments.second_moment, -1, 1e-3)
    whitened /= np.linalg.norm(whitened, axis=1, keepdims=True)
    dot = (activations * whitened).sum(1) / np.sqrt(np.trace(moments.second_moment))
    half = power_of_moment(moments.second_moment, -0.5, 1e-3)
    expected = 2 * np.log(dot) + 4 * np.log(cosines(activations, means))
    expected += 3 * np.log(cosines(activations @ half, means @ half))
    found = objective(torch.from_numpy(activations)[:, :, None, None])
    assert np.allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_objective_has_a_slope_where_the_cosine_is_zero_or_less(sign: float) -> None:
    means = np.eye(4, dtype=np.float32)[:1]
    objective = Objective.make(means, np.eye(4), recipe=Recipe())
    activations = torch.tensor([[0.1 * sign, 1.0, 0.0, 0.0]], requires_grad=True)
    objective(activations[:, :, None, None]).sum().backward()
    assert activations.grad is not None
    assert float(activations.grad[0, 0]) > 1


def test_share_brings_in_the_positions_around_the_centre() -> None:
    means = np.eye(4, dtype=np.float32)[:1]
    objective = Objective.make(means, np.eye(4), recipe=Recipe(power=2, power_whitened=0))
    maps = torch.rand(1, 4, 5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    objective(maps).sum().backward()
    assert maps.grad is not None
    touched = maps.grad.abs().sum((0, 1)) > 0
    assert touched.sum() == 1
    assert touched[2, 2]
    maps.grad = None
    objective(maps, share=0.5).sum().backward()
    touched = maps.grad.abs().sum((0, 1)) > 0
    assert touched[1:4, 1:4].all()
    assert touched.sum() == 9


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


def test_progress_is_told_while_an_icon_climbs(network: Network) -> None:
    seen: list[float] = []
    neuron(network, "linear", 0, size=24, steps=40, progress=seen.append)
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


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
    threads, seen = torch.get_num_threads(), []
    drawn = {}
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            drawn[count] = draw(
                network, "linear", means, second_moment=moment, size=SIZE, steps=8, seeds=np.arange(6), batch=2,
                progress=seen.append,
            ).pixels  # fmt: skip
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(drawn[1], drawn[3])
    assert sorted(seen) == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1])


def test_mistake_in_one_lane_is_told(
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


def test_relaxed_gradient_leads_out_of_where_every_relu_is_shut() -> None:
    """From noise nothing of this network answers, and no gradient says what would."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
    ).requires_grad_(False)
    shut = Network("shut", module.eval(), ("a",), SIZE, (0.5,) * 3, (0.25,) * 3)
    before = shut.activations(shut.normalize(torch.full((1, 3, SIZE, SIZE), 0.5)), "2")
    module[2].bias -= before.amax((0, 2, 3)) + 0.05
    means = np.eye(8, dtype=np.float32)[:4]
    found = {
        leak: score(
            shut,
            "3",
            draw(shut, "3", means, second_moment=np.eye(8), size=SIZE, recipe=Recipe(leak=leak)).pixels,
            means,
            second_moment=np.eye(8),
        )
        for leak in (0.0, 0.1)
    }
    assert set(found[0.0].flag) & {"dead", "grey"}
    assert found[0.1].flag == [None] * 4


def test_batch_is_measured_up_to_where_it_stops_paying(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    from atlas.visualize import optimize

    assert measure_batch(network, "linear", SIZE) in optimize._BATCHES
    monkeypatch.setattr(optimize, "_step_seconds", lambda answer, pixels: 1 + len(pixels) ** 2 / 64)
    assert measure_batch(network, "linear", SIZE) == 8  # 1 + n² / 64 seconds for n: best at 8


def test_pictures_that_stand_alone_are_filled_to_their_edges(efficientnet: Network) -> None:
    """The centre of _blocks.4 sees 33 px: in an icon of an atlas it decides in the end, alone it does not."""
    direction = np.eye(40, dtype=np.float32)[3]
    pictures = {
        name: render(efficientnet, "_blocks.4", direction, size=128, recipe=recipe, steps=48)
        for name, recipe in (("atlas", Recipe()), ("alone", ALONE))
    }

    def reached(pixels: np.ndarray) -> float:
        with torch.no_grad():
            maps = efficientnet.activations(efficientnet.normalize(from_bytes(pixels)), "_blocks.4")[0, 3]
        return float(maps[2:-2, 2:-2].mean())

    assert reached(pictures["alone"]) > 1.1 * reached(pictures["atlas"])
    assert np.array_equal(render(efficientnet, "_blocks.4", direction, size=128, steps=48), pictures["alone"])


# Scores


def test_rank_percentile_and_cosine_are_as_defined(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    _, moment = directions
    pixels = smooth_pictures(5, SIZE, seed=3)
    own = answers(network, "linear", pixels)
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
    found = score(network, "linear", pixels, means, second_moment=moment, quantiles=quantiles).percentile
    assert np.allclose(found, 75, atol=0.1)


def test_robust_cosine_is_the_mean_over_the_moved_pictures(
    network: Network, directions: tuple[np.ndarray, np.ndarray]
) -> None:
    means, moment = directions
    pixels = smooth_pictures(6, SIZE, seed=5)
    found = []
    for each in ROBUST_MOVES.draw(ROBUST_SEED, ROBUST_COUNT):
        moved = move(from_bytes(pixels), each.expand(6, 4))
        with torch.no_grad():
            maps = network.module[:5](network.normalize(moved))
        found.append(cosines(maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].numpy(), means))
    result = score(network, "linear", pixels, means, second_moment=moment, batch=4)
    assert np.allclose(result.cosine_robust, np.mean(found, axis=0), atol=1e-5)
    assert Moves(shift=5, turn=10, scale=0.1) == ROBUST_MOVES
    assert ROBUST_COUNT == 16


def test_flags_name_the_worst() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    pixels[1] = [10, 120, 240]  # flat, though coloured
    norm = np.array([0.001, 1, 1, 1], dtype=np.float32)
    cosine = np.array([0.9, 0.9, 0.59, 0.61], dtype=np.float32)
    assert flags(pixels, cosine, norm, 1.0) == ["dead", "grey", "low", None]
    assert flags(pixels[3:], np.array([np.nan], dtype=np.float32), norm[3:], 1.0) == ["low"]


# The library, and its errors


def test_neuron_excites_its_unit_more_than_real_pictures(network: Network) -> None:
    pixels = neuron(network, "linear", 3, size=SIZE, steps=32)
    assert pixels.shape == (SIZE, SIZE, 3)
    reached = answers(network, "linear", pixels[None])[0]
    usual = answers(network, "linear", smooth_pictures(200, SIZE, seed=6))[:, 3]
    assert reached[3] > usual.max()


def test_render_takes_one_direction_or_many(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    assert render(network, "linear", means[0], size=48, steps=2).shape == (1, 48, 48, 3)
    pixels = render(network, "linear", means[:2], size=SIZE, second_moment=moment)
    assert (cosines(answers(network, "linear", pixels), means[:2]) > 0.9).all()


def test_directions_may_be_tensors_lists_or_none(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, _ = directions
    expected = render(network, "linear", means, size=SIZE, steps=2)
    for given in (torch.from_numpy(means).requires_grad_(True), means.tolist(), means.astype(np.float64)):
        assert np.array_equal(render(network, "linear", given, size=SIZE, steps=2), expected)
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


def test_recipes_are_checked() -> None:
    for wrong in (
        {"ridge": -1.0}, {"power": float("nan")}, {"steps": 0}, {"rate": 0.0}, {"steps_from_start": 2.5},
        {"rate": "0.1"}, {"betas": (2, 3)}, {"betas": (0.3,)}, {"around": 5}, {"floor": 0.0}, {"smooth": None},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"Recipe: {next(iter(wrong))} is"):
            Recipe(**wrong)
    with pytest.raises(ConfigError, match="nothing is asked for"):
        Recipe(dot=0, power=0, power_whitened=0)


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


def test_bad_input_gets_a_sentence(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    nan = means.copy()
    nan[4, 2] = np.nan
    wrong = [
        ((network, "linear", means[:, :5]), {}, r"expected \(n, 16\)"),
        ((network, "linear", nan), {}, "Direction 4 holds NaN or infinity .1 of 6"),
        ((network, "linear", 0 * means), {}, "Direction 0 .* all zero"),
        ((network, "linear", np.ones((16, 3))), {}, "They seem to be turned: give directions.T"),
        ((network.module, "linear", means), {}, r"The network is \w+. Give a module of your own through .*load"),
        ((network, "linear", means), {"recipe": "x"}, "The recipe is 'x', expected a Recipe"),
        ((network, "linear", means), {"progress": True}, "progress is True, expected a function"),
        ((network, "linear", means), {"second_moment": np.tri(16)}, "second moment is not symmetric"),
        ((network, "linear", means), {"second_moment": np.diag([-1.0] + [9.0] * 15)}, "a diagonal that is negative"),
        ((network, "liner", means), {}, "no layer 'liner'. Near names: linear"),
        ((network, "linear", means), {"size": 2}, "too small"),
        ((network, "linear", means), {"seeds": np.arange(2)}, "6 directions, but 2 seeds"),
        ((network, "linear", means), {"seeds": np.full(6, 0.5)}, "expected .6,. and whole numbers"),
        ((network, "linear", [["a"] * 16]), {}, "cannot be read as numbers"),
        ((network, "linear", [[1.0] * 16, [1.0]]), {}, "cannot be read as numbers"),
        ((network, "linear", means * 1j), {}, "cannot be read as numbers .they are of type complex64"),
        ((network, 3, means), {}, "no layer 3"),
        ((network, "linear", means), {"size": 80.5}, "size is 80.5, expected a whole number"),
        ((network, "linear", means), {"steps": 0}, "steps is 0, expected a whole number of at least 1"),
        ((network, "linear", means), {"steps": "auto"}, "steps is 'auto'"),
        ((network, "linear", means), {"batch": -1}, "batch is -1"),
        ((network, "linear", means), {"precision": "half"}, "precision is 'half', expected one of auto, float32"),
        ((network, "linear", means), {"second_moment": np.full((16, 16), np.nan)}, "second moment holds NaN"),
        (
            (network, "linear", means),
            {"second_moment": np.zeros((16, 16))},
            "a diagonal that is negative or sums to nothing",
        ),
        ((network, "linear", means), {"start": np.zeros((6, SIZE, SIZE, 3))}, "type float64, expected .* and uint8"),
        ((network, "linear", means), {"start": np.zeros((6, 8, 8, 3), np.uint8)}, "start pictures have shape"),
        ((network, "linear", means), {"second_moment": np.eye(3)}, r"second moment has shape \(3, 3\)"),
    ]
    for arguments, options, sentence in wrong:
        with pytest.raises(ConfigError, match=sentence):
            draw(*arguments, **{"second_moment": moment, "size": SIZE, **options})
    with pytest.raises(ConfigError, match="has no unit 16"):
        neuron(network, "linear", 16, size=SIZE)
    unpadded = nn.Sequential(nn.Conv2d(3, 4, 30), nn.Conv2d(4, 4, 3))
    large = Network("large", unpadded, (), 64, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ConfigError, match=r"cannot take pictures of 16×16 pixels .*: 32 will do"):
        draw(large, "1", np.ones((1, 4), np.float32), second_moment=np.eye(4), size=16)
    with pytest.raises(ConfigError, match=r"200000×200000 pixels .* do not fit into memory. Choose a smaller size"):
        render(network, "linear", means, size=200_000)


def test_a_layer_that_is_called_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu, self.last = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.last(self.relu(self.first(x)))).mean((2, 3))

    with pytest.raises(ConfigError, match="'relu' of Twice is called 2 times in one pass"):
        neuron(load(Twice(), size=32, device="cpu"), "relu", 0, size=16, steps=1)


def test_a_module_that_one_holds_can_be_drawn() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 28 * 28, 3))
    held = load(module, size=32, classes=["a", "b", "c"], mean=[0.5] * 3, std=[0.25] * 3, device="cpu")
    assert (held.name, held.classes, held.mean) == ("Sequential", ("a", "b", "c"), (0.5, 0.5, 0.5))
    assert held.folded == (("0", "1"),)
    assert neuron(held, "2", 3, size=16, steps=8).std() > 5


def test_pictures_of_short_and_long_climbs_are_equally_rich(efficientnet: Network) -> None:
    """A step moves a pixel the farther, the fewer there are."""
    direction = np.eye(112, dtype=np.float32)[[9, 51, 85, 3]]
    deviation = [
        float((render(efficientnet, "_blocks.10", direction, steps=steps, recipe=Recipe()) / 255).std((1, 2)).mean())
        for steps in (48, 160)
    ]
    assert deviation[0] == pytest.approx(deviation[1], rel=0.15)


def test_a_picture_that_stands_alone_is_alike_in_the_middle_and_around_it(efficientnet: Network) -> None:
    """All positions count: the layer answers at the centre as it does around it."""
    pixels = neuron(efficientnet, "_blocks.4", 9, size=96, steps=48)
    inputs = efficientnet.from_bytes(torch.from_numpy(pixels[None]))
    with torch.no_grad():
        answer = efficientnet.activations(inputs, "_blocks.4")[0, 9, 2:-2, 2:-2]
    centre = answer[answer.shape[0] // 2, answer.shape[1] // 2]
    assert float(centre) < 1.5 * float(answer.mean())


def test_a_large_picture_is_drawn_from_coarse_to_fine(network: Network, directions: Any) -> None:
    means, _ = directions
    seen: list[float] = []
    large = render(network, "linear", means[:1], size=176, steps=8, progress=seen.append)
    small = render(network, "linear", means[:1], size=88, steps=8)
    assert large.shape == (1, 176, 176, 3)
    shrunk = large.reshape(1, 88, 2, 88, 2, 3).mean((2, 4))
    assert np.corrcoef(shrunk.ravel(), small.ravel().astype(float))[0, 1] > 0.3
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


# The demo's network


@pytest.mark.parametrize(("layer", "channels"), [("_blocks.4", 40), ("_blocks.10", 112)])
def test_icons_of_a_real_network(efficientnet: Network, layer: str, channels: int) -> None:
    rows = answers(efficientnet, layer, smooth_pictures(160, 80, seed=7))
    moments = Moments.empty(channels)
    moments.add(rows)
    means = rows.reshape(4, 40, channels)[:, :3].mean(1)
    icons = draw(efficientnet, layer, means, second_moment=moments.second_moment, seeds=np.arange(4))
    result = score(efficientnet, layer, icons.pixels, means, second_moment=moments.second_moment)
    assert np.median(result.cosine) > 0.85
    assert np.median(result.cosine_robust) > 0.7
    assert result.flag == [None] * 4
    assert (icons.pixels.std(axis=(1, 2)) > 8).all()  # colour and contrast


def test_a_finer_icon_starts_from_the_cells_around_it() -> None:
    """Weights fall with distance; what is not drawn does not count; sisters and cousins start equally far apart."""
    from atlas.visualize.parents import blend, coarser_cells

    weights = coarser_cells(4, 7)
    assert set(weights) == {(row, col) for row in (0, 1, 2, 3) for col in (2, 3, 4, 5)}
    assert max(weights, key=weights.__getitem__) == (2, 3)
    assert weights[1, 3] == weights[2, 4] < weights[2, 3]
    assert weights[2, 3] / weights[1, 3] == pytest.approx(np.exp((0.75**2 - 0.25**2) / (2 * 0.75**2)))
    one = {cell: np.full((2, 2, 3), 10 * cell[0] + cell[1], np.uint8) for cell in weights}
    expected = sum(weight * (10 * row + col) for (row, col), weight in weights.items()) / sum(weights.values())
    assert blend(one, 4, 7)[0, 0, 0] == round(expected)
    assert blend({(2, 3): one[2, 3]}, 4, 7)[0, 0, 0] == 23
    ramp = {(0, col): np.full((1, 1, 3), 20 * col, np.uint8) for col in range(10)}
    steps = np.diff([int(blend(ramp, 0, col)[0, 0, 0]) for col in range(5, 15)])
    assert steps.min() >= 8
    assert steps.max() <= 12

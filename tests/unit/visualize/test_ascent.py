"""What gradient ascent works with: the parametrisation, the moves and the objective."""

import numpy as np
import pytest
import torch
from made_pictures import smooth_pictures
from torch import nn

from atlas.errors import ConfigError
from atlas.networks.network import Network
from atlas.store.moments import Moments, power_of_moment
from atlas.visualize import Recipe, draw, score
from atlas.visualize.objective import Objective
from atlas.visualize.parametrize import Fourier, from_bytes, to_bytes, variation
from atlas.visualize.score import cosines
from atlas.visualize.transform import Moves, fade, move

SIZE = 32

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


def test_relaxed_gradient_leads_out_of_where_every_relu_is_shut() -> None:
    """From noise nothing of this network answers, and no gradient says what would."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
    ).requires_grad_(False)
    closed = Network("closed", module.eval(), ("a",), SIZE, (0.5,) * 3, (0.25,) * 3)
    before = closed.activations(closed.normalize(torch.full((1, 3, SIZE, SIZE), 0.5)), "2")
    module[2].bias -= before.amax((0, 2, 3)) + 0.05
    means = np.eye(8, dtype=np.float32)[:4]
    found = {
        leak: score(
            closed,
            "3",
            draw(closed, "3", means, second_moment=np.eye(8), size=SIZE, recipe=Recipe(leak=leak)).pixels,
            means,
            second_moment=np.eye(8),
        )
        for leak in (0.0, 0.1)
    }
    assert set(found[0.0].flag) & {"dead", "grey"}
    assert found[0.1].flag == [None] * 4


def test_recipes_are_checked() -> None:
    for wrong in (
        {"ridge": -1.0}, {"power": float("nan")}, {"steps": 0}, {"rate": 0.0}, {"steps_from_start": 2.5},
        {"rate": "0.1"}, {"betas": (2, 3)}, {"betas": (0.3,)}, {"around": 5}, {"floor": 0.0}, {"smooth": None},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"Recipe: {next(iter(wrong))} is"):
            Recipe(**wrong)
    with pytest.raises(ConfigError, match="nothing is asked for"):
        Recipe(dot=0, power=0, power_whitened=0)

"""The moves that a picture makes while it is drawn."""

import numpy as np
import torch

from atlas.visualize.transform import Moves, fade, move

SIZE = 32


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
    values = moves.draw(3, 1000)
    assert torch.equal(values, moves.draw(3, 1000))
    assert not torch.equal(values, moves.draw(4, 1000))
    limits = torch.tensor([4, 4, np.deg2rad(10), 0.1])
    assert bool((values.abs() <= limits + 1e-6).all())
    assert bool((values.abs().max(0).values > 0.95 * limits).all())
    assert bool((values.mean(0).abs() < 0.1 * limits).all())

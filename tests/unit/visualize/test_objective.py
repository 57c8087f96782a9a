"""The objective: the whitened dot product times powers of the cosines."""

import numpy as np
import pytest
import torch

from atlas.store.moments import Moments, power_of_moment
from atlas.visualize import Recipe
from atlas.visualize.objective import Objective
from atlas.visualize.score import cosines


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
    values = objective(torch.from_numpy(activations)[:, :, None, None])
    assert np.allclose(values.numpy(), expected, atol=1e-4)


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
    mask = maps.grad.abs().sum((0, 1)) > 0
    assert mask.sum() == 1
    assert mask[2, 2]
    maps.grad = None
    objective(maps, share=0.5).sum().backward()
    mask = maps.grad.abs().sum((0, 1)) > 0
    assert mask[1:4, 1:4].all()
    assert mask.sum() == 9

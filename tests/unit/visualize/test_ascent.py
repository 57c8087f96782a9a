"""Gradient ascent, out of where nothing of the network answers."""

import numpy as np
import torch
from torch import nn

from atlas.networks.network import Network
from atlas.visualize import Recipe, draw, score

SIZE = 32


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
    scores = {
        leak: score(
            closed,
            "3",
            draw(closed, "3", means, second_moment=np.eye(8), size=SIZE, recipe=Recipe(leak=leak)).pixels,
            means,
            second_moment=np.eye(8),
        )
        for leak in (0.0, 0.1)
    }
    assert set(scores[0.0].flag) & {"dead", "grey"}
    assert scores[0.1].flag == [None] * 4

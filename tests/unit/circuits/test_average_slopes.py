"""Average slopes: what the non-linearities of a path let through, over real pictures."""

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from between_layers import SIDE, Shuffled, between, eye
from torch import Tensor, nn

from atlas.circuits.average_slopes import measure_slopes
from atlas.circuits.expanded_weights import expand_weights, sum_weights
from atlas.circuits.linear_path import LinearPath


class Gated(nn.Module):
    """Squeeze and excitation: each channel is multiplied by what its mean over the map decides."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.spread = nn.Conv2d(6, 6, 3, padding=1)

    def gate(self, maps: Tensor) -> Tensor:
        return self.excite(self.squeeze(maps.mean((2, 3), keepdim=True)).relu()).sigmoid()

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.spread(maps)
        return maps * self.gate(maps)


def test_average_slopes_are_the_means_of_the_pictures() -> None:
    torch.manual_seed(3)
    relu, gated, last = nn.ReLU(), Gated(), nn.Conv2d(6, 5, 1)
    network = between(nn.Sequential(relu, gated, last))
    path = LinearPath(network, "first", "middle")
    assert path.nonlinearities == ("1 ReLU", "1 gate taken as constant")  # what is inside of the gate is not counted
    inputs = torch.randn(5, 3, SIDE, SIDE)
    slopes = measure_slopes(path, inputs, batch=2)
    assert slopes.views == 5
    maps = network.activations(inputs, "first")
    open_share = (maps > 0).float().mean((0, 2, 3))
    assert 0.05 < float(open_share.min()) < 0.95
    mean_gate = gated.gate(gated.spread(maps.relu())).mean((0, 2, 3))
    kernel = (
        torch.einsum("oc,cikl->oikl", last.weight[:, :, 0, 0] * mean_gate, gated.spread.weight)
        * open_share[:, None, None]
    )
    assert expand_weights(path, eye(path), slopes).kernels == pytest.approx(kernel.numpy(), abs=1e-6)
    plain = torch.einsum("oc,cikl->oikl", last.weight[:, :, 0, 0], gated.spread.weight)
    assert expand_weights(path, eye(path)).kernels == pytest.approx(plain.numpy(), abs=1e-6)
    assert sum_weights(path, eye(path), slopes) == pytest.approx(kernel.sum((2, 3)).numpy(), abs=1e-5)


def test_slopes_are_measured_one_by_one_where_the_batch_is_recorded() -> None:
    torch.manual_seed(4)
    shuffled = between(nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), Shuffled(), nn.Conv2d(8, 5, 1)))

    class Fixed(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            rows = maps.permute(0, 2, 3, 1).reshape(-1, 6)  # positions of all pictures on one side
            return functional.silu(rows).reshape(len(maps), SIDE, SIDE, 6).permute(0, 3, 1, 2)

    by_rows = between(nn.Sequential(Fixed(), nn.Conv2d(6, 5, 1)))
    for network, nonlinearities in ((shuffled, "1 ReLU"), (by_rows, "1 SiLU")):
        path = LinearPath(network, "first", "middle")
        assert path.nonlinearities == (nonlinearities,)
        inputs = torch.randn(4, 3, SIDE, SIDE)
        one = [sum_weights(path, eye(path), measure_slopes(path, inputs[[index]])) for index in range(4)]
        all_four = sum_weights(path, eye(path), measure_slopes(path, inputs))
        # Linear in the one non-linearity's slopes.
        assert all_four == pytest.approx(np.mean(one, axis=0), abs=1e-5)

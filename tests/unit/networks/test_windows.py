"""Tangents as windows of maps, against the same as whole maps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from atlas.networks import windows
from atlas.networks.program.fused import FusedConvolution
from atlas.networks.tangents import mask
from atlas.networks.windows import Window, added, convolved, whole

SIDES = (11, 12)
# Corners and edges too, where a window reaches beyond the map.
POSITIONS = torch.tensor([[0, 0], [10, 11], [5, 6], [4, 5], [1, 10]])


def maps_of(channels: int = 6, seed: int = 0) -> Tensor:
    maps = torch.randn(len(POSITIONS), channels, *SIDES, generator=torch.Generator().manual_seed(seed))
    return maps.contiguous(memory_format=torch.channels_last)


def convolution(side: int = 3, stride: int = 1, padding: int = 1, groups: int = 1, **options: Any) -> FusedConvolution:
    weight = torch.randn(6, 6 // groups, side, side, generator=torch.Generator().manual_seed(1))
    settings = {"dilation": [1, 1], "bounds": (0.0, 6.0)} | options
    return FusedConvolution(weight, torch.ones(6), [stride] * 2, [padding] * 2, groups=groups, **settings)


@pytest.mark.parametrize("channels", [None, torch.tensor([0, 5, 2, 2, 1])])
def test_a_window_begins_as_one_position(channels: Tensor | None) -> None:
    window = Window.at(maps_of(), POSITIONS, channels)
    assert window.values.shape == (5, 6, 1, 1)
    assert torch.equal(window.whole(), mask(maps_of(), POSITIONS, channels))


CONVOLUTIONS: list[dict[str, Any]] = [
    {"side": 1, "padding": 0},
    {"side": 3},
    {"side": 5, "padding": 2, "groups": 6},
    {"side": 3, "bounds": None},
    {"side": 3, "padding": 0},
    {"side": 3, "stride": 2},
    {"side": 4, "stride": 2, "groups": 6},
    {"side": 6, "stride": 2, "padding": 2, "groups": 6},
    {"side": 1, "stride": 2, "padding": 0},
    {"side": 3, "padding": 2, "dilation": [2, 2]},
]


@pytest.mark.parametrize("first", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("second", CONVOLUTIONS, ids=str)
def test_convolutions_widen_a_window(first: dict[str, Any], second: dict[str, Any]) -> None:
    one, two, maps = convolution(**first), convolution(**second), maps_of()
    between = one.run(maps)
    outputs = two.run(between)
    tangent = convolved(one, Window.at(maps, POSITIONS), between)
    tangent = convolved(two, tangent, outputs) if isinstance(tangent, Window) else two.tangent(tangent, outputs)
    expected = two.tangent(one.tangent(mask(maps, POSITIONS), between), outputs)
    torch.testing.assert_close(whole(tangent), expected, rtol=1e-4, atol=1e-4)


def test_a_window_stays_one_until_it_is_most_of_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    one, maps = convolution(5, padding=2), maps_of()
    outputs = one.run(maps)
    tangent = convolved(one, Window.at(maps, POSITIONS), outputs)
    assert isinstance(tangent, Window)
    assert tangent.values.shape[2:] == (5, 5)
    tangent = convolved(one, tangent, outputs)
    assert isinstance(tangent, Window)
    assert tangent.values.shape[2:] == (9, 9)
    assert isinstance(convolved(one, tangent, outputs), Tensor)
    monkeypatch.setattr(windows, "_MOST", 0.1)
    assert isinstance(convolved(one, Window.at(maps, POSITIONS), outputs), Tensor)


def test_sums_of_windows_and_whole_maps() -> None:
    maps = maps_of()
    small, one = Window.at(maps, POSITIONS), convolution()
    large = convolved(one, small, one.run(maps))
    assert isinstance(large, Window)
    inside = added(small, large)
    assert isinstance(inside, Window)
    assert torch.equal(inside.whole(), small.whole() + large.whole())
    assert torch.equal(whole(added(large, small)), small.whole() + large.whole())
    elsewhere = Window.at(maps, 10 - POSITIONS.clamp(0, 10))
    assert torch.equal(whole(added(large, elsewhere)), large.whole() + elsewhere.whole())
    assert torch.equal(whole(added(large, maps)), large.whole() + maps)

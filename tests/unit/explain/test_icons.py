"""Icons as they come, until they are cancelled."""

import numpy as np
import pytest
import torch
from explained import photo

from atlas.explain.icons import Cancelled, draw_icons
from atlas.networks.network import Network


def test_icons_come_in_order_and_end_when_nobody_waits(small: Network) -> None:
    noise = torch.from_numpy(photo(5, 32, 32)[None].copy())
    with torch.no_grad():
        maps = small.activations(small.from_bytes(noise), "branches")[0]
    directions = maps.flatten(1).T[:30].numpy().copy()
    directions[4] = 0
    order = np.random.default_rng(2).permutation(30).tolist()
    options = {"second_moment": np.eye(16), "size": 32, "steps": 24}
    icons = list(draw_icons(small, "branches", directions, order, **options))
    assert [icon.number for icon in icons] == [number for number in order if number != 4]
    assert all(icon.pixels.shape == (32, 32, 3) for icon in icons)
    assert np.median([icon.cosine for icon in icons]) > 0.8
    calls = 0

    def cancelled() -> bool:
        nonlocal calls
        calls += 1
        return calls > 3

    some = draw_icons(small, "branches", directions, order, **options, cancelled=cancelled)
    with pytest.raises(Cancelled):
        list(some)
    assert calls == 4  # not one batch more

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
    asked = {"second_moment": np.eye(16), "size": 32, "steps": 24}
    drawn = list(draw_icons(small, "branches", directions, order, **asked))
    assert [each.number for each in drawn] == [each for each in order if each != 4]
    assert all(each.pixels.shape == (32, 32, 3) for each in drawn)
    assert np.median([each.cosine for each in drawn]) > 0.8
    looked = 0

    def cancelled() -> bool:
        nonlocal looked
        looked += 1
        return looked > 3

    some = draw_icons(small, "branches", directions, order, **asked, cancelled=cancelled)
    with pytest.raises(Cancelled):
        list(some)
    assert looked == 4  # not one batch more

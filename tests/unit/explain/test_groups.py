"""Groups of a layer's map: planted ones are found."""

import numpy as np
import pytest

from atlas.errors import ConfigError
from atlas.explain.groups import factorise


@pytest.mark.parametrize("signed", [False, True])
def test_planted_groups_are_found(signed: bool) -> None:
    generator = np.random.default_rng(0)
    masks = np.zeros((3, 8, 8), np.float32)
    masks[0, :4, :5], masks[1, 4:, :3], masks[2, 5:, 4:] = 1, 0.5, 0.8
    directions = generator.random((3, 20)).astype(np.float32)
    directions[np.arange(20) % 3 != np.arange(3)[:, None]] = 0  # each has channels of its own
    if signed:
        directions[:, ::2] *= -1
    groups = factorise(np.einsum("khw,kc->chw", masks, directions), 3)
    assert groups.explained_share > 0.999
    assert groups.signed is signed
    assert groups.shares.tolist() == sorted(groups.shares, reverse=True)
    assert groups.shares.sum() == pytest.approx(1)
    unit = groups.directions / np.linalg.norm(groups.directions, axis=1, keepdims=True)
    cosine = unit @ (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    assert cosine.max(1) == pytest.approx(np.ones(3), abs=1e-3)
    for mask, which in zip(groups.masks, cosine.argmax(1)):
        np.testing.assert_allclose(mask, masks[which] / masks[which].max(), atol=1e-2)
    again = factorise(np.einsum("khw,kc->chw", masks, directions), 3)
    np.testing.assert_array_equal(groups.masks, again.masks)


def test_groups_that_cannot_be_are_told() -> None:
    maps = np.ones((4, 2, 2), np.float32)
    with pytest.raises(ConfigError, match="11 groups were asked for, expected 2 to 10"):
        factorise(maps, 11)
    with pytest.raises(ConfigError, match="5 groups were asked for, but the layer has 4 positions of 4 channels"):
        factorise(maps, 5)
    with pytest.raises(ConfigError, match="answers this picture with zeros alone"):
        factorise(0 * maps, 2)

"""Heat maps: signed numbers of cells as bytes."""

import numpy as np

from atlas.site.heat import heat_maps


def test_heat_maps_come_in_files_of_fifty_classes() -> None:
    attribution = np.random.default_rng(0).normal(size=(9, 120)).astype(np.float32)
    attribution[:, 3] = 0
    attribution[8] *= 100
    heat, scale = heat_maps(attribution, np.arange(9) < 8)
    assert heat.shape == (120, 9)
    assert (heat[3] == 128).all()
    assert scale[3] == 0
    assert set(np.abs(heat[4].astype(int) - 128)[:8].tolist()) & {127}
    assert (np.sign(heat[5].astype(int) - 128) == np.sign(attribution[:, 5])).mean() > 0.9

"""Pictures of effects, groups, icons and positions."""

import numpy as np
from PIL import Image

from atlas.explain.export.overlays import OPPOSE, SUPPORT, dotted, icon_grid, masked, overlay


def test_sheets_show_what_the_numbers_say() -> None:
    view = np.full((32, 32, 3), 128, np.uint8)
    effects = np.array([[2.0, -1.0], [0.0, 0.5]], np.float32)
    sheet = overlay(view, effects, side=64).astype(int)
    grey = sheet[48, 16]
    assert (grey == 128).all()
    assert np.abs(sheet[16, 16] - (0.8 * np.array(SUPPORT) + 0.2 * grey)).max() <= 1
    assert np.abs(sheet[16, 48] - (0.4 * np.array(OPPOSE) + 0.6 * grey)).max() <= 1
    icons = {0: np.full((20, 20, 3), 200, np.uint8), 3: np.full((20, 20, 3), 50, np.uint8)}
    grid = icon_grid(icons, [1.0, 1.0, 1.0, 0.25], 2, 2, side=40)
    assert (grid[:40, :40] == 200).all()
    assert (grid[:40, 40:] == grid[0, 40]).all()
    assert (grid[:, :, 0] == 50).sum() == 20 * 20
    light = masked(view, np.array([[1, 0], [0, 0]], np.float32), side=64)
    assert (light[4, 4] == 128).all()
    assert (light[60, 60] > 240).all()
    atlas = np.asarray(dotted(Image.new("RGB", (100, 100)), [20.0, np.nan], [70.0, np.nan], [1.0, 1.0], radius=6))
    assert (atlas[70, 20] == (28, 29, 31)).all()
    assert (atlas[70, 26] == (247, 247, 245)).all()
    assert atlas[:60].max() == 0

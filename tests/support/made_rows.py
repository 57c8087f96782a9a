"""Rows in groups, as layouts are tested with."""

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.config.sections import LayoutConfig
from atlas.layout.neighbors import unit_rows
from atlas.layout.quality import quality as block_quality

SETTINGS = LayoutConfig(neighbors=10, fit_rows=10_000, deterministic=True)


def clusters(rows: int = 400, channels: int = 20, centres: int = 5, seed: int = 0) -> tuple[Float32, NDArray[np.int64]]:
    """Unit rows of some groups, and the group of each."""
    generator = np.random.default_rng(seed)
    group = np.arange(rows) % centres
    middle = generator.normal(size=(centres, channels)) * 2
    return unit_rows(middle[group] + generator.normal(size=(rows, channels))), group


def quality(rows: Float32, coordinates: Float32, **options: int) -> dict[str, float]:
    """Of rows that come in three blocks, as they do from a store."""
    return block_quality(lambda: np.array_split(rows, 3), coordinates, **options)

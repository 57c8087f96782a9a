"""What scripts/bench.py render and scripts/ablate.py draw: the directions of a run's cells, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32, Pixels
from atlas.cells.icons import drawn_cells, read_icons
from atlas.errors import AtlasError, ConfigError
from atlas.networks.network import Network
from atlas.pictures.decode import decode_png
from atlas.rundir.directory import RunDirectory
from atlas.store.moments import Moments
from atlas.visualize.coarse_start import blend
from pipelines import worker
from pipelines.render import icon_seeds


@dataclass(frozen=True)
class Task:
    """What every system draws: ``means`` float32 (n, channels) at ``layer``, as pictures of ``size`` pixels.

    ``level`` holds all drawn cells of the grid (row, col, mean, cosines, norm) and ``own`` int (n,) the rows of the
    chosen ones in it. ``seeds`` int64 (n,) are those of the product. ``parents`` uint8 (n, size, size, 3) are the
    blends of the run's coarser icons, None if it has none.
    """

    network: Network
    layer: str
    size: int
    second_moment: NDArray[np.float64]
    level: dict[str, NDArray[Any]]
    own: NDArray[np.int64]
    seeds: NDArray[np.int64]
    parents: Pixels | None

    @property
    def means(self) -> Float32:
        means: Float32 = self.level["mean"][self.own]
        return means

    def take(self, count: int) -> Task:
        """The same for the first ``count`` directions."""
        parents = None if self.parents is None else self.parents[:count]
        return replace(self, own=self.own[:count], seeds=self.seeds[:count], parents=parents)


@dataclass(frozen=True)
class DrawnIcons:
    """Pictures uint8 (n, size, size, 3), and what they took: ``steps`` an icon (the mean), in each of which the network
    saw ``views`` pictures of ``side`` pixels for an icon."""

    pixels: Pixels
    steps: float
    side: int
    views: int = 1


def sample_numbers(count: int, among: int, seed: int) -> NDArray[np.int64]:
    """At most ``count`` of ``among`` rows, equal for equal seeds; fewer rows are the first of more."""
    return np.random.default_rng(seed).permutation(among)[:count]


def known_layer(run: RunDirectory, layer: str | None) -> str:
    """``layer``, by default the middle one of the run. Raises AtlasError where there is no run, ConfigError where it
    has no such layer."""
    layers = run.config().layers
    layer = layer or layers[len(layers) // 2]
    if layer not in layers:
        raise ConfigError(f"{run.path} has no layer {layer}. Its layers: {', '.join(layers)}.")
    return layer


def read_task(run: RunDirectory, *, layer: str | None, grid: int, count: int, seed: int) -> Task:
    """The directions of ``count`` drawn cells of one grid. Raises AtlasError when the run does not have them."""
    config = run.config()
    layer = known_layer(run, layer)
    if grid not in config.cells.grids:
        raise ConfigError(f"{run.path} has no grid {grid}. Its grids: {', '.join(map(str, config.cells.grids))}.")
    if not run.cells(layer).is_file():
        raise AtlasError(f"{run.path} has no cells of layer {layer} yet. Finish the run first: atlas run CONFIG.")
    level = drawn_cells(run.cells(layer), grid, config.cells.min_count, "mean", "cosines", "norm")
    own = sample_numbers(count, len(level["row"]), seed)
    if not len(own):
        raise AtlasError(f"{run.path} has no drawn cell in grid {grid} of layer {layer}. Choose another --grid.")
    cells = list(zip(level["row"][own].tolist(), level["col"][own].tolist()))
    network, module = config.module_of(layer)
    row, col = level["row"][own], level["col"][own]
    return Task(
        network=worker.network(run, config.networks()[network], threads=config.cluster.threads),
        layer=module,
        size=config.render.size,
        second_moment=Moments.load(run.moments(layer)).second_moment,
        level=level,
        own=own,
        seeds=icon_seeds(config.seed, grid, row, col, coarsest=grid == config.cells.grids[0]),
        parents=read_parents(run, layer, grid, cells, grids=config.cells.grids),
    )


def read_parents(
    run: RunDirectory, layer: str, grid: int, cells: list[tuple[int, int]], *, grids: Sequence[int]
) -> Pixels | None:
    """What the product starts the icons of ``cells`` from, uint8 (n, size, size, 3); None if a parent is missing."""
    if grid // 2 not in grids:
        return None
    icons = read_icons(run, layer, grid // 2).to_pylist()
    pictures = {(icon["row"], icon["col"]): decode_png(icon["png"]) for icon in icons}
    if any((row // 2, col // 2) not in pictures for row, col in cells):
        return None
    return np.stack([blend(pictures, row, col) for row, col in cells])

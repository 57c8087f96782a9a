"""What a cell's drawer on the page shows beyond cells.json: scores, counted classes, similar cells, the same rows on
other layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.config.sections import CellsConfig
from atlas.layout.lattice import cell_of
from atlas.layout.neighbors import nearest, unit_rows
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap
from atlas.store.shards import read_columns, to_numpy

# Cells that are listed as nearest by their means, and as holding most of the same rows on another layer.
NEAR, ELSEWHERE = 6, 3

CellIndex = tuple[int, int]
"""Row and column of a cell."""


def cell_details(
    run: RunDirectory,
    atlas_map: AtlasMap,
    grid: int,
    cells: Collection[CellIndex],
    *,
    layers: Sequence[str],
    settings: CellsConfig,
) -> dict[CellIndex, dict[str, Any]]:
    """For each of ``cells``, drawn ones of one grid of a map:

    ``predicted``, ``labels``: [number, count], the commonest first; ``nearest_cells``: [row, col, cosine] of the drawn
    cells of this grid whose means are most like its own; ``cells_on_other_maps``: for each other one of ``layers`` the
    cells of its own map that hold most of the same rows, [grid, row, col, share of this cell's rows].
    """
    table = pq.read_table(
        run.cells(atlas_map.name),
        columns=["row", "col", "mean", "predicted", "labels"],
        filters=[("grid", "=", grid), ("count", ">=", settings.min_count)],
    )
    drawn_cells = list(zip(table["row"].to_pylist(), table["col"].to_pylist()))
    numbers = [number for number, cell in enumerate(drawn_cells) if cell in set(cells)]
    nearest_cells = _nearest_cells(to_numpy(table["mean"]), numbers)
    cells_on_other_maps = _cells_on_other_maps(
        run, atlas_map, grid, [drawn_cells[number] for number in numbers], layers, settings.grids
    )
    cell_counts = table.select(["predicted", "labels"]).take(pa.array(numbers, pa.int64())).to_pylist()
    return {
        drawn_cells[number]: {
            **{name: [[entry["class"], entry["count"]] for entry in counts[name]] for name in ("predicted", "labels")},
            "nearest_cells": [[*drawn_cells[other], round(cosine, 4)] for other, cosine in similar],
            "cells_on_other_maps": cells_on_other_maps[drawn_cells[number]],
        }
        for number, counts, similar in zip(numbers, cell_counts, nearest_cells)
    }


def _nearest_cells(means: NDArray[np.float32], numbers: list[int]) -> list[list[tuple[int, float]]]:
    """For each of the cells ``numbers`` the others whose means (cells, channels) have the largest cosines to its
    own."""
    if len(means) < 2 or not numbers:
        return [[] for _ in numbers]
    directions = unit_rows(means)
    index = faiss.IndexFlatIP(directions.shape[1])
    index.add(directions)
    rows, cosines = nearest(index, directions[numbers], min(NEAR + 1, len(directions)))
    return [
        [(int(row), float(cosine)) for row, cosine in zip(*line) if row != number][:NEAR]
        for number, line in zip(numbers, zip(rows, cosines))
    ]


def _cells_on_other_maps(
    run: RunDirectory,
    atlas_map: AtlasMap,
    grid: int,
    cells: list[CellIndex],
    layers: Sequence[str],
    grids: Sequence[int],
) -> dict[CellIndex, dict[str, list[list[float]]]]:
    """The cells of other layers' maps that hold most of the rows of ``cells``."""
    cells_on_other_maps: dict[CellIndex, dict[str, list[list[float]]]] = {cell: {} for cell in cells}
    own = _cells_of_rows(run, atlas_map.name, grid)
    numbers = np.array([row * grid + col for row, col in cells], np.int64)
    rows = np.flatnonzero(np.isin(own, numbers))
    members, counts = np.unique(own[rows], return_counts=True)
    size = dict(zip(members.tolist(), counts.tolist()))
    for layer in layers:
        if layer == atlas_map.name:
            continue
        other = min(grids, key=lambda level: abs(np.log(level / grid)))
        there = _cells_of_rows(run, layer, other)[rows]
        pairs, shared = np.unique(own[rows][there >= 0] * other**2 + there[there >= 0], return_counts=True)
        cell_numbers, other_numbers = np.divmod(pairs, other**2)
        order = np.lexsort((other_numbers, -shared, cell_numbers))
        for index in order.tolist():
            cell = divmod(int(cell_numbers[index]), grid)
            entries = cells_on_other_maps[cell].setdefault(layer, [])
            if len(entries) < ELSEWHERE:
                share = round(int(shared[index]) / size[int(cell_numbers[index])], 3)
                entries.append([other, *divmod(int(other_numbers[index]), other), share])
    return cells_on_other_maps


def _cells_of_rows(run: RunDirectory, name: str, grid: int) -> NDArray[np.int64]:
    """The cell number of every row of a map, −1 where it has no coordinates."""
    coordinates = read_columns(run.layout(name), ["u", "v"])
    return cell_of(coordinates["u"], coordinates["v"], grid)

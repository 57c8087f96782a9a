"""The lattice: which cell holds a point, and the order in which cells are numbered."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.layout.lattice import cell_of, drawn_filters, morton


def test_cells_are_half_open_and_the_end_belongs_to_the_last() -> None:
    u = np.array([0, 0.0999, 0.1, 0.5, 0.9, 0.99999, 1.0])
    np.testing.assert_array_equal(cell_of(u, np.zeros(7), 10), [0, 0, 1, 5, 9, 9, 9])
    np.testing.assert_array_equal(cell_of(np.zeros(7), u, 10), [0, 0, 10, 50, 90, 90, 90])
    assert cell_of(np.array([1.0]), np.array([1.0]), 10).tolist() == [99]
    np.testing.assert_array_equal(cell_of(np.array([np.nan, 0.5]), np.array([0.5, np.nan]), 10), [-1, -1])


@pytest.mark.parametrize("grid", [2, 10, 40, 160, 1280])
def test_points_on_borders_are_counted_once_and_lie_under_their_parent(grid: int) -> None:
    lines = np.arange(grid + 1, dtype=np.float32) / np.float32(grid)
    u = np.concatenate([lines, np.nextafter(lines, np.float32(0)), np.random.default_rng(0).random(500, np.float32)])
    u = np.clip(u, 0, 1).astype(np.float64)
    fine, coarse = cell_of(u, u[::-1], 2 * grid), cell_of(u, u[::-1], grid)
    np.testing.assert_array_equal((fine // (2 * grid) // 2) * grid + fine % (2 * grid) // 2, coarse)
    assert fine.max() < (2 * grid) ** 2


def test_z_order_is_one_to_one_and_keeps_siblings_together() -> None:
    row, col = (values.ravel() for values in np.mgrid[0:32, 0:32])
    code = morton(row, col)
    assert sorted(code.tolist()) == list(range(1024))
    order = np.argsort(code)
    parents = (row[order] // 2 * 16 + col[order] // 2).reshape(-1, 4)
    assert (parents == parents[:, :1]).all()
    np.testing.assert_array_equal(morton(row // 2, col // 2)[order], code[order] // 4)
    assert morton(np.array([1]), np.array([0])).tolist() == [2]
    assert morton(np.array([1279]), np.array([1279]))[0] > morton(np.array([1279]), np.array([1278]))[0]


def test_drawn_are_the_cells_of_one_grid_that_have_rows_enough(tmp_path: Path) -> None:
    table = pa.table({"grid": [2, 2, 2, 4, 4], "count": [7, 8, 9, 8, 3], "number": [0, 1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "cells.parquet")
    rows = pq.read_table(tmp_path / "cells.parquet", filters=drawn_filters(2, 8))
    assert rows["number"].to_pylist() == [1, 2]

"""What a cell's drawer tells, held against the tables that it comes from."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_run import tiny_values

from atlas.cells.icons import read_icons
from atlas.config.reading import validate
from atlas.layout.lattice import cell_of
from atlas.layout.neighbors import unit_rows
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import find_map, maps_of
from atlas.site.details import cell_details
from atlas.site.sheets import BLOCK

GRID = 8


def details_of(run: RunDirectory, layer: str) -> dict[tuple[int, int], dict[str, Any]]:
    """What the site tells of the cells of a grid."""
    details: dict[tuple[int, int], dict[str, Any]] = {}
    for file in (run.site_grid(layer, GRID) / "details").glob("*.json"):
        for cell in json.loads(file.read_text())["cells"]:
            assert file.stem == f"{cell['row'] // BLOCK}-{cell['col'] // BLOCK}"
            details[cell["row"], cell["col"]] = cell
    return details


@pytest.mark.parametrize("layer", ["middle", "last"])
def test_each_drawn_cell_is_told_of(undisturbed: RunDirectory, layer: str) -> None:
    fewest = undisturbed.config().cells.min_count
    cells = pq.read_table(undisturbed.cells(layer), filters=[("grid", "=", GRID), ("count", ">=", fewest)]).to_pylist()
    icons = {(icon["row"], icon["col"]) for icon in read_icons(undisturbed, layer, GRID, ["row", "col"]).to_pylist()}
    details = details_of(undisturbed, layer)
    assert details.keys() == {(cell["row"], cell["col"]) for cell in cells} == icons
    units = unit_rows(np.array([cell["mean"] for cell in cells]))
    cosines = units @ units.T
    for number, cell in enumerate(cells):
        own = details[cell["row"], cell["col"]]
        assert own["predicted"] == [[one["class"], one["count"]] for one in cell["predicted"]]
        assert own["labels"] == [[one["class"], one["count"]] for one in cell["labels"]]
        best = [other for other in np.argsort(-cosines[number], kind="stable") if other != number][:6]
        assert [one[2] for one in own["nearest_cells"]] == pytest.approx(cosines[number][best], abs=2e-4)
        assert (cell["row"], cell["col"]) not in {(row, col) for row, col, _ in own["nearest_cells"]}
        for row, col, cosine in own["nearest_cells"]:
            other = next(i for i, one in enumerate(cells) if (one["row"], one["col"]) == (row, col))
            assert cosine == pytest.approx(cosines[number, other], abs=1e-4)


def test_the_same_rows_are_found_on_the_other_layer(undisturbed: RunDirectory) -> None:
    places = {}
    for layer in ("middle", "last"):
        table = pq.read_table(undisturbed.layout(layer))
        places[layer] = cell_of(table["u"].to_numpy(), table["v"].to_numpy(), GRID)
    details = details_of(undisturbed, "middle")
    for (row, col), cell in details.items():
        rows = np.flatnonzero(places["middle"] == row * GRID + col)
        there = Counter(int(one) for one in places["last"][rows] if one >= 0)
        expected = sorted(there.items(), key=lambda one: (-one[1], one[0]))[:3]
        assert cell["cells_on_other_maps"] == {
            "last": [[GRID, *divmod(number, GRID), round(count / len(rows), 3)] for number, count in expected]
        }
    assert len(details) > 5


def test_cells_of_one_layer_alone_have_no_elsewhere(undisturbed: RunDirectory, workshop: Path) -> None:
    config = validate(tiny_values(workshop) | {"out": str(undisturbed.path), "layers": ["last"]}, "test")
    cells = list(details_of(undisturbed, "last"))[:2]
    last, settings = find_map(maps_of(config.layers, config.layout, config.cells), "last"), config.cells
    details = cell_details(undisturbed, last, GRID, cells, layers=config.layers, settings=settings)
    assert list(details) == sorted(cells)
    assert [one["cells_on_other_maps"] for one in details.values()] == [{}, {}]
    assert cell_details(undisturbed, last, GRID, [], layers=config.layers, settings=settings) == {}

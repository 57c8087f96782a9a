"""The stage cells: an item a map, its table, and the marker that counts what is drawn."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_run import GRIDS, LAYERS, ROWS
from planned import planned

from atlas.cells.build import build_cells
from atlas.cells.icons import drawn_cells
from atlas.config.reading import validate
from atlas.errors import AtlasError
from atlas.networks.network import Network
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import read_marker
from atlas.slices.accuracy import read_verdicts
from atlas.slices.errors import find_errors
from atlas.store.moments import Moments
from atlas.store.shards import read_columns, to_numpy
from atlas.words.evidence import Evidence
from atlas.words.table import level_of, level_words
from pipelines import cells
from pipelines.stage import Item, missing


def test_there_is_an_item_for_each_map(made_run: RunDirectory) -> None:
    values = made_run.config().plain()
    values["layout"] |= {"class_atlas": ["class 1"], "class_layers": ["branches"]}
    after = {part.name: part.after for part in cells.parts(validate(values, "test"))}
    assert after == {
        "residual": ("layout:maps",),
        "words/residual": ("cells:residual",),
        "branches": ("layout:maps",),
        "words/branches": ("cells:branches",),
        "branches--class-1": ("layout:classes-branches",),
        "words/branches--class-1": ("cells:branches--class-1",),
        "errors/residual": ("cells:residual",),
        "errors/branches": ("cells:branches",),
    }
    words = [f"words/{layer}/grid-{grid:03d}" for layer in LAYERS for grid in GRIDS]
    assert [item.id for item in planned(cells, made_run.config(), made_run)] == [*LAYERS, *words]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_map_is_cut_by_its_own_settings(made_copy: RunDirectory, layer: str) -> None:
    item = next(item for item in planned(cells, made_copy.config(), made_copy) if item.id == layer)
    item = Item(item.id, item.stage, run=str(made_copy.path))
    made_copy.cells(layer).unlink()
    config = made_copy.config()
    assert missing(cells, [item], made_copy, config) == [item]
    assert cells.run_item(item).count == ROWS
    assert missing(cells, [item], made_copy, config) == []
    layout, table = pq.read_table(made_copy.layout(layer)), pq.read_table(made_copy.cells(layer))
    u, v = (np.array(layout[name].to_pylist(), np.float64) for name in ("u", "v"))
    shards = made_copy.shards(layer)
    assert table.equals(
        build_cells(shards, u, v, grids=GRIDS, exemplars=2, diverse=1, attributions=config.collect.attributions)
    )
    marker = read_marker(made_copy.folder("cells") / f"{layer}.json", made_copy.stage_key("cells"))
    assert marker is not None
    counts = [(cell["grid"], cell["count"]) for cell in table.to_pylist()]
    assert marker["drawn"] == {str(size): sum(grid == size and n >= 2 for grid, n in counts) for size in GRIDS}


@pytest.mark.parametrize("grid", GRIDS)
def test_the_words_of_a_level_are_those_of_its_drawn_cells(made_copy: RunDirectory, small: Network, grid: int) -> None:
    config = made_copy.config()
    name = f"words/branches/grid-{grid:03d}"
    item = next(item for item in planned(cells, config, made_copy) if item.id == name)
    item = Item(item.id, item.stage, run=str(made_copy.path), of=item.of)
    assert missing(cells, [item], made_copy, config) == []
    made_copy.words("branches", grid).unlink()
    assert missing(cells, [item], made_copy, config) == [item]
    assert cells.run_item(item).count == 0, "rows are counted where the map is cut"
    assert missing(cells, [item], made_copy, config) == []
    shards, layout = made_copy.shards("branches"), read_columns(made_copy.layout("branches"), ["u", "v"])
    moments = Moments.load(made_copy.moments("branches"))
    evidence = Evidence(small, "branches", (moments.total / moments.count).astype(np.float32))
    level = drawn_cells(made_copy.cells("branches"), grid, config.cells.min_count)
    places = list(zip(level["row"].tolist(), level["col"].tolist()))
    u, v = (layout[name].astype(np.float64) for name in ("u", "v"))
    expected = level_words(shards, u, v, places, grid=grid, evidence=evidence, seed=config.seed)
    table = pq.read_table(made_copy.words("branches", grid))
    assert table.drop_columns("gains").equals(expected.drop_columns("gains"))
    assert level_of(table) == level_of(expected)
    np.testing.assert_allclose(to_numpy(table["gains"]), to_numpy(expected["gains"]), rtol=1e-3, atol=1e-4)


def test_a_layers_errors_are_counted_where_labels_are_classes(labelled_copy: RunDirectory) -> None:
    config = labelled_copy.config()
    items = [item for item in planned(cells, config, labelled_copy) if item.id.startswith("errors/")]
    assert [item.id for item in items] == ["errors/residual", "errors/branches"]
    assert missing(cells, items, labelled_copy, config) == []
    path = labelled_copy.errors("branches")
    before = path.read_bytes()
    path.unlink()
    (item,) = missing(cells, items, labelled_copy, config)
    assert cells.run_item(item).count == 0
    assert path.read_bytes() == before, "equal work gives equal bytes"
    verdicts = read_verdicts(labelled_copy.shards("branches"))
    layout = pq.read_table(labelled_copy.layout("branches"))
    u, v = (np.array(layout[name].to_pylist(), np.float64) for name in ("u", "v"))
    assert verdicts is not None
    table, facts = find_errors(verdicts, {}, u, v, grids=GRIDS, min_count=2, seed=config.seed)
    assert pq.read_table(path).equals(table)
    marker = read_marker(path.with_suffix(".json"), labelled_copy.stage_key("cells"))
    assert marker is not None
    assert marker["facts"] == facts


def test_a_store_that_does_not_fit_its_layout_is_told(made_copy: RunDirectory) -> None:
    item = next(iter(planned(cells, made_copy.config(), made_copy)))
    path = made_copy.shards("residual")[-1]
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(AtlasError, match=r"^cells: the store of residual has another number of rows than its layout"):
        cells.run_item(Item(item.id, item.stage, run=str(made_copy.path)))

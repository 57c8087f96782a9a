"""The table of the words of a level."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from atlas.layout.lattice import cell_of
from atlas.networks.network import Network
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import iterate, read_columns, to_numpy
from atlas.words.claims import Views, claim
from atlas.words.evidence import Evidence
from atlas.words.folds import deal, fold_means
from atlas.words.table import WORDS, level_of, level_words

LAYER, GRID = "branches", 2


@pytest.fixture(scope="module")
def of_layer(made_run: RunDirectory, small: Network) -> Evidence:
    rows = np.concatenate([block["activation"] for block in iterate(made_run.shards(LAYER), ["activation"])])
    return Evidence(small, LAYER, rows.astype(np.float32).mean(0))


def test_the_cells_stand_in_their_order_with_what_their_pictures_add(
    made_run: RunDirectory, of_layer: Evidence, tmp_path: Path
) -> None:
    shards = made_run.shards(LAYER)
    layout = read_columns(made_run.layout(LAYER), ["u", "v"])
    place = cell_of(layout["u"], layout["v"], GRID)
    cells = [divmod(int(number), GRID) for number in np.unique(place[place >= 0])][::-1]
    table = level_words(shards, layout["u"], layout["v"], cells, grid=GRID, evidence=of_layer, seed=5)
    assert table.schema.equals(WORDS)
    assert list(zip(table["row"].to_pylist(), table["col"].to_pylist())) == cells

    number_of = {cell: number for number, cell in enumerate(cells)}
    cell = np.array([-1 if number < 0 else number_of[divmod(int(number), GRID)] for number in place])
    facts = list(iterate(shards, ["image_id", "predicted"]))
    pictures, predicted = (np.concatenate([block[name] for block in facts]) for name in ("image_id", "predicted"))
    folds = deal(cell, pictures, cells=len(cells), seed=5)
    means = fold_means(shards, folds)
    gains = np.stack([[of_layer(mean[None])[0] for mean in own] for own in means])
    inside = cell >= 0
    expected = claim(gains, Views(cell[inside], folds.fold[inside], predicted[inside].astype(np.int64)), seed=5)
    np.testing.assert_allclose(to_numpy(table["gains"]), expected.gains, rtol=1e-3, atol=1e-4)
    classes = [[entry["class"] for entry in own] for own in table["classes"].to_pylist()]
    assert classes == expected.classes
    assert level_of(table) == expected.level

    pq.write_table(table, tmp_path / "words.parquet")
    assert level_of(pq.read_table(tmp_path / "words.parquet")) == expected.level


def test_cells_of_no_rows_have_no_words(made_run: RunDirectory, of_layer: Evidence) -> None:
    rows = len(read_columns(made_run.layout(LAYER), ["u"])["u"])
    nowhere = np.full(rows, np.nan, np.float32)
    table = level_words(made_run.shards(LAYER), nowhere, nowhere, [(0, 0), (1, 1)], grid=2, evidence=of_layer)
    assert table["classes"].to_pylist() == [[], []]
    assert not level_of(table).holds
    none = level_words(made_run.shards(LAYER), nowhere, nowhere, [], grid=2, evidence=of_layer)
    assert none.schema.equals(WORDS)
    assert none.num_rows == 0
    assert not level_of(none).holds

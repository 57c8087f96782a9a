"""The layout's files: maps by the store's rows, and coordinates gathered from their parts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import LAYERS, OFF, ROWS

from atlas.layout import tables
from atlas.layout.fit import OTHER, OUTLIER, REASONS, ZERO
from atlas.layout.neighbors import unit_rows
from atlas.layout.tables import (
    LAYOUT_SCHEMA,
    attribution_rows,
    compared_rows,
    gather_coordinates,
    load_arrays,
    measure_alignment,
    measure_quality,
    placed_parts,
    placed_path,
    read_coordinates,
    save_arrays,
    write_map,
)
from atlas.rundir.directory import RunDirectory


def test_shards_are_placed_together_up_to_so_many_rows(made_run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's shards have 24, 24 and 8 rows."""
    shards = made_run.shards("branches")
    assert placed_parts(shards, ROWS) == [], "all of them are laid out"
    for most, parts in ((1, [[0], [1], [2]]), (25, [[0, 1], [2]]), (24, [[0], [1], [2]]), (100, [[0, 1, 2]])):
        monkeypatch.setattr(tables, "PLACED_ROWS", most)
        assert placed_parts(shards, ROWS - 1) == parts


def test_arrays_come_back_by_name(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a.npz", one=np.arange(3), two=np.eye(2, dtype=np.float32))
    arrays = load_arrays(tmp_path / "a.npz")
    assert set(arrays) == {"one", "two"}
    assert arrays["one"].tolist() == [0, 1, 2]
    assert arrays["two"].dtype == np.float32


def test_fitted_rows_keep_the_coordinates_of_the_fit(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    tmp_path.joinpath("layout").mkdir()
    fitted_rows = np.array([1, 4])
    fit = np.array([[10, 11], [40, 41]], np.float32)
    save_arrays(run.coordinates("a"), coordinates=fit, dropped=np.array([0, 2], np.int8), fitted=fitted_rows)
    for number, rows in enumerate((3, 2)):
        placed_coordinates = np.full((rows, 2), number, np.float32)
        save_arrays(placed_path(run, "a", number), coordinates=placed_coordinates, dropped=np.ones(rows, np.int8))
    coordinates, dropped = gather_coordinates(run, "a", 2)
    assert coordinates.tolist() == [[0, 0], [10, 11], [0, 0], [1, 1], [40, 41]]
    assert dropped.tolist() == [1, 0, 1, 1, 2]
    coordinates, dropped = gather_coordinates(run, "a", 0)
    assert coordinates.tolist() == fit.tolist()
    assert placed_path(run, "a", 3).name == "a.placed-00003.npz"


def test_a_map_has_the_rows_of_the_store_in_their_order(made_copy: RunDirectory) -> None:
    places = np.random.default_rng(0).random((ROWS, 2), np.float32)
    dropped = np.zeros(ROWS, np.int8)
    for row, reason in ((3, ZERO), (7, OTHER)):
        places[row], dropped[row] = np.nan, REASONS.index(reason)
    write_map(made_copy, "another", "branches", places, dropped)
    table = pq.read_table(made_copy.layout("another"))
    assert table.schema == LAYOUT_SCHEMA
    store = pq.read_table(made_copy.shards("branches"))
    for name in ("image_id", "view", "draw"):
        assert table[name].to_pylist() == store[name].to_pylist()
    assert [table["dropped"][row].as_py() for row in (0, 3, 7)] == [None, ZERO, OTHER]
    assert table["u"][3].as_py() is None
    assert table["v"].null_count == 2
    np.testing.assert_array_equal(read_coordinates(made_copy, "another"), places)


def test_quality_counts_what_was_dropped(made_run: RunDirectory) -> None:
    facts = measure_quality(made_run, "branches", "branches", column="activation", seed=0)
    assert facts["dropped"] == {OUTLIER: 1}
    assert facts["dropped_share"] == pytest.approx(1 / ROWS)
    assert isinstance(facts["trustworthiness"], float)
    assert np.isnan(read_coordinates(made_run, "branches")[OFF]).all()
    other = measure_quality(made_run, "branches", "branches", column="attribution", seed=0)
    assert other["trustworthiness"] != facts["trustworthiness"], "of the attributions"


def test_layers_that_are_not_aligned_are_not_compared(made_run: RunDirectory) -> None:
    nothing = {"alignment": None, "alignment_independent": None}
    assert measure_alignment(made_run, "residual", None) == nothing


def test_alignment_is_the_median_distance_of_a_rows_places(made_copy: RunDirectory) -> None:
    """Places that are moved by (.03, .04) lie .05 apart; independent layouts that are turned lie in one place."""
    places = 0.9 * np.random.default_rng(0).random((ROWS, 2), np.float32)
    nothing = np.zeros(ROWS, np.int8)
    turn = np.array([[0, 1], [-1, 0]], np.float32)
    for layer, moved, independent in zip(LAYERS, (0, [0.03, 0.04]), (places, 3 * places @ turn + 5)):
        write_map(made_copy, layer, layer, (places + np.float32(moved)).astype(np.float32), nothing)
        save_arrays(made_copy.independent_coordinates(layer), coordinates=independent.astype(np.float32))
    facts = measure_alignment(made_copy, "branches", "residual")
    assert facts["alignment"] == pytest.approx(0.05, abs=1e-6)
    assert facts["alignment_independent"] == pytest.approx(0, abs=1e-4)


def test_attributions_of_several_layers_stand_side_by_side(made_run: RunDirectory) -> None:
    numbers = np.array([0, 5, 30])
    rows = attribution_rows(made_run, LAYERS, numbers)
    stored = [pq.read_table(made_run.shards(layer))["attribution"].to_pylist() for layer in LAYERS]
    units = [unit_rows(np.array(layer, np.float32)[numbers]) for layer in stored]
    assert rows.shape == (3, 10)
    # The cosine of two rows is the mean of those of the layers.
    np.testing.assert_allclose(rows @ rows.T, np.mean([unit @ unit.T for unit in units], axis=0), atol=1e-3)


def test_rows_that_are_compared_are_others_than_those_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "COMPARED_ROWS", 50)
    assert len(compared_rows(1000, 0)) == 50
    assert compared_rows(1000, 0).tolist() == compared_rows(1000, 0).tolist()
    assert compared_rows(1000, 1).tolist() != compared_rows(1000, 0).tolist()
    assert compared_rows(30, 0).tolist() == list(range(30))
    assert isinstance(pa.schema(LAYOUT_SCHEMA), pa.Schema)

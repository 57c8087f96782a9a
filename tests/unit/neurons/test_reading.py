"""The tables of a layer's units, read: whole, by unit, and what their metadata say."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_neurons import NEVER, circuit_rows, class_effects, unit_row, write_neurons
from made_run import LAYERS

from atlas.errors import AtlasError
from atlas.neurons import reading
from atlas.neurons.reading import UnitTables
from atlas.neurons.tables import STATISTICS, UNITS
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker


@pytest.fixture
def tables(made_copy: RunDirectory) -> UnitTables:
    """Of the later layer: its 16 units in one part."""
    write_neurons(made_copy, list(LAYERS))
    return UnitTables(made_copy, "branches")


def test_a_row_has_the_statistics_and_the_rest(tables: UnitTables) -> None:
    table = tables.table()
    assert table.column_names == [*STATISTICS.names, *(name for name in UNITS.names if name != "unit")]
    assert table["unit"].to_pylist() == list(range(16))
    row = table.slice(6, 1).to_pylist()[0]
    assert tables.unit(6) == row
    assert row["largest"] == 10
    assert row["pictures"] == unit_row(6, 3)["pictures"]
    some = tables.table(["selectivity", "unit", "largest"])
    assert some.column_names == ["selectivity", "unit", "largest"]
    assert some["selectivity"].to_pylist() == [None if unit == NEVER else 0.125 for unit in range(16)]


def test_units_in_several_parts_are_one_table(tables: UnitTables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which a part holds them."""
    whole = pq.read_table(tables.path / "part-00000.parquet")
    monkeypatch.setattr(reading, "part_names", lambda units: ["part-00000", "part-00001"])
    pq.write_table(whole.slice(0, 10), tables.path / "part-00000.parquet")
    pq.write_table(whole.slice(10), tables.path / "part-00001.parquet")
    assert tables.table()["pictures"].to_pylist() == whole["pictures"].to_pylist()
    pq.write_table(whole.slice(10).take([5, 0, 1, 2, 3, 4]), tables.path / "part-00001.parquet")
    rows = tables.units(range(8, 13), ["unit", "pictures"])
    assert [row["unit"] for row in rows] == [8, 9, 10, 11, 12]
    assert rows[3]["pictures"] == unit_row(11, 3)["pictures"]
    assert [row["unit"] for row in tables.statistics(range(14, 99))] == [14, 15]
    effects = tables.effects()
    assert effects is not None
    assert effects[15] == pytest.approx(class_effects(15))


def test_effects_are_a_matrix_with_zeros_for_silent_units(tables: UnitTables) -> None:
    effects = tables.effects()
    assert effects is not None
    assert effects.shape == (16, 4)
    assert effects.dtype == np.float32
    assert not effects[NEVER].any()
    assert effects[6] == pytest.approx(class_effects(6))
    path = tables.path / "part-00000.parquet"
    table = pq.read_table(path)
    none = pa.array([[]] * 16, UNITS.field("effects").type)
    pq.write_table(table.set_column(table.schema.get_field_index("effects"), UNITS.field("effects"), none), path)
    assert tables.effects() is None, "a run without attributions"


def test_circuits_are_those_of_the_units_asked_for(tables: UnitTables, made_copy: RunDirectory) -> None:
    rows = tables.circuit(range(5, 6)).to_pylist()
    assert [(row["source"], row["effect"], row["kernel"]) for row in rows] == [
        (row["source"], pytest.approx(row["effect"]), row["kernel"]) for row in circuit_rows(5, "residual")
    ]
    assert {(row["unit"], row["source_layer"]) for row in rows} == {(5, "residual")}
    assert tables.circuit().num_rows == 16 * 5
    assert tables.earlier() == ["residual"]
    assert tables.nonlinearities() == {"residual": ["1 ReLU"]}
    assert tables.notes() == {}
    first = UnitTables(made_copy, "residual")
    assert (first.circuit().num_rows, first.earlier()) == (0, [])


def test_cells_are_those_of_one_grid_and_layer(tables: UnitTables) -> None:
    rows = tables.cells(2, "residual")
    assert rows is not None
    assert [(row["row"], row["col"], row["weight"]) for row in rows] == [
        (row, col, weight) for row in (0, 1) for col in (0, 1) for weight in (1, -0.5)
    ]
    assert tables.cells(2, "other") == []
    (tables.path / "cells.parquet").unlink()
    assert tables.cells(2, "residual") is None


def test_the_digest_is_of_what_the_markers_vouch_for(tables: UnitTables) -> None:
    before = tables.digest()
    marker = tables.path / "cells.json"
    write_marker(marker, key="another", files=[tables.path / "cells.parquet"])
    assert tables.digest() == before, "the key does not count"
    write_marker(marker, key="another", files=[tables.path / "circuit.parquet"])
    assert tables.digest() != before


def test_tables_of_another_version_are_refused(tables: UnitTables) -> None:
    path = tables.path / "circuit.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["present"]), path)
    with pytest.raises(AtlasError, match=r"circuit\.parquet was written by another version .* it has no present\."):
        tables.circuit()


def test_a_layer_without_circuits_has_no_earlier_ones(tmp_path: Path) -> None:
    tables = UnitTables(RunDirectory(tmp_path), "a")
    assert (tables.earlier(), tables.nonlinearities(), tables.notes()) == ([], {}, {})

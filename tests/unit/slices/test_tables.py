"""The table of errors and what is noted of it."""

from made_run import GRIDS

from atlas.rundir.directory import RunDirectory
from atlas.slices.tables import ERRORS_SCHEMA, error_facts, read_errors


def test_a_layers_table_is_read_whole_or_of_a_grid(labelled_run: RunDirectory) -> None:
    table = read_errors(labelled_run, "branches")
    assert table.schema == ERRORS_SCHEMA
    assert set(table["grid"].to_pylist()) == set(GRIDS)
    assert read_errors(labelled_run, "branches", 4).equals(table.filter(table["grid"].to_numpy() == 4))


def test_facts_are_there_only_where_labels_are_classes(labelled_run: RunDirectory, made_run: RunDirectory) -> None:
    facts = error_facts(labelled_run, "branches")
    assert facts is not None
    assert facts["run"]["pictures"] == 14
    assert set(facts) == {"run", "grids", "slices"}
    assert error_facts(made_run, "branches") is None

"""The tables of the stages agree: cells with the layout, icons with the cells, the report with all of them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.check.findings import Problem
from atlas.check.verify import verify
from atlas.report import build_report
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of
from atlas.rundir.markers import parse_marker, write_marker


def problem_of(run: RunDirectory) -> Problem:
    (problem,) = verify(run).problems
    return problem


def vouch(marker: Path, *files: Path) -> None:
    """Write a marker anew for other contents of its files."""
    facts = parse_marker(marker)
    assert facts is not None
    del facts["files"]
    write_marker(marker, files=list(files), **facts)


def test_cells_hold_the_rows_of_the_layout(made_copy: RunDirectory) -> None:
    path = made_copy.cells("branches")
    table = pq.read_table(path)
    counts = table["count"].to_pylist()
    counts[0] += 5
    column = table.schema.get_field_index("count")
    pq.write_table(table.set_column(column, table.schema.field(column), pa.array(counts, pa.int64())), path)
    vouch(path.with_suffix(".json"), path)
    row, col = table["row"][0].as_py(), table["col"][0].as_py()
    assert problem_of(made_copy).what == (
        f"1 cells of grid 2 do not hold the layout's rows, such as row {row}, col {col}: {counts[0]} rows, the layout "
        f"has {counts[0] - 5}"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda icons: pa.concat_tables([icons, icons.slice(0, 1)]), "has two icons of one cell"),
        (
            lambda icons: icons.set_column(
                1, icons.schema.field("row"), pa.array([50, *icons["row"].to_pylist()[1:]], pa.int32())
            ),
            "has an icon at row 50, col 0, where no cell is",
        ),
    ],
)
def test_icons_are_those_of_the_drawn_cells(made_copy: RunDirectory, change, sentence: str) -> None:
    path = made_copy.icons("branches", 2) / "part-00000.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    vouch(path.with_suffix(".json"), path)
    problem = problem_of(made_copy)
    assert (problem.where, problem.what) == ("icons/branches/grid-002", sentence)
    assert problem.delete == ("icons/branches/grid-002/part-00000.parquet", "icons/branches/grid-002/part-00000.json")


def test_fewer_icons_than_cells_are_work_to_be_done(made_copy: RunDirectory) -> None:
    """Only once the site was made from them are they missing."""
    path = made_copy.icons("branches", 4) / "part-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    facts = parse_marker(path.with_suffix(".json"))
    assert facts is not None
    write_marker(path.with_suffix(".json"), key=facts["key"], files=[path], rows=len(table) - 1)
    findings = verify(made_copy)
    assert findings.problems == []
    assert findings.stages["render"].startswith("unfinished: ")


def test_a_missing_marker_is_wrong_once_later_work_was_done(made_copy: RunDirectory) -> None:
    fit = made_copy.folder("layout") / "fit-residual.json"
    fit.unlink()
    assert problem_of(made_copy).what == "the marker is missing, though later work was done"
    vouched = made_copy.folder("layout") / "fit-branches.json"
    fit.write_bytes(vouched.read_bytes())
    (made_copy.folder("cells") / "branches.json").unlink()
    problem = problem_of(made_copy)
    assert (problem.where, problem.what) == (
        "cells/branches.json",
        "the marker is missing, though icons were drawn from it",
    )


def test_the_report_is_what_the_files_give(made_copy: RunDirectory) -> None:
    config = made_copy.config()
    maps = maps_of(config.layers, config.layout, config.cells)
    report = build_report(made_copy, maps, min_count=config.cells.min_count, neurons=config.neurons)
    made_copy.report.write_text(json.dumps(report))
    assert verify(made_copy).problems == []
    report["collect"]["views_per_second"] = 7.5  # belongs to its day
    report["layers"]["branches"]["cells"]["2"]["n"] += 1
    made_copy.report.write_text(json.dumps(report))
    count = report["layers"]["branches"]["cells"]["2"]["n"]
    assert problem_of(made_copy).what == f"says layers.branches.cells.2.n = {count}, the stages' files give {count - 1}"
    made_copy.report.write_text("{")
    assert problem_of(made_copy).what == "cut off or overwritten"
    del report["layers"]["residual"]
    made_copy.report.write_text(json.dumps(report))
    assert "says layers.residual.layout." in problem_of(made_copy).what


def test_errors_are_held_against_the_cells(labelled_copy: RunDirectory, labelled_run: RunDirectory) -> None:
    assert verify(labelled_run).problems == []
    path = labelled_copy.errors("branches")
    table = pq.read_table(path)
    column = table.schema.get_field_index("pictures")
    pictures = pa.array([99, *table["pictures"].to_pylist()[1:]], pa.int64())
    pq.write_table(table.set_column(column, table.schema.field(column), pictures), path)
    vouch(path.with_suffix(".json"), path)
    problem = problem_of(labelled_copy)
    assert problem.where == "cells/errors/branches.parquet"
    assert problem.what.startswith("has 99 pictures in grid 2, row 0, col 0, where ")
    column = table.schema.get_field_index("slice")
    slices = pa.array([True, *table["slice"].to_pylist()[1:]])
    pq.write_table(table.set_column(column, table.schema.field(column), slices), path)
    vouch(path.with_suffix(".json"), path)
    assert problem_of(labelled_copy).what == "has other slices than its marker says"


def test_errors_that_are_not_counted_leave_the_stage_unfinished(labelled_copy: RunDirectory) -> None:
    labelled_copy.errors("branches").with_suffix(".json").unlink()
    findings = verify(labelled_copy)
    assert findings.problems == []
    assert findings.stages["cells"] == "unfinished: 2 of 2 maps"
    assert verify(labelled_copy).stages["render"].startswith("finished")

"""What a check finds: problems with their cures, and what has to be deleted with a file."""

from pathlib import Path

import pytest

from atlas.check.findings import Findings, Problem, first_sentence, size
from atlas.rundir.directory import RunDirectory

AGAIN = "give the run's command again"


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    """Of a run with files of two layouts, all empty."""
    folder = tmp_path / "layout"
    folder.mkdir()
    names = [
        "common-start",
        "fit-a",
        "fit-a.b",
        "place-a-00000",
        "place-a.b-00000",
        "place-a.b-00001",
        "index-a",
        "box",
    ]
    for name in [*(f"{name}.json" for name in names), "quality-a.json", "a.coordinates.npz", "a.b.faiss", "a.parquet"]:
        (folder / name).touch()
    return Findings(RunDirectory(tmp_path), layout_boxes={"box": ("a", "a.b")})


def test_a_problem_reads_as_place_fault_and_cure() -> None:
    assert str(Problem("store/a", "is cut")) == f"store/a: is cut. Cure: {AGAIN}."
    assert str(Problem("a", "is cut", ("a", "b"))) == f"a: is cut. Cure: delete a b and {AGAIN}."
    assert str(Problem("a", "is locked", remedy="unlock it")) == "a: is locked. Cure: unlock it."


def test_what_is_wrong_is_suspect_from_then_on(findings: Findings) -> None:
    path = findings.run.layout("a")
    findings.wrong(path, "is cut", path, findings.run.folder("layout") / "box.json")
    assert findings.suspect == {path}
    assert findings.problems == [Problem("layout/a.parquet", "is cut", ("layout/a.parquet", "layout/box.json"))]


def test_a_table_that_cannot_be_read_is_a_problem(findings: Findings) -> None:
    assert findings.table(findings.run.layout("a"), ("u",)) is None
    assert findings.table(findings.run.layout("gone"), ("u",)) is None
    first, second = findings.problems
    assert first.what.startswith("cannot be read (")
    assert (first.delete, second.delete) == (("layout/a.parquet",), ()), "only what is there can be deleted"


def test_begun_counts_markers_of_the_present_configuration(findings: Findings) -> None:
    findings.markers = {"cells": {Path("x"): {}}, "render": {}}
    assert findings.begun("render", "cells")
    assert not findings.begun("render", "publish")
    findings.stale.add("cells")
    assert not findings.begun("render", "cells")


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("a.parquet", []),
        ("quality-a.json", []),
        ("fit-a.json", ["place-a-00000.json", "index-a.json", "box.json"]),
        ("a.coordinates.npz", ["fit-a.json", "place-a-00000.json", "index-a.json", "box.json"]),
        ("a.b.faiss", ["fit-a.b.json", "place-a.b-00000.json", "place-a.b-00001.json", "index-a.json", "box.json"]),
        ("place-a.b-00001.json", ["fit-a.b.json", "place-a.b-00000.json", "index-a.json", "box.json"]),
        (
            "common-start.json",
            [
                *("fit-a.json", "place-a-00000.json", "fit-a.b.json", "place-a.b-00000.json", "place-a.b-00001.json"),
                *("index-a.json", "box.json"),
            ],
        ),
    ],
)
def test_a_fit_takes_along_what_was_made_from_it(findings: Findings, name: str, others: list[str]) -> None:
    folder = findings.run.folder("layout")
    delete = findings.with_it("layout", folder / name)
    assert delete == [folder / file for file in [name, *others]]
    assert findings.with_it("cells", folder / name) == [folder / name], "all other work gives equal bytes"
    assert findings.with_it("layout", folder / "quality-gone.json") == []


def test_sizes_and_reasons_are_short() -> None:
    assert [size(count) for count in (0, 1_234_567, 999_999_999, 1_500_000_000)] == [
        "0.0 MB",
        "1.2 MB",
        "1,000.0 MB",
        "1.5 GB",
    ]
    assert first_sentence(ValueError("It is cut. Byte 7 of 9. ")) == "It is cut"
    assert first_sentence(ValueError(" It is cut ")) == "It is cut"

"""The files of a layer's units: their names, and what is missing of them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.config.sections import NeuronsConfig
from atlas.neurons.parts import is_finished, part_names, unfinished_files, units_of_part
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker


@pytest.mark.parametrize(
    ("units", "names"),
    [(1, ["part-00000"]), (16, ["part-00000"]), (17, ["part-00000", "part-00001"]), (0, [])],
)
def test_sixteen_units_are_a_part(units: int, names: list[str]) -> None:
    assert part_names(units) == names
    assert [unit for name in names for unit in units_of_part(name, units)] == list(range(units))


def test_the_last_part_is_shorter() -> None:
    assert units_of_part("part-00000", 20) == list(range(16))
    assert units_of_part("part-00001", 20) == [16, 17, 18, 19]


def test_what_is_missing_is_known_once_the_statistics_are_there(tmp_path: Path) -> None:
    run, neurons = RunDirectory(tmp_path), NeuronsConfig(layers=("a",))
    assert not is_finished(run, neurons), "the stage has not begun"
    run.claim("neurons", "1" * 64)
    folder = run.neurons("a")
    folder.mkdir(parents=True)
    assert unfinished_files(run, "a") == ["statistics"]
    pq.write_table(pa.table({"unit": range(20)}), folder / "statistics.parquet")
    for name in ("statistics", "part-00001", "cells"):
        write_marker(folder / f"{name}.json", key="1" * 64, files=[])
    write_marker(folder / "circuit.json", key="2" * 64, files=[])  # of another configuration
    assert unfinished_files(run, "a") == ["part-00000", "circuit"]
    assert not is_finished(run, neurons)
    for name in ("part-00000", "circuit"):
        write_marker(folder / f"{name}.json", key="1" * 64, files=[])
    assert is_finished(run, neurons)
    assert not is_finished(run, NeuronsConfig(layers=("a", "b")))

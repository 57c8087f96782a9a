"""The columns of the tables of units, and what is said of a table that lacks some."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.errors import AtlasError
from atlas.neurons.tables import CELLS, CIRCUIT, DEGREES, STATISTICS, UNITS, check_columns, missing_columns

TABLES = {"statistics": STATISTICS, "part-00003": UNITS, "circuit": CIRCUIT, "cells": CELLS}


@pytest.mark.parametrize("name", TABLES)
def test_each_file_has_the_columns_of_its_name(tmp_path: Path, name: str) -> None:
    path, schema = tmp_path / f"{name}.parquet", TABLES[name]
    pq.write_table(schema.empty_table(), path)
    assert missing_columns(path) == []
    check_columns(path)
    lacking = [schema.names[1], schema.names[-1]]
    pq.write_table(schema.empty_table().drop_columns(lacking), path)
    assert missing_columns(path) == lacking
    with pytest.raises(AtlasError) as caught:
        check_columns(path)
    assert str(caught.value) == (
        f"{path} was written by another version of activation-atlas: it has no {', '.join(lacking)}. Give the run's "
        "command again: the stage neurons is done anew."
    )


def test_a_column_more_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "cells.parquet"
    pq.write_table(CELLS.append(pa.field("more", pa.int32())).empty_table(), path)
    check_columns(path)


def test_patches_are_turned_once_around() -> None:
    assert DEGREES[:3] == (0, 15, 30)
    assert DEGREES[-1] + 15 == 360

"""The store as outside readers meet it: types, encodings, row groups, metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.store.shards import ROW_GROUP, ShardWriter, count_rows, iterate, read_columns, read_metadata, schema

CHANNELS, CLASSES = 6, 4
FACTS = {"network": "x", "map_size": [14, 14], "classes": ["häher", "b"], "labels": [], "seed": 0, "stride": 16}


def columns(rows: int, start: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(start)
    numbers = np.arange(start, start + rows)
    return {
        "image": [f"folder/{number // 3}.png" for number in numbers],
        "image_id": numbers // 3,
        "view": numbers % 3,
        "draw": np.zeros(rows, int),
        "box": np.stack([numbers, numbers, numbers + 20.5, numbers + 20.5], axis=1),
        "place_x": generator.uniform(size=rows),
        "place_y": generator.uniform(size=rows),
        "y": generator.integers(0, 14, rows),
        "x": generator.integers(0, 14, rows),
        "label": [None if number % 4 == 0 else int(number % 7) for number in numbers],
        "predicted": generator.integers(0, 1000, rows),
        "confidence": generator.uniform(size=rows),
        "activation": generator.normal(size=(rows, CHANNELS)).astype(np.float16),
        "attribution": generator.normal(size=(rows, CLASSES)).astype(np.float16),
    }


def write(path: Path, batches: list[int], attributions: bool = True) -> dict[str, Any]:
    """A shard written in batches of these sizes; returns all that went in."""
    columns_in_file: dict[str, Any] = {}
    start = 0
    with ShardWriter(path, schema(attributions, FACTS)) as writer:
        for rows in batches:
            block = columns(rows, start)
            writer.append(block)
            start += rows
            for name, values in block.items():
                columns_in_file[name] = values if name not in columns_in_file else [*columns_in_file[name], *values]
        assert writer.rows == sum(batches)
    return {name: np.array(values) if name != "label" else values for name, values in columns_in_file.items()}


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("store") / "part-00000.parquet"
    return path, write(path, [5000, 5000, 9000, 1, 0])


def test_the_schema_is_that_of_the_contract(shard: tuple[Path, dict[str, Any]]) -> None:
    vector = pa.list_(pa.field("element", pa.float16(), nullable=False))
    expected = {
        "image": pa.string(),
        "image_id": pa.int64(),
        "view": pa.int32(),
        "draw": pa.int16(),
        "box": pa.list_(pa.field("element", pa.float32(), nullable=False), 4),
        "place_x": pa.float32(),
        "place_y": pa.float32(),
        "y": pa.int16(),
        "x": pa.int16(),
        "label": pa.int32(),
        "predicted": pa.int32(),
        "confidence": pa.float32(),
        "activation": vector,
        "attribution": vector,
    }
    file_schema = pq.read_schema(shard[0])
    assert {field.name: field.type for field in file_schema} == expected
    assert file_schema.names == list(expected)
    assert [field.name for field in file_schema if field.nullable] == ["label"]
    assert not file_schema.field("activation").type.value_field.nullable


def test_vectors_are_plain_float16_without_a_dictionary_in_zstd(shard: tuple[Path, dict[str, Any]]) -> None:
    with pq.ParquetFile(shard[0]) as file:
        footer = file.metadata
        for group in range(footer.num_row_groups):
            kinds = {}
            for number in range(footer.num_columns):
                column = footer.row_group(group).column(number)
                assert column.compression == "ZSTD"
                kinds[column.path_in_schema] = column
            for name in ("activation.list.element", "attribution.list.element"):
                assert not kinds[name].has_dictionary_page
                assert "PLAIN" in kinds[name].encodings
                assert not {"RLE_DICTIONARY", "PLAIN_DICTIONARY", "BYTE_STREAM_SPLIT"} & set(kinds[name].encodings)
                assert kinds[name].physical_type == "FIXED_LEN_BYTE_ARRAY"
                assert str(file.schema.column(footer.num_columns - 1).logical_type) == "Float16"
            assert kinds["image"].has_dictionary_page


def test_row_groups_hold_8192_rows(shard: tuple[Path, dict[str, Any]]) -> None:
    footer = pq.read_metadata(shard[0])
    sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    assert sizes == [ROW_GROUP, ROW_GROUP, 19001 - 2 * ROW_GROUP]
    assert ROW_GROUP == 8192
    assert count_rows([shard[0], shard[0]]) == 2 * 19001


def test_what_is_written_is_read(shard: tuple[Path, dict[str, Any]]) -> None:
    path, columns = shard
    names = list(columns)
    result = read_columns(path, names)
    for name in set(names) - {"label", "box", "place_x", "place_y", "confidence"}:
        np.testing.assert_array_equal(result[name], columns[name], err_msg=name)
    for name in ("box", "place_x", "place_y", "confidence"):
        np.testing.assert_array_equal(result[name], columns[name].astype(np.float32), err_msg=name)
    assert result["activation"].dtype == np.float16
    assert result["box"].shape == (19001, 4)
    assert pq.read_table(path)["label"].to_pylist() == columns["label"]


def test_iterating_gives_every_row_once_in_order_one_row_group_at_a_time(shard: tuple[Path, dict[str, Any]]) -> None:
    path, columns = shard
    blocks = list(iterate([path, path], ["activation", "image_id"]))
    assert [len(block["image_id"]) for block in blocks] == [8192, 8192, 2617] * 2
    np.testing.assert_array_equal(np.concatenate([block["activation"] for block in blocks[:3]]), columns["activation"])
    np.testing.assert_array_equal(np.concatenate([block["image_id"] for block in blocks[3:]]), columns["image_id"])


def test_metadata_is_json_in_the_footer(shard: tuple[Path, dict[str, Any]]) -> None:
    assert read_metadata(shard[0]) == FACTS
    raw = pq.read_schema(shard[0]).metadata
    assert json.loads(raw[b"classes"]) == ["häher", "b"]


def test_bytes_are_equal_however_the_rows_came(shard: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    write(tmp_path / "again.parquet", [5000, 5000, 9000, 1, 0])
    assert (tmp_path / "again.parquet").read_bytes() == shard[0].read_bytes()


def test_without_attributions_there_is_no_such_column(tmp_path: Path) -> None:
    write(tmp_path / "part.parquet", [10], attributions=False)
    assert "attribution" not in pq.read_schema(tmp_path / "part.parquet").names
    assert pq.read_table(tmp_path / "part.parquet").num_rows == 10


def test_an_empty_shard_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "part.parquet", [])
    assert count_rows([tmp_path / "part.parquet"]) == 0
    assert list(iterate([tmp_path / "part.parquet"], ["activation"])) == []
    assert read_columns(tmp_path / "part.parquet", ["activation", "image_id"])["activation"].shape == (0, 0)
    assert read_metadata(tmp_path / "part.parquet") == FACTS


def test_a_crash_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(RuntimeError, match="network"),
        ShardWriter(tmp_path / "part.parquet", schema(True, FACTS)) as writer,
    ):
        writer.append(columns(9000))
        raise RuntimeError("network")
    assert list(tmp_path.iterdir()) == []


def test_a_row_with_a_hole_is_refused(tmp_path: Path) -> None:
    block = columns(3)
    block["image"] = ["a.png", None, "c.png"]
    with (
        pytest.raises(ValueError, match="image"),
        ShardWriter(tmp_path / "part.parquet", schema(True, FACTS)) as writer,
    ):
        writer.append(block)
    assert list(tmp_path.iterdir()) == []


def test_it_opens_in_pandas_polars_and_duckdb_as_it_is(shard: tuple[Path, dict[str, Any]]) -> None:
    path, columns = shard
    first = [float(value) for value in columns["activation"][0]]
    import pandas

    frame = pandas.read_parquet(path, columns=["image", "label", "activation", "box"])
    assert frame["image"][0] == "folder/0.png"
    assert frame["activation"][0].tolist() == first
    assert frame["box"][1].tolist() == [1, 1, 21.5, 21.5]
    assert int(frame["label"].isna().sum()) == sum(label is None for label in columns["label"])
    import polars

    assert [float(value) for value in polars.read_parquet(path)["activation"][0]] == first
    import duckdb

    row = duckdb.sql(f"select activation, box, label from '{path}' where image_id = 0 and view = 0").fetchall()[0]
    assert [float(value) for value in row[0]] == first
    assert list(row[1]) == [0, 0, 20.5, 20.5]
    assert row[2] is None

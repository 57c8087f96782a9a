"""The activation store: one Parquet data set a layer, one row per (image, view, draw).

It is the product's second output and made to be reused: plain Parquet, float16 vectors as lists, no dictionary on them,
zstd. Row i of one layer is the same place of the same view as row i of every other layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.rundir.atomic import atomic

SCHEMA_VERSION = 1
ROW_GROUP = 8192

_VECTOR = pa.list_(pa.field("element", pa.float16(), nullable=False))
STORE_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("view", pa.int32(), nullable=False),
        pa.field("draw", pa.int16(), nullable=False),
        pa.field("box", pa.list_(pa.field("element", pa.float32(), nullable=False), 4), nullable=False),
        pa.field("place_x", pa.float32(), nullable=False),
        pa.field("place_y", pa.float32(), nullable=False),
        pa.field("y", pa.int16(), nullable=False),
        pa.field("x", pa.int16(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("predicted", pa.int32(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("activation", _VECTOR, nullable=False),
    ]
)
ATTRIBUTION = pa.field("attribution", _VECTOR, nullable=False)
# Of the class that the picture's label is, where labels are classes: its rank among the network's, and its softmax.
TRUE_CLASS = (pa.field("label_rank", pa.int32()), pa.field("label_probability", pa.float32()))
FAILURES = pa.schema([("image", pa.string()), ("view", pa.int32()), ("error", pa.string())])


RowKey = tuple[int, int, int]
"""What identifies a row of a layer: image_id, view, draw."""


def schema(attributions: bool, metadata: Mapping[str, Any]) -> pa.Schema:
    """The store's schema with ``metadata`` (JSON-ready values) as file metadata; where that has ``label_classes``, with
    the columns TRUE_CLASS."""
    fields = STORE_SCHEMA.append(ATTRIBUTION) if attributions else STORE_SCHEMA
    for field in TRUE_CLASS if "label_classes" in metadata else ():
        fields = fields.append(field)
    return fields.with_metadata({key: json.dumps(value) for key, value in metadata.items()})


class ShardWriter:
    """Writes one shard of one layer, row group by row group, under a temporary name until closed without error.

    ``append`` takes columns as a dict: arrays of shape (n,), ``box`` (n, 4), ``activation`` (n, channels),
    ``attribution`` (n, classes), the vectors as float16.
    """

    def __init__(self, path: Path, file_schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = file_schema
        self._pending: list[pa.RecordBatch] = []
        self._waiting = 0
        self._atomic = atomic(path)
        self._writer = pq.ParquetWriter(
            self._atomic.__enter__(),
            file_schema,
            compression="zstd",
            use_dictionary=["image"],
            store_schema=True,
        )

    def append(self, columns: Mapping[str, Any]) -> None:
        """Add rows: for each column of the schema (rows,) or (rows, width). Whole row groups are written at once."""
        arrays = [_to_arrow(columns[field.name], field.type) for field in self._schema]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._pending.append(batch)
        self._waiting += len(batch)
        self.rows += len(batch)
        while self._waiting >= ROW_GROUP:
            table = pa.Table.from_batches(self._pending)
            self._writer.write_table(table.slice(0, ROW_GROUP), row_group_size=ROW_GROUP)
            self._pending = table.slice(ROW_GROUP).to_batches()
            self._waiting -= ROW_GROUP

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._pending:
                self._writer.write_table(pa.Table.from_batches(self._pending), row_group_size=ROW_GROUP)
            self._writer.close()
        except BaseException as problem:  # a full disk, mostly: the temporary file must not stay behind
            self._atomic.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self._atomic.__exit__(kind, error, trace)


def _to_arrow(values: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1), pa.float32())
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    if pa.types.is_list(kind):
        matrix = np.ascontiguousarray(values, dtype=np.float16)
        offsets = np.arange(0, matrix.size + 1, matrix.shape[1], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.reshape(-1), pa.float16()), type=kind)
    return pa.array(values, kind)


def read_columns(path: Path, columns: Sequence[str], filters: Any = None) -> dict[str, NDArray[Any]]:
    """Columns of a shard, or of another table of a run, as ``to_numpy`` gives them: (rows,) or (rows, width).
    ``filters`` are PyArrow's."""
    table = pq.read_table(path, columns=list(columns), filters=filters)
    return {name: to_numpy(table[name]) for name in columns}


def iterate(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
    """The columns of each row group of ``paths`` in order, each (rows,) or (rows, width); memory holds one row group at
    a time."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, columns=list(columns))
                yield {name: to_numpy(table[name]) for name in columns}


def to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """One Arrow column as NumPy, never as objects: numbers (rows,) in their own dtype, lists of equal lengths as a
    matrix (rows, n), strings as fixed-width unicode. Null is −1 among integers, NaN among floats, "" among strings.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # Names repeat: each is made a Python string once. (Strings of NumPy's own kind need NumPy 2.)
        codes = column.combine_chunks().dictionary_encode().fill_null("")
        return np.array(codes.dictionary.to_pylist(), dtype=np.str_)[codes.indices.to_numpy(zero_copy_only=False)]
    if pa.types.is_integer(column.type) and column.null_count:
        column = pc.fill_null(column, -1)
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        rows = len(column)
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
        flat = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
        return flat.reshape(rows, -1) if rows else flat.reshape(0, 0)
    return column.to_numpy()


def key_of(values: Mapping[str, Any]) -> RowKey:
    """The key of a row, an exemplar or anything else that names one."""
    return values["image_id"], values["view"], values["draw"]


def count_rows(paths: Sequence[Path]) -> int:
    """Rows of shards, from their footers."""
    return sum(pq.read_metadata(path).num_rows for path in paths)


def read_metadata(path: Path) -> dict[str, Any]:
    """The store's own file metadata of a shard, parsed."""
    raw = pq.read_schema(path).metadata or {}
    return {key.decode(): json.loads(value) for key, value in raw.items() if not key.startswith((b"ARROW", b"pandas"))}

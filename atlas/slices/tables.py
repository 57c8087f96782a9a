"""The table of where a network errs on a layer's map: its columns, and how it is read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import parse_marker

# Of what this room writes, in the key of the stage cells where labels are classes.
ERRORS_FORMAT = 1

_CONFUSIONS = pa.list_(pa.struct([("true_class", pa.int32()), ("predicted", pa.int32()), ("pictures", pa.float32())]))
_ROWS = pa.list_(
    pa.struct(
        [
            ("image_id", pa.int64()),
            ("view", pa.int32()),
            ("draw", pa.int16()),
            ("true_class", pa.int32()),
            ("predicted", pa.int32()),
            ("confidence", pa.float32()),
            ("rank", pa.int32()),
            ("probability", pa.float32()),
            ("right_in", pa.list_(pa.string())),
        ]
    )
)
_OTHERS = pa.list_(pa.struct([("network", pa.string()), ("only_here", pa.float32()), ("only_there", pa.float32())]))
ERRORS_SCHEMA = pa.schema(
    [
        pa.field("grid", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("col", pa.int32(), nullable=False),
        pa.field("pictures", pa.int64(), nullable=False),
        pa.field("accuracy", pa.float32(), nullable=False),
        pa.field("expected", pa.float32(), nullable=False),
        pa.field("mean_rank", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("q", pa.float32()),
        pa.field("slice", pa.bool_(), nullable=False),
        pa.field("confusions", _CONFUSIONS, nullable=False),
        pa.field("wrong", _ROWS, nullable=False),
        pa.field("others", _OTHERS, nullable=False),
    ]
)


def read_errors(run: RunDirectory, layer: str, grid: int | None = None) -> pa.Table:
    """The cells of a layer's map that hold pictures with a class, of all grids or one, as ERRORS_SCHEMA has them."""
    return pq.read_table(run.errors(layer), filters=None if grid is None else [("grid", "=", grid)])


def error_facts(run: RunDirectory, layer: str) -> dict[str, Any] | None:
    """What was noted of a layer's errors as a whole: ``run``, the accuracy over its pictures, ``grids`` and ``slices``;
    None where its network has no labels, or they are not counted yet."""
    facts: dict[str, Any] | None = (parse_marker(run.errors(layer).with_suffix(".json")) or {}).get("facts")
    return facts

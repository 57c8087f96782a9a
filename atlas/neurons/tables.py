"""The tables of the stage neurons: their columns, and whether a file has them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.errors import AtlasError

# Of the tables below: raise it when a column changes, and all of them are made anew.
NEURONS_FORMAT = 3

# Bins of a histogram, and points of the range of activation at which a patch is kept.
BINS, SPREAD = 64, 8
# Degrees that top patches are turned by, and sizes that they are shown at.
DEGREES = tuple(range(0, 360, 15))
SCALES = (0.5, 0.71, 1.0, 1.41, 2.0)

_float32 = pa.float32()


def _several(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False))


def _needed(**kinds: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in kinds.items()]


_ROW = _needed(image_id=pa.int64(), view=pa.int32(), draw=pa.int16(), activation=_float32)

STATISTICS = pa.schema(
    [
        *_needed(
            unit=pa.int32(),
            rows=pa.int64(),
            mean=_float32,
            deviation=_float32,
            smallest=_float32,
            largest=_float32,
            positive=_float32,  # share of the rows above zero
            low=_float32,  # edges of the histogram
            high=_float32,
            histogram=_several(pa.int64()),
            top=_several(pa.struct(_ROW)),  # the largest, each of another picture, largest first
            spread=_several(pa.struct(_ROW)),  # nearest to evenly spaced values between smallest and largest
            similar=_several(pa.struct(_needed(unit=pa.int32(), correlation=_float32))),
        )
    ]
)

_EFFECT = pa.struct([pa.field("class", pa.int32(), nullable=False), pa.field("effect", _float32, nullable=False)])

UNITS = pa.schema(
    [
        *_needed(
            unit=pa.int32(),
            pictures=_several(pa.binary()),  # PNGs, the plain one first, the others unlike it and each other
            size=pa.int32(),
            picture_activations=_several(_float32),  # the unit's at the middle of each picture
            supports=_several(_EFFECT),
            opposes=_several(_EFFECT),
            effects=_several(_float32),  # on every class, mean over the top patches; none where there are none
            rotated=_several(
                _several(_float32)
            ),  # patches × DEGREES, the unit's activations, negative ones as they are
            mirrored=_several(_several(_float32)),
            scaled=_several(_several(_float32)),  # patches × SCALES
        ),
        # Null where the unit never fires, or where the mean over the turns is under half the peak.
        pa.field("selectivity", _float32),
        pa.field("invariance", _float32),
        pa.field("preferred", _float32),  # degrees
        pa.field("note", pa.string()),  # why a figure is missing
        # The first patch rotated, mirrored and rotated, and scaled, as JPEGs or PNGs.
        pa.field("rotated_pictures", _several(pa.binary()), nullable=False),
        pa.field("mirrored_pictures", _several(pa.binary()), nullable=False),
        pa.field("scaled_pictures", _several(pa.binary()), nullable=False),
    ]
)

CIRCUIT = pa.schema(
    [
        *_needed(
            unit=pa.int32(),
            source_layer=pa.string(),
            source=pa.int32(),
            weight=_float32,  # with average slopes, summed over the kernel
            linear_weight=_float32,  # with all non-linearities replaced by the identity, summed over the kernel
            effect=_float32,  # mean over the unit's top patches of the source's activation times its gradient
            present=_float32,  # the part of the effect from positions where the source's activation is above 0
            reliability=_float32,  # |mean| / (|mean| + standard error) of the effect over the patches
            kernel=_several(_float32),  # of weight, row by row
            height=pa.int32(),
            width=pa.int32(),
        ),
        pa.field("agreement", _float32),  # of what the weights predict and the effects: rank correlation, −1 … 1
    ],
    # The schema's metadata hold, as JSON, the ``earlier`` layers, the ``nonlinearities`` between each and this one
    # ({LAYER: ["12 ReLU6", …]}), and ``notes`` (LAYER: a sentence why there are no weights).
)

CELLS = pa.schema(
    _needed(
        grid=pa.int32(),
        row=pa.int32(),
        col=pa.int32(),
        source_layer=pa.string(),
        source_grid=pa.int32(),
        source_row=pa.int32(),
        source_col=pa.int32(),
        weight=_float32,  # −1 … 1: a share of the largest of the cell
        overlap=_float32,  # share of the cell's rows that lie in the source cell
    )
)

_SCHEMAS = {"statistics": STATISTICS, "circuit": CIRCUIT, "cells": CELLS}


def missing_columns(path: Path) -> list[str]:
    """The columns that the table at ``path`` (statistics, part-00000, …, circuit or cells) should have and has not: it
    was written by another version."""
    columns = pq.read_schema(path).names
    return [name for name in _SCHEMAS.get(path.stem, UNITS).names if name not in columns]


def check_columns(path: Path) -> None:
    """Raise AtlasError where the table at ``path`` has other columns than those above."""
    if missing := missing_columns(path):
        raise AtlasError(
            f"{path} was written by another version of activation-atlas: it has no {', '.join(missing)}. Give the "
            "run's command again: the stage neurons is done anew."
        )

"""The words of the cells of one level, and the table that they are kept in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.layout.lattice import cell_of
from atlas.store.shards import iterate
from atlas.words.claims import Claims, Level, Views, claim
from atlas.words.evidence import Evidence
from atlas.words.folds import deal, fold_means

# With another number the words of all runs are found anew.
WORDS_FORMAT = 1
_LEVEL = b"level"
WORDS = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("col", pa.int32(), nullable=False),
        pa.field(
            "classes",
            pa.list_(pa.struct([("class", pa.int32()), ("gain", pa.float32()), ("t", pa.float32())])),
            nullable=False,
        ),
        pa.field("gains", pa.list_(pa.float32()), nullable=False),
    ]
)


def level_words(
    shards: Sequence[Path],
    u: NDArray[np.floating],
    v: NDArray[np.floating],
    cells: Sequence[tuple[int, int]],
    *,
    grid: int,
    evidence: Evidence,
    seed: int = 0,
) -> pa.Table:
    """The table WORDS of some ``cells`` (row, col) of one ``grid``, in their order, from two passes over a layer.

    ``u``, ``v``: the layout (n,), NaN where dropped, in the order of the rows of ``shards``. ``evidence`` says what
    vectors of that layer push towards. The file metadata says how far the words of the level hold: `level_of`.
    """
    number_of = np.full(grid * grid, -1, np.int64)
    number_of[[row * grid + col for row, col in cells]] = np.arange(len(cells))
    place = cell_of(u, v, grid)
    cell = np.where(place >= 0, number_of[place], -1)
    blocks = list(iterate(shards, ["image_id", "predicted"]))
    pictures, predicted = (
        np.concatenate([block[name] for block in blocks]).astype(np.int64) for name in ("image_id", "predicted")
    )
    folds = deal(cell, pictures, cells=len(cells), seed=seed)
    means = fold_means(shards, folds)
    inside = cell >= 0
    views = Views(folds.cell[inside], folds.fold[inside], predicted[inside])
    claims = claim(_gains(means, evidence), views, seed=seed)
    return _table(cells, claims)


def level_of(table: pa.Table) -> Level:
    """How far the words of a level hold."""
    return Level(**json.loads(table.schema.metadata[_LEVEL]))


def _gains(means: Float32, evidence: Evidence) -> Float32:
    """What each fold's mean pushes towards, NaN where the fold is empty: (cells, folds, classes)."""
    filled = ~np.isnan(means[:, :, 0]) if means.size else np.zeros(means.shape[:2], bool)
    of_filled = evidence(means[filled])
    gains = np.full((*means.shape[:2], of_filled.shape[1]), np.nan, np.float32)
    gains[filled] = of_filled
    return gains


def _table(cells: Sequence[tuple[int, int]], claims: Claims) -> pa.Table:
    def entry(number: int, index: int) -> dict[str, Any]:
        return {"class": index, "gain": float(claims.gains[number, index]), "t": float(claims.t[number, index])}

    columns = {
        "row": [row for row, _ in cells],
        "col": [col for _, col in cells],
        "classes": [[entry(number, index) for index in classes] for number, classes in enumerate(claims.classes)],
        "gains": list(claims.gains),
    }
    schema = WORDS.with_metadata({_LEVEL: json.dumps(asdict(claims.level))})
    return pa.table(columns, schema=schema)

"""The layout divided into cells, at every level.

Two passes over the store: one sums vectors at the finest level (the coarser follow, since grids double), the other
takes each row's cosine to the mean of its cells, from which percentiles and exemplars come. The search for exemplars is
exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atlas.layout.lattice import cell_of
from atlas.layout.neighbors import unit_rows
from atlas.store.shards import iterate

CELL_CLASSES = 10
COSINE_QUANTILES = 101

_CLASS_COUNTS = pa.list_(pa.struct([("class", pa.int32()), ("count", pa.int64())]))
_ROWS = pa.list_(
    pa.struct([("image_id", pa.int64()), ("view", pa.int32()), ("draw", pa.int16()), ("cosine", pa.float32())])
)
CELLS_SCHEMA = pa.schema(
    [
        pa.field("grid", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("col", pa.int32(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("mean", pa.list_(pa.float32()), nullable=False),
        pa.field("mean_cosine", pa.float32(), nullable=False),
        pa.field("norm", pa.float32(), nullable=False),
        pa.field("cosines", pa.list_(pa.float32()), nullable=False),
        pa.field("attribution", pa.list_(pa.float32())),
        pa.field("predicted", _CLASS_COUNTS, nullable=False),
        pa.field("labels", _CLASS_COUNTS, nullable=False),
        pa.field("exemplars", _ROWS, nullable=False),
        pa.field("diverse_exemplars", _ROWS, nullable=False),
    ]
)


@dataclass
class _Level:
    """One grid: which of its cells are not empty, and sums over their rows."""

    grid: int
    cells: NDArray[np.int64]  # numbers of the non-empty cells, ascending
    member: NDArray[np.int64]  # for each row of the layer, the index into ``cells``, or −1
    count: NDArray[np.int64]
    vectors: NDArray[np.float64]  # sums of activations
    directions: NDArray[np.float64]  # sums of activations of length 1
    attributions: NDArray[np.float64] | None


def build_cells(
    shards: Sequence[Path],
    u: NDArray[np.floating],
    v: NDArray[np.floating],
    *,
    grids: Sequence[int],
    exemplars: int,
    attributions: bool,
    diverse: int = 0,
) -> pa.Table:
    """The cells of one map at every grid, sorted by grid, row and col; see CELLS_SCHEMA.

    ``u``, ``v``: the layout (n,), NaN where dropped, in the order of the rows of ``shards``. ``exemplars``: how many of
    the members nearest to the mean are listed; ``diverse``: how many more, that lie far from each other in the cell. No
    picture is shown twice in a cell.
    """
    finest = _sum_finest(shards, u, v, grids[-1], attributions)
    levels = [finest]
    for grid in reversed(grids[:-1]):
        levels.insert(0, _halve(levels[0], grid))
    facts = _read_facts(shards)
    cosines, norms = _cosines(shards, levels)
    points = np.stack([u, v], axis=1).astype(np.float32)
    tables = [
        _table(level, cosines[number], norms, facts, points, exemplars, diverse) for number, level in enumerate(levels)
    ]
    return pa.concat_tables(tables)


def _sum_finest(
    shards: Sequence[Path], u: NDArray[np.floating], v: NDArray[np.floating], grid: int, attributions: bool
) -> _Level:
    number = cell_of(u, v, grid)
    cells, member = np.unique(number, return_inverse=True)
    if len(cells) and cells[0] == -1:
        cells, member = cells[1:], member - 1
    sums: dict[str, NDArray[np.float64]] = {}
    start = 0
    columns = ["activation", "attribution"] if attributions else ["activation"]
    for block in iterate(shards, columns):
        rows = len(block["activation"])
        where = member[start : start + rows]
        start += rows
        inside = np.flatnonzero(where >= 0)
        inside = inside[np.argsort(where[inside], kind="stable")]
        if not len(inside):
            continue
        starts = np.flatnonzero(np.r_[True, np.diff(where[inside]) > 0])
        cell_numbers = where[inside][starts]
        activation = block["activation"][inside].astype(np.float64)
        parts = {"vectors": activation, "directions": unit_rows(activation).astype(np.float64)}
        if attributions:
            parts["attributions"] = block["attribution"][inside].astype(np.float64)
        for name, values in parts.items():
            if name not in sums:
                sums[name] = np.zeros((len(cells), values.shape[1]))
            sums[name][cell_numbers] += np.add.reduceat(values, starts, axis=0)
    count = np.bincount(member[member >= 0], minlength=len(cells))
    empty = np.zeros((len(cells), 0))
    return _Level(
        grid, cells, member, count, sums.get("vectors", empty), sums.get("directions", empty), sums.get("attributions")
    )


def _halve(fine: _Level, grid: int) -> _Level:
    """The level of half as many cells a side, from the sums of the finer."""
    parent = (fine.cells // fine.grid // 2) * grid + fine.cells % fine.grid // 2
    cells, inverse = np.unique(parent, return_inverse=True)

    def gather(values: NDArray[Any]) -> NDArray[Any]:
        total = np.zeros((len(cells), *values.shape[1:]), values.dtype)
        np.add.at(total, inverse, values)
        return total

    member = np.where(fine.member >= 0, inverse[fine.member], -1) if len(cells) else fine.member
    attributions = None if fine.attributions is None else gather(fine.attributions)
    return _Level(grid, cells, member, gather(fine.count), gather(fine.vectors), gather(fine.directions), attributions)


def _read_facts(shards: Sequence[Path]) -> dict[str, NDArray[Any]]:
    names = ["image_id", "view", "draw", "predicted", "label"]
    blocks = list(iterate(shards, names))
    facts = {name: np.concatenate([block[name] for block in blocks]) for name in names}
    label = facts["label"].astype(np.float64)  # null arrives as NaN
    facts["label"] = np.where(np.isfinite(label), label, -1).astype(np.int64)
    return facts


def _cosines(shards: Sequence[Path], levels: Sequence[_Level]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Each row's cosine to the mean of its cell at each level (levels, n), and its norm (n,)."""
    means = [unit_rows(level.vectors) for level in levels]
    rows = len(levels[0].member)
    cosines, norms = np.zeros((len(levels), rows), np.float32), np.zeros(rows, np.float32)
    start = 0
    for block in iterate(shards, ["activation"]):
        activation = block["activation"].astype(np.float32)
        span = slice(start, start + len(activation))
        start += len(activation)
        norms[span] = np.linalg.norm(activation, axis=1)
        directions = unit_rows(activation)
        for number, level in enumerate(levels):
            if len(level.cells):
                cosines[number, span] = np.einsum("nc,nc->n", directions, means[number][level.member[span]])
    return cosines, norms


def _table(
    level: _Level,
    cosines: NDArray[np.float32],
    norms: NDArray[np.float32],
    facts: dict[str, NDArray[Any]],
    points: NDArray[np.float32],
    exemplars: int,
    diverse: int,
) -> pa.Table:
    names = ("norm", "cosines", "predicted", "labels", "exemplars", "diverse_exemplars")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    # Rows sorted by cell and, inside it, by falling cosine; ties go by row number, so the order is always the same.
    order = np.lexsort((np.arange(len(cosines)), -cosines, level.member))
    order = order[level.member[order] >= 0]
    bounds = np.r_[0, np.cumsum(level.count)]
    for cell in range(len(level.cells)):
        members = order[bounds[cell] : bounds[cell + 1]]
        columns["norm"].append(float(np.median(norms[members])))
        columns["cosines"].append(np.quantile(cosines[members], np.linspace(0, 1, COSINE_QUANTILES)).astype(np.float32))
        columns["predicted"].append(_top(facts["predicted"][members]))
        columns["labels"].append(_top(facts["label"][members][facts["label"][members] >= 0]))
        nearest = _nearest(members, facts["image_id"], exemplars)
        others = _diverse(members, nearest, facts["image_id"], points, diverse)
        columns["exemplars"].append(_rows(nearest, cosines, facts))
        columns["diverse_exemplars"].append(_rows(others, cosines, facts))
    count = np.maximum(level.count, 1)[:, None]
    mean = level.vectors / count
    mean_cosine = np.einsum("nc,nc->n", level.directions / count, unit_rows(mean))
    attribution = None if level.attributions is None else list((level.attributions / count).astype(np.float32))
    return (
        pa.table(
            {
                "grid": np.full(len(level.cells), level.grid, np.int32),
                "row": (level.cells // level.grid).astype(np.int32),
                "col": (level.cells % level.grid).astype(np.int32),
                "count": level.count.astype(np.int64),
                "mean": list(mean.astype(np.float32)),
                "mean_cosine": mean_cosine.astype(np.float32),
                "attribution": attribution
                if attribution is not None
                else pa.nulls(len(level.cells), pa.list_(pa.float32())),
                **columns,
            }
        )
        .select(CELLS_SCHEMA.names)
        .cast(CELLS_SCHEMA)
    )


def _top(classes: NDArray[np.integer]) -> list[dict[str, int]]:
    names, counts = np.unique(classes, return_counts=True)
    best = np.lexsort((names, -counts))[:CELL_CLASSES]
    return [{"class": int(names[index]), "count": int(counts[index])} for index in best]


def _nearest(members: NDArray[np.int64], images: NDArray[np.integer], limit: int) -> list[int]:
    """The members nearest to the mean, at most one an image; ``members`` come sorted by falling cosine."""
    member_of_image: dict[int, int] = {}
    for member in members.tolist():
        member_of_image.setdefault(int(images[member]), member)
        if len(member_of_image) == limit:
            break
    return list(member_of_image.values())


def _diverse(
    members: NDArray[np.int64],
    exemplars: list[int],
    images: NDArray[np.integer],
    points: NDArray[np.float32],
    limit: int,
) -> list[int]:
    """Members that show how much a cell holds: each time the one that lies farthest on the map from the nearest member
    and from those chosen before (Gonzalez 1985), of another picture each."""
    rest = members[~np.isin(images[members], images[exemplars])]
    farthest = np.full(len(rest), np.inf)
    distant: list[int] = []
    last = exemplars[0]
    while len(rest) and len(distant) < limit:
        farthest = np.minimum(farthest, np.linalg.norm(points[rest] - points[last], axis=1))
        last = int(rest[farthest.argmax()])
        distant.append(last)
        others = images[rest] != images[last]
        rest, farthest = rest[others], farthest[others]
    return distant


def _rows(members: list[int], cosines: NDArray[np.float32], facts: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """The keys and cosines of ``members``, as they stand in a cell."""
    return [
        {
            **{name: int(facts[name][member]) for name in ("image_id", "view", "draw")},
            "cosine": float(cosines[member]),
        }
        for member in members
    ]

"""Where on a layer's map a network errs: the accuracy of each cell, and the slices, the cells that hold more errors
than their classes would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atlas.layout.lattice import cell_of
from atlas.slices.accuracy import Verdicts, accuracy_facts, confusions
from atlas.slices.permutation import FALSE_DISCOVERY_RATE, FEWEST_PICTURES, Excess, Members, excess_of_levels
from atlas.slices.tables import ERRORS_SCHEMA

# Of each cell: the commonest confusions, and the misclassified patches, of another picture each.
CELL_CONFUSIONS, CELL_WRONG = 5, 24
# Slices that a report lists, of all grids together; one that shares more of its wrong pictures with those before it is
# left out.
REPORT_SLICES, _MOST_SHARED = 5, 0.5


def find_errors(
    verdicts: Verdicts,
    others: Mapping[str, Verdicts],
    u: NDArray[np.floating],
    v: NDArray[np.floating],
    *,
    grids: Sequence[int],
    min_count: int,
    seed: int,
) -> tuple[pa.Table, dict[str, Any]]:
    """The cells with their errors at every grid, see ERRORS_SCHEMA, and what is noted of the layer as a whole.

    ``verdicts``: of the layer's network on all rows; ``others``: of further networks on the same rows, by name; ``u``,
    ``v``: the layout (n,), NaN where a row was dropped. Cells of fewer rows than ``min_count`` are not tested. The
    facts, ready for JSON, are ``run``, see ``accuracy_facts``; ``grids``: how many cells were tested and stand out on
    each; ``slices``: those that stand out most, on whatever grid, each of other pictures.
    """
    pictures, picture = np.unique(verdicts.image_id, return_inverse=True)
    classes = np.full(len(pictures), -1, np.int64)
    classes[picture] = verdicts.true_class
    errors = _errors_of_views(verdicts, picture, len(pictures))
    labelled = np.flatnonzero(classes >= 0)
    number_of = np.full(len(pictures), -1, np.int64)
    number_of[labelled] = np.arange(len(labelled))
    levels = [_Level(grid, verdicts, number_of[picture], cell_of(u, v, grid), min_count) for grid in grids]
    members = [level.members for level in levels]
    excesses = excess_of_levels(members, errors[labelled], classes[labelled], seed=seed)
    tables = [level.table(excess, others) for level, excess in zip(levels, excesses)]
    table = pa.concat_tables(tables) if tables else ERRORS_SCHEMA.empty_table()
    facts = {
        "run": accuracy_facts(verdicts, dict(others)),
        "grids": {
            str(level.grid): {
                "tested": int(np.isfinite(excess.q).sum()), "slices": int((excess.q <= FALSE_DISCOVERY_RATE).sum())
            }
            for level, excess in zip(levels, excesses)
        },
        "slices": _foremost(table, levels),
    }  # fmt: skip
    return table, facts


def _errors_of_views(verdicts: Verdicts, picture: NDArray[np.int64], pictures: int) -> NDArray[np.float64]:
    """Whether each view of each picture is wrong, (pictures, views); a view without rows has the mean of the others."""
    views = int(verdicts.view.max(initial=0)) + 1
    errors = np.full((pictures, views), np.nan)
    errors[picture, verdicts.view] = verdicts.wrong
    present = np.isfinite(errors)
    means = np.where(present, errors, 0).sum(1) / np.maximum(present.sum(1), 1)
    return np.where(present, errors, means[:, None])


class _Level:
    """One grid: its cells that hold pictures with a class, and the rows in them."""

    def __init__(
        self, grid: int, verdicts: Verdicts, picture: NDArray[np.int64], cell: NDArray[np.int64], min_count: int
    ) -> None:
        self.grid, self._verdicts = grid, verdicts
        self._rows = np.flatnonzero((cell >= 0) & (picture >= 0))
        self.cells, index = np.unique(cell[self._rows], return_inverse=True)
        self._picture = picture[self._rows]
        # Rows of one picture in one cell share its weight.
        pairs = index * (int(picture.max(initial=0)) + 1) + self._picture
        _, first, place, counts = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        self._weight = 1 / counts[place]
        self._index = index
        self.pictures = np.bincount(index[first], minlength=len(self.cells))
        count = np.bincount(cell[cell >= 0], minlength=grid * grid)[self.cells]
        self.members = self._members(self.pictures, (count >= min_count) & (self.pictures >= FEWEST_PICTURES))

    def _members(self, pictures: NDArray[np.int64], testable: NDArray[np.bool_]) -> Members:
        view = self._verdicts.view[self._rows]
        numbers, views = int(self._picture.max(initial=0)) + 1, int(view.max(initial=0)) + 1
        keys, place = np.unique((self._index * numbers + self._picture) * views + view, return_inverse=True)
        weight = np.bincount(place, self._weight, minlength=len(keys)).astype(np.float64)
        pairs, views_of_keys = np.divmod(keys, views)
        cell, picture = np.divmod(pairs, numbers)
        return Members(cell, picture, views_of_keys, weight, len(pictures), testable)

    def table(self, excess: Excess, others: Mapping[str, Verdicts]) -> pa.Table:
        """The level's cells as ERRORS_SCHEMA has them."""
        ranks = np.bincount(self._index, self._weight * self._verdicts.rank[self._rows], minlength=len(self.cells))
        count = np.maximum(self.pictures, 1)
        columns = {
            "grid": np.full(len(self.cells), self.grid),
            "row": self.cells // self.grid,
            "col": self.cells % self.grid,
            "pictures": self.pictures,
            "accuracy": 1 - excess.errors / count,
            "expected": 1 - excess.expected / count,
            "mean_rank": ranks / count,
            "score": excess.score,
            "q": pa.array(excess.q, pa.float32(), mask=np.isnan(excess.q)),
            "slice": excess.q <= FALSE_DISCOVERY_RATE,
            **self._lists(others),
        }
        arrays = [pa.array(columns[field.name], field.type) for field in ERRORS_SCHEMA]
        return pa.Table.from_arrays(arrays, schema=ERRORS_SCHEMA)

    def _lists(self, others: Mapping[str, Verdicts]) -> dict[str, list[list[dict[str, Any]]]]:
        """For each cell its confusions, its misclassified rows, the most confident first, and how the ``others`` do."""
        columns: dict[str, list[list[dict[str, Any]]]] = {"confusions": [], "wrong": [], "others": []}
        weight = np.zeros(len(self._verdicts.view))
        weight[self._rows] = self._weight
        order = np.argsort(self._index, kind="stable")
        bounds = np.r_[0, np.cumsum(np.bincount(self._index, minlength=len(self.cells)))]
        for first, last in pairwise(bounds):
            rows = self._rows[order[first:last]]
            wrong = rows[self._verdicts.wrong[rows]]
            columns["confusions"].append(confusions(self._verdicts, weight, wrong, CELL_CONFUSIONS))
            columns["wrong"].append([self._row(row, others) for row in self._confident(wrong)])
            columns["others"].append(
                [{"network": name, **_between(rows, weight, self._verdicts, other)} for name, other in others.items()]
            )
        return columns

    def _confident(self, wrong: NDArray[np.int64]) -> list[int]:
        """The rows of ``wrong`` in which the network is surest, one a picture."""
        order = wrong[np.lexsort((wrong, -self._verdicts.confidence[wrong]))]
        row_of_picture: dict[int, int] = {}
        for row in order.tolist():
            row_of_picture.setdefault(int(self._verdicts.image_id[row]), row)
        return list(row_of_picture.values())[:CELL_WRONG]

    def _row(self, row: int, others: Mapping[str, Verdicts]) -> dict[str, Any]:
        values = self._verdicts
        names = ("image_id", "view", "draw", "true_class", "predicted", "rank")
        return {
            **{name: int(getattr(values, name)[row]) for name in names},
            "confidence": float(values.confidence[row]),
            "probability": float(values.probability[row]),
            "right_in": [name for name, other in others.items() if other.true_class[row] >= 0 and not other.wrong[row]],
        }

    def wrong_pictures(self, cell: int) -> set[int]:
        """The pictures that have a wrong row in the cell of that number."""
        rows = self._rows[self._index == np.searchsorted(self.cells, cell)]
        return set(self._verdicts.image_id[rows[self._verdicts.wrong[rows]]].tolist())


def _between(
    rows: NDArray[np.int64], weight: NDArray[np.float64], verdicts: Verdicts, other: Verdicts
) -> dict[str, float]:
    """How many pictures among ``rows`` only the one network, or only the other, gets wrong."""
    common = rows[other.true_class[rows] >= 0]
    here, there = verdicts.wrong[common], other.wrong[common]
    return {
        "only_here": float(weight[common] @ (here & ~there)), "only_there": float(weight[common] @ (there & ~here))
    }  # fmt: skip


def _foremost(table: pa.Table, levels: Sequence[_Level]) -> list[dict[str, Any]]:
    """The slices of largest score, each with mostly other wrong pictures than those before it."""
    level_of_grid = {level.grid: level for level in levels}
    columns = [name for name in ERRORS_SCHEMA.names if name not in ("wrong", "slice")]
    slices = table.filter(table["slice"]).select(columns).to_pylist()
    slices.sort(key=lambda one: (-one["score"], one["grid"], one["row"], one["col"]))
    seen_pictures: set[int] = set()
    foremost: list[dict[str, Any]] = []
    for one in slices:
        pictures = level_of_grid[one["grid"]].wrong_pictures(one["row"] * one["grid"] + one["col"])
        if len(pictures & seen_pictures) > _MOST_SHARED * len(pictures):
            continue
        seen_pictures |= pictures
        foremost.append(one)
        if len(foremost) == REPORT_SLICES:
            break
    return foremost

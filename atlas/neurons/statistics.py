"""The statistics of every unit of a layer over the store: range, histogram, top rows, spread and similar units.

Two passes over the shards: the first takes moments, extremes and top rows, the second what needs the extremes. Memory
holds one row group and a few numbers for each unit, however long the store is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.neurons.tables import BINS, SPREAD, STATISTICS
from atlas.store.moments import Moments
from atlas.store.shards import iterate, read_metadata

# Similar units that are listed for each.
SIMILAR = 8
# A unit whose deviation is under this share of its root mean square is constant: it correlates with none.
_CONSTANT = 1e-4
_KEYS = ("image_id", "view", "draw")

Keys = NDArray[np.int64]
"""Rows of the store (…, 3): image_id, view, draw."""


@dataclass
class _Extremes:
    """Moments, extremes and, for each unit, its best rows up to here: ``values`` (count, units), ``keys``
    (count, units, 3); −inf where there are fewer."""

    moments: Moments
    positive: NDArray[np.int64]
    smallest: Float32
    largest: Float32
    values: Float32
    keys: Keys

    @classmethod
    def empty(cls, units: int, count: int) -> _Extremes:
        return cls(
            moments=Moments.empty(units),
            positive=np.zeros(units, np.int64),
            smallest=np.full(units, np.inf, np.float32),
            largest=np.full(units, -np.inf, np.float32),
            values=np.full((count, units), -np.inf, np.float32),
            keys=np.full((count, units, 3), -1, np.int64),
        )

    def add(self, rows: Float32, keys: Keys) -> None:
        """Count ``rows`` (n, units) with their ``keys`` (n, 3), the rows of a picture one after another."""
        self.moments.add(rows)
        self.positive += (rows > 0).sum(0)
        np.minimum(self.smallest, rows.min(0), out=self.smallest)
        np.maximum(self.largest, rows.max(0), out=self.largest)
        values, row_numbers = _best_of_pictures(rows, keys[:, 0], len(self.values))
        self.values, self.keys = _best(
            np.concatenate([self.values, values]), np.concatenate([self.keys, keys[row_numbers]]), len(self.values)
        )


def _best_of_pictures(rows: Float32, pictures: NDArray[np.int64], count: int) -> tuple[Float32, NDArray[np.int64]]:
    """Of each unit the ``count`` pictures that excite it most, by the best of their rows: values and numbers of rows,
    (at most count, units)."""
    starts = np.flatnonzero(np.diff(pictures, prepend=pictures[0] - 1))
    most = np.maximum.reduceat(rows, starts, axis=0)
    picture_numbers = np.argsort(-most, axis=0, kind="stable")[:count]
    values = np.take_along_axis(most, picture_numbers, axis=0)
    # Which row of the picture it is: the first that is as large.
    alike = rows == np.repeat(most, np.diff(starts, append=len(rows)), axis=0)
    number = np.where(alike, np.arange(len(rows), dtype=np.int32)[:, None], np.int32(len(rows)))
    first = np.minimum.reduceat(number, starts, axis=0)
    return values, np.take_along_axis(first, picture_numbers, axis=0).astype(np.int64)


def _best(values: Float32, keys: Keys, count: int) -> tuple[Float32, Keys]:
    """The ``count`` largest of each column, largest first, each of another picture."""
    order = np.argsort(-values, axis=0, kind="stable")
    values = np.take_along_axis(values, order, axis=0)
    keys = np.take_along_axis(keys, order[..., None], axis=0)
    for entry in range(1, len(values)):  # a picture may lie in two row groups
        repeated = (keys[:entry, :, 0] == keys[entry, :, 0]).any(0)
        values[entry, repeated] = -np.inf
    order = np.argsort(-values, axis=0, kind="stable")[:count]
    return np.take_along_axis(values, order, axis=0), np.take_along_axis(keys, order[..., None], axis=0)


@dataclass
class _Ranges:
    """Histograms (units, BINS) and, for each unit, the rows nearest to evenly spaced values, (SPREAD, units)."""

    histogram: NDArray[np.int64]
    values: Float32
    keys: Keys
    _low: Float32
    _per_bin: Float32
    _targets: Float32

    @classmethod
    def empty(cls, low: Float32, high: Float32) -> _Ranges:
        units = len(low)
        width = np.where(high > low, high - low, 1)  # of a constant unit all rows are in the first bin
        return cls(
            histogram=np.zeros((units, BINS), np.int64),
            values=np.full((SPREAD, units), np.nan, np.float32),
            keys=np.full((SPREAD, units, 3), -1, np.int64),
            _low=low,
            _per_bin=(BINS / width).astype(np.float32),
            _targets=np.linspace(low, high, SPREAD, dtype=np.float32),
        )

    def add(self, rows: Float32, keys: Keys) -> None:
        units = len(self._low)
        bins = ((rows - self._low) * self._per_bin).astype(np.int32).clip(0, BINS - 1)
        bins += np.arange(units, dtype=np.int32) * BINS
        self.histogram += np.bincount(bins.ravel(), minlength=units * BINS).reshape(units, BINS)
        for entry, target in enumerate(self._targets):
            nearest = np.abs(rows - target).argmin(0)
            values = rows[nearest, np.arange(units)]
            before = np.abs(self.values[entry] - target)
            better = np.isnan(before) | (np.abs(values - target) < before)
            self.values[entry, better] = values[better]
            self.keys[entry, better] = keys[nearest[better]]


def unit_statistics(shards: Sequence[Path], patches: int) -> pa.Table:
    """The table STATISTICS of a layer: a row for each unit. ``patches``: top rows of each, of different pictures."""
    units = read_metadata(shards[0])["channels"]
    extremes = _Extremes.empty(units, patches)
    for rows, keys in _rows(shards):
        extremes.add(rows, keys)
    ranges = _Ranges.empty(extremes.smallest, extremes.largest)
    for rows, keys in _rows(shards):
        ranges.add(rows, keys)
    count = extremes.moments.count
    mean = extremes.moments.total / count
    correlation, deviation = _correlations(extremes.moments)
    columns: dict[str, Any] = {
        "unit": np.arange(units, dtype=np.int32),
        "rows": np.full(units, count, np.int64),
        "mean": mean.astype(np.float32),
        "deviation": deviation.astype(np.float32),
        "smallest": extremes.smallest,
        "largest": extremes.largest,
        "positive": (extremes.positive / count).astype(np.float32),
        "low": extremes.smallest,
        "high": extremes.largest,
        "histogram": list(ranges.histogram),
        "top": [_entries(extremes.values[:, unit], extremes.keys[:, unit]) for unit in range(units)],
        "spread": [_entries(ranges.values[:, unit], ranges.keys[:, unit], once=True) for unit in range(units)],
        "similar": [_similar(unit, correlation[unit]) for unit in range(units)],
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in STATISTICS}, schema=STATISTICS)


def _rows(shards: Sequence[Path]) -> Iterator[tuple[Float32, Keys]]:
    for block in iterate(shards, [*_KEYS, "activation"]):
        if len(block["activation"]):
            keys = np.stack([block[name].astype(np.int64) for name in _KEYS], axis=1)
            yield block["activation"].astype(np.float32), keys


def _correlations(moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The correlations (units, units) of the units, 0 with constant ones, and their deviations."""
    mean = moments.total / moments.count
    covariance = moments.second_moment - np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
    varying = deviation > _CONSTANT * np.sqrt(np.diag(moments.second_moment))
    scale = np.where(varying, 1 / np.maximum(deviation, np.finfo(np.float64).tiny), 0)
    return np.clip(covariance * np.outer(scale, scale), -1, 1), deviation


def _entries(values: Float32, keys: Keys, *, once: bool = False) -> list[dict[str, Any]]:
    """Rows as the table holds them, those with a value; with ``once`` each row a single time."""
    unique_keys: set[tuple[int, ...]] = set()
    rows = []
    for value, key in zip(values.tolist(), keys.tolist()):
        if not np.isfinite(value) or (once and tuple(key) in unique_keys):
            continue
        unique_keys.add(tuple(key))
        rows.append({"image_id": key[0], "view": key[1], "draw": key[2], "activation": value})
    return rows


def _similar(unit: int, correlations: NDArray[np.float64]) -> list[dict[str, Any]]:
    """The units most like one, by their correlation with it over all rows."""
    order = [other for other in np.argsort(-correlations, kind="stable").tolist() if other != unit]
    return [
        {"unit": other, "correlation": float(correlations[other])}
        for other in order[:SIMILAR]
        if correlations[other] > 0
    ]

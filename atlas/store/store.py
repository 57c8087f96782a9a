"""The store of one layer: its rows read in batches, by number, or as a sample, and only the requested columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from atlas.errors import AtlasError, ConfigError, near_names
from atlas.store.shards import ROW_GROUP, SCHEMA_VERSION, to_numpy

ColumnArrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Group:
    """One row group of a shard: its rows are ``start`` … ``start + rows`` of the layer."""

    path: Path
    footer: pq.FileMetaData  # read once, and not with each row group
    number: int
    start: int
    rows: int


class Store:
    """The rows of one layer. Row i is the same place of the same view in every layer of the run.

    ``layer``: its name; ``metadata``: the facts in the files (network, channels, map_size, stride, receptive_field,
    input_size, seed, versions …); ``classes``: names for ``predicted`` and the elements of ``attribution``; ``labels``:
    names for ``label``; ``channels``: elements of ``activation``; ``paths``: the shards.

    Numbers come as NumPy arrays in the file's dtype, ``activation`` (n, channels) and ``attribution`` (n, classes) as
    float16 matrices, ``box`` as (n, 4), strings as fixed-width unicode; never as objects. A ``label`` that is not there
    is −1. Memory holds one row group (8,192 rows) of the requested columns, beside what is returned. Raises
    ConfigError for a column that is not there.
    """

    def __init__(
        self,
        layer: str,
        paths: Sequence[Path],
        counts: Sequence[int],
        metadata: dict[str, Any],
        coordinates: Callable[[int | None], ColumnArrays],
    ) -> None:
        if metadata.get("format") != SCHEMA_VERSION:
            raise AtlasError(
                f"{paths[0].parent} was written by another version of activation-atlas: its rows are of format "
                f"{metadata.get('format')}, and this version reads format {SCHEMA_VERSION}. Open it with the version "
                "that made it, or collect again in another folder."
            )
        self.layer = layer
        self.paths = list(paths)
        self.metadata = metadata
        self.classes: list[str] = metadata["classes"]
        self.labels: list[str] = metadata["labels"]
        self.channels: int = metadata["channels"]
        self.schema: pa.Schema = pq.read_schema(self.paths[0])
        self._coordinates = coordinates
        self._map_columns: ColumnArrays = {}
        self._groups: list[_Group] = []
        for path, expected in zip(self.paths, counts):
            footer = pq.read_metadata(path)
            if footer.num_rows != expected:
                raise AtlasError(
                    f"{path} has {footer.num_rows:,} rows, but its marker says {expected:,}. Delete both and give the "
                    "run's command again."
                )
            for number in range(footer.num_row_groups):
                self._groups.append(_Group(path, footer, number, len(self), footer.row_group(number).num_rows))

    def __len__(self) -> int:
        return self._groups[-1].start + self._groups[-1].rows if self._groups else 0

    def __repr__(self) -> str:
        return f"Store({self.layer!r}, {len(self):,} rows of {', '.join(self.columns)})"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the files, then those of the map where it is joined."""
        return (*self.schema.names, *self._map_columns)

    def join(self, grid: int | None = None) -> Store:
        """The same rows with their coordinates on the map: ``u``, ``v`` (float32, NaN where the row was dropped) and
        ``dropped`` ("", or the reason); with ``grid`` also ``row`` and ``col`` of the cell (int32, −1 where dropped).

        The coordinates of the whole layer stay in memory, some 20 bytes a row. Raises AtlasError when the layout is not
        finished or is not of these rows, ConfigError for a grid that the run does not have.
        """
        store = copy(self)
        store._map_columns = self._coordinates(grid)
        if len(store._map_columns["u"]) != len(self):
            raise AtlasError(
                f"{self.layer}: the layout has {len(store._map_columns['u']):,} rows, the store {len(self):,}. Give "
                "the run's command again."
            )
        return store

    def batches(
        self, columns: Sequence[str] | None = None, *, size: int = ROW_GROUP, start: int = 0, stop: int | None = None
    ) -> Iterator[ColumnArrays]:
        """Rows ``start`` … ``stop`` in order, ``size`` at a time (the last batch may be smaller)."""
        if size < 1:
            raise ConfigError(f"size is {size}, expected at least 1 row a batch.")
        names = self._checked(columns)
        start, stop, _ = slice(start, stop).indices(len(self))
        return _rebatch(self._blocks(names, start, stop), size)

    def take(self, rows: ArrayLike, columns: Sequence[str] | None = None) -> ColumnArrays:
        """The rows of these numbers (n,), in this order: each column (n,) or (n, width). Raises ConfigError for a
        number beyond the store."""
        names = self._checked(columns)
        numbers = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            wrong = numbers[(numbers < 0) | (numbers >= len(self))][0]
            raise ConfigError(f"{self.layer} has no row {wrong}: it has rows 0 to {len(self) - 1:,}.")
        unique, back = np.unique(numbers, return_inverse=True)
        blocks = [] if len(unique) else [self._read(self._groups[0], names, slice(0))]
        for group in self._groups:
            first, last = np.searchsorted(unique, [group.start, group.start + group.rows])
            if first < last:
                blocks.append(self._read(group, names, unique[first:last] - group.start))
        return {name: np.concatenate([block[name] for block in blocks])[back] for name in names}

    def sample(
        self, count: int, *, seed: int = 0, columns: Sequence[str] | None = None, groups: int = 64
    ) -> ColumnArrays:
        """A fair sample of ``count`` rows, each as likely as any other, with their numbers as ``number`` (ascending).

        At most ``groups`` row groups are read: they are drawn first, the larger the likelier, then equally many rows
        in each, so that rows of one picture come together a little more often than by chance. A sample of more than
        an eighth of those rows is drawn from the whole store. The same seed gives the same rows.
        """
        if not 0 <= count <= len(self):
            raise ConfigError(f"A sample of {count} rows was asked for; {self.layer} has {len(self):,}.")
        generator = np.random.default_rng(seed)
        sizes = np.array([group.rows for group in self._groups])
        if len(sizes) <= groups or count * 8 > groups * sizes.mean():
            rows = np.sort(generator.choice(len(self), count, replace=False))
        else:
            group_numbers = generator.choice(len(sizes), groups, p=sizes / sizes.sum())
            shares = np.bincount(
                group_numbers, np.diff(np.linspace(0, count, groups + 1).astype(int)), len(sizes)
            ).astype(int)
            pools = [
                group.start + generator.permutation(group.rows) for group, share in zip(self._groups, shares) if share
            ]
            row_parts = [pool[:share] for pool, share in zip(pools, shares[shares > 0])]
            # Only a row group smaller than its share leaves some over: they come from the other groups that are read.
            over = np.concatenate([pool[share:] for pool, share in zip(pools, shares[shares > 0])])
            missing = count - sum(map(len, row_parts))
            rows = np.sort(np.concatenate([*row_parts, generator.choice(over, missing, replace=False)]))
        return {"number": rows, **self.take(rows, columns)}

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """These columns of the whole layer as one Arrow table, with the map's where it is joined."""
        names = self._checked(columns)
        own = [name for name in names if name not in self._map_columns]
        columns_of = {
            name: pa.chunked_array([pa.array(self._map_columns[name])]) for name in names if name in self._map_columns
        }
        if own:
            table = pa.concat_tables([pq.read_table(path, columns=own) for path in self.paths])
            columns_of |= {name: table[name] for name in own}
        fields = [self.schema.field(name) if name in own else (name, columns_of[name].type) for name in names]
        return pa.table([columns_of[name] for name in names], schema=pa.schema(fields))

    def dataset(self) -> pa.dataset.Dataset:
        """The shards as a PyArrow data set, which filters and reads columns by itself. (Without the map's columns.)"""
        return pa.dataset.dataset(list(map(str, self.paths)), format="parquet", schema=self.schema)

    def _checked(self, columns: Sequence[str] | None) -> list[str]:
        """The names of the requested columns, all by default. Raises ConfigError for one that is not there."""
        names = list(self.columns if columns is None else [columns] if isinstance(columns, str) else columns)
        for name in names:
            if name in self.columns:
                continue
            if name in ("u", "v", "dropped", "row", "col"):
                hint = f"it comes with join({'' if name in ('u', 'v', 'dropped') else 'grid=…'})."
            elif name == "attribution":
                hint = "the run was made with collect.attributions: false."
            else:
                near = near_names(name, self.columns)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(self.columns)}."
            raise ConfigError(f"{self.layer} has no column {name!r}: {hint}")
        return names

    def _blocks(self, names: Sequence[str], start: int, stop: int) -> Iterator[ColumnArrays]:
        """The part of each row group that lies in ``start`` … ``stop``."""
        for group in self._groups:
            first, last = max(start - group.start, 0), min(stop - group.start, group.rows)
            if first < last:
                yield self._read(group, names, slice(first, last))

    def _read(self, group: _Group, names: Sequence[str], rows: slice | NDArray[np.int64]) -> ColumnArrays:
        own = [name for name in names if name not in self._map_columns]
        block: ColumnArrays = {}
        if own:
            with pq.ParquetFile(group.path, metadata=group.footer) as file:
                table = file.read_row_group(group.number, columns=own)
            block = {name: to_numpy(table[name])[rows] for name in own}
        for name in set(names) & set(self._map_columns):
            block[name] = self._map_columns[name][group.start : group.start + group.rows][rows]
        return {name: block[name] for name in names}


def _rebatch(blocks: Iterator[ColumnArrays], size: int) -> Iterator[ColumnArrays]:
    """The rows of ``blocks`` in batches of ``size``, the last one smaller."""
    rest: ColumnArrays | None = None
    for block in blocks:
        if rest is not None:
            block = {name: np.concatenate([rest[name], values]) for name, values in block.items()}
        rows = len(next(iter(block.values()), ()))
        whole = rows - rows % size
        for first in range(0, whole, size):
            yield {name: values[first : first + size] for name, values in block.items()}
        rest = {name: values[whole:] for name, values in block.items()} if whole < rows else None
    if rest is not None:
        yield rest

"""The tables of the stage neurons, read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.arrays import Float32
from atlas.neurons.parts import UNITS_PER_PART, part_names
from atlas.neurons.tables import UNITS, check_columns
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import digest_values, parse_marker

Rows = list[dict[str, Any]]


class UnitTables:
    """The tables of the units of one layer of a run, whose stage neurons is finished. Reading one of another version
    raises AtlasError."""

    def __init__(self, run: RunDirectory, layer: str) -> None:
        self.path = run.neurons(layer)

    def digest(self) -> str:
        """What the markers of the folder vouch for: what is published of these units depends on it."""
        markers = [(path.name, parse_marker(path)) for path in sorted(self.path.glob("*.json"))]
        return digest_values([[name, marker["files"]] for name, marker in markers if marker])

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """A row for each unit: the columns of STATISTICS, then those of UNITS; or only ``columns`` of them."""
        table = pq.read_table(self.path / "statistics.parquet")
        column_names = [name for name in UNITS.names if name != "unit" and (columns is None or name in columns)]
        parts = [_read(self.path / f"{part}.parquet", column_names) for part in part_names(table.num_rows)]
        units = pa.concat_tables(parts)
        for name in column_names:
            table = table.append_column(units.schema.field(name), units[name])
        return table if columns is None else table.select(list(columns))

    def unit(self, unit: int) -> dict[str, Any]:
        """One row of ``table``."""
        statistics: dict[str, Any] = pq.read_table(self.path / "statistics.parquet").slice(unit, 1).to_pylist()[0]
        part, row_in_part = divmod(unit, UNITS_PER_PART)
        row: dict[str, Any] = _read(self.path / f"part-{part:05d}.parquet").slice(row_in_part, 1).to_pylist()[0]
        return {**statistics, **row}

    def statistics(self, units: range | None = None) -> Rows:
        """A row of STATISTICS for each unit, or for each of ``units``, in their order."""
        return _by_unit(pq.read_table(self.path / "statistics.parquet", filters=_among(units)))

    def units(self, units: range, columns: Sequence[str] | None = None) -> Rows:
        """A row of UNITS for each of ``units``, in their order."""
        names = list(columns or UNITS.names)
        return _by_unit(pa.concat_tables([_read(path, names, _among(units)) for path in self._parts()]))

    def effects(self) -> Float32 | None:
        """The mean effect of each unit on each class (units, classes), 0 of units that never fire; None where the run
        has no attributions."""
        parts = [_read(path, ["unit", "effects"]) for path in self._parts()]
        lists = pa.concat_tables(parts).sort_by("unit")["effects"].combine_chunks()
        lengths = lists.value_lengths().to_numpy()
        if not lengths.any():
            return None
        effects = np.zeros((len(lists), lengths.max()), np.float32)
        effects[lengths > 0] = lists.flatten().to_numpy().reshape(-1, lengths.max())
        return effects

    def circuit(self, units: range | None = None) -> pa.Table:
        """The table CIRCUIT of all units, or of ``units``."""
        return _read(self._circuit, filters=_among(units))

    def earlier(self) -> list[str]:
        """The layers from which a path leads to this one, the nearest first."""
        return list(self._metadata("earlier") or [])

    def nonlinearities(self) -> dict[str, list[str]]:
        """What lies between each earlier layer and this one and the weights do without, in words."""
        return dict(self._metadata("nonlinearities") or {})

    def notes(self) -> dict[str, str]:
        """Of earlier layers without weights a sentence why."""
        return dict(self._metadata("notes") or {})

    def cells(self, grid: int, source_layer: str) -> Rows | None:
        """The rows of CELLS of one grid and one earlier layer, in the order of the file; None where there is no such
        file."""
        path = self.path / "cells.parquet"
        filters = [("grid", "=", grid), ("source_layer", "=", source_layer)]
        return _read(path, filters=filters).to_pylist() if path.exists() else None

    @property
    def _circuit(self) -> Path:
        return self.path / "circuit.parquet"

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet"))

    def _metadata(self, name: str) -> Any:
        """A value in the metadata of the circuits' table; None without it."""
        if not self._circuit.exists():
            return None
        raw = (pq.read_schema(self._circuit).metadata or {}).get(name.encode())
        return json.loads(raw) if raw else None


def _read(path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    check_columns(path)
    return pq.read_table(path, columns=columns, filters=filters)


def _among(units: range | None) -> list[tuple[str, str, int]] | None:
    return None if units is None else [("unit", ">=", units.start), ("unit", "<", units.stop)]


def _by_unit(table: pa.Table) -> Rows:
    rows: Rows = table.sort_by("unit").to_pylist()
    return rows

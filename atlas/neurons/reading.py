"""The tables of the stage neurons, read: what is known of the units of one layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.neurons.parts import UNITS_PER_PART, part_names
from atlas.neurons.tables import UNITS, check_columns
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import digest_values, parse_marker

# From this invariance on a unit counts as pose-invariant.
INVARIANT = 0.8


def short(value: float | None) -> float | None:
    """A figure of four digits, as the site writes it."""
    return None if value is None else float(f"{value:.4g}")


class Folder:
    """The folder of one layer of the stage neurons."""

    def __init__(self, run: RunDirectory, layer: str) -> None:
        self.path = run.neurons(layer)

    def digest(self) -> str:
        """What the markers of the folder vouch for: what is published of these units depends on it."""
        markers = [(path.name, parse_marker(path)) for path in sorted(self.path.glob("*.json"))]
        return digest_values([[name, marker["files"]] for name, marker in markers if marker])

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """A row for each unit: the columns of STATISTICS, then those of UNITS; or only ``columns`` of them."""
        joined = pq.read_table(self.path / "statistics.parquet")
        wanted = [name for name in UNITS.names if name != "unit" and (columns is None or name in columns)]
        parts = [_read(self.path / f"{part}.parquet", wanted) for part in part_names(joined.num_rows)]
        made = pa.concat_tables(parts)
        for name in wanted:
            joined = joined.append_column(made.schema.field(name), made[name])
        return joined if columns is None else joined.select(list(columns))

    def unit(self, unit: int) -> dict[str, Any]:
        """One row of ``table``."""
        row: dict[str, Any] = pq.read_table(self.path / "statistics.parquet").slice(unit, 1).to_pylist()[0]
        part, place = divmod(unit, UNITS_PER_PART)
        made: dict[str, Any] = _read(self.path / f"part-{part:05d}.parquet").slice(place, 1).to_pylist()[0]
        return {**row, **made}

    def statistics(self, units: range | None = None) -> list[dict[str, Any]]:
        """A row of STATISTICS for each unit, or for each of ``units``, in their order."""
        return _rows(pq.read_table(self.path / "statistics.parquet", filters=_among(units)))

    def units(self, units: range, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """A row of UNITS for each of ``units``, in their order."""
        names = list(columns or UNITS.names)
        parts = [_read(part, names, _among(units)) for part in sorted(self.path.glob("part-*.parquet"))]
        return _rows(pa.concat_tables(parts))

    def effects(self) -> NDArray[np.float32] | None:
        """The mean effect of each unit on each class (units, classes), 0 of units that never fire; None where the run
        has no attributions."""
        parts = [pq.read_table(part, columns=["unit", "effects"]) for part in sorted(self.path.glob("part-*.parquet"))]
        lists = pa.concat_tables(parts).sort_by("unit")["effects"].combine_chunks()
        lengths = lists.value_lengths().to_numpy()
        if not lengths.any():
            return None
        found = np.zeros((len(lists), lengths.max()), np.float32)
        found[lengths > 0] = lists.flatten().to_numpy().reshape(-1, lengths.max())
        return found

    def circuit(self) -> tuple[pa.Table, dict[str, Any]]:
        """The table CIRCUIT of the layer, and its facts: ``earlier`` (layers, the nearest first), ``nonlinearities``
        (what lies between, by layer) and ``notes`` (why there are no weights, by layer)."""
        return _read(self._circuit), {name: self._noted(name) for name in ("earlier", "nonlinearities", "notes")}

    def earlier(self) -> list[str]:
        """The layers from which a path leads to this one, in the order of the network: the nearest is the last."""
        noted = self._noted("earlier")
        return list(noted[::-1]) if noted else []

    def circuits(self, units: range) -> dict[int, list[dict[str, Any]]]:
        """What builds each of these units: for each earlier layer, the nearest first, its sources, the largest effect
        first."""
        found: dict[int, list[dict[str, Any]]] = {unit: [] for unit in units}
        layers = self.earlier()[::-1]
        if not layers:
            return found
        rows = _read(self._circuit, filters=_among(units)).to_pylist()
        nonlinearities, notes = self._noted("nonlinearities") or {}, self._noted("notes") or {}
        of: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for row in rows:
            of.setdefault((row["unit"], row["source_layer"]), []).append(row)
        for unit in units:
            for layer in layers:
                sources = sorted(of.get((unit, layer), []), key=lambda row: -abs(row["effect"]))
                first = sources[0] if sources else {"agreement": None, "height": 0, "width": 0}
                found[unit].append(
                    {
                        "layer": layer,
                        "agreement": short(first["agreement"]),
                        "passed": nonlinearities.get(layer, []),
                        "told": notes.get(layer),
                        "kernel": [first["height"], first["width"]],
                        "sources": [_source(row) for row in sources],
                    }
                )
        return found

    def built(self, grid: int) -> dict[str, Any] | None:
        """Which cells of the nearest earlier layer's map build the cells of this grid; None where there is no such
        layer."""
        path = self.path / "cells.parquet"
        nearest = self.earlier()[-1:]
        if not nearest or not path.exists():
            return None
        filters = [("grid", "=", grid), ("source_layer", "=", nearest[0])]
        cells: dict[str, list[list[Any]]] = {}
        for row in _read(path, filters=filters).to_pylist():
            place = [row[name] for name in ("source_grid", "source_row", "source_col")]
            figures = [short(row["weight"]), short(row["overlap"])]
            cells.setdefault(f"{row['row']}.{row['col']}", []).append([*place, *figures])
        return {"from": nearest[0], "grid": grid, "cells": cells}

    def figures(self) -> dict[str, Any]:
        """What report.json tells of the layer's units: how many there are and fire, the share of those that fire whose
        mean over all turns is at least four fifths of their peak, the medians of invariance and selectivity, and of how
        well weights and effects agree for each earlier layer."""
        columns = ["largest", "invariance", "selectivity"]
        table = self.table(columns)
        largest = table["largest"].to_numpy()
        invariance, selectivity = (table[name].drop_null().to_numpy() for name in columns[1:])
        circuit, facts = self.circuit()
        agreement: dict[str, float | None] = {}
        for source in facts["earlier"]:
            mine = circuit.filter(pc.equal(circuit["source_layer"], source))
            # Every row of a unit has the same.
            known = dict(zip(mine["unit"].to_pylist(), mine["agreement"].to_pylist()))
            agreement[source] = _median(np.array([value for value in known.values() if value is not None]))
        return {
            "units": table.num_rows,
            "firing": int((largest > 0).sum()),
            "invariant_share": float((invariance >= INVARIANT).mean()) if len(invariance) else None,
            "median_invariance": _median(invariance),
            "median_selectivity": _median(selectivity),
            "circuit_agreement": agreement,
        }

    @property
    def _circuit(self) -> Path:
        return self.path / "circuit.parquet"

    def _noted(self, name: str) -> Any:
        """What the circuits' table notes under a name; None without it."""
        if not self._circuit.exists():
            return None
        raw = (pq.read_schema(self._circuit).metadata or {}).get(name.encode())
        return json.loads(raw) if raw else None


def _read(path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    check_columns(path)
    return pq.read_table(path, columns=columns, filters=filters)


def _median(values: NDArray[Any]) -> float | None:
    return float(np.median(values)) if len(values) else None


def _source(row: dict[str, Any]) -> dict[str, Any]:
    columns = {"strength": "weight", "let_through": "linear_weight"}
    names = ("strength", "let_through", "effect", "present", "reliability")
    figures = {name: short(row[columns.get(name, name)]) for name in names}
    return {"unit": row["source"], **figures, "kernel": _steps(row["kernel"])}


def _steps(kernel: list[float]) -> list[int]:
    """A kernel in whole steps, 127 for its largest value whatever the sign: what a picture of it shows."""
    largest = max(map(abs, kernel), default=0)
    return [round(127 * value / largest) if largest else 0 for value in kernel]


def _among(units: range | None) -> list[tuple[str, str, int]] | None:
    return None if units is None else [("unit", ">=", units.start), ("unit", "<", units.stop)]


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.sort_by("unit").to_pylist()
    return rows

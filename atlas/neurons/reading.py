"""The tables of the stage neurons, read: what is known of the units of one layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.neurons.tables import UNITS
from atlas.rundir import RunDirectory, digest_values, parse_marker


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

    def statistics(self, units: range | None = None) -> list[dict[str, Any]]:
        """A row of STATISTICS for each unit, or for each of ``units``, in their order."""
        return _rows(pq.read_table(self.path / "statistics.parquet", filters=_among(units)))

    def units(self, units: range, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """A row of UNITS for each of ``units``, in their order."""
        names = list(columns or UNITS.names)
        parts = [
            pq.read_table(part, columns=names, filters=_among(units))
            for part in sorted(self.path.glob("part-*.parquet"))
        ]
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
        rows = pq.read_table(self._circuit, filters=_among(units)).to_pylist()
        passed, told = self._noted("passed") or {}, self._noted("told") or {}
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
                        "passed": passed.get(layer, []),
                        "told": told.get(layer),
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
        for row in pq.read_table(path, filters=filters).to_pylist():
            place = [row[name] for name in ("source_grid", "source_row", "source_col")]
            figures = [short(row["strength"]), short(row["together"])]
            cells.setdefault(f"{row['row']}.{row['col']}", []).append([*place, *figures])
        return {"from": nearest[0], "grid": grid, "cells": cells}

    @property
    def _circuit(self) -> Path:
        return self.path / "circuit.parquet"

    def _noted(self, name: str) -> Any:
        """What the circuits' table notes under a name; None without it."""
        if not self._circuit.exists():
            return None
        raw = (pq.read_schema(self._circuit).metadata or {}).get(name.encode())
        return json.loads(raw) if raw else None


def _source(row: dict[str, Any]) -> dict[str, Any]:
    names = ("strength", "let_through", "effect", "present", "reliability")
    figures = {name: short(row[name]) for name in names}
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

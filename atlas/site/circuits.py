"""What builds the units and the cells of a layer, as the site's JSON has it."""

from __future__ import annotations

from typing import Any

from atlas.neurons.reading import UnitTables


def four_digits(value: float | None) -> float | None:
    """A figure of four digits, as the site writes it."""
    return None if value is None else float(f"{value:.4g}")


def unit_circuit_facts(tables: UnitTables, units: range) -> dict[int, list[dict[str, Any]]]:
    """What builds each of these units: for each earlier layer, the nearest first, its sources, the largest effect
    first."""
    circuits: dict[int, list[dict[str, Any]]] = {unit: [] for unit in units}
    layers = tables.earlier()
    if not layers:
        return circuits
    nonlinearities, notes = tables.nonlinearities(), tables.notes()
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in tables.circuit(units).to_pylist():
        rows.setdefault((row["unit"], row["source_layer"]), []).append(row)
    for unit in units:
        for layer in layers:
            sources = sorted(rows.get((unit, layer), []), key=lambda row: -abs(row["effect"]))
            first = sources[0] if sources else {"agreement": None, "height": 0, "width": 0}
            circuits[unit].append(
                {
                    "layer": layer,
                    "agreement": four_digits(first["agreement"]),
                    "nonlinearities": nonlinearities.get(layer, []),
                    "note": notes.get(layer),
                    "kernel": [first["height"], first["width"]],
                    "sources": [_source(row) for row in sources],
                }
            )
    return circuits


def cell_circuit_facts(tables: UnitTables, grid: int) -> dict[str, Any] | None:
    """Which cells of the nearest earlier layer's map build the cells of this grid: by "row.col" lists of [grid, row,
    col, weight, overlap]; None where there is no such layer."""
    nearest = tables.earlier()[:1]
    rows = tables.cells(grid, nearest[0]) if nearest else None
    if rows is None:
        return None
    cells: dict[str, list[list[Any]]] = {}
    for row in rows:
        cell = [row[name] for name in ("source_grid", "source_row", "source_col")]
        figures = [four_digits(row["weight"]), four_digits(row["overlap"])]
        cells.setdefault(f"{row['row']}.{row['col']}", []).append([*cell, *figures])
    return {"source_map": nearest[0], "grid": grid, "cells": cells}


def _source(row: dict[str, Any]) -> dict[str, Any]:
    figures = {name: four_digits(row[name]) for name in ("weight", "linear_weight", "effect", "reliability")}
    figures["effect_above_zero"] = four_digits(row["present"])
    return {"unit": row["source"], **figures, "kernel": _whole_steps(row["kernel"])}


def _whole_steps(kernel: list[float]) -> list[int]:
    """A kernel in whole steps, 127 for its largest value whatever the sign: what a picture of it shows."""
    largest = max(map(abs, kernel), default=0)
    return [round(127 * value / largest) if largest else 0 for value in kernel]

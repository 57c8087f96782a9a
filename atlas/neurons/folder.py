"""What the stage neurons made of a layer, read again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.config import Config
from atlas.neurons.tables import UNITS
from atlas.rundir import RunDirectory, read_marker

# Units that are made together.
UNITS_PER_PART = 16
# From this invariance on a unit counts as pose-invariant.
INVARIANT = 0.8


def part_names(units: int) -> list[str]:
    """The parts that a layer of so many units is made in."""
    return [f"part-{part:05d}" for part in range(-(-units // UNITS_PER_PART))]


def units_of(part: str, units: int) -> list[int]:
    """The units of one part of a layer that has ``units``."""
    first = int(part.removeprefix("part-")) * UNITS_PER_PART
    return list(range(first, min(first + UNITS_PER_PART, units)))


def missing_files(run: RunDirectory, layer: str) -> list[str]:
    """The names of what the stage has not finished of a layer, of the files that the run's present key asks for."""
    key = run.stage_key("neurons")

    def lacking(names: Iterable[str]) -> list[str]:
        return [name for name in names if read_marker(run.neurons(layer) / f"{name}.json", key) is None]

    first = lacking(["statistics"])
    if first:
        return first
    units = pq.read_metadata(run.neurons(layer) / "statistics.parquet").num_rows
    return lacking([*part_names(units), "circuit", "cells"])


def is_whole(run: RunDirectory, config: Config) -> bool:
    """Whether all layers that are asked for have been looked at."""
    if config.neurons is None or "neurons" not in run.read_manifest().get("stages", {}):
        return False
    return not any(missing_files(run, layer) for layer in config.neurons.layers)


def read_units(run: RunDirectory, layer: str, columns: list[str] | None = None) -> pa.Table:
    """A row for each unit: the columns of STATISTICS, then those of UNITS; or only ``columns`` of them."""
    folder = run.neurons(layer)
    joined = pq.read_table(folder / "statistics.parquet")
    wanted = [name for name in UNITS.names if name != "unit" and (columns is None or name in columns)]
    parts = [pq.read_table(folder / f"{part}.parquet", columns=wanted) for part in part_names(joined.num_rows)]
    made = pa.concat_tables(parts)
    for name in wanted:
        joined = joined.append_column(made.schema.field(name), made[name])
    return joined if columns is None else joined.select(columns)


def read_unit(run: RunDirectory, layer: str, unit: int) -> dict[str, Any]:
    """One row of ``read_units``."""
    folder = run.neurons(layer)
    row: dict[str, Any] = pq.read_table(folder / "statistics.parquet").slice(unit, 1).to_pylist()[0]
    part, place = divmod(unit, UNITS_PER_PART)
    made: dict[str, Any] = pq.read_table(folder / f"part-{part:05d}.parquet").slice(place, 1).to_pylist()[0]
    return {**row, **made}


def read_circuit(run: RunDirectory, layer: str) -> tuple[pa.Table, dict[str, Any]]:
    """The table CIRCUIT of a layer, and its facts: ``earlier`` (layers, the nearest first), ``passed`` (what was
    passed over, by layer) and ``told`` (why there are no weights, by layer)."""
    table = pq.read_table(run.neurons(layer) / "circuit.parquet")
    metadata = table.schema.metadata or {}
    return table, {name: json.loads(metadata[name.encode()]) for name in ("earlier", "passed", "told")}


def layer_figures(run: RunDirectory, layer: str) -> dict[str, Any]:
    """What report.json tells of a layer's units: how many there are and fire, the share of those that fire whose mean
    over all turns is at least four fifths of their peak, the medians of invariance and selectivity, and of how well
    weights and effects agree for each earlier layer."""
    columns = ["largest", "invariance", "selectivity"]
    table = read_units(run, layer, columns)
    largest = table["largest"].to_numpy()
    invariance, selectivity = (table[name].drop_null().to_numpy() for name in columns[1:])
    circuit, facts = read_circuit(run, layer)
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


def _median(values: np.ndarray[Any, Any]) -> float | None:
    return float(np.median(values)) if len(values) else None

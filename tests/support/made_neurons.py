"""Made tables of the stage neurons, by its schemas, for a run that is there: their figures are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.neurons.parts import part_names, units_of_part
from atlas.neurons.tables import BINS, CELLS, CIRCUIT, DEGREES, SCALES, SPREAD, STATISTICS, UNITS
from atlas.pictures.decode import encode_png
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker
from atlas.store.shards import read_columns, read_metadata

KEY = "made"
PICTURES = 2
INHIBITED = 3  # of five sources of a unit, the one that speaks against it
ABSENT = 4  # and the one that builds it when it is below 0
NEVER = 1  # the unit that never fires


def shade(unit: int, number: int = 0) -> tuple[int, int, int]:
    """The colour of a unit's picture."""
    return 10 * unit + 20, 230 - 10 * unit, 60 * (number % 4)


def picture(colour: tuple[int, int, int], side: int = 48) -> bytes:
    return encode_png(np.full((side, side, 3), colour, np.uint8))


def rows_of(run: RunDirectory, layer: str) -> list[dict[str, int]]:
    """The first row of each picture, in order."""
    rows: dict[int, dict[str, int]] = {}
    for shard in run.shards(layer):
        columns = read_columns(shard, ["image_id", "view", "draw"])
        for image, view, draw in zip(*(columns[name].tolist() for name in ("image_id", "view", "draw"))):
            rows.setdefault(image, {"image_id": image, "view": view, "draw": draw})
    return [rows[image] for image in sorted(rows)]


def statistics(run: RunDirectory, layer: str, patches: int) -> list[dict[str, Any]]:
    rows = rows_of(run, layer)
    units = []
    for unit in range(read_metadata(run.shards(layer)[0])["channels"]):
        largest = 0.0 if unit == NEVER else 4.0 + unit
        top = [
            {**rows[(unit + place) % len(rows)], "activation": largest - 0.1 * place}
            for place in range(0 if unit == NEVER else patches)
        ]
        spread = [
            {**rows[(unit + 3 * place) % len(rows)], "activation": largest * place / (SPREAD - 1)}
            for place in range(SPREAD)
        ]
        units.append(
            {
                "unit": unit, "rows": 100, "mean": 0.25, "deviation": 0.5, "smallest": 0.0, "largest": largest,
                "positive": 0.0 if unit == NEVER else 0.5, "low": 0.0, "high": largest, "histogram": list(range(BINS)),
                "top": top, "spread": spread,
                "similar": [{"unit": (unit + 1) % 8, "correlation": 0.75}],
            }
        )  # fmt: skip
    return units


def turning(unit: int) -> list[float]:
    """What a unit answers at each angle: unit 4 alike to all, the others the less so the higher their number."""
    wave = np.cos(np.deg2rad(DEGREES))
    return (3 + 0.25 * abs(unit - 4) * wave).tolist()


def class_effects(unit: int) -> list[float]:
    """The effects of a unit on four classes; on the last no unit has any."""
    return [0.1 * (unit - 5 * number) for number in range(3)] + [0.0]


def unit_row(unit: int, patches: int) -> dict[str, Any]:
    """``picture_activations``: unit 6's own picture excites it most beside its largest activation."""
    fires = unit != NEVER
    rotated = turning(unit)
    return {
        "unit": unit,
        "pictures": [picture(shade(unit, number)) for number in range(PICTURES)],
        "size": 48,
        "picture_activations": [(3.0 if unit == 6 else 1.2) * (4.0 + unit)] * PICTURES,
        "supports": [{"class": (unit + place) % 7, "effect": 1.0 - 0.1 * place} for place in range(7)],
        "opposes": [{"class": 6, "effect": -0.5}],
        "effects": class_effects(unit) if fires else [],
        "rotated": [rotated] * patches if fires else [],
        "mirrored": [[-1.0] * len(DEGREES)] * patches if fires else [],
        "scaled": [[2.0] * len(SCALES)] * patches if fires else [],
        "selectivity": 0.125 if fires else None,
        "invariance": 3 / max(rotated) if fires else None,
        "preferred": 0.0 if fires else None,
        "note": None if fires else "The unit never fires in this data.",
        "rotated_pictures": [picture((angle // 2, 0, 0)) for angle in DEGREES] if fires else [],
        "mirrored_pictures": [picture((0, angle // 2, 0)) for angle in DEGREES] if fires else [],
        "scaled_pictures": [picture((0, 0, round(50 * scale))) for scale in SCALES] if fires else [],
    }


def circuit_rows(unit: int, source_layer: str) -> list[dict[str, Any]]:
    """Five sources each; those of unit 5 do most, and weights and data agree on them."""
    largest = 3.0 if unit == 5 else 1.0
    effects = {0: 1.0, 1: 0.8, 2: 0.6, INHIBITED: -0.9, ABSENT: 0.95}
    return [
        {
            "unit": unit, "source_layer": source_layer, "source": source, "weight": 0.5, "linear_weight": 0.75,
            "effect": largest * effect, "present": largest * effect * (0.25 if source == ABSENT else 0.75),
            "reliability": 0.9,
            "kernel": [0.0, 0.5, 0.0, -0.25, 1.0, 0.25], "height": 2, "width": 3, "agreement": 0.8,
        }
        for source, effect in effects.items()
    ]  # fmt: skip


def write_neurons(run: RunDirectory, layers: list[str], *, patches: int = 3) -> None:
    """Tables of ``layers``, each built by those before it, and their markers."""
    for number, layer in enumerate(layers):
        folder = run.neurons(layer)
        folder.mkdir(parents=True, exist_ok=True)
        units = read_metadata(run.shards(layer)[0])["channels"]
        write(folder, "statistics", STATISTICS, statistics(run, layer, patches))
        for part in part_names(units):
            write(folder, part, UNITS, [unit_row(unit, patches) for unit in units_of_part(part, units)])
        earlier = layers[:number][::-1]  # the nearest first
        facts = {"earlier": earlier, "nonlinearities": {source: ["1 ReLU"] for source in earlier}, "notes": {}}
        metadata = {key: json.dumps(value) for key, value in facts.items()}
        rows = [row for unit in range(units) for source in earlier for row in circuit_rows(unit, source)]
        write(folder, "circuit", CIRCUIT.with_metadata(metadata), rows)
        write(folder, "cells", CELLS, [row for source in earlier for row in cell_rows(run, layer, source)])


def cell_rows(run: RunDirectory, layer: str, earlier: str) -> list[dict[str, Any]]:
    cells = pq.read_table(run.cells(layer), columns=["grid", "row", "col"]).to_pylist()
    return [
        {
            **cell, "source_layer": earlier, "source_grid": cell["grid"], "source_row": cell["col"],
            "source_col": cell["row"], "weight": sign, "overlap": 0.25,
        }
        for cell in cells
        for sign in (1.0, -0.5)
    ]  # fmt: skip


def write(folder: Path, name: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    path = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    write_marker(path.with_suffix(".json"), key=KEY, files=[path])

"""report.json: how good each stage's work is, measured by the run itself."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.cells.icons import read_icons
from atlas.config.model import Config
from atlas.config.sections import NeuronsConfig
from atlas.neurons.parts import is_finished
from atlas.neurons.reading import UnitTables
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap
from atlas.rundir.markers import parse_marker
from atlas.slices.tables import error_facts
from atlas.store.shards import to_numpy
from atlas.words.table import level_of

# From this invariance on a unit counts as pose-invariant.
INVARIANT = 0.8


def build_report(
    run: RunDirectory,
    maps: Sequence[AtlasMap],
    *,
    min_count: int,
    neurons: NeuronsConfig | None,
    quick: Collection[tuple[str, int]] = (),
) -> dict[str, Any]:
    """The report of ``maps`` whose icons are drawn, and of the units where ``neurons`` asks for them and they are
    measured; of a map that is not measured yet, ``layout`` is None. ``quick``: the grids, by their map's name, of whose
    quick icons it is. Shares are in [0, 1]; what the figures mean stands in atlas/docs/reference/report.md."""
    failures = json.loads(run.failures.with_suffix(".json").read_text(encoding="utf-8"))
    collected = run.read_manifest().get("stages", {}).get("collect", {})
    layers: dict[str, Any] = {}
    accuracy: dict[str, Any] = {}
    for atlas_map in maps:
        layers[atlas_map.name] = {
            "layout": layout_facts(run, atlas_map),
            "cells": {str(grid): _cells(run, atlas_map.name, grid, min_count) for grid in atlas_map.grids},
            "words": {str(grid): _words(run, atlas_map.name, grid) for grid in atlas_map.grids},
            "icons": {
                str(grid): _icons(run, atlas_map.name, grid, quick=(atlas_map.name, grid) in quick)
                for grid in atlas_map.grids
            },
        }
        if not atlas_map.classes and (errors := error_facts(run, atlas_map.layer)) is not None:
            layers[atlas_map.name]["errors"] = {name: errors[name] for name in ("grids", "slices")}
            accuracy[Config.module_of(atlas_map.layer)[0]] = errors["run"]
    if neurons is not None and is_finished(run, neurons):
        for layer in (name for name in neurons.layers if name in layers):
            layers[layer]["neurons"] = _units(UnitTables(run, layer))
    return {
        "collect": {
            "views": failures["views"],
            "failures": failures["failures"],
            "views_per_second": collected.get("views_per_second"),
        },
        **({"accuracy": accuracy} if accuracy else {}),
        "layers": layers,
    }


def layout_facts(run: RunDirectory, atlas_map: AtlasMap) -> dict[str, Any] | None:
    """What was measured of a map's layout; None where that is still to come."""
    marker = run.folder("layout") / f"{'class' if atlas_map.classes else 'quality'}-{atlas_map.name}.json"
    facts: dict[str, Any] | None = (parse_marker(marker) or {}).get("facts")
    return facts


def _cells(run: RunDirectory, map_name: str, grid: int, min_count: int) -> dict[str, Any]:
    table = pq.read_table(run.cells(map_name), columns=["count", "mean_cosine"], filters=[("grid", "=", grid)])
    count, cosines = to_numpy(table["count"]), to_numpy(table["mean_cosine"])
    mask = count >= min_count
    return {
        "n": len(count),
        "drawn_share": float(mask.mean()) if len(count) else 0.0,
        "mean_cosine": float(np.median(cosines[mask])) if mask.any() else None,
    }


def _words(run: RunDirectory, map_name: str, grid: int) -> dict[str, Any] | None:
    """How far the words of a level hold, and how many cells have any; None where they are still to come."""
    path = run.words(map_name, grid)
    if parse_marker(path.with_suffix(".json")) is None:
        return None
    table = pq.read_table(path, columns=["classes"])
    counts = to_numpy(pc.list_value_length(table["classes"]))
    return {"cells": int((counts > 0).sum()), "classes": int(counts.sum()), **asdict(level_of(table))}


def _icons(run: RunDirectory, map_name: str, grid: int, *, quick: bool) -> dict[str, Any]:
    columns = ["cosine", "cosine_whitened", "cosine_robust", "rank", "flag"]
    table = read_icons(run, map_name, grid, ["row", "col", *columns], quick=quick)
    if not table.num_rows:
        names = ("median_cosine", "median_cosine_whitened", "median_cosine_robust", "rank1_share", "near_rank_share")
        return {"n": 0, **dict.fromkeys((*names, "flagged_share", "median_patch_cosine", "above_patch_share"))}
    medians = {f"median_{name}": float(np.median(to_numpy(table[name]))) for name in columns[:3]}
    rank = to_numpy(table["rank"])
    patches = _best_patches(run, map_name, grid)
    best = np.array([patches[cell] for cell in zip(table["row"].to_pylist(), table["col"].to_pylist())])
    return {
        "n": table.num_rows,
        **medians,
        "rank1_share": float((rank == 1).mean()),
        "near_rank_share": float((rank <= max(3, table.num_rows / 100)).mean()),
        "flagged_share": 1 - table["flag"].null_count / table.num_rows,
        "median_patch_cosine": float(np.median(best)),
        "above_patch_share": float((to_numpy(table["cosine"]) > best).mean()),
    }


def _best_patches(run: RunDirectory, map_name: str, grid: int) -> dict[tuple[int, int], float]:
    """For each cell (row, col) of a grid the cosine of its best exemplar to its mean: what real pictures reach."""
    cells = pq.read_table(run.cells(map_name), columns=["row", "col", "exemplars"], filters=[("grid", "=", grid)])
    return {
        (cell["row"], cell["col"]): max(exemplar["cosine"] for exemplar in cell["exemplars"])
        for cell in cells.to_pylist()
    }


def _units(tables: UnitTables) -> dict[str, Any]:
    """Of a layer's units: how many there are and fire, the share of invariant ones among those that have the figure,
    the medians of invariance and selectivity, and of how well weights and effects agree for each earlier layer."""
    columns = ["largest", "invariance", "selectivity"]
    table = tables.table(columns)
    largest = table["largest"].to_numpy()
    invariance, selectivity = (table[name].drop_null().to_numpy() for name in columns[1:])
    circuit = tables.circuit()
    agreement: dict[str, float | None] = {}
    for source in tables.earlier():
        rows = circuit.filter(pc.equal(circuit["source_layer"], source))
        # Every row of a unit has the same.
        by_unit = dict(zip(rows["unit"].to_pylist(), rows["agreement"].to_pylist()))
        agreement[source] = _median(np.array([value for value in by_unit.values() if value is not None]))
    return {
        "units": table.num_rows,
        "firing": int((largest > 0).sum()),
        "invariant_share": float((invariance >= INVARIANT).mean()) if len(invariance) else None,
        "median_invariance": _median(invariance),
        "median_selectivity": _median(selectivity),
        "circuit_agreement": agreement,
    }


def _median(values: NDArray[Any]) -> float | None:
    return float(np.median(values)) if len(values) else None

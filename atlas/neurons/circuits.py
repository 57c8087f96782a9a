"""The tables CIRCUIT and CELLS: what builds the units and the cells of a layer, by ``atlas.circuits``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.circuits.average_slopes import measure_slopes
from atlas.circuits.cell_circuit import cell_circuits, cell_overlap
from atlas.circuits.circuit import Wiring, circuit_of, effects, predicted_effects
from atlas.circuits.linear_path import LinearPath
from atlas.config.sections import CellsConfig
from atlas.errors import ConfigError
from atlas.layout.lattice import cell_of, drawn_filters
from atlas.networks.hooks import hooked
from atlas.networks.network import Network
from atlas.neurons.tables import CELLS, CIRCUIT
from atlas.neurons.units import firing_rows
from atlas.neurons.views import PositionView, as_inputs
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import RowKey, read_columns

# Units whose top views are in memory at a time, and views over which slopes are averaged.
_UNITS_AT_ONCE, _SLOPE_VIEWS = 16, 192
# Pairs of cells of two maps that are compared at the most: 7,000 cells on each, a gigabyte.
_MAX_PAIRS = 50_000_000

ReadViews = Callable[[Sequence[RowKey]], dict[RowKey, PositionView]]
"""Rows of the store → their views, without those that cannot be read any more."""


@dataclass(frozen=True)
class Source:
    """An earlier layer: its ``name`` in the run and its ``module`` in the network."""

    name: str
    module: str


def earlier_layers(network: Network, target: str, others: Sequence[Source]) -> list[Source]:
    """Those of ``others`` whose output is there before that of ``target`` in a forward pass, the nearest first."""
    order: list[str] = []
    with ExitStack() as stack, torch.no_grad():
        for module in dict.fromkeys([target, *(other.module for other in others)]):

            def append(_output: object, module: str = module) -> None:
                order.append(module)

            stack.enter_context(hooked(network.submodule(module), append))
        network.module(torch.zeros(1, 3, network.size, network.size, device=network.device))
    before = order[: order.index(target)]
    return sorted((other for other in others if other.module in before), key=lambda other: -before.index(other.module))


def circuit_table(
    network: Network, target: str, sources: Sequence[Source], statistics: pa.Table, read: ReadViews, count: int
) -> tuple[pa.Table, dict[str, str]]:
    """The table CIRCUIT of all units of layer ``target``: from each of ``sources``, nearest first, the ``count``
    strongest units; and for each source without weights the sentence why. The table's metadata hold, as JSON,
    ``earlier`` (the sources), ``nonlinearities`` (what lies between, by source) and ``notes`` (those sentences)."""
    inputs_of_slopes = _slope_inputs(network, statistics, read)
    nonlinearities: dict[str, list[str]] = {}
    notes: dict[str, str] = {}
    wirings: dict[str, Wiring] = {}
    for source in sources:
        try:
            wiring = Wiring(network, source.module, target, inputs_of_slopes)
        except ConfigError as error:
            notes[source.name] = str(error)
            continue
        wirings[source.name] = wiring
        nonlinearities[source.name] = list(wiring.nonlinearities)
        if wiring.note:
            notes[source.name] = wiring.note
    rows: list[dict[str, object]] = []
    linked = [source for source in sources if source.name in wirings]
    for units, inputs, positions, unit_of_view in _in_parts(network, statistics, read) if linked else ():
        effects_by_source = effects(
            network, [source.module for source in linked], target, inputs, unit_of_view, positions
        )
        for unit in units:
            of_unit = unit_of_view == unit
            for source in linked:
                wiring = wirings[source.name]
                kernels = None if wiring.note else predicted_effects(wiring, unit, inputs[of_unit], positions[of_unit])
                circuit = circuit_of(
                    wiring, unit, effects_by_source[source.module].of(of_unit), count, kernel_effects=kernels
                )
                for entry in range(len(circuit.source)):
                    kernel = circuit.kernels[entry]
                    rows.append(
                        {
                            "unit": unit,
                            "source_layer": source.name,
                            "source": int(circuit.source[entry]),
                            "weight": float(circuit.weight[entry]),
                            "linear_weight": float(circuit.linear_weight[entry]),
                            "effect": float(circuit.effect[entry]),
                            "present": float(circuit.present[entry]),
                            "reliability": float(circuit.reliability[entry]),
                            "kernel": kernel.ravel(),
                            "height": kernel.shape[0],
                            "width": kernel.shape[1],
                            "agreement": circuit.agreement,
                        }
                    )
    facts = {"earlier": [source.name for source in sources], "nonlinearities": nonlinearities, "notes": notes}
    schema = CIRCUIT.with_metadata({key: json.dumps(value) for key, value in facts.items()})
    return pa.Table.from_pylist(rows, schema=schema), notes


def _slope_inputs(network: Network, statistics: pa.Table, read: ReadViews) -> Tensor:
    """Top views of all units, the best of each, as many as are enough for average slopes."""
    units = range(statistics.num_rows)
    views_of_each = max(1, _SLOPE_VIEWS // max(1, len(units)))
    step = max(1, -(-len(units) // _SLOPE_VIEWS))
    keys = [key for unit in units[::step] for key in firing_rows(statistics, [unit])[:views_of_each]]
    views = read(keys)
    return as_inputs([views[key] for key in dict.fromkeys(keys) if key in views], network)[0]


def _in_parts(
    network: Network, statistics: pa.Table, read: ReadViews
) -> Iterator[tuple[list[int], Tensor, NDArray[np.int64], NDArray[np.int64]]]:
    """Some units at a time: their numbers, and of all their top views the inputs, positions and units."""
    for first in range(0, statistics.num_rows, _UNITS_AT_ONCE):
        units = list(range(first, min(first + _UNITS_AT_ONCE, statistics.num_rows)))
        keys_of_units = {unit: firing_rows(statistics, [unit]) for unit in units}
        views = read([key for keys in keys_of_units.values() for key in keys])
        pairs = [(unit, views[key]) for unit, keys in keys_of_units.items() for key in keys if key in views]
        if pairs:
            inputs, positions = as_inputs([view for _, view in pairs], network)
            unit_of_view = np.array([unit for unit, _ in pairs], np.int64)
            yield sorted(set(unit_of_view.tolist())), inputs, positions.numpy(), unit_of_view


def cells_table(
    network: Network,
    run: RunDirectory,
    cells: CellsConfig,
    target: Source,
    sources: Sequence[Source],
    statistics: pa.Table,
    read: ReadViews,
) -> pa.Table:
    """The table CELLS of the drawn cells of layer ``target``, by the cells of each earlier layer on a grid of the same
    size. Layers that cannot be linearised are left out, and levels of too many cells."""
    inputs_of_slopes = _slope_inputs(network, statistics, read)
    rows: list[dict[str, object]] = []
    for source in sources:
        try:
            path = LinearPath(network, source.module, target.module)
            slopes = measure_slopes(path, inputs_of_slopes)
        except ConfigError:
            continue  # the table of circuits says why
        for grid in cells.grids:
            targets, cell_of_row = _drawn_cells(run, target.name, grid, cells.min_count)
            origins, source_cell_of_row = _drawn_cells(run, source.name, grid, cells.min_count)
            if not 0 < len(targets.means) * len(origins.means) <= _MAX_PAIRS:
                continue
            overlap = cell_overlap(cell_of_row, source_cell_of_row, len(targets.means), len(origins.means))
            circuit = cell_circuits(path, slopes, targets.means, origins.means, overlap)
            for cell, entry in np.argwhere(circuit.source >= 0):
                other = int(circuit.source[cell, entry])
                rows.append(
                    {
                        "grid": grid,
                        "row": int(targets.row[cell]),
                        "col": int(targets.col[cell]),
                        "source_layer": source.name,
                        "source_grid": grid,
                        "source_row": int(origins.row[other]),
                        "source_col": int(origins.col[other]),
                        "weight": float(circuit.weight[cell, entry]),
                        "overlap": float(circuit.overlap[cell, entry]),
                    }
                )
    return pa.Table.from_pylist(rows, schema=CELLS)


@dataclass(frozen=True)
class _DrawnCells:
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    means: NDArray[np.float32]


def _drawn_cells(run: RunDirectory, layer: str, grid: int, min_count: int) -> tuple[_DrawnCells, NDArray[np.int64]]:
    """The drawn cells of a grid, and for each row of the store the number of its cell among them, −1 for none."""
    table = read_columns(run.cells(layer), ["row", "col", "mean"], drawn_filters(grid, min_count))
    row, col = (table[name].astype(np.int64) for name in ("row", "col"))
    numbers = np.full(grid * grid + 1, -1, np.int64)  # the last one stands for rows that were dropped
    numbers[row * grid + col] = np.arange(len(row))
    coordinates = read_columns(run.layout(layer), ["u", "v"])
    cell = cell_of(coordinates["u"], coordinates["v"], grid)
    return _DrawnCells(row, col, table["mean"].astype(np.float32)), numbers[np.where(cell < 0, grid * grid, cell)]

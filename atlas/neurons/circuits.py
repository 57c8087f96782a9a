"""What builds the units and the cells of a layer: tables of the maths in ``atlas.explain``."""

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

from atlas.circuits.average_slopes import average_gates
from atlas.circuits.cell_circuit import building, together_of
from atlas.circuits.circuit import Wiring, circuit_of, effects, predicted
from atlas.circuits.linear_path import LinearPath
from atlas.config.model import Config
from atlas.errors import ConfigError
from atlas.layout.lattice import cell_of
from atlas.networks.hooks import hooked
from atlas.networks.network import Network
from atlas.neurons.tables import CELLS, CIRCUIT
from atlas.neurons.units import firing_rows
from atlas.neurons.views import Key, Seen, as_inputs
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import read_columns

# Units whose top views are held at a time, and views by which the average gates are taken.
_AT_ONCE, _GATE_VIEWS = 16, 192
# Pairs of cells of two maps that are compared at the most: 7,000 cells on each, a gigabyte.
_MOST_PAIRS = 50_000_000

Read = Callable[[Sequence[Key]], dict[Key, Seen]]
"""Reads the views of rows that can be read."""


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

            def note(_output: object, module: str = module) -> None:
                order.append(module)

            stack.enter_context(hooked(network.submodule(module), note))
        network.module(torch.zeros(1, 3, network.size, network.size, device=network.device))
    before = order[: order.index(target)]
    return sorted((other for other in others if other.module in before), key=lambda other: -before.index(other.module))


def circuit_table(
    network: Network, target: str, sources: Sequence[Source], statistics: pa.Table, read: Read, count: int
) -> tuple[pa.Table, dict[str, str]]:
    """The table CIRCUIT of all units of layer ``target``: from each of ``sources``, nearest first, the ``count``
    strongest units; and for each source without weights the sentence why. The table's metadata hold, as JSON,
    ``earlier`` (the sources), ``nonlinearities`` (what lies between, by source) and ``notes`` (those sentences)."""
    gate_inputs = _gate_inputs(network, statistics, read)
    nonlinearities: dict[str, list[str]] = {}
    notes: dict[str, str] = {}
    wirings: dict[str, Wiring] = {}
    for source in sources:
        try:
            wiring = Wiring(network, source.module, target, gate_inputs)
        except ConfigError as error:
            notes[source.name] = str(error)
            continue
        wirings[source.name] = wiring
        nonlinearities[source.name] = list(wiring.passed)
        if wiring.told:
            notes[source.name] = wiring.told
    rows: list[dict[str, object]] = []
    known = [source for source in sources if source.name in wirings]
    for units, inputs, positions, asked in _in_parts(network, statistics, read) if known else ():
        found = effects(network, [source.module for source in known], target, inputs, asked, positions)
        for unit in units:
            mine = asked == unit
            for source in known:
                wiring = wirings[source.name]
                kernels = None if wiring.told else predicted(wiring, unit, inputs[mine], positions[mine])
                made = circuit_of(wiring, unit, found[source.module].of(mine), count, told_by_kernels=kernels)
                for place in range(len(made.source)):
                    kernel = made.kernels[place]
                    rows.append(
                        {
                            "unit": unit,
                            "source_layer": source.name,
                            "source": int(made.source[place]),
                            "weight": float(made.strength[place]),
                            "linear_weight": float(made.let_through[place]),
                            "effect": float(made.effect[place]),
                            "present": float(made.present[place]),
                            "reliability": float(made.reliability[place]),
                            "kernel": kernel.ravel(),
                            "height": kernel.shape[0],
                            "width": kernel.shape[1],
                            "agreement": made.agreement,
                        }
                    )
    facts = {"earlier": [source.name for source in sources], "nonlinearities": nonlinearities, "notes": notes}
    schema = CIRCUIT.with_metadata({key: json.dumps(value) for key, value in facts.items()})
    return pa.Table.from_pylist(rows, schema=schema), notes


def _gate_inputs(network: Network, statistics: pa.Table, read: Read) -> Tensor:
    """Top views of all units, the best of each, as many as are enough for average gates."""
    units = range(statistics.num_rows)
    each = max(1, _GATE_VIEWS // max(1, len(units)))
    step = max(1, -(-len(units) // _GATE_VIEWS))
    wanted = [key for unit in units[::step] for key in firing_rows(statistics, [unit])[:each]]
    views = read(wanted)
    return as_inputs([views[key] for key in dict.fromkeys(wanted) if key in views], network)[0]


def _in_parts(
    network: Network, statistics: pa.Table, read: Read
) -> Iterator[tuple[list[int], Tensor, NDArray[np.int64], NDArray[np.int64]]]:
    """Some units at a time: their numbers, and of all their top views the inputs, positions and units."""
    for first in range(0, statistics.num_rows, _AT_ONCE):
        units = list(range(first, min(first + _AT_ONCE, statistics.num_rows)))
        wanted = {unit: firing_rows(statistics, [unit]) for unit in units}
        views = read([key for keys in wanted.values() for key in keys])
        pairs = [(unit, views[key]) for unit, keys in wanted.items() for key in keys if key in views]
        if pairs:
            inputs, positions = as_inputs([seen for _, seen in pairs], network)
            asked = np.array([unit for unit, _ in pairs], np.int64)
            yield sorted(set(asked.tolist())), inputs, positions.numpy(), asked


def cells_table(
    network: Network,
    run: RunDirectory,
    config: Config,
    target: Source,
    sources: Sequence[Source],
    statistics: pa.Table,
    read: Read,
) -> pa.Table:
    """The table CELLS of the drawn cells of layer ``target``, by the cells of each earlier layer on a grid of the same
    size. Layers that cannot be linearised are left out, and levels of too many cells."""
    gate_inputs = _gate_inputs(network, statistics, read)
    rows: list[dict[str, object]] = []
    for source in sources:
        try:
            path = LinearPath(network, source.module, target.module)
            gates = average_gates(path, gate_inputs)
        except ConfigError:
            continue  # told with the circuits
        for grid in config.cells.grids:
            above, mine = _drawn(run, config, target.name, grid)
            below, theirs = _drawn(run, config, source.name, grid)
            if not 0 < len(above.means) * len(below.means) <= _MOST_PAIRS:
                continue
            together = together_of(mine, theirs, len(above.means), len(below.means))
            made = building(path, gates, above.means, below.means, together)
            for cell, place in np.argwhere(made.source >= 0):
                other = int(made.source[cell, place])
                rows.append(
                    {
                        "grid": grid,
                        "row": int(above.row[cell]),
                        "col": int(above.col[cell]),
                        "source_layer": source.name,
                        "source_grid": grid,
                        "source_row": int(below.row[other]),
                        "source_col": int(below.col[other]),
                        "weight": float(made.strength[cell, place]),
                        "overlap": float(made.together[cell, place]),
                    }
                )
    return pa.Table.from_pylist(rows, schema=CELLS)


@dataclass(frozen=True)
class _Drawn:
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    means: NDArray[np.float32]


def _drawn(run: RunDirectory, config: Config, layer: str, grid: int) -> tuple[_Drawn, NDArray[np.int64]]:
    """The drawn cells of a grid, and for each row of the store the number of its cell among them, −1 for none."""
    filters = [("grid", "=", grid), ("count", ">=", config.cells.min_count)]
    table = read_columns(run.cells(layer), ["row", "col", "mean"], filters)
    row, col = (table[name].astype(np.int64) for name in ("row", "col"))
    numbers = np.full(grid * grid + 1, -1, np.int64)  # the last one stands for rows that were dropped
    numbers[row * grid + col] = np.arange(len(row))
    places = read_columns(run.layout(layer), ["u", "v"])
    cell = cell_of(places["u"], places["v"], grid)
    return _Drawn(row, col, table["mean"].astype(np.float32)), numbers[np.where(cell < 0, grid * grid, cell)]

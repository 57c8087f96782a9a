"""The tables of circuits: which layers come before, which sources a unit has, and which cells build a cell."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import GRIDS

from atlas.circuits.circuit import circuit
from atlas.networks.network import Network
from atlas.neurons.circuits import ReadViews, Source, cells_table, circuit_table, earlier_layers
from atlas.neurons.statistics import unit_statistics
from atlas.neurons.tables import CELLS, CIRCUIT
from atlas.neurons.units import firing_rows
from atlas.neurons.views import PositionView, as_inputs, read_views
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import RowKey


def test_earlier_layers_come_nearest_first(small: Network) -> None:
    others = [Source(f"{name}@x", name) for name in ("stem", "last", "depthwise", "residual", "branches.narrow")]
    sources = earlier_layers(small, "branches", others)
    assert [source.module for source in sources] == ["branches.narrow", "depthwise", "residual", "stem"]
    assert earlier_layers(small, "stem", others[1:]) == []


@pytest.fixture(scope="module")
def statistics(made_run: RunDirectory) -> pa.Table:
    return unit_statistics(made_run.shards("branches"), 3)


@pytest.fixture(scope="module")
def read(made_run: RunDirectory) -> ReadViews:
    config, listing = made_run.config(), Listing.load(made_run.listing)

    def views(keys: Sequence[RowKey]) -> dict[RowKey, PositionView]:
        return read_views(made_run.shards("branches"), listing, keys, size=32, images=config.images, seed=0)

    return views


def test_a_unit_has_its_circuit(small: Network, statistics: pa.Table, read: ReadViews) -> None:
    table, notes = circuit_table(small, "branches", [Source("first", "residual")], statistics, read, 3)
    assert table.schema.equals(CIRCUIT)
    assert notes == {}
    facts = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}
    assert facts["earlier"] == ["first"]
    assert facts["notes"] == {}
    assert [word.partition(" ")[2] for word in facts["nonlinearities"]["first"]] == ["ReLU"]
    rows = table.to_pylist()
    firing = [unit for unit in range(16) if firing_rows(statistics, [unit])]
    assert len(rows) == 3 * len(firing)
    unit = firing[0]
    views = read(firing_rows(statistics, [unit]))
    inputs, positions = as_inputs([views[key] for key in firing_rows(statistics, [unit])], small)
    alone = circuit(small, "residual", "branches", unit, inputs, positions.numpy(), count=3)
    own = [row for row in rows if row["unit"] == unit]
    assert [abs(row["effect"]) for row in own] == sorted((abs(row["effect"]) for row in own), reverse=True)
    assert {row["source_layer"] for row in own} == {"first"}
    weights = dict(zip(alone.source.tolist(), alone.linear_weight.tolist()))
    effects = dict(zip(alone.source.tolist(), alone.effect.tolist()))
    both = [row for row in own if row["source"] in weights]
    assert len(both) >= 2, "those of the largest effects, whatever the slopes were averaged over"
    for row in both:
        assert row["effect"] == pytest.approx(effects[row["source"]], rel=1e-3, abs=1e-5)
        assert row["linear_weight"] == pytest.approx(weights[row["source"]], rel=1e-3, abs=1e-5)
        assert len(row["kernel"]) == row["height"] * row["width"]


def test_a_source_without_weights_leaves_a_sentence(small: Network, statistics: pa.Table, read: ReadViews) -> None:
    table, notes = circuit_table(small, "branches", [Source("later", "last")], statistics, read, 3)
    assert table.num_rows == 0
    assert notes["later"].startswith("No path leads from last to branches in small_network:factory: last comes later.")
    assert json.loads(table.schema.metadata[b"notes"]) == notes


def test_cells_are_built_by_cells_of_the_same_grid(
    made_run: RunDirectory, small: Network, statistics: pa.Table, read: ReadViews
) -> None:
    config = made_run.config()
    target, sources = Source("branches", "branches"), [Source("residual", "residual")]
    table = cells_table(small, made_run, config.cells, target, sources, statistics, read)
    assert table.schema.equals(CELLS)
    rows = table.to_pylist()
    places = {}
    for layer in ("residual", "branches"):
        layout = pq.read_table(made_run.layout(layer))
        places[layer] = [np.array(layout[name].to_pylist(), np.float64) for name in ("v", "u")]
    for grid in GRIDS:
        of_grid = [row for row in rows if row["grid"] == grid]
        assert {(row["row"], row["col"]) for row in of_grid} == {(r, c) for r in range(grid) for c in range(grid)}
        assert {row["source_grid"] for row in of_grid} == {grid}
        for row in of_grid:
            inside, there = (
                (np.floor(places[layer][0] * grid) == r) & (np.floor(places[layer][1] * grid) == c)
                for layer, r, c in (
                    ("branches", row["row"], row["col"]), ("residual", row["source_row"], row["source_col"])
                )
            )  # fmt: skip
            assert row["overlap"] == pytest.approx((inside & there).sum() / inside.sum())
            assert 0 < abs(row["weight"]) <= 1


def test_cells_of_layers_that_cannot_be_linked_are_left_out(
    made_run: RunDirectory, small: Network, statistics: pa.Table, read: ReadViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = made_run.config()
    target = Source("branches", "branches")
    later = cells_table(small, made_run, config.cells, target, [Source("residual", "last")], statistics, read)
    assert later.num_rows == 0
    monkeypatch.setattr("atlas.neurons.circuits._MAX_PAIRS", 16)
    few = cells_table(small, made_run, config.cells, target, [Source("residual", "residual")], statistics, read)
    assert set(few["grid"].to_pylist()) == {2}, "4 × 4 pairs; the finer level has 256"

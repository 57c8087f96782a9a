"""The stage neurons on the tiny run: what it writes of each unit, against the store, the network and autograd."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from looked_run import NEURONS
from numpy.typing import NDArray
from PIL import Image

import atlas
from atlas.circuits.circuit import circuit
from atlas.errors import AtlasError, ConfigError
from atlas.networks.network import Network
from atlas.neurons.reading import UnitTables
from atlas.neurons.statistics import unit_statistics
from atlas.neurons.tables import BINS, CELLS, CIRCUIT, SPREAD, STATISTICS
from atlas.neurons.tuning import ROTATED as POSES
from atlas.neurons.tuning import figures, patch_middle, posed_discs, window_of
from atlas.neurons.views import read_views
from atlas.pictures.decode import decode_png
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import to_numpy
from atlas.visualize.diverse import diverse, picture_size
from atlas.visualize.score import centre_activations
from pipelines import worker

AT_RISK = ("middle", "last")


@pytest.fixture
def network(looked: RunDirectory, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.syspath_prepend(workshop)
    return worker.network(looked, looked.config().networks()[""], threads=1)


def rows_of(directory: RunDirectory, layer: str) -> tuple[NDArray[np.float32], list[tuple[int, int, int]]]:
    table = pq.read_table(directory.shards(layer))
    keys = list(zip(*(table[name].to_pylist() for name in ("image_id", "view", "draw"))))
    return to_numpy(table["activation"]).astype(np.float32), keys


def key_of(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["image_id"], row["view"], row["draw"]


@pytest.mark.parametrize("layer", AT_RISK)
def test_statistics_are_those_of_the_store(looked: RunDirectory, layer: str) -> None:
    rows, keys = rows_of(looked, layer)
    table = pq.read_table(looked.neurons(layer) / "statistics.parquet")
    assert table.schema.equals(STATISTICS)
    with np.errstate(invalid="ignore"):  # units that never fire
        correlation = np.nan_to_num(np.corrcoef(rows.T.astype(np.float64)))
    for unit, unit_row in enumerate(table.to_pylist()):
        activations = rows[:, unit]
        assert unit_row["unit"] == unit
        assert unit_row["rows"] == len(rows) == 288
        assert unit_row["mean"] == pytest.approx(activations.mean(dtype=np.float64), rel=1e-3, abs=1e-4)
        assert unit_row["deviation"] == pytest.approx(activations.std(dtype=np.float64), rel=1e-2, abs=1e-4)
        assert (unit_row["smallest"], unit_row["largest"]) == (activations.min(), activations.max())
        assert unit_row["positive"] == pytest.approx((activations > 0).mean())
        assert len(unit_row["histogram"]) == BINS
        assert sum(unit_row["histogram"]) == len(rows)
        if unit_row["largest"] == unit_row["smallest"]:
            assert unit_row["histogram"][0] == len(rows)
            assert not unit_row["similar"]
            continue
        assert unit_row["histogram"][-1] >= 1
        expected, _ = np.histogram(activations, BINS, (unit_row["low"], unit_row["high"]))
        assert np.abs(np.array(unit_row["histogram"]) - expected).sum() <= 4, "but for rounding at the edges"
        # The largest of the store, each of another picture.
        best: dict[int, float] = {}
        for value, key in zip(activations.tolist(), keys):
            best[key[0]] = max(value, best.get(key[0], -np.inf))
        assert [row["activation"] for row in unit_row["top"]] == sorted(best.values(), reverse=True)[
            : NEURONS["patches"]
        ]
        assert len({row["image_id"] for row in unit_row["top"]}) == NEURONS["patches"]
        for row in (*unit_row["top"], *unit_row["spread"]):
            assert activations[keys.index(key_of(row))] == row["activation"]
        values = [row["activation"] for row in unit_row["spread"]]
        assert values == sorted(values)
        targets = np.linspace(unit_row["smallest"], unit_row["largest"], SPREAD)
        nearest = {float(activations[np.abs(activations - np.float32(target)).argmin()]) for target in targets}
        assert set(values) == nearest
        like = [entry["unit"] for entry in unit_row["similar"]]
        assert unit not in like
        for entry in unit_row["similar"]:
            assert entry["correlation"] == pytest.approx(correlation[unit, entry["unit"]], abs=2e-3)
        others = np.delete(correlation[unit], unit)
        if like:
            assert unit_row["similar"][0]["correlation"] == pytest.approx(others.max(), abs=2e-3)


def test_statistics_do_not_depend_on_where_shards_end(looked: RunDirectory, tmp_path: Path) -> None:
    """One shard of all, and row groups that cut pictures in two, come to the same."""
    shards = looked.shards("last")
    table = pq.read_table(shards)
    table = table.replace_schema_metadata(pq.read_schema(shards[0]).metadata)
    pq.write_table(table, tmp_path / "part-00000.parquet", row_group_size=7)
    one, other = (
        unit_statistics(shards, 4).to_pylist(),
        unit_statistics([tmp_path / "part-00000.parquet"], 4).to_pylist(),
    )
    for unit_row, again in zip(one, other):
        for name in ("smallest", "largest", "histogram", "top", "spread", "positive"):
            assert unit_row[name] == again[name], name


def test_pictures_excite_their_unit_and_differ(looked: RunDirectory, network: Network) -> None:
    table = UnitTables(looked, "last").table()
    size = picture_size(worker.layers(looked, looked.config().networks()[""])["last"], network)
    assert size >= 32
    for unit_row in table.to_pylist():
        pictures = np.stack([decode_png(png) for png in unit_row["pictures"]])
        assert pictures.shape == (3, size, size, 3)
        assert unit_row["size"] == size
        activations = centre_activations(network, "last", pictures)[:, unit_row["unit"]]
        np.testing.assert_allclose(unit_row["picture_activations"], activations, rtol=1e-3, atol=1e-3)
        assert len({picture.tobytes() for picture in pictures}) == 3


def test_diversity_pushes_pictures_apart_and_leaves_the_plain_one(network: Network) -> None:
    """The same climbs with and without the term: the first picture is the same, the others are less alike."""
    together, apart = (
        diverse(network, "last", [1, 4], size=32, pictures=3, steps=40, diversity=weight, precision="float32")
        for weight in (0.0, 4.0)
    )
    np.testing.assert_array_equal(together.pixels[:, 0], apart.pixels[:, 0])

    def alike(pixels: NDArray[np.uint8]) -> float:
        grams = []
        for picture in pixels:
            maps = network.activations(network.from_bytes(torch.from_numpy(picture[None])), "last")[0].flatten(1)
            gram = (maps @ maps.T).flatten()
            grams.append((gram / gram.norm()).numpy())
        return float(np.mean([grams[0] @ grams[1], grams[0] @ grams[2], grams[1] @ grams[2]]))

    for unit in range(2):
        assert alike(apart.pixels[unit]) < alike(together.pixels[unit]) - 0.02
    with pytest.raises(ConfigError, match=r"has no unit 20: it has 20, from 0"):
        diverse(network, "last", [20], size=32)


def test_turned_patches_are_those_of_the_top_rows(looked: RunDirectory, network: Network) -> None:
    config = looked.config()
    layer = worker.layers(looked, config.networks()[""])["last"]
    window = window_of(network, layer)
    firing = 0
    for unit_row in UnitTables(looked, "last").table().to_pylist():
        top = [row for row in unit_row["top"] if row["activation"] > 0]
        turned = np.array(unit_row["rotated"], np.float32)
        assert len(turned) == len(unit_row["mirrored"]) == len(unit_row["scaled"]) == len(top)
        expected = figures(turned)
        for name in ("selectivity", "invariance", "preferred"):
            value = getattr(expected, name)
            assert unit_row[name] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-4))
        if not top:
            assert unit_row["note"].startswith("It never fires")
            assert not unit_row["rotated_pictures"]
            continue
        firing += 1
        assert [len(unit_row[f"{name}_pictures"]) for name in ("rotated", "mirrored", "scaled")] == [24, 24, 5]
        assert Image.open(io.BytesIO(unit_row["rotated_pictures"][5])).size == (120, 120)
        views = read_views(
            looked.shards("last"),
            Listing.load(looked.listing),
            [key_of(top[0])],
            size=network.size,
            images=config.images,
            seed=config.seed,
        )
        top_view = views[key_of(top[0])]
        view = torch.from_numpy(top_view.pixels).permute(2, 0, 1).float() / 255
        pictures = posed_discs(view, patch_middle(top_view.position, layer, network.size, window), window, POSES)
        maps = network.activations(network.normalize(pictures), "last")
        at = maps[:, unit_row["unit"], maps.shape[2] // 2, maps.shape[3] // 2]
        np.testing.assert_allclose(turned[0], at.numpy(), atol=1e-3 * max(1, float(at.abs().max())))
        # The view is the one that the store tells of.
        whole = network.activations(network.from_bytes(torch.from_numpy(top_view.pixels)[None]), "last")[
            0, unit_row["unit"]
        ]
        assert float(whole[top_view.position]) == pytest.approx(top[0]["activation"], rel=2e-2, abs=1e-2)
    assert firing > 10


def test_classes_are_those_of_autograd(looked: RunDirectory, network: Network) -> None:
    config = looked.config()
    for unit_row in UnitTables(looked, "last").table().to_pylist()[::4]:
        keys = [key_of(row) for row in unit_row["top"] if row["activation"] > 0]
        views = read_views(
            looked.shards("last"),
            Listing.load(looked.listing),
            keys,
            size=network.size,
            images=config.images,
            seed=config.seed,
        )
        effects = []
        for key in keys:
            inputs = network.from_bytes(torch.from_numpy(views[key].pixels)[None])
            outputs: list[torch.Tensor] = []

            def keep(_module: Any, _inputs: Any, output: torch.Tensor, outputs: list = outputs) -> torch.Tensor:
                outputs.append(output.detach().clone().requires_grad_(True))
                return outputs[0]

            handle = network.submodule("last").register_forward_hook(keep)
            logits = network.module(inputs)[0]
            handle.remove()
            y, x = views[key].position
            gradients = [torch.autograd.grad(logit, outputs[0], retain_graph=True)[0] for logit in logits]
            unit = unit_row["unit"]
            effects.append(
                [float(outputs[0][0, unit, y, x].detach() * gradient[0, unit, y, x]) for gradient in gradients]
            )
        mean = np.mean(effects, 0) if effects else np.zeros(0)
        entries = [*unit_row["supports"], *unit_row["opposes"]]
        assert {entry["class"] for entry in entries} == set(np.flatnonzero(mean != 0).tolist())
        for entry in entries:
            assert entry["effect"] == pytest.approx(mean[entry["class"]], rel=1e-3, abs=1e-4 * np.abs(mean).max())
        assert unit_row["effects"] == pytest.approx(mean, rel=1e-3, abs=1e-4 * np.abs(mean).max(initial=0))
        for name, sign in (("supports", -1), ("opposes", 1)):
            values = [sign * entry["effect"] for entry in unit_row[name]]
            assert values == sorted(values), name


def test_circuits_hold_the_weights_between_neighbouring_layers(looked: RunDirectory, network: Network) -> None:
    """One convolution lies between: passed through, its weights are the answer."""
    tables = UnitTables(looked, "last")
    table = tables.circuit()
    assert table.schema.equals(CIRCUIT)
    assert tables.earlier() == ["middle"]
    assert tables.notes() == {}
    weights = network.module.last.conv.weight.sum((2, 3))  # type: ignore[union-attr, operator]
    rows = table.to_pylist()
    assert {row["source_layer"] for row in rows} == {"middle"}
    for row in rows:
        assert row["linear_weight"] == pytest.approx(float(weights[row["unit"], row["source"]]), rel=1e-3, abs=1e-5)
        assert len(row["kernel"]) == row["height"] * row["width"]
        assert sum(row["kernel"]) == pytest.approx(row["weight"], rel=0.05, abs=0.02)
        assert row["present"] == row["effect"], "behind a ReLU nothing is below 0"
    for unit in {row["unit"] for row in rows}:
        sizes = [abs(row["effect"]) for row in rows if row["unit"] == unit]
        assert len(sizes) == NEURONS["sources"]
        assert sizes == sorted(sizes, reverse=True)
    first = UnitTables(looked, "middle")
    assert first.circuit().num_rows == 0
    assert (first.earlier(), first.nonlinearities(), first.notes()) == ([], {}, {})


def test_cells_are_built_by_drawn_cells(looked: RunDirectory) -> None:
    table = pq.read_table(looked.neurons("last") / "cells.parquet")
    assert table.schema.equals(CELLS)
    drawn_cells = {
        layer: {
            (cell["grid"], cell["row"], cell["col"]): cell
            for cell in pq.read_table(looked.cells(layer)).to_pylist()
            if cell["count"] >= 2
        }
        for layer in AT_RISK
    }
    rows = table.to_pylist()
    assert {row["grid"] for row in rows} == {4, 8}
    by_cell: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        cell = row["grid"], row["row"], row["col"]
        by_cell.setdefault(cell, []).append(row)
        assert cell in drawn_cells["last"]
        assert (row["source_grid"], row["source_row"], row["source_col"]) in drawn_cells["middle"]
        assert -1 <= row["weight"] <= 1
    assert set(by_cell) == set(drawn_cells["last"])
    layouts = {layer: pq.read_table(looked.layout(layer)) for layer in AT_RISK}
    middles = {
        layer: [np.minimum((to_numpy(layouts[layer][name]) * 4).astype(int), 3) for name in ("v", "u")]
        for layer in AT_RISK
    }
    for (grid, row, col), sources in by_cell.items():
        if grid == 4:
            inside = (middles["last"][0] == row) & (middles["last"][1] == col)
            for source in sources:
                there = (middles["middle"][0] == source["source_row"]) & (middles["middle"][1] == source["source_col"])
                assert source["overlap"] == pytest.approx((inside & there).sum() / inside.sum())


def test_a_units_strongest_views_tell_its_circuit(
    looked: RunDirectory, network: Network, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    opened_run = atlas.open_run(looked.path)
    by_unit = {row["unit"]: row for row in UnitTables(looked, "last").table().to_pylist()}
    unit = max(by_unit, key=lambda number: by_unit[number]["largest"])
    inputs, positions = opened_run.top_views("last", unit)
    top = [row["activation"] for row in by_unit[unit]["top"]]
    assert inputs.shape == (len(top), 3, network.size, network.size)
    maps = network.activations(inputs, "last")[:, unit].numpy()
    assert maps[range(len(top)), positions[:, 0], positions[:, 1]] == pytest.approx(top, rel=2e-2, abs=1e-2)
    assert top == sorted(top, reverse=True)
    circuit_again = circuit(opened_run.network(), "middle", "last", unit, inputs, positions, count=5)
    stored = {row["source"]: row for row in opened_run.neuron("last", unit)["circuit"]}
    both = [place for place, source in enumerate(circuit_again.source.tolist()) if source in stored]
    assert len(both) >= 3
    for place in both:
        row = stored[int(circuit_again.source[place])]
        assert circuit_again.effect[place] == pytest.approx(row["effect"], rel=1e-3, abs=1e-4)
        assert circuit_again.present[place] == pytest.approx(row["present"], rel=1e-3, abs=1e-4)
    silent = [number for number in by_unit if by_unit[number]["largest"] <= 0]
    for silent_unit in silent[:1]:
        with pytest.raises(AtlasError, match="has no views that excite it: it never fires"):
            opened_run.top_views("last", silent_unit)
    with pytest.raises(ConfigError, match=r"last has no unit 20: it has 20, counted from 0"):
        opened_run.top_views("last", 20)

"""The stage neurons on the tiny run: what is told of each unit, against the store, the network and autograd."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from readme_commands import the_command
from small_network import factory, forking_factory
from tiny_run import (
    CHECKOUT,
    PLAIN_STAGES,
    atlas_run,
    contents,
    environment,
    kill_when,
    paint_pictures,
    tiny_values,
)
from torch import nn

import atlas
from atlas.check import main as check
from atlas.config import Config, validate
from atlas.errors import AtlasError, ConfigError
from atlas.explain.circuit import circuit
from atlas.images import decode_png
from atlas.networks import Network, load
from atlas.neurons.classes import strongest
from atlas.neurons.reading import Folder
from atlas.neurons.statistics import unit_statistics
from atlas.neurons.tables import BINS, CELLS, CIRCUIT, SPREAD, STATISTICS, UNITS
from atlas.neurons.turning import TURNED as POSES
from atlas.neurons.turning import figures, place_of, show, window_of
from atlas.neurons.views import read_views
from atlas.observe import Observer
from atlas.rundir import RunDirectory, parse_marker
from atlas.sources import Listing
from atlas.store import to_numpy
from atlas.visualize.diverse import diverse, picture_size
from atlas.visualize.score import answers
from pipelines import worker
from pipelines.pipeline import run

ASKED = {"layers": ["middle", "last"], "pictures": 3, "patches": 4, "sources": 5}
AT_RISK = ("middle", "last")
# A network whose second layer cannot be linearised, and with a unit that never fires.
ODD = """
import torch
from torch import nn


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 4, 1), nn.ReLU())
        self.second = nn.Conv2d(6, 6, 1)
        self.third = nn.Sequential(nn.Conv2d(6, 5, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        maps = self.first(x)
        maps = (maps * maps).softmax(1) * maps.cos()
        return self.head(self.third(self.second(maps)).mean((2, 3)))


def make():
    torch.manual_seed(1)
    network = Odd()
    with torch.no_grad():
        network.third[0].bias[2] = -100
    return network
"""


@pytest.fixture(scope="module")
def looked(workshop: Path, undisturbed: RunDirectory) -> RunDirectory:
    """The finished tiny run, given again with units to look at, from the command line."""
    directory = RunDirectory(workshop / "runs" / "looked")
    shutil.copytree(undisturbed.path, directory.path)
    done = atlas_run(workshop, *arguments(directory))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert "last: 20 units, " in done.stdout
    return directory


def test_the_readmes_snippet(looked: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"## One neuron, one circuit.*?```python\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(looked.path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(found[1].replace("_blocks.10", "last"), names)
    told = {row["unit"]: row for row in Folder(looked, "last").table().to_pylist()}
    known = {unit: row["invariance"] for unit, row in told.items() if row["invariance"] is not None}
    best = max(known, key=lambda unit: known[unit])
    assert known[names["steady"][-1]] == known[best]
    assert len(names["steady"]) == 10
    assert {layer for layer, _, _ in names["sources"]} == {"middle"}
    effects = [abs(effect) for _, _, effect in names["sources"]]
    assert effects == sorted(effects, reverse=True)
    assert effects[0] > 0


def arguments(directory: RunDirectory) -> tuple[str, ...]:
    return ("tiny.yaml", "--set", f"out={directory.path}", "--set", f"neurons={json.dumps(ASKED)}")


def test_contact_sheets_of_units(looked: RunDirectory, tmp_path: Path) -> None:
    """The README's command, for this run."""
    names = {"runs/demo": str(looked.path), "_blocks.10": "last", "FOLDER": str(tmp_path)}
    words = [names.get(word, word) for word in the_command("scripts/unit_sheets.py")]
    done = subprocess.run([sys.executable, *words], cwd=CHECKOUT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heights = {}
    for name in ("units-invariant", "units-selective", "circuits"):
        with Image.open(tmp_path / f"{name}.webp") as sheet:
            heights[name] = sheet.height
            assert np.asarray(sheet.convert("RGB")).std() > 10, f"{name} shows something"
    assert heights["units-invariant"] > 700, "ten lines"


@pytest.fixture
def network(looked: RunDirectory, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.syspath_prepend(workshop)
    return worker.network(looked, looked.config())


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
    for unit, told in enumerate(table.to_pylist()):
        mine = rows[:, unit]
        assert told["unit"] == unit
        assert told["rows"] == len(rows) == 288
        assert told["mean"] == pytest.approx(mine.mean(dtype=np.float64), rel=1e-3, abs=1e-4)
        assert told["deviation"] == pytest.approx(mine.std(dtype=np.float64), rel=1e-2, abs=1e-4)
        assert (told["smallest"], told["largest"]) == (mine.min(), mine.max())
        assert told["positive"] == pytest.approx((mine > 0).mean())
        assert len(told["histogram"]) == BINS
        assert sum(told["histogram"]) == len(rows)
        if told["largest"] == told["smallest"]:
            assert told["histogram"][0] == len(rows)
            assert not told["similar"]
            continue
        assert told["histogram"][-1] >= 1
        expected, _ = np.histogram(mine, BINS, (told["low"], told["high"]))
        assert np.abs(np.array(told["histogram"]) - expected).sum() <= 4, "but for rounding at the edges"
        # The largest of the store, each of another picture.
        best: dict[int, float] = {}
        for value, key in zip(mine.tolist(), keys):
            best[key[0]] = max(value, best.get(key[0], -np.inf))
        assert [row["activation"] for row in told["top"]] == sorted(best.values(), reverse=True)[: ASKED["patches"]]
        assert len({row["image_id"] for row in told["top"]}) == ASKED["patches"]
        for row in (*told["top"], *told["spread"]):
            assert mine[keys.index(key_of(row))] == row["activation"]
        values = [row["activation"] for row in told["spread"]]
        assert values == sorted(values)
        targets = np.linspace(told["smallest"], told["largest"], SPREAD)
        nearest = {float(mine[np.abs(mine - np.float32(target)).argmin()]) for target in targets}
        assert set(values) == nearest
        like = [entry["unit"] for entry in told["similar"]]
        assert unit not in like
        for entry in told["similar"]:
            assert entry["correlation"] == pytest.approx(correlation[unit, entry["unit"]], abs=2e-3)
        others = np.delete(correlation[unit], unit)
        if like:
            assert told["similar"][0]["correlation"] == pytest.approx(others.max(), abs=2e-3)


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
    for told, again in zip(one, other):
        for name in ("smallest", "largest", "histogram", "top", "spread", "positive"):
            assert told[name] == again[name], name


def test_pictures_excite_their_unit_and_differ(looked: RunDirectory, network: Network) -> None:
    table = Folder(looked, "last").table()
    size = picture_size(worker.layers(looked, looked.config())["last"], network)
    assert size >= 32
    for told in table.to_pylist():
        pictures = np.stack([decode_png(png) for png in told["pictures"]])
        assert pictures.shape == (3, size, size, 3)
        assert told["size"] == size
        found = answers(network, "last", pictures)[:, told["unit"]]
        np.testing.assert_allclose(told["answers"], found, rtol=1e-3, atol=1e-3)
        assert len({picture.tobytes() for picture in pictures}) == 3


def test_diversity_pushes_pictures_apart_and_leaves_the_plain_one(network: Network) -> None:
    """The same climbs with and without the term: the first picture is the same, the others are less alike."""
    together, apart = (
        diverse(network, "last", [1, 4], size=32, pictures=3, steps=40, apart=weight, precision="float32")
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
    described = worker.layers(looked, config)["last"]
    window = window_of(network, described)
    firing = 0
    for told in Folder(looked, "last").table().to_pylist():
        top = [row for row in told["top"] if row["activation"] > 0]
        turned = np.array(told["turned"], np.float32)
        assert len(turned) == len(told["mirrored"]) == len(told["scaled"]) == len(top)
        expected = figures(turned)
        for name in ("selectivity", "invariance", "preferred"):
            value = getattr(expected, name)
            assert told[name] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-4))
        if not top:
            assert told["told"].startswith("It never fires")
            assert not told["turned_pictures"]
            continue
        firing += 1
        assert [len(told[f"{name}_pictures"]) for name in ("turned", "mirrored", "scaled")] == [24, 24, 5]
        assert Image.open(io.BytesIO(told["turned_pictures"][5])).size == (120, 120)
        views = read_views(looked.shards("last"), config, Listing.load(looked.listing), network.size, [key_of(top[0])])
        seen = views[key_of(top[0])]
        view = torch.from_numpy(seen.pixels).permute(2, 0, 1).float() / 255
        pictures = show(view, place_of(seen.position, described, network.size, window), window, POSES)
        maps = network.activations(network.normalize(pictures), "last")
        at = maps[:, told["unit"], maps.shape[2] // 2, maps.shape[3] // 2]
        np.testing.assert_allclose(turned[0], at.numpy(), atol=1e-3 * max(1, float(at.abs().max())))
        # The view is the one that the store tells of.
        whole = network.activations(network.from_bytes(torch.from_numpy(seen.pixels)[None]), "last")[0, told["unit"]]
        assert float(whole[seen.position]) == pytest.approx(top[0]["activation"], rel=2e-2, abs=1e-2)
    assert firing > 10


def test_classes_are_those_of_autograd(looked: RunDirectory, network: Network) -> None:
    config = looked.config()
    for told in Folder(looked, "last").table().to_pylist()[::4]:
        keys = [key_of(row) for row in told["top"] if row["activation"] > 0]
        views = read_views(looked.shards("last"), config, Listing.load(looked.listing), network.size, keys)
        effects = []
        for key in keys:
            inputs = network.from_bytes(torch.from_numpy(views[key].pixels)[None])
            found: list[torch.Tensor] = []

            def keep(_module: Any, _inputs: Any, output: torch.Tensor, found: list = found) -> torch.Tensor:
                found.append(output.detach().clone().requires_grad_(True))
                return found[0]

            handle = network.submodule("last").register_forward_hook(keep)
            logits = network.module(inputs)[0]
            handle.remove()
            y, x = views[key].position
            mine = [torch.autograd.grad(logit, found[0], retain_graph=True)[0] for logit in logits]
            unit = told["unit"]
            effects.append([float(found[0][0, unit, y, x].detach() * each[0, unit, y, x]) for each in mine])
        mean = np.mean(effects, 0) if effects else np.zeros(0)
        shown = [*told["supports"], *told["opposes"]]
        assert {entry["class"] for entry in shown} == set(np.flatnonzero(mean != 0).tolist())
        for entry in shown:
            assert entry["effect"] == pytest.approx(mean[entry["class"]], rel=1e-3, abs=1e-4 * np.abs(mean).max())
        assert told["effects"] == pytest.approx(mean, rel=1e-3, abs=1e-4 * np.abs(mean).max(initial=0))
        for name, sign in (("supports", -1), ("opposes", 1)):
            values = [sign * entry["effect"] for entry in told[name]]
            assert values == sorted(values), name


@pytest.mark.parametrize("make", [factory, forking_factory])
def test_attributions_of_one_channel_add_up_to_those_of_all(make: Callable[[], nn.Module]) -> None:
    """Also of a network that runs as it is, with dual numbers."""
    small = load(make(), size=32)
    observer = Observer(small, ["depthwise"])
    inputs = small.normalize(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    at = {"depthwise": torch.tensor([[[2, 3], [0, 7]], [[1, 1], [4, 4]], [[7, 0], [5, 2]]])}
    whole = observer.observe(inputs, at, attributions=True).attributions["depthwise"]
    total = torch.zeros_like(whole)
    for channel in range(12):
        channels = {"depthwise": torch.tensor([[channel, channel]] * 3)}
        one = observer.observe(inputs, at, attributions=True, channels=channels).attributions["depthwise"]
        assert one.abs().max() < whole.abs().max() * 3
        total += one
    torch.testing.assert_close(total, whole, rtol=1e-3, atol=1e-5)


def test_strongest_classes_by_hand() -> None:
    effects = np.array([[1.0, -2.0, 0.0, 3.0], [1.0, 0.0, 0.0, 1.0]], np.float32)
    assert strongest(effects, 5) == [{"class": 3, "effect": 2.0}, {"class": 0, "effect": 1.0}]
    assert strongest(effects, 1) == [{"class": 3, "effect": 2.0}]
    assert strongest(effects, 5, opposing=True) == [{"class": 1, "effect": -1.0}]


def test_circuits_hold_the_weights_between_neighbouring_layers(looked: RunDirectory, network: Network) -> None:
    """One convolution lies between: passed through, its weights are the answer."""
    table, facts = Folder(looked, "last").circuit()
    assert table.schema.equals(CIRCUIT)
    assert facts["earlier"] == ["middle"]
    assert facts["told"] == {}
    weights = network.module.last.conv.weight.sum((2, 3))  # type: ignore[union-attr, operator]
    rows = table.to_pylist()
    assert {row["source_layer"] for row in rows} == {"middle"}
    for row in rows:
        assert row["let_through"] == pytest.approx(float(weights[row["unit"], row["source"]]), rel=1e-3, abs=1e-5)
        assert len(row["kernel"]) == row["height"] * row["width"]
        assert sum(row["kernel"]) == pytest.approx(row["strength"], rel=0.05, abs=0.02)
        assert row["present"] == row["effect"], "behind a ReLU nothing is below 0"
    for unit in {row["unit"] for row in rows}:
        sizes = [abs(row["effect"]) for row in rows if row["unit"] == unit]
        assert len(sizes) == ASKED["sources"]
        assert sizes == sorted(sizes, reverse=True)
    first, facts = Folder(looked, "middle").circuit()
    assert first.num_rows == 0
    assert facts == {"earlier": [], "passed": {}, "told": {}}


def test_cells_are_built_by_drawn_cells(looked: RunDirectory) -> None:
    table = pq.read_table(looked.neurons("last") / "cells.parquet")
    assert table.schema.equals(CELLS)
    drawn = {
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
        assert cell in drawn["last"]
        assert (row["source_grid"], row["source_row"], row["source_col"]) in drawn["middle"]
        assert -1 <= row["strength"] <= 1
    assert set(by_cell) == set(drawn["last"])
    layouts = {layer: pq.read_table(looked.layout(layer)) for layer in AT_RISK}
    places = {
        layer: [np.minimum((to_numpy(layouts[layer][name]) * 4).astype(int), 3) for name in ("v", "u")]
        for layer in AT_RISK
    }
    for (grid, row, col), told in by_cell.items():
        if grid == 4:
            inside = (places["last"][0] == row) & (places["last"][1] == col)
            for each in told:
                there = (places["middle"][0] == each["source_row"]) & (places["middle"][1] == each["source_col"])
                assert each["together"] == pytest.approx((inside & there).sum() / inside.sum())


def test_report_check_and_screen_know_the_stage(looked: RunDirectory, capsys: pytest.CaptureFixture) -> None:
    report = json.loads(looked.report.read_text())
    table = Folder(looked, "last").table(["largest", "invariance"])
    told = report["layers"]["last"]["neurons"]
    assert told["units"] == 20
    assert told["firing"] == (table["largest"].to_numpy() > 0).sum()
    invariance = table["invariance"].drop_null().to_numpy()
    assert told["invariant_share"] == pytest.approx((invariance >= 0.8).mean())
    assert told["circuit_agreement"].keys() == {"middle"}
    assert check([str(looked.path)]) == 0
    assert "  neurons  finished: 36 units\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda run: (run.neurons("last") / "part-00001.parquet").unlink(), "missing, though its marker stands"),
        (lambda run: forge(run, "statistics", lambda table: table.set_column(
            1, STATISTICS.field("rows"), pa.array([5] * len(table), pa.int64()))), "does not count the 288 rows"),
        (lambda run: forge(run, "part-00000", lambda table: table.slice(1)), "holds other units than its own"),
    ],
)  # fmt: skip
def test_check_tells_damage_and_its_cure(
    looked: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture, damage: Any, told: str
) -> None:
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(looked.path, copy.path)
    damage(copy)
    assert check([str(copy.path)]) == 1
    shown = capsys.readouterr().out
    assert told in shown
    assert "delete neurons/last/" in shown or "give the run's command again" in shown


def forge(run: RunDirectory, name: str, change: Any) -> None:
    """Write another table and a marker that vouches for it."""
    from atlas.rundir import write_marker

    path = run.neurons("last") / f"{name}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    marker = parse_marker(path.with_suffix(".json"))
    assert marker is not None
    del marker["files"]
    write_marker(path.with_suffix(".json"), files=[path], **marker)


def test_a_run_opened_knows_its_units(looked: RunDirectory, undisturbed: RunDirectory) -> None:
    opened = atlas.open_run(looked.path)
    table = opened.neurons("last")
    assert table.column_names == [*STATISTICS.names, *(name for name in UNITS.names if name != "unit")]
    assert table["unit"].to_pylist() == list(range(20))
    one = opened.neuron("last", 17)
    assert {name: value for name, value in one.items() if name != "circuit"} == table.slice(17, 1).to_pylist()[0]
    whole = pq.read_table(looked.neurons("last") / "circuit.parquet").to_pylist()
    assert [row["source"] for row in one["circuit"]] == [row["source"] for row in whole if row["unit"] == 17]
    with pytest.raises(ConfigError, match=r"last has no unit 20: it has 20, counted from 0"):
        opened.neuron("last", 20)
    with pytest.raises(ConfigError, match=r"has no layer 'lasst'; it has middle, last"):
        opened.neurons("lasst")
    with pytest.raises(
        ConfigError, match=r"was asked for the units of no layer, not of last.*neurons=\{layers: \[last\]"
    ):
        atlas.open_run(undisturbed.path).neurons("last")


def test_a_units_strongest_views_tell_its_circuit(
    looked: RunDirectory, network: Network, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    opened = atlas.open_run(looked.path)
    told = {row["unit"]: row for row in Folder(looked, "last").table().to_pylist()}
    unit = max(told, key=lambda each: told[each]["largest"])
    inputs, positions = opened.top_views("last", unit)
    top = [row["activation"] for row in told[unit]["top"]]
    assert inputs.shape == (len(top), 3, network.size, network.size)
    maps = network.activations(inputs, "last")[:, unit].numpy()
    assert maps[range(len(top)), positions[:, 0], positions[:, 1]] == pytest.approx(top, rel=2e-2, abs=1e-2)
    assert top == sorted(top, reverse=True)
    found = circuit(opened.network(), "middle", "last", unit, inputs, positions, count=5)
    stored = {row["source"]: row for row in opened.neuron("last", unit)["circuit"]}
    both = [place for place, source in enumerate(found.source.tolist()) if source in stored]
    assert len(both) >= 3
    for place in both:
        row = stored[int(found.source[place])]
        assert found.effect[place] == pytest.approx(row["effect"], rel=1e-3, abs=1e-4)
        assert found.present[place] == pytest.approx(row["present"], rel=1e-3, abs=1e-4)
    silent = [each for each in told if told[each]["largest"] <= 0]
    for each in silent[:1]:
        with pytest.raises(AtlasError, match="has no views that excite it: it never fires"):
            opened.top_views("last", each)
    with pytest.raises(ConfigError, match=r"last has no unit 20: it has 20, counted from 0"):
        opened.top_views("last", 20)


def test_unfinished_units_are_told(looked: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(looked.path, copy.path)
    (copy.neurons("last") / "part-00001.json").unlink()
    with pytest.raises(AtlasError, match=r"the stage neurons is not finished: last/part-00001 is missing"):
        atlas.open_run(copy.path).neurons("last")
    assert len(atlas.open_run(copy.path).neurons("middle")) == 16


def test_killed_and_resumed_ends_with_equal_bytes(
    workshop: Path, looked: RunDirectory, undisturbed: RunDirectory
) -> None:
    directory = RunDirectory(workshop / "runs" / "killed-neurons")
    shutil.copytree(undisturbed.path, directory.path)
    begun = directory.folder("neurons")
    kill_when(lambda: any(begun.rglob("part-*")), workshop, "killed-neurons.log", *arguments(directory))
    assert not (directory.neurons("last") / "circuit.json").exists(), "it was killed before the end"
    done = atlas_run(workshop, *arguments(directory))
    assert done.returncode == 0, done.stderr
    made = contents(directory, ("neurons",))
    assert made == contents(looked, ("neurons",))
    assert len(made) == 2 * (2 * 4 + 2) - 2, "two layers, of one part and of two"


def configure(workshop: Path, scheduler: str, directory: RunDirectory, **neurons: Any) -> Config:
    values = tiny_values(workshop)
    values |= {"cluster": {"kind": "address", "address": scheduler}, "out": str(directory.path)}
    return validate({**values, "neurons": {**ASKED, **neurons} if neurons else None}, "test")


def test_asking_for_one_more_layer_leaves_the_others(
    workshop: Path, scheduler: str, looked: RunDirectory, undisturbed: RunDirectory
) -> None:
    """One layer, then both: what was made of the first stays but for its circuits; all is as when asked for at once.
    The other stages are untouched, and without units nothing of them is asked for."""
    directory = RunDirectory(workshop / "runs" / "one-more")
    shutil.copytree(undisturbed.path, directory.path)
    run(configure(workshop, scheduler, directory, layers=["last"]), until="neurons")
    kept = {path: path.stat().st_mtime_ns for path in directory.neurons("last").glob("part-*")}
    assert len(kept) == 4
    assert not directory.neurons("middle").exists()
    assert Folder(directory, "last").circuit()[0].num_rows == 0
    key = directory.stage_key("neurons")
    run(configure(workshop, scheduler, directory, layers=["middle", "last"]), until="neurons")
    assert directory.stage_key("neurons") == key
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(directory, ("neurons",)) == contents(looked, ("neurons",))
    before = contents(directory, PLAIN_STAGES)
    assert before == contents(undisturbed, PLAIN_STAGES)
    run(configure(workshop, scheduler, directory))
    assert contents(directory, PLAIN_STAGES) == before
    with pytest.raises(
        ConfigError, match=r"--until neurons: the configuration asks for no neurons. .*layers: \[last\]"
    ):
        run(configure(workshop, scheduler, directory), until="neurons")


def test_pictures_that_are_gone_are_counted(
    workshop: Path, looked: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every top patch of half the pictures is lost: figures come from the others, and the marker counts."""
    monkeypatch.syspath_prepend(workshop)
    from pipelines import neurons

    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(looked.path, copy.path)
    for path in copy.neurons("last").glob("part-*"):
        path.unlink()
    read = Listing.read

    def gone(listing: Listing, number: int) -> bytes:
        return b"" if number % 2 else read(listing, number)

    monkeypatch.setattr(Listing, "read", gone)
    item = next(item for item in neurons.plan(copy.config(), copy) if item.id == "last/part-00000")
    summary = neurons.run_item(item)
    told = pq.read_table(copy.neurons("last") / "part-00000.parquet").to_pylist()
    tops = pq.read_table(copy.neurons("last") / "statistics.parquet")["top"].to_pylist()[:16]
    lost = [[row for row in top if row["activation"] > 0 and row["image_id"] % 2] for top in tops]
    assert summary.failures == sum(map(len, lost)) > 5
    assert summary.units == 16
    marker = parse_marker(copy.neurons("last") / "part-00000.json")
    assert marker is not None
    assert marker["patches_failed"] == summary.failures
    for unit, top, missing in zip(told, tops, lost):
        left = sum(row["activation"] > 0 for row in top) - len(missing)
        assert len(unit["turned"]) == left
        if missing and not left:
            assert unit["told"] == "None of its top pictures can be read any more."
        assert len(unit["pictures"]) == 3


def test_dead_units_and_paths_that_are_not_linear_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    paint_pictures(tmp_path / "pictures", 12)
    values = {
        **tiny_values(tmp_path), "network": {"name": "odd:make", "size": 48}, "layers": ["first", "third"],
        "neurons": {"layers": ["third", "first"], "pictures": 2, "patches": 2}, "out": "run",
    }  # fmt: skip
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(values))
    done = atlas_run(tmp_path, "odd.yaml")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    directory = RunDirectory(tmp_path / "run")
    assert done.stdout.count("third: no weights from first. ") == 1
    _, facts = Folder(directory, "third").circuit()
    assert facts["earlier"] == ["first"]
    assert facts["told"].keys() == {"first"}
    assert pq.read_table(directory.neurons("third") / "cells.parquet").num_rows == 0
    dead = Folder(directory, "third").table().to_pylist()[2]
    assert dead["largest"] == 0
    assert dead["told"] == "It never fires: it is not above 0 in any row of the store."
    assert dead["turned"] == dead["supports"] == []
    assert len(dead["pictures"]) == 2
    assert atlas.open_run(directory.path).neuron("third", 2)["selectivity"] is None
    assert sys.modules.get("odd") is None

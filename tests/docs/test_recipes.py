"""The documents' recipes do what they say: those of the store on a whole run, under the names of the demo's."""

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from checkout import CHECKOUT
from documents import GUIDES, answer_of, blocks, documents, name_of, snippet, text_of, the_command
from PIL import Image
from tiny_run import leave_off

from atlas.config.reading import validate
from atlas.layout.lattice import cell_of
from atlas.networks.network import load
from atlas.rundir.directory import RunDirectory

STORE, PICTURE, ENGINE = f"{GUIDES}/store.md", f"{GUIDES}/one-picture.md", f"{GUIDES}/engine.md"
ALONE = "Feature visualisation without a run"
LAYER, GRID = "last", 8
# Every block of Python in the documents, by document and heading → the test that runs it.
RECIPES = {
    ("README.md", "What you get"): "test_the_readme_opens_a_run",
    ("atlas/docs/first-atlas.md", "5. Ask the store"): "test_the_pictures_of_the_fullest_cell",
    (ENGINE, ALONE): "test_the_engine_alone",
    (f"{GUIDES}/neurons-and-circuits.md", "In Python"): "test_the_guides_recipe",
    (PICTURE, "In Python"): "test_one_picture_from_the_command_line_and_in_python",
    (STORE, "Python"): "test_open_run_finds_the_channels_that_separate_two_classes",
    (STORE, "DuckDB"): "test_duckdb",
    (STORE, "Polars"): "test_polars",
    (STORE, "pandas"): "test_pandas",
    (STORE, "PyArrow data sets"): "test_pyarrow_data_sets_with_the_markers_left_out",
    (STORE, "Hugging Face datasets"): "test_hugging_face_datasets",
    (STORE, "FAISS"): "test_faiss",
    (STORE, "embedding-atlas"): "test_embedding_atlas_opens_the_layout_with_its_neighbours",
    (f"{GUIDES}/words.md", "In Python"): "test_the_guide_reads_words",
    (f"{GUIDES}/where-a-network-errs.md", "In Python"): "test_the_guide_lists_the_slices",
    (f"{GUIDES}/your-network.md", "Your own network"): "test_a_network_of_ones_own",
}


def test_every_recipe_is_followed_by_a_test() -> None:
    headings = {
        (block.document, block.heading)
        for path in documents()
        for block in blocks(name_of(path))
        if block.language == "python"
    }
    assert headings == set(RECIPES)
    tests = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "tests").rglob("test_*.py"))
    for name in RECIPES.values():
        assert f"def {name}(" in tests


@pytest.fixture
def demo(undisturbed: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A folder with a whole run as runs/demo, which is where the snippets stand; a few rows are not on its map."""
    run = RunDirectory(tmp_path / "runs/demo")
    shutil.copytree(undisturbed.path, run.path, ignore=shutil.ignore_patterns("site"))
    leave_off(run, LAYER, [0, 50, 51])
    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture
def rows(demo: RunDirectory) -> dict[str, Any]:
    """The layer's rows, read by Arrow alone: columns as lists, the vectors as matrices; with u and v."""
    table, layout = pq.read_table(demo.shards(LAYER)), pq.read_table(demo.layout(LAYER))
    assert len(demo.shards(LAYER)) > 2
    columns = {name: table[name].to_pylist() for name in table.column_names}
    columns["activation"] = np.array(columns["activation"], np.float32)
    return {**columns, "u": layout["u"].to_pylist(), "v": layout["v"].to_pylist()}


def follow(document: str, heading: str, *changes: tuple[str, str]) -> dict[str, Any]:
    """Run a recipe with this run's layer and grid in place of the demo's; returns the names that it made."""
    code = snippet(document, heading)
    assert "_blocks.10" in code
    for old, new in (("_blocks.10", LAYER), *changes):
        assert old in code
        code = code.replace(old, new)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_open_run_finds_the_channels_that_separate_two_classes(demo: RunDirectory, rows: dict[str, Any]) -> None:
    names = follow(STORE, "Python")
    label = np.array(rows["label"])
    assert names["commonest"].tolist() == [0, 1]
    one, other = (rows["activation"][label == number] for number in (0, 1))
    assert len(one) == len(other) == 144
    expected = abs(one.mean(0) - other.mean(0)) / np.sqrt((one.var(0) + other.var(0)) / 2 + 1e-12)
    np.testing.assert_allclose(names["distance"], expected, rtol=1e-3, atol=1e-3)


def test_every_reading_in_the_table_of_open_run_is_there(
    demo: RunDirectory, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(workshop)
    table = text_of(STORE).split("## Python")[1].split("## DuckDB")[0]
    calls = [call for line in table.splitlines() if line.startswith("| `") for call in re.findall(r"`([^`]+)`", line)]
    names: dict[str, Any] = {
        "layer": LAYER,
        "name": LAYER,
        "grid": GRID,
        "columns": ["image"],
        "rows": [1, 2],
        "count": 3,
    }
    import atlas

    names["atlas"] = atlas
    cells = atlas.open_run(demo.path).cells(LAYER, GRID)
    names["activations"] = np.ones((2, len(cells["mean"][0])), np.float32)
    names |= {side: cells[side][0].as_py() for side in ("row", "col")}
    for call in calls:
        if call.startswith(("run.neuron", "run.top_views")):
            continue  # tests/runs/test_neurons.py calls them on a run with units
        if call.startswith(("run", "store")):
            exec(call.replace("grid=20", f"grid={GRID}"), names)
    assert len(names["store"]) == 288
    for name in ("columns", "schema", "metadata", "classes", "labels", "channels", "paths"):
        assert f"`{name}`" in table
        assert getattr(names["store"], name)


def test_one_picture_from_the_command_line_and_in_python(
    demo: RunDirectory, workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from atlas.explain.__main__ import main

    monkeypatch.syspath_prepend(workshop)
    Image.fromarray(np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)).save("photo.jpg")
    arguments = [word.replace("Egyptian cat", "class 3") for word in the_command("atlas explain runs/demo")[2:]]
    assert main([*arguments, "--steps", "2", "--groups", "0"]) == 0
    assert "class-3" in str(list(Path("explained").rglob("attribution-*.png")))
    names = follow(PICTURE, "In Python")
    rows, cols = names["effects"].shape
    assert names["groups"].masks.shape == (4, rows, cols)
    assert names["lost"].shape == (4, 7)
    assert [icon.number for icon in names["icons"]] == [0, 1, 2, 3]
    names |= {"data": Path("photo.jpg").read_bytes(), "layer": LAYER, "classes": [0, 1], "count": 2}
    names["directions"] = names["groups"].directions
    table = text_of(PICTURE).split("## In Python")[1]
    calls = [call for line in table.splitlines() if line.startswith("| `") for call in re.findall(r"`([^`]+)`", line)]
    assert len(calls) > 8
    for call in calls:
        exec(call, names)


def test_duckdb(demo: RunDirectory, rows: dict[str, Any]) -> None:
    commonest = follow(STORE, "DuckDB")["commonest"]
    assert [row[:2] for row in commonest] == [(0, 144), (1, 144)]
    for number, _, confidence, u, v in commonest:
        own_rows = np.flatnonzero(np.array(rows["label"]) == number)
        for column, name in ((confidence, "confidence"), (u, "u"), (v, "v")):
            values = [rows[name][row] for row in own_rows if rows[name][row] is not None]
            assert column == pytest.approx(np.mean(values), abs=1e-5)


def test_polars(demo: RunDirectory, rows: dict[str, Any]) -> None:
    cells_by_recipe = follow(STORE, "Polars", ("* 20", f"* {GRID}"), ("(0, 19)", f"(0, {GRID - 1})"))["cells"]
    cell = cell_of(np.array(rows["u"], np.float32), np.array(rows["v"], np.float32), GRID)
    confidence = np.array(rows["confidence"])
    expected = {divmod(int(number), GRID): confidence[cell == number].mean() for number in set(cell) - {-1}}
    assert cells_by_recipe.rows() == [
        (*place, pytest.approx(value, abs=1e-5)) for place, value in sorted(expected.items())
    ]
    assert len(expected) > 10


def test_pandas(demo: RunDirectory, rows: dict[str, Any]) -> None:
    names = follow(STORE, "pandas")
    assert names["activations"].dtype == np.float16
    np.testing.assert_array_equal(names["activations"], rows["activation"].astype(np.float16))
    assert names["rows"]["image"].tolist() == rows["image"]


def test_pyarrow_data_sets_with_the_markers_left_out(demo: RunDirectory, rows: dict[str, Any]) -> None:
    limit = float(np.median(rows["confidence"]))
    sure = follow(STORE, "PyArrow data sets", ("0.9", repr(limit)))["sure"]
    sure_rows = np.flatnonzero(np.array(rows["confidence"]) > limit)
    assert sure["image"].to_pylist() == [rows["image"][row] for row in sure_rows]
    np.testing.assert_array_equal(np.array(sure["activation"].to_pylist(), np.float32), rows["activation"][sure_rows])
    assert 0 < len(sure_rows) < len(rows["image"])


def test_hugging_face_datasets(
    demo: RunDirectory, rows: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    names = follow(STORE, "Hugging Face datasets")
    assert names["rows"]["image"] == rows["image"]
    assert names["batch"]["image"] == rows["image"][:64]
    np.testing.assert_array_equal(names["batch"]["activation"].numpy(), rows["activation"][:64])


def test_faiss(demo: RunDirectory, rows: dict[str, Any]) -> None:
    names = follow(STORE, "FAISS")
    unit = rows["activation"] / np.maximum(np.linalg.norm(rows["activation"], axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit[0]
    np.testing.assert_allclose(names["cosines"][0], np.sort(cosines)[::-1][:6], atol=1e-5)
    np.testing.assert_allclose(cosines[names["rows"][0]], names["cosines"][0], atol=1e-5)
    assert names["names"].tolist() == [rows["image"][row] for row in names["rows"][0]]
    assert names["names"][0] == rows["image"][0]


def test_embedding_atlas_opens_the_layout_with_its_neighbours(demo: RunDirectory, rows: dict[str, Any]) -> None:
    """Its own server, started by the guide's command, hands out the table and knows which columns are what."""
    follow(STORE, "embedding-atlas")
    words = snippet(STORE, "embedding-atlas", "sh").split()
    assert words[0] == "embedding-atlas"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "embedding_atlas.cli", *words[1:], "--port", str(port), "--duckdb", "server"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(Path.cwd() / "cache")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        props = json.loads(answer_of(server, f"http://localhost:{port}/data/metadata.json"))["props"]
        assert props["data"]["projection"] == {"x": "u", "y": "v"}
        assert props["data"]["neighbors"] == "neighbors"
        query = json.dumps({"type": "json", "sql": "select * from dataset order by __row_index__"}).encode()
        response = json.loads(answer_of(server, f"http://localhost:{port}/data/query", query))
        page = answer_of(server, f"http://localhost:{port}/").decode()
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert "<title>Embedding Atlas" in page
    placed_rows = [row for row, u in enumerate(rows["u"]) if u is not None]
    assert len(placed_rows) == 288 - 3
    assert [row["image"] for row in response] == [rows["image"][row] for row in placed_rows]
    np.testing.assert_allclose([row["u"] for row in response], [rows["u"][row] for row in placed_rows], atol=1e-6)
    assert [row["predicted"] for row in response] == [f"class {rows['predicted'][row]}" for row in placed_rows]
    unit = rows["activation"][placed_rows]
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    for row in (0, 100):
        near = response[row]["neighbors"]
        assert len(near["ids"]) == 15
        assert row not in near["ids"]
        np.testing.assert_allclose(near["distances"], 1 - unit[near["ids"]] @ unit[row], atol=1e-5)
        nearest = np.sort(1 - np.delete(unit, row, axis=0) @ unit[row])[:15]
        np.testing.assert_allclose(near["distances"], nearest, atol=1e-5)


def test_the_readme_opens_a_run(demo: RunDirectory) -> None:
    names = follow("README.md", "What you get", ("1000", "100"), ("20", str(GRID)))
    assert names["rows"]["activation"].shape == (100, 20)
    assert len(set(names["rows"]["number"].tolist())) == 100
    best = names["best"]["cosine"].tolist()
    assert best == sorted(best, reverse=True)
    assert len(best) > 10


def test_the_pictures_of_the_fullest_cell(demo: RunDirectory, rows: dict[str, Any]) -> None:
    names = follow("atlas/docs/first-atlas.md", "5. Ask the store", ("20", str(GRID)))
    cell = cell_of(np.array(rows["u"], np.float32), np.array(rows["v"], np.float32), GRID)
    own_rows = np.flatnonzero(cell == names["largest"]["row"] * GRID + names["largest"]["col"])
    assert names["names"].tolist() == [rows["image"][row] for row in own_rows]


def test_the_engine_alone() -> None:
    names: dict[str, Any] = {}
    exec(snippet(ENGINE, ALONE).replace("size=128", "size=48, steps=2"), names)
    assert names["picture"].shape == (48, 48, 3)
    assert names["picture"].dtype == np.uint8
    exec(snippet(ENGINE, ALONE, number=1).replace("size=64, steps=32", "size=32, steps=2"), names)
    assert names["pictures"].shape == (3, 32, 32, 3)
    assert abs(names["pictures"][0].astype(int) - names["pictures"][1]).mean() > 1, "each its own picture"


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module and the YAML of the guide, with a network of twelve classes."""
    guide = f"{GUIDES}/your-network.md"
    network = """
import torch
from torch import nn


class MyNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(*(nn.Conv2d(3 if not number else 8, 8, 3, 2, 1) for number in range(5)))
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


"""
    (tmp_path / "mynetwork.py").write_text(network + snippet(guide, "Your own network"))
    (tmp_path / "classes.txt").write_text("\n".join(f"class {number}" for number in range(12)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import torch

    module = importlib.import_module("mynetwork")
    torch.save(module.make().state_dict(), tmp_path / "weights.pt")
    values = yaml.safe_load(snippet(guide, "Your own network", "yaml"))
    config = validate({**values, "images": {"source": "pictures"}, "out": "runs/my"}, guide)
    loaded_network = load(**config.network.model_dump())
    assert loaded_network.size == 160
    assert len(loaded_network.classes) == 12
    assert config.layers == ("features.4",)


def test_the_yaml_in_one_screen() -> None:
    text = snippet("README.md", "The YAML in one screen", "yaml")
    config = validate({**yaml.safe_load(text), "out": "runs/my"}, "README.md")
    assert config.layers == ("layer2", "layer3", "layer4")
    assert config.images.crops == 4

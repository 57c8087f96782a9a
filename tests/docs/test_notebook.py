"""The notebook of the documents: its form, its committed outputs, and its cells, run on a small run."""

import base64
import importlib
import json
import re
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from checkout import CHECKOUT
from PIL import Image

from atlas.rundir.directory import RunDirectory

NOTEBOOK = CHECKOUT / "atlas/docs/notebooks/analysis.ipynb"
LARGEST = 400_000


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(CHECKOUT / "scripts")
    return importlib.import_module("run_notebook")


@pytest.fixture
def notebook() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_it_is_a_notebook_of_format_4(notebook: dict[str, Any]) -> None:
    """What the format's schema asks for; the package that holds the schema is not needed for this."""
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell_id) for cell_id in ids)
    for cell in notebook["cells"]:
        own = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert cell["cell_type"] in ("code", "markdown")
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | own
        assert all(isinstance(line, str) and line.endswith("\n") for line in cell["source"][:-1])
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                assert set(output) == {"output_type", "name", "text"}
            else:
                assert output["output_type"] == "execute_result"
                assert set(output) == {"output_type", "data", "metadata", "execution_count"}


def test_what_it_points_at_is_there(notebook: dict[str, Any]) -> None:
    words = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    targets = re.findall(r"\]\(([^)]+)\)", words)
    assert targets
    assert all((NOTEBOOK.parent / target).is_file() for target in targets)


def test_its_outputs_are_committed_small_and_in_order(notebook: dict[str, Any]) -> None:
    assert NOTEBOOK.stat().st_size < LARGEST
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [
        Image.open(BytesIO(base64.b64decode(output["data"]["image/png"])))
        for cell in cells
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3
    assert all(np.asarray(picture.convert("RGB")).std() > 10 for picture in pictures)
    text = json.dumps(notebook)
    assert "Traceback" not in text
    assert not re.search(r"/(home|root|tmp)/", text), "no path of the machine that made them"


def test_its_cells_run_and_ask_what_they_say(runner: ModuleType, notebook: dict[str, Any], tiny: RunDirectory) -> None:
    names = runner.run_cells(notebook, RUN=str(tiny.path), LAYER="last", GRID=8, SIZE=32, STEPS=2)
    rows = pq.read_table(tiny.shards("last")).to_pydict()
    activation = np.array(rows["activation"], np.float32)
    label, image = np.array([-1 if one is None else one for one in rows["label"]]), np.array(rows["image_id"])
    assert {names["one"], names["other"]} == {0, 1}
    channel = names["channel"]
    for half, figure in ((0, names["chosen"]), (1, names["held_out"])):
        own, theirs = (activation[(image % 2 == half) & (label == kind), channel] for kind in (0, 1))
        above = (own[:, None] > theirs).mean() + (own[:, None] == theirs).mean() / 2
        assert figure[channel] == pytest.approx(above)
    assert abs(names["chosen"] - 0.5).max() == abs(names["chosen"][channel] - 0.5)
    assert names["drawn"].shape == (2, 32, 32, 3)
    assert names["strongest"][0] == activation[:, channel].argmax()
    assert len({image[row] for row in names["strongest"]}) == 5
    assert names["count"].sum() == (label >= 0).sum()
    assert len(names["best"]) == 5
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3


def test_outputs_are_written_into_the_file(runner: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "small.ipynb"
    code = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": []}
    cells = [{**code, "source": ["x = 2\n", "print('two')\n", "x * 21"]}, {**code, "id": "b", "source": ["x = 3"]}]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    assert runner.main([str(path)]) == 0
    first, second = json.loads(path.read_text())["cells"]
    assert [output["output_type"] for output in first["outputs"]] == ["stream", "execute_result"]
    assert first["outputs"][0]["text"] == ["two\n"]
    assert first["outputs"][1]["data"]["text/plain"] == ["42"]
    assert (second["outputs"], second["execution_count"]) == ([], 2)

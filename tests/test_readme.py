"""The README's snippets of Python do what it says, on a run whose store has the demo's layers."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from atlas.config import validate
from atlas.store import ShardWriter, schema

CHECKOUT = Path(__file__).parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
ROWS, CHANNELS = 40, 112


def snippet(heading: str) -> str:
    """The first block of Python after ``heading``."""
    return re.search(re.escape(heading) + r".*?```python\n(.*?)```", README, re.DOTALL)[1]  # type: ignore[index]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Two shards of random rows in runs/demo; returns the activations (rows, channels)."""
    generator = np.random.default_rng(0)
    activation = generator.normal(size=(ROWS, CHANNELS)).astype(np.float16)
    folder = tmp_path / "runs/demo/store/_blocks.10"
    for shard, rows in enumerate(np.array_split(np.arange(ROWS), 2)):
        columns = {
            "image": [f"{row % 7}.png" for row in rows],
            "image_id": rows % 7,
            "view": rows // 7,
            "draw": np.zeros(len(rows)),
            "box": np.tile([0, 0, 10, 10], (len(rows), 1)),
            "place_x": np.full(len(rows), 0.5),
            "place_y": np.full(len(rows), 0.5),
            "y": np.full(len(rows), 7),
            "x": np.full(len(rows), 7),
            "label": [None] * len(rows),
            "predicted": rows % 3,
            "confidence": rows / ROWS,
            "activation": activation[rows],
        }
        with ShardWriter(folder / f"part-{shard:05d}.parquet", schema(False, {"layer": "_blocks.10"})) as writer:
            writer.append(columns)
        (folder / f"part-{shard:05d}.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return activation


def test_duckdb(store: np.ndarray) -> None:
    names: dict = {}
    exec(snippet("With DuckDB"), names)
    assert [(predicted, rows) for predicted, rows, _ in names["confident"]] == [(0, 14), (1, 13), (2, 13)]
    assert names["confident"][0][2] == pytest.approx(np.arange(0, ROWS, 3).mean() / ROWS, abs=1e-6)


def test_polars(store: np.ndarray) -> None:
    names: dict = {}
    exec(snippet("With Polars"), names)
    best = np.sort(store[:, 17].astype(np.float32))[::-1][:5]
    assert np.array(names["channels"]["channel 17"], dtype=np.float32) == pytest.approx(best)


def test_pandas(store: np.ndarray) -> None:
    names: dict = {}
    exec(snippet("With pandas"), names)
    assert names["activations"].dtype == np.float16
    np.testing.assert_array_equal(names["activations"], store)


def test_the_engine_alone() -> None:
    names: dict = {}
    exec(snippet("## The engine alone").replace("size=128", "size=48, steps=2"), names)
    assert names["picture"].shape == (48, 48, 3)
    assert names["picture"].dtype == np.uint8


def test_the_yaml_in_one_screen() -> None:
    text = re.search(r"## The YAML in one screen.*?```yaml\n(.*?)```", README, re.DOTALL)[1]  # type: ignore[index]
    config = validate({**yaml.safe_load(text), "out": "runs/my"}, "README.md")
    assert config.layers == ("layer2", "layer3", "layer4")
    assert config.images.crops == 4


def test_the_reference_tells_every_key_and_its_default() -> None:
    values = yaml.safe_load((CHECKOUT / "configs/reference.yaml").read_text(encoding="utf-8"))
    config = validate(values, "reference.yaml")
    least = {key: values[key] for key in ("out", "layers")} | {
        "network": {"name": values["network"]["name"]},
        "images": {"source": values["images"]["source"]},
    }
    assert config == validate(least, "least"), "a default in reference.yaml is not the default"
    told = {f"{section}.{key}" for section, keys in values.items() if isinstance(keys, dict) for key in keys}
    plain = config.plain()
    assert told == {f"{section}.{key}" for section, keys in plain.items() if isinstance(keys, dict) for key in keys}


def test_every_shipped_configuration_is_valid() -> None:
    for path in sorted((CHECKOUT / "configs").glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        validate({"out": "runs/x", **values}, str(path))


def test_nothing_that_the_documents_point_at_is_missing() -> None:
    for document in (CHECKOUT / "README.md", CHECKOUT / "atlas/architecture.md", CHECKOUT / "scripts/benchmarks.md"):
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (document.parent / target).is_file(), f"{document.name} points at {target}"
        assert not re.search(r"TODO|FIXME|TABLE$", text, re.MULTILINE), document.name


@pytest.mark.parametrize("name", ["README.md", "atlas/architecture.md", "scripts/benchmarks.md"])
def test_nothing_is_left_to_be_filled_in(name: str) -> None:
    assert "@@" not in (CHECKOUT / name).read_text(encoding="utf-8")

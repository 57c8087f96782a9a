"""The tiny run with tables of its units, and its tour written anew as a test asks for it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_neurons import write_neurons

from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.site.tour.writer import TourSettings, write_tour
from atlas.store.shards import read_columns

LAYERS = ["middle", "last"]
STEP = {"kind": "atlas", "title": "A map", "text": ["So it is."]}


@pytest.fixture(scope="module")
def tour_run(undisturbed: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The tiny run with tables of its units."""
    copy = RunDirectory(tmp_path_factory.mktemp("tour") / "run")
    shutil.copytree(undisturbed.path, copy.path)
    write_neurons(copy, LAYERS)
    return copy


def write_and_read(run: RunDirectory, **changes: Any) -> dict[str, Any]:
    """The tour of the run, written anew with these changes of the configuration."""
    manifest = run.read_manifest()
    manifest["config"] |= {"neurons": {"layers": LAYERS, "patches": 3}, "tour": "tour", **changes}
    run.manifest.write_text(json.dumps(manifest))
    config = run.config()
    settings = TourSettings(
        layers=config.layers_of(""),
        opening=config.opening,
        cells=config.cells,
        neurons=config.neurons,
        seed=config.seed,
    )
    files = write_tour(run, Listing.load(run.listing), config.tour, settings)
    assert files[0] == run.folder("publish") / "tour.json"
    tour_facts: dict[str, Any] = json.loads(files[0].read_text())
    pictures = {part["picture"] for step in tour_facts["steps"] for part in step["parts"]}
    pictures |= {step[name] for step in tour_facts["steps"] for name in ("picture", "picture_to_open") if step[name]}
    assert {f"tour/{path.name}" for path in files[1:]} == pictures, "all that is shown is there, and nothing else"
    assert {path.name for path in (run.folder("publish") / "tour").iterdir()} == {path.name for path in files[1:]}
    return tour_facts


def step_of(tour_facts: dict[str, Any], kind: str) -> dict[str, Any]:
    """The step of one kind."""
    return next(step for step in tour_facts["steps"] if step["kind"] == kind)


def predictions(run: RunDirectory, layer: str) -> dict[tuple[int, int, int], tuple[int, float]]:
    """What each row's view is taken for, and how surely."""
    names = ["image_id", "view", "draw", "predicted", "confidence"]
    by_key = {}
    for shard in run.shards(layer):
        columns = read_columns(shard, names)
        for *key, predicted, confidence in zip(*(columns[name].tolist() for name in names)):
            by_key[tuple(key)] = predicted, confidence
    return by_key  # type: ignore[return-value]


def key_of(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["image_id"], row["view"], row["draw"]


def write_tour_file(folder: Path, *steps: dict[str, Any], **more: Any) -> str:
    """A tour of one's own in ``folder``: its path."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"title": "Mine", "steps": list(steps), **more}))
    return str(path)

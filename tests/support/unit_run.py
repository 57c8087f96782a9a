"""The tiny run with tables of its units, and the site's files of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_neurons import write_neurons
from planned import planned

from atlas.rundir.directory import RunDirectory
from pipelines import publish

LAYERS = ["middle", "last"]
PATCHES = 3


@pytest.fixture(scope="module")
def unit_run(undisturbed: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The tiny run with tables of its units, and the site's files of them."""
    copy = RunDirectory(tmp_path_factory.mktemp("neurons") / "run")
    shutil.copytree(undisturbed.path, copy.path)
    ask_for_units(copy, {"layers": LAYERS, "patches": PATCHES})
    write_neurons(copy, LAYERS, patches=PATCHES)
    for item in planned(publish, copy.config(), copy):
        if item.id.startswith("neurons/"):
            publish.run_item(item)
    return copy


def ask_for_units(run: RunDirectory, neurons: dict[str, Any] | None) -> None:
    """Have the run's configuration ask for ``neurons``."""
    manifest = run.read_manifest()
    manifest["config"]["neurons"] = neurons
    run.manifest.write_text(json.dumps(manifest))


def unit_folder(run: RunDirectory, layer: str = "last") -> Path:
    """Where the site has the units of a layer."""
    return run.folder("publish") / "neurons" / layer


def read_json(path: Path) -> Any:
    """What a file of JSON holds."""
    return json.loads(path.read_text())

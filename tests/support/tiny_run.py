"""A tiny whole run on real Dask workers, as a user would make it: her network, her pictures, her configuration."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from checkout import CHECKOUT
from distributed import LocalCluster
from PIL import Image

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import digest_file
from atlas.rundir.stages import STAGES

GRIDS = (4, 8)

# What a user would write: a factory in a file of her own.
TINY = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.norm(self.conv(x)))


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Block(3, 12, 2)
        self.middle = Block(12, 16, 2)
        self.last = Block(16, 20, 1)
        self.head = nn.Linear(20, 7)

    def forward(self, x):
        return self.head(self.last(self.middle(self.stem(x))).mean((2, 3)))


def make():
    torch.manual_seed(3)
    return Tiny()
"""


def paint_pictures(folder: Path, count: int = 24) -> None:
    """Pictures with some structure: stripes, discs and gradients in two class folders, one of them half transparent."""
    generator = np.random.default_rng(5)
    y, x = np.mgrid[0:96, 0:128]
    for number in range(count):
        colours = generator.integers(0, 256, (2, 3))
        if number % 2:
            mask = np.sin((x * np.cos(number) + y * np.sin(number)) / (3 + number % 5)) > 0
        else:
            mask = (x - 20 - 3 * number) ** 2 + (y - 48) ** 2 < (10 + number) ** 2
        pixels = np.where(mask[..., None], colours[0], colours[1]).astype(np.uint8)
        target = folder / ("stripes" if number % 2 else "discs")
        target.mkdir(parents=True, exist_ok=True)
        if number == 4:
            pixels = np.dstack([pixels, np.where(mask, 255, 0).astype(np.uint8)])
        Image.fromarray(pixels).save(target / f"{number:02d}.png")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: her network, her pictures, her configuration."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "tiny.py").write_text(TINY)
    paint_pictures(folder / "pictures")
    (folder / "pictures" / "discs" / "broken.png").write_bytes(b"not a picture")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_values(folder)))
    return folder


# The stages of a run that does not look at single units.
PLAIN_STAGES = tuple(stage for stage in STAGES if stage != "neurons")


def tiny_values(folder: Path) -> dict:
    return {
        "network": {"name": "tiny:make", "size": 48},
        "layers": ["middle", "last"],
        "images": {"source": str(folder / "pictures"), "crops": 12},
        "collect": {"rows_per_shard": 64, "batch": 8},
        "layout": {"neighbors": 6, "deterministic": True},
        "cells": {"grids": list(GRIDS), "min_count": 2, "exemplars": 3},
        "render": {"size": 32, "steps": 3, "icons_per_item": 12, "batch": 8},
        "cluster": {"workers": 2},
    }


def configure(folder: Path, scheduler: str, out: str | Path, **changes: Any) -> Config:
    """The tiny run on a standing cluster, in ``folder/runs/out``; of a section, only the keys that are given change."""
    values = tiny_values(folder)
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys} if isinstance(keys, dict) else keys
    values["cluster"] = {"kind": "address", "address": scheduler}
    values["out"] = str(folder / "runs" / out)
    return validate(values, "test")


def contents(directory: RunDirectory, stages: tuple[str, ...] = STAGES) -> dict[str, str]:
    """sha256 of every file of the stages' folders, but for atlas.json (it tells of this run's speed) and its marker."""
    files = [path for stage in stages for path in sorted(directory.folder(stage).rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(directory.path)): digest_file(path)
        for path in files
        if path.name not in ("atlas.json", "page.json")
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "atlas.run", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "160"}


def atlas_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )


def end_all(process: subprocess.Popen) -> None:
    """Leave nothing running, whatever came before."""
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        for one in [*parent.children(recursive=True), parent]:
            one.kill()
        process.wait()


# As soon as one item of collect is whole, whoever writes another file stands still: however quick the machine, a run is
# killed in the middle. (Folders are synced on: that belongs to the item which is whole.)
_BRAKE = """
import multiprocessing
import os
import stat
import time
from pathlib import Path

STORE = Path({store!r})
sync = os.fsync


def whole_items():
    names = [marker.name for marker in STORE.glob("*/part-*.json")]
    return [name for name in names if names.count(name) == 2]  # of both layers


def sync_until_one_is_there(file):
    while multiprocessing.parent_process() and not stat.S_ISDIR(os.fstat(file).st_mode) and whole_items():
        time.sleep(0.05)
    return sync(file)


os.fsync = sync_until_one_is_there
"""


def brake(folder: Path, store: Path) -> None:
    """Write into ``folder`` what halts a run that has it on its PYTHONPATH: its workers write one item of ``store``,
    and no more."""
    (folder / "sitecustomize.py").write_text(_BRAKE.format(store=str(store)))


def kill_when(
    begun: Callable[[], bool], folder: Path, log: str, *arguments: str, env: dict[str, str] | None = None
) -> None:
    """Start a run in ``folder``, its output in the file ``log`` there, and SIGKILL it as soon as it has ``begun``. Its
    workers must end by themselves. ``env``: by default ``environment()``."""
    with (folder / log).open("w") as out:
        process = subprocess.Popen(command(*arguments), cwd=folder, env=env or environment(), stdout=out, stderr=out)
        children: list[psutil.Process] = []
        try:
            while not begun():
                assert process.poll() is None, "the run ended before it could be killed"
                time.sleep(0.005)
            children = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()
            process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "workers outlive the process that started them"


@pytest.fixture(scope="session")
def undisturbed(workshop: Path) -> RunDirectory:
    """The whole run in one go, from the command line."""
    process = atlas_run(workshop, "tiny.yaml", "--set", "out=runs/undisturbed")
    assert process.returncode == 0, process.stderr + process.stdout
    assert "atlas serve runs/undisturbed" in process.stdout
    assert "Traceback" not in process.stderr
    return RunDirectory(workshop / "runs/undisturbed")


@pytest.fixture
def tiny(undisturbed: RunDirectory, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """The whole run, its network importable from here."""
    monkeypatch.syspath_prepend(workshop)
    return undisturbed


@pytest.fixture(scope="session")
def scheduler(workshop: Path) -> Iterator[str]:
    """A cluster inside this process, by its address: for runs that are given little to do."""
    with cluster_here(workshop) as address:
        yield address


@contextmanager
def cluster_here(folder: Path, processes: int = 0) -> Iterator[str]:
    """The address of a cluster that finds the network which is in ``folder``: of a worker inside this process, or of
    several in ``processes`` of their own."""
    sys.path.insert(0, str(folder))
    with LocalCluster(
        n_workers=processes or 1,
        threads_per_worker=1,
        processes=processes > 0,
        dashboard_address=None,
        memory_limit=0,
        protocol="tcp://",
    ) as cluster:
        yield cluster.scheduler_address
    sys.path.remove(str(folder))


def leave_off(run: RunDirectory, layer: str, rows: list[int]) -> None:
    """Drop rows of a run's layout, as outliers are, and mend the marker: the tiny map has none of its own."""
    table = pq.read_table(run.layout(layer))
    columns = table.to_pydict()
    for row in rows:
        columns["u"][row] = columns["v"][row] = None
        columns["dropped"][row] = "outlier"
    pq.write_table(pa.table(columns, schema=table.schema), run.layout(layer))
    path = run.folder("layout") / "box.json"
    marker = json.loads(path.read_text())
    marker["files"][run.layout(layer).name]["bytes"] = run.layout(layer).stat().st_size
    path.write_text(json.dumps(marker))

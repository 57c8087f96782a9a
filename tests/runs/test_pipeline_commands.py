"""The command given again, changed, stopped or killed, and its sentences for mistakes."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from distributed import LocalCluster
from tiny_run import (
    GRIDS,
    PLAIN_STAGES,
    atlas_run,
    cluster_here,
    command,
    configure,
    contents,
    environment,
    kill_when,
    paint_pictures,
    tiny_values,
)

from atlas.errors import AtlasError, ConfigError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.stages import FOLDERS
from pipelines.pipeline import run

# Networks that cannot be taken as they are.
ODD = """
import torch
from torch import nn


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.relu(self.conv(self.relu(x))).mean((2, 3)))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x * x

    @staticmethod
    def backward(context, gradient):
        return gradient


class Custom(Twice):
    def forward(self, x):
        return self.head(Square.apply(self.conv(x)).mean((2, 3)))


def make():
    CODE
"""


@pytest.fixture(scope="module")
def scheduler(workshop: Path) -> Iterator[str]:
    """Two workers in processes of their own, by their scheduler's address: here it matters that they outlive a run.
    Elsewhere that of tiny_run does."""
    with cluster_here(workshop, processes=2) as address:
        yield address


def test_killed_in_every_stage_and_resumed(workshop: Path, undisturbed: RunDirectory) -> None:
    """SIGKILL while a stage writes, in each stage of one run; the same command again goes on, and at last ends with the
    bytes of a run that nobody disturbed."""
    directory = RunDirectory(workshop / "runs" / "killed")
    arguments = ("tiny.yaml", "--set", f"out={directory.path}")
    for stage in PLAIN_STAGES:
        kill_when(lambda stage=stage: any(directory.folder(stage).rglob("*.*")), workshop, f"{stage}.log", *arguments)
        assert not (directory.folder("publish") / "atlas.json").exists(), "nothing may look finished"
    process = atlas_run(workshop, *arguments)
    assert process.returncode == 0, process.stderr
    assert contents(directory) == contents(undisturbed)


def test_the_page_is_there_with_the_first_level_and_grows(workshop: Path, undisturbed: RunDirectory) -> None:
    """Killed as soon as there is a page: it shows whole levels of the opening layer, with quick icons; the same command
    adds the others, and nothing is left of the quick ones."""
    directory = RunDirectory(workshop / "runs" / "growing")
    arguments = ("tiny.yaml", "--set", f"out={directory.path}", "--set", "render.quick_steps=1")
    site = directory.folder("publish")
    kill_when((site / "atlas.json").exists, workshop, "growing.log", *arguments)
    atlas = json.loads((site / "atlas.json").read_text())
    assert (site / "index.html").is_file()
    assert (atlas["layers"][-1]["path"], atlas["layers"][-1]["grids"][0]["grid"]) == ("last", GRIDS[0])
    for layer in atlas["layers"]:
        for grid in layer["grids"]:
            folder = directory.site_grid(layer["path"], grid["grid"])
            assert (folder / "patches.dzi").is_file()
            assert list((folder / "details").glob("*.json"))
            if layer["path"] == "last" and grid["grid"] == GRIDS[0]:
                assert grid["quick"], "the kill came before the full icons"
            if grid.get("quick"):
                folder /= "quick"
            assert json.loads((folder / "cells.json").read_text())["drawn"].count(1) == grid["drawn"]
            assert len(json.loads((folder / "scores.json").read_text())["rank"]) == grid["drawn"]
            for name in ("icons.dzi", "classes.bin"):
                assert (folder / name).is_file()
    assert not atlas["tour"] or (site / "tour.json").is_file()
    making = atlas.get("making", {"maps": [], "units": [], "tour": False, "expected_end": "unknown"})
    there, awaited = (
        [(one["path"], grid) for one in maps for grid in grids_of(one)]
        for maps, grids_of in (
            (atlas["layers"], lambda one: [grid["grid"] for grid in one["grids"]]),
            (making["maps"], lambda one: one["grids"]),
        )
    )
    assert sorted(there + awaited) == [(name, grid) for name in ("last", "middle") for grid in GRIDS]
    assert making["tour"] is not atlas["tour"]
    assert "expected_end" in making
    process = atlas_run(workshop, *arguments)
    assert process.returncode == 0, process.stderr
    atlas = json.loads((site / "atlas.json").read_text())
    assert [(layer["path"], [grid["grid"] for grid in layer["grids"]]) for layer in atlas["layers"]] == [
        ("middle", list(GRIDS)), ("last", list(GRIDS))
    ]  # fmt: skip
    assert not any("quick" in grid for layer in atlas["layers"] for grid in layer["grids"])
    assert "making" not in atlas
    assert contents(directory) == contents(undisturbed)


def test_giving_the_command_again_does_nothing_twice(workshop: Path, scheduler: str) -> None:
    config = configure(workshop, scheduler, "again")
    directory = run(config)
    before = {path: path.stat().st_mtime_ns for path in directory.folder("collect").rglob("*") if path.is_file()}
    stages = directory.read_manifest()["stages"]
    run(config)
    assert {
        path: path.stat().st_mtime_ns for path in directory.folder("collect").rglob("*") if path.is_file()
    } == before
    assert directory.read_manifest()["stages"] == stages


def test_a_changed_grid_keeps_the_store_and_moves_the_cells_aside(workshop: Path, scheduler: str) -> None:
    run(configure(workshop, scheduler, "changed"), until="cells")
    directory = RunDirectory(workshop / "runs" / "changed")
    store = contents(directory, ("collect", "layout"))
    old_key = directory.stage_key("cells")
    run(configure(workshop, scheduler, "changed", cells={"grids": [4]}), until="cells")
    assert contents(directory, ("collect", "layout")) == store
    assert (directory.path / f"cells.{old_key[:8]}" / "last.parquet").is_file()
    assert set(pq.read_table(directory.cells("last"))["grid"].to_pylist()) == {4}
    run(configure(workshop, scheduler, "changed"), until="cells")
    assert directory.stage_key("cells") == old_key
    assert set(pq.read_table(directory.cells("last"))["grid"].to_pylist()) == set(GRIDS)


def test_workers_that_outlive_a_run_do_not_mix_it_with_the_next(workshop: Path, scheduler: str) -> None:
    """The same folder, other pictures and other weights: a worker must not use what it kept from before."""
    limited = configure(workshop, scheduler, "standing", images={"limit": 5})
    directory = run(limited, until="collect")
    first = pq.read_table(directory.shards("last"))
    run(configure(workshop, scheduler, "standing", images={"limit": 9, "shuffle": False}), until="collect")
    listing = pq.read_table(directory.listing)["image"].to_pylist()
    second = pq.read_table(directory.shards("last"))
    assert set(second["image"].to_pylist()) == set(listing) - {"discs/broken.png"}
    assert first.num_rows < second.num_rows


def test_workers_with_several_threads_do_one_item_at_a_time(workshop: Path, scheduler: str) -> None:
    """Hooks on one network bear one thread: a worker with four gives the bytes of one with one."""
    directory = run(configure(workshop, scheduler, "single"), until="collect")
    with LocalCluster(
        n_workers=1, threads_per_worker=4, processes=True, dashboard_address=":0", memory_limit=0
    ) as crowded:
        config = configure(workshop, crowded.scheduler_address, "crowded")
        other = run(config, until="collect")
    assert contents(other, ("collect",)) == contents(directory, ("collect",))


@pytest.mark.parametrize(
    ("code", "layer", "sentence"),
    [
        ("raise ValueError('no weights')", "relu", "the factory failed (ValueError: no weights)"),
        ("return Twice()", "relu", "layers: relu of odd:make is called 2 times in one pass"),
        ("return Custom()", "conv", "collect.attributions: odd:make cannot be differentiated forwards"),
    ],
)
def test_odd_networks_are_answered_with_sentences(tmp_path: Path, code: str, layer: str, sentence: str) -> None:
    (tmp_path / "odd.py").write_text(ODD.replace("CODE", code))
    paint_pictures(tmp_path / "pictures", 4)
    values = {**tiny_values(tmp_path), "network": {"name": "odd:make", "size": 32}, "layers": [layer]}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(values))
    process = atlas_run(tmp_path, "odd.yaml", "--dry-run")
    assert process.returncode == 2, process.stdout
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr


def test_a_lost_shard_is_made_again_with_equal_bytes(workshop: Path, scheduler: str) -> None:
    config = configure(workshop, scheduler, "lost")
    directory = run(config, until="collect")
    before = contents(directory, ("collect",))
    (directory.store("last") / "part-00001.parquet").unlink()
    run(config, until="collect")
    assert contents(directory, ("collect",)) == before


def test_too_many_failures_stop_the_run_with_reasons(workshop: Path, scheduler: str, tmp_path: Path) -> None:
    paint_pictures(tmp_path / "pictures", 6)
    for number in range(3):
        (tmp_path / "pictures" / f"bad{number}.jpg").write_bytes(b"" if number else b"junk")
    config = configure(workshop, scheduler, "failing", images={"source": str(tmp_path / "pictures"), "crops": 2})
    with pytest.raises(AtlasError, match=r"6 of 18 views failed.*max_failure_share = 0.05.*the file is empty \(2×"):
        run(config)
    directory = RunDirectory(Path(config.out))
    assert len(directory.shards("last")) > 0, "what was collected is kept"
    lenient = configure(
        workshop,
        scheduler,
        "failing",
        images={"source": str(tmp_path / "pictures"), "crops": 2},
        collect={"max_failure_share": 0.5},
    )
    run(lenient, until="collect")
    assert pq.read_table(directory.failures).num_rows == 3


def test_all_mistakes_at_once(workshop: Path, scheduler: str) -> None:
    config = configure(workshop, scheduler, "mistakes", layers=["middle.convv"], images={"source": "nowhere"})
    with pytest.raises(ConfigError) as caught:
        run(config)
    assert "nowhere, nor a file of that name" in str(caught.value)
    assert "has no layer 'middle.convv'. Near names: middle.conv" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nothing"], 2, "There is no configuration nothing"),
        (["tiny.yaml", "--set", "colour=red"], 2, "colour: unknown key"),
        (
            ["tiny.yaml", "--set", "images.source=nowhere"],
            2,
            "Point it at your pictures with --set images.source=FOLDER",
        ),
        (
            ["imagenet", "--set", "network.name=tiny:make", "--set", "layers=[last]"],
            2,
            "imagenet/train, nor a file of that name",
        ),
        (
            ["tiny.yaml", "--set", "cluster={kind: address, address: tcp://127.0.0.1:9}"],
            2,
            "no scheduler answers",
        ),
    ],
)
def test_mistakes_are_sentences(workshop: Path, arguments: list[str], code: int, sentence: str) -> None:
    process = atlas_run(workshop, *arguments)
    assert process.returncode == code
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr


def test_dry_run_stops_after_the_plan(workshop: Path) -> None:
    process = atlas_run(workshop, "tiny.yaml", "--dry-run", "--set", "out=runs/dry")
    assert process.returncode == 0
    assert "25 in" in process.stdout
    assert "300 views" in process.stdout
    assert "grids of 4, 8" in process.stdout
    assert not any((workshop / "runs/dry" / folder).exists() for folder in FOLDERS.values())


def test_interrupt_ends_cleanly(workshop: Path, undisturbed: RunDirectory) -> None:
    directory = RunDirectory(workshop / "runs" / "interrupted")
    arguments = ("tiny.yaml", "--set", f"out={directory.path}")
    process = subprocess.Popen(
        command(*arguments), cwd=workshop, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    while not any(directory.folder("collect").rglob("*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the workers get it too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert atlas_run(workshop, *arguments, "--until", "collect").returncode == 0
    assert contents(directory, ("collect",)) == contents(undisturbed, ("collect",))


def test_two_runs_in_one_folder_are_refused(workshop: Path, scheduler: str) -> None:
    config = configure(workshop, scheduler, "shared")
    with RunDirectory(Path(config.out)).lock(), pytest.raises(AtlasError, match="Another process is at work"):
        run(config)

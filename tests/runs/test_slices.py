"""Where a network errs, in whole runs: a planted error is found first; other classes of the labels leave what does not
depend on them; two networks are held against each other."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from documents import GUIDES, snippet
from planted_pictures import MARKED, PICTURES, write_planted
from rich.console import Console
from tiny_run import configure, contents

from atlas.analysis import open_run
from atlas.check.verify import verify
from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from pipelines.pipeline import Output, run


def go(config: Config) -> tuple[RunDirectory, str]:
    """Run it; the run, and what was printed."""
    console = Console(file=io.StringIO(), width=250)
    directory = run(config, output=Output(console))
    return directory, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, scheduler: str) -> tuple[RunDirectory, str, set[str]]:
    """A run over the planted pictures, what it printed, and the names of the marked pictures."""
    folder = tmp_path_factory.mktemp("planted")
    marked = write_planted(folder / "pictures")
    (folder / "classes.txt").write_text("warm\ncold\n")
    network = {"name": "planted_pictures:factory", "size": 48, "classes": str(folder / "classes.txt")}
    values = {
        "out": str(folder / "run"),
        "network": network,
        "layers": ["map"],
        "images": {"source": str(folder / "pictures"), "crops": 2, "crop_scale": [0.7, 1.0]},
        "layout": {"neighbors": 8, "deterministic": True},
        "cells": {"grids": [4, 8], "min_count": 4},
        "render": {"size": 32, "steps": 2, "quick_steps": 0, "batch": 16},
        "cluster": {"kind": "address", "address": scheduler},
        "tour": None,
    }
    return *go(validate(values, "test")), marked


def test_the_planted_slice_is_found_first(planted: tuple[RunDirectory, str, set[str]]) -> None:
    directory, said, marked = planted
    report = json.loads(directory.report.read_text())
    accuracy = report["accuracy"][""]
    assert accuracy["pictures"] == PICTURES
    assert (1 - accuracy["accuracy"]) * PICTURES == pytest.approx(MARKED + 6, abs=1)
    first = report["layers"]["map"]["errors"]["slices"][0]
    assert (first["confusions"][0]["true_class"], first["confusions"][0]["predicted"]) == (1, 0)
    rows = open_run(directory.path).errors("map", first["grid"]).to_pylist()
    (cell,) = [one for one in rows if (one["row"], one["col"]) == (first["row"], first["col"])]
    keys = Listing.load(directory.listing).keys
    names = [keys[row["image_id"]] for row in cell["wrong"]]
    assert len(names) >= 4
    assert sum(name in marked for name in names) >= 0.9 * len(names)
    assert "labels 2 of 2 are classes of the network (2 by name): 160 of 160 pictures" in " ".join(said.split())
    assert "right on 8" in said
    assert "map: more errors than their classes let expect" in said
    assert "cold taken for warm" in said


def test_the_guide_lists_the_slices(planted: tuple[RunDirectory, str, set[str]]) -> None:
    directory, _, _ = planted
    lines = snippet(f"{GUIDES}/where-a-network-errs.md", "In Python").strip()
    lines = lines.replace("runs/demo", str(directory.path)).replace('"_blocks.10", 20', '"map", 4')
    *before, last = lines.splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(before), names)
    slices = eval(last, names)
    on_page = json.loads((directory.site_grid("map", 4) / "errors.json").read_text())["slices"]
    assert slices[["row", "col"]].values.tolist() == [[one["row"], one["col"]] for one in on_page]


def test_the_page_has_the_slice_with_its_patches(planted: tuple[RunDirectory, str, set[str]]) -> None:
    directory, _, marked = planted
    atlas = json.loads((directory.folder("publish") / "atlas.json").read_text())
    assert atlas["layers"][0]["errors"] is True
    assert atlas["networks"][0]["label_classes"] == [1, 0], "cold and warm, in the labels' order"
    assert atlas["report"]["layers"]["map"]["errors"]["slices"]
    on_page = json.loads((directory.site_grid("map", 4) / "errors.json").read_text())
    table = open_run(directory.path).errors("map", 4)
    assert on_page["pictures"] == table["pictures"].to_pylist()
    assert on_page["slice"] == [int(one) for one in table["slice"].to_pylist()]
    assert len(on_page["slices"]) == sum(on_page["slice"]) >= 1
    assert any(row["image"] in marked and "sprite" in row for row in on_page["slices"][0]["wrong"])
    assert verify(directory).problems == []


def test_other_classes_of_the_labels_leave_layouts_and_icons(workshop: Path, scheduler: str) -> None:
    unlabelled, _ = go(configure(workshop, scheduler, "labels", tour=None))
    before = contents(unlabelled, ("layout", "render"))
    assert not unlabelled.errors("last").exists()
    assert "label_rank" not in pq.read_schema(unlabelled.shards("last")[0]).names
    settings = unlabelled.stage_facts("collect")["batch_settings"]

    mapping = {"stripes": "class 1", "discs": 4}
    labelled, said = go(configure(workshop, scheduler, "labels", tour=None, images={"label_classes": mapping}))
    assert contents(labelled, ("layout", "render")) == before
    assert re.search(r"layout: all \d+ items were done before", said)
    assert labelled.stage_facts("collect")["batch_settings"] == settings
    assert labelled.label_classes() == (4, 1)
    first = open_run(labelled.path).errors("last", 4)
    assert verify(labelled).problems == []

    mapping["discs"] = 2
    other, said = go(configure(workshop, scheduler, "labels", tour=None, images={"label_classes": mapping}))
    assert contents(other, ("layout", "render")) == before
    assert open_run(other.path).errors("last", 4)["pictures"].equals(first["pictures"])
    assert not open_run(other.path).errors("last", 4)["mean_rank"].equals(first["mean_rank"])
    assert verify(other).problems == []
    whole = contents(other)
    _, said = go(configure(workshop, scheduler, "labels", tour=None, images={"label_classes": mapping}))
    assert contents(other) == whole
    assert "cells: all 8 items were done before" in said


def test_two_networks_are_held_against_each_other(workshop: Path, scheduler: str) -> None:
    changes = {
        "compare": {"again": {"name": "tiny:make", "size": 64}},
        "layers": ["last", "last@again"],
        "images": {"label_classes": {"stripes": "class 1", "discs": 4}},
        "tour": None,
    }
    directory, said = go(configure(workshop, scheduler, "labels-compare", **changes))
    report = json.loads(directory.report.read_text())
    here, there = (report["accuracy"][name] for name in ("", "again"))
    assert here["others"]["again"]["only_here"] == there["others"][""]["only_there"]
    assert here["others"]["again"]["both"] == there["others"][""]["both"]
    wrong = here["others"]["again"]["only_here"] + here["others"]["again"]["both"]
    assert wrong == pytest.approx(here["pictures"] * (1 - here["accuracy"]), abs=0.02)
    cells = open_run(directory.path).errors("last@again", 4).to_pylist()
    assert all(cell["others"][0]["network"] == "" for cell in cells)
    assert "@again: errs alone on" in said
    assert verify(directory).problems == []

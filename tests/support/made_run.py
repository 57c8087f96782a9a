"""A run directory as the stages up to render leave it, made in this process within seconds: the rows are the small
network's, the layout and the icons are made."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_pictures import gradient
from PIL import Image
from planned import planned

from atlas.cells.icons import drawn_cells, icon_table
from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.layout.fit import OUTLIER, REASONS
from atlas.layout.projection import read_moments
from atlas.layout.tables import measure_quality, write_map
from atlas.networks.network import load
from atlas.pictures.sources import list_images
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap, maps_of
from atlas.rundir.markers import write_marker
from atlas.rundir.versions import RUN_FORMAT
from atlas.store.collect import BatchSettings
from atlas.store.shards import count_rows, read_metadata
from atlas.visualize import Icons, Scores
from pipelines import cells, collect

LAYERS = ("residual", "branches")
GRIDS = (2, 4)
PICTURES, CROPS = 14, 4
# Rows of each layer: a view has one. The fourth is left off every map.
ROWS, OFF = PICTURES * CROPS, 3


def made_values(folder: Path) -> dict:
    """The plain values of the run's configuration; its pictures and the run lie in ``folder``."""
    return {
        "out": str(folder / "run"),
        "network": {"name": "small_network:factory", "size": 32},
        "layers": list(LAYERS),
        "images": {"source": str(folder / "pictures"), "crops": CROPS, "shuffle": False},
        "collect": {"rows_per_shard": 24, "batch": 4, "max_failure_share": 0.2},
        "layout": {"neighbors": 5, "fit_rows": 100},
        "cells": {"grids": list(GRIDS), "min_count": 2, "exemplars": 2, "diverse_exemplars": 1},
        "render": {"size": 16},
        "tour": None,
    }


def write_pictures(folder: Path) -> None:
    """Pictures of two classes, and one that is none, the last by name."""
    for number in range(PICTURES):
        path = folder / ("cats" if number % 2 else "birds") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gradient(48, 40, number)).save(path)
    (folder / "zebras").mkdir()
    (folder / "zebras" / "broken.png").write_text("no picture")


def begin(folder: Path, values: dict | None = None) -> tuple[RunDirectory, Config]:
    """The run as it is before its first item: run.json, and the listing of the pictures. ``values``: of another
    configuration."""
    write_pictures(folder / "pictures")
    config = validate(values or made_values(folder), "the made run")
    run = RunDirectory(Path(config.out))
    run.path.mkdir()
    list_images(config.images, config.seed).save(run.listing)
    network = load(**config.network.model_dump(), keep=LAYERS)
    facts = {"name": network.name, "sha256": network.digest, "folded": len(network.folded)}
    run.update_manifest(format=RUN_FORMAT, config=config.plain(), network=facts, created="2026-01-01T00:00:00+00:00")
    run.claim("collect", "1" * 64)
    settings = asdict(BatchSettings(batch=4, precision="float32", decoders=1))
    run.update_manifest(stages={"collect": {**run.stage_facts("collect"), "batch_settings": settings}})
    return run, config


def maps_of_run(run: RunDirectory) -> list[AtlasMap]:
    """The maps of the run, by its own configuration."""
    config = run.config()
    return maps_of(config.layers, config.layout, config.cells)


def lay_out(run: RunDirectory, config: Config) -> None:
    """Made coordinates of each layer, in every cell of the grids, the row OFF dropped; and the markers of the stage."""
    run.claim("layout", "2" * 64)
    folder, key = run.folder("layout"), run.stage_key("layout")
    dropped = np.zeros(ROWS, np.int8)
    dropped[OFF] = REASONS.index(OUTLIER)
    for number, layer in enumerate(LAYERS):
        assert count_rows(run.shards(layer)) == ROWS
        generator = np.random.default_rng(number)
        squares = generator.permutation(np.arange(ROWS) % 16)  # each of the finest grid has three rows at least
        places = ((np.stack([squares % 4, squares // 4], 1) + generator.random((ROWS, 2))) / 4).astype(np.float32)
        places[OFF] = np.nan
        write_map(run, layer, layer, places, dropped)
        write_marker(folder / f"fit-{layer}.json", key=key, files=[], rows=ROWS, layers={})
        moments = read_moments(run.shards(layer), read_metadata(run.shards(layer)[0])["channels"])
        moments.save(run.moments(layer))
    write_marker(folder / "box.json", key=key, files=[run.layout(layer) for layer in LAYERS])
    for layer in LAYERS:
        facts = measure_quality(run, layer, layer, column="activation", seed=config.seed)
        facts |= {"alignment": None, "alignment_independent": None}
        write_marker(folder / f"quality-{layer}.json", key=key, files=[], facts=facts)


def icon_pixels(row: int, col: int, size: int = 16) -> np.ndarray:
    """The made icon of a cell: one colour."""
    return np.full((size, size, 3), (40 * row + 20, 40 * col + 20, 90), np.uint8)


def draw_icons(run: RunDirectory, config: Config) -> None:
    """A made icon for each drawn cell: their cosines fall from .9 in steps of .01, their ranks count up from 1."""
    run.claim("render", "4" * 64)
    for layer in LAYERS:
        for grid in GRIDS:
            level = drawn_cells(run.cells(layer), grid, config.cells.min_count)
            count = len(level["row"])
            pixels = [icon_pixels(*cell) for cell in zip(level["row"].tolist(), level["col"].tolist())]
            cosine = (0.9 - 0.01 * np.arange(count)).astype(np.float32)
            icons = Icons(np.stack(pixels), np.full(count, 3, np.int32), np.arange(count))
            flag = ["low" if number == 1 else None for number in range(count)]
            ranks = np.arange(1, count + 1, dtype=np.int32)
            scores = Scores(cosine, cosine - 0.1, cosine - 0.2, 100 * cosine, ranks, cosine, flag)
            path = run.icons(layer, grid) / "part-00000.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(icon_table(grid, level["row"], level["col"], icons, scores), path)
            write_marker(path.with_suffix(".json"), key=run.stage_key("render"), files=[path], rows=count)


def finish(run: RunDirectory, config: Config) -> RunDirectory:
    """All stages up to render of a run that has begun."""
    for item in planned(collect, config, run):
        collect.run_item(item)
    lay_out(run, config)
    run.claim("cells", "3" * 64)
    for item in planned(cells, config, run):
        cells.run_item(item)
    draw_icons(run, config)
    return run


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The run with all stages up to render. Not to be changed."""
    return finish(*begin(tmp_path_factory.mktemp("made")))


# The labels birds and cats of the made run as classes of the small network; zebras are none.
LABEL_CLASSES = [1, 3, None]


@pytest.fixture(scope="session")
def labelled_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same, its labels being classes. Not to be changed."""
    folder = tmp_path_factory.mktemp("labelled")
    values = made_values(folder)
    values["images"]["label_classes"] = {"birds": "class 1", "cats": 3}
    run, config = begin(folder, values)
    run.update_manifest(label_classes={"": LABEL_CLASSES})
    return finish(run, config)


@pytest.fixture
def labelled_copy(labelled_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the labelled run that a test may change."""
    shutil.copytree(labelled_run.path, tmp_path / "labelled")
    return RunDirectory(tmp_path / "labelled")


@pytest.fixture
def made_copy(made_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the made run that a test may change."""
    shutil.copytree(made_run.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run")

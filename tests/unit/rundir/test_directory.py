"""The run directory: where everything lies, how a folder changes hands, and who is at work."""

from pathlib import Path

import pytest

from atlas.config.model import Config
from atlas.errors import AtlasError
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.versions import RUN_FORMAT


def test_paths_are_those_of_the_contract() -> None:
    run = RunDirectory(Path("runs/x"))
    layer = "_blocks.4"
    assert run.store(layer) == Path("runs/x/store/_blocks.4")
    assert run.failures == Path("runs/x/store/failures.parquet")
    assert run.layout(layer) == Path("runs/x/layout/_blocks.4.parquet")
    assert run.moments(layer) == Path("runs/x/layout/_blocks.4.moments.npz")
    assert run.projection(layer) == Path("runs/x/layout/_blocks.4.projection.npz")
    assert run.index(layer) == Path("runs/x/layout/_blocks.4.faiss")
    assert run.cells(layer) == Path("runs/x/cells/_blocks.4.parquet")
    assert run.icons(layer, 20) == Path("runs/x/icons/_blocks.4/grid-020")
    assert run.site_grid(layer, 160) == Path("runs/x/site/_blocks.4/grid-160")


def test_only_marked_shards_count(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    folder = run.store("layer.1")
    folder.mkdir(parents=True)
    for name in (
        "part-00001.parquet",
        "part-00000.parquet",
        "part-00002.parquet",
        "part-00000.json",
        "part-00001.json",
    ):
        (folder / name).touch()
    assert [path.name for path in run.shards("layer.1")] == ["part-00000.parquet", "part-00001.parquet"]


def fill(run: RunDirectory, content: str) -> None:
    run.folder("collect").mkdir(parents=True, exist_ok=True)
    (run.folder("collect") / "what").write_text(content)


def test_claiming_moves_the_old_folder_aside_and_brings_it_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    first, second = "a" * 64, "b" * 64
    run.claim("collect", first)
    fill(run, "of a")
    run.claim("collect", first)
    assert (tmp_path / "store" / "what").read_text() == "of a"
    run.claim("collect", second)
    assert not (tmp_path / "store").exists()
    assert (tmp_path / "store.aaaaaaaa" / "what").read_text() == "of a"
    assert run.stage_key("collect") == second
    fill(run, "of b")
    run.claim("collect", first)
    assert (tmp_path / "store" / "what").read_text() == "of a"
    assert (tmp_path / "store.bbbbbbbb" / "what").read_text() == "of b"
    assert not (tmp_path / "store.aaaaaaaa").exists()
    assert run.stage_key("collect") == first


def test_claiming_never_overwrites_what_was_moved_aside(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.claim("collect", "a" * 64)
    fill(run, "of a")
    (tmp_path / "store.aaaaaaaa").mkdir()
    (tmp_path / "store.aaaaaaaa" / "what").write_text("older")
    run.claim("collect", "b" * 64)
    assert (tmp_path / "store.aaaaaaaa" / "what").read_text() == "older"
    assert (tmp_path / "store.aaaaaaaa-2" / "what").read_text() == "of a"


def test_a_folder_of_unknown_origin_is_moved_aside(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    fill(run, "somebody's")
    run.claim("collect", "a" * 64)
    assert (tmp_path / "store.unknown" / "what").read_text() == "somebody's"
    assert not (tmp_path / "store").exists()


def test_what_is_noted_of_a_stage_comes_back_with_its_key(tmp_path: Path) -> None:
    """The batch settings above all: shards made later must be computed in the same batches."""
    run = RunDirectory(tmp_path)
    run.claim("collect", "a" * 64)
    run.update_manifest(stages={"collect": {**run.stage_facts("collect"), "batch_settings": {"batch": 3}}})
    run.claim("collect", "b" * 64)
    assert run.stage_facts("collect") == {"key": "b" * 64}
    run.claim("collect", "a" * 64)
    assert run.stage_facts("collect") == {"key": "a" * 64, "batch_settings": {"batch": 3}}


def test_claiming_one_stage_leaves_the_others(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.claim("collect", "a" * 64)
    fill(run, "of a")
    run.claim("cells", "c" * 64)
    assert (tmp_path / "store" / "what").read_text() == "of a"
    assert run.read_manifest()["stages"] == {"collect": {"key": "a" * 64}, "cells": {"key": "c" * 64, "above": None}}


def test_the_manifest_merges_one_level_deep(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.read_manifest() == {}
    run.update_manifest(network={"name": "x", "sha256": "1"}, seed=0)
    run.update_manifest(network={"sha256": "2"}, seed=1)
    assert run.read_manifest() == {"network": {"name": "x", "sha256": "2"}, "seed": 1}


def test_the_configuration_comes_back_from_the_manifest(tmp_path: Path, config: Config) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(AtlasError, match=r"is no run directory: it has no run\.json"):
        run.config()
    run.update_manifest(format=RUN_FORMAT, config=config.plain())
    assert run.config() == config


def test_two_processes_cannot_work_in_one_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with (
        run.lock(),
        pytest.raises(AtlasError, match=r"Another process is at work in .*run\. Wait for it, or give another folder"),
    ):
        run.lock().__enter__()
    with run.lock():
        pass


def test_a_run_that_was_moved_away_is_not_begun_anew_in_its_place(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(AtlasError, match="vanished while the run wrote to it"), atomic(run.moments("last")):
        pass
    assert not run.path.exists()
    run.path.mkdir()
    with atomic(run.icons("last", 20) / "part-00000.parquet") as temporary:
        temporary.write_text("icons")
    assert (run.icons("last", 20) / "part-00000.parquet").read_text() == "icons"

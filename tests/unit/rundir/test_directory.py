"""The run directory: what a crash leaves, when work counts as done, and how a folder changes hands."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from atlas.config.model import Config
from atlas.errors import AtlasError
from atlas.rundir.atomic import atomic, write_json
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import digest_file, digest_values, read_marker, write_marker
from atlas.rundir.versions import RUN_FORMAT


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_an_atomic_write_appears_whole_and_makes_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    with atomic(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert everything(tmp_path) == ["deep", "deep/file.bin"]


def test_a_crash_inside_an_atomic_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "file.bin") as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert everything(tmp_path) == []


def test_a_crash_inside_an_atomic_write_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"old")
    with pytest.raises(ValueError, match="broken"), atomic(tmp_path / "file.bin") as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise ValueError("broken")
    assert (tmp_path / "file.bin").read_bytes() == b"old"
    assert everything(tmp_path) == ["file.bin"]


def test_a_killed_process_leaves_no_file_that_looks_finished(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from atlas.rundir.atomic import atomic\n"
        "with atomic(Path(sys.argv[1]) / 'part-00000.parquet') as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert list(tmp_path.glob("*.parquet")) == []
    assert list(tmp_path.glob("part-*")) == []


def test_json_is_the_same_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": {"d": 2, "c": 3}})
    write_json(tmp_path / "b.json", {"a": {"c": 3, "d": 2}, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1, "a": {"d": 2, "c": 3}}


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"atlas")
    assert digest_file(tmp_path / "file") == hashlib.sha256(b"atlas").hexdigest()
    assert digest_values({"b": 1, "a": 2}, None) == digest_values({"a": 2, "b": 1}, None)
    assert len({digest_values(*given) for given in ([1, 2], [[1, 2]], ["1", 2], [2, 1], [1], [1, 2, None])}) == 6


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A marker with the key ``right`` for two files, one of them in a folder below."""
    (tmp_path / "below").mkdir()
    (tmp_path / "one.bin").write_bytes(b"12345")
    (tmp_path / "below" / "two.bin").write_bytes(b"678")
    path = tmp_path / "item.json"
    write_marker(path, key="right", files=[tmp_path / "one.bin", tmp_path / "below" / "two.bin"], rows=8)
    return path


def test_a_marker_vouches_for_its_files(marked: Path) -> None:
    assert read_marker(marked, "right") == {
        "key": "right",
        "rows": 8,
        "files": {
            "one.bin": {"bytes": 5, "sha256": hashlib.sha256(b"12345").hexdigest()},
            "below/two.bin": {"bytes": 3, "sha256": hashlib.sha256(b"678").hexdigest()},
        },
    }


def test_a_marker_does_not_stand_for_another_key(marked: Path) -> None:
    assert read_marker(marked, "wrong") is None


def test_a_marker_does_not_stand_without_its_files(marked: Path) -> None:
    (marked.parent / "below" / "two.bin").unlink()
    assert read_marker(marked, "right") is None


def test_a_marker_does_not_stand_when_a_file_changed_its_size(marked: Path) -> None:
    (marked.parent / "one.bin").write_bytes(b"1234")
    assert read_marker(marked, "right") is None


def test_no_marker_and_half_a_marker_do_not_stand(marked: Path) -> None:
    assert read_marker(marked.with_name("other.json"), "right") is None
    marked.write_text(marked.read_text()[:40])
    assert read_marker(marked, "right") is None


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

"""Files written whole or not at all: what a crash leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from atlas.rundir.atomic import atomic, write_json


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

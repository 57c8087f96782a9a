"""Markers: when work counts as done."""

import hashlib
from pathlib import Path

import pytest

from atlas.rundir.markers import digest_file, digest_values, read_marker, write_marker


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"atlas")
    assert digest_file(tmp_path / "file") == hashlib.sha256(b"atlas").hexdigest()
    assert digest_values({"b": 1, "a": 2}, None) == digest_values({"a": 2, "b": 1}, None)
    assert len({digest_values(*values) for values in ([1, 2], [[1, 2]], ["1", 2], [2, 1], [1], [1, 2, None])}) == 6


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

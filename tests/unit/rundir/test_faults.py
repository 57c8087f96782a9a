"""Why a file cannot be written: each refusal of the machine a sentence."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from atlas.errors import AtlasError
from atlas.rundir.faults import explain_write_errors, write_error_sentence


def error(number: int, path: Path | str) -> OSError:
    return OSError(number, os.strerror(number), str(path))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    usage = namedtuple("usage", "total used free")(2_000_000_000, 1_999_000_000, 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    return tmp_path / "store" / "file"


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "PATH cannot be written: the disk is full (1 MB of 2,000 MB free). Make room."),
        (errno.EDQUOT, "PATH cannot be written: your disk quota is used up. Make room."),
        (
            errno.EFBIG,
            "PATH cannot be written: the file grows larger than this system or your limits (ulimit -f) allow.",
        ),
        (
            errno.EROFS,
            "PATH cannot be written: the file system is read-only. Mount it for writing, or run in another folder.",
        ),
        (
            errno.EACCES,
            "PATH cannot be written: the permission is missing (Permission denied). Give yourself the right to "
            "write in FOLDER.",
        ),
        (errno.EIO, "PATH cannot be written: the disk or the share fails (Input/output error). Look after it first."),
        (
            errno.ENOENT,
            "The folder FOLDER vanished while the run wrote to it. Bring it back, or start the run again.",
        ),
    ],
)
def test_a_refusal_is_a_sentence(path: Path, number: int, sentence: str) -> None:
    expected = sentence.replace("PATH", str(path)).replace("FOLDER", str(path.parent))
    assert write_error_sentence(error(number, path), path) == expected
    with pytest.raises(AtlasError) as caught, explain_write_errors(path):
        raise error(number, path)
    assert str(caught.value) == expected


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOENT])
def test_an_error_of_a_file_that_was_read_meanwhile_passes(path: Path, number: int) -> None:
    other = error(number, "/pictures/a.png")
    assert write_error_sentence(other, path) is None
    with pytest.raises(OSError, match=r"a\.png") as caught, explain_write_errors(path):
        raise other
    assert caught.value is other


def test_a_full_disk_is_one_whatever_file_it_names(path: Path) -> None:
    assert write_error_sentence(error(errno.ENOSPC, "/tmp/other"), path) is not None


def test_a_file_that_is_missing_in_a_folder_that_is_there_passes(path: Path) -> None:
    path.parent.mkdir()
    assert write_error_sentence(error(errno.ENOENT, path), path) is None


def test_faiss_says_only_in_words_that_the_disk_is_full(path: Path) -> None:
    with pytest.raises(AtlasError, match=r"the disk is full \(1 MB of 2,000 MB free\)"), explain_write_errors(path):
        raise RuntimeError("Error in fwrite: No space left on device")
    with pytest.raises(RuntimeError, match="another"), explain_write_errors(path):
        raise RuntimeError("another fault")


def test_where_the_room_is_unknown_none_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        raise error(errno.ENOENT, folder)

    monkeypatch.setattr(shutil, "disk_usage", fail)
    sentence = write_error_sentence(error(errno.ENOSPC, path), path)
    assert sentence == f"{path} cannot be written: the disk is full. Make room."

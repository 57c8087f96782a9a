"""Files below an address, here a folder by its file:// address."""

from pathlib import Path

import pytest

from atlas.errors import AtlasError
from atlas.rundir.remote_store import RemoteStore


@pytest.fixture
def store(tmp_path: Path) -> RemoteStore:
    return RemoteStore(f"file://{tmp_path}/there", {}, tmp_path / "here")


def test_a_file_goes_there_and_comes_back(store: RemoteStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"12345")
    store.send(tmp_path / "source", "deep/folder/file")
    store.write("deep/other", b"678")
    assert store.sizes("deep") == {"deep/folder/file": 5, "deep/other": 3}
    assert store.read("deep/other") == b"678"
    store.fetch("deep/folder/file", tmp_path / "here" / "new" / "copy")
    assert (tmp_path / "here" / "new" / "copy").read_bytes() == b"12345"
    store.delete("deep/other")
    assert store.sizes("deep") == {"deep/folder/file": 5}


def test_what_is_not_there_is_no_fault_of_the_address(store: RemoteStore, tmp_path: Path) -> None:
    assert store.sizes("nothing") == {}
    for ask in (store.read, store.delete, lambda name: store.fetch(name, tmp_path / "copy")):
        with pytest.raises(FileNotFoundError):
            ask("nothing")
    assert not (tmp_path / "copy").exists()


def test_a_folder_is_moved_over_what_an_interrupted_move_left(store: RemoteStore) -> None:
    for name in ("old/a", "old/b/c", "new/a", "older/a"):
        store.write(name, name.encode())
    store.move_folder("old", "new")
    assert store.sizes("old") == {}
    assert store.read("new/a") == b"old/a"
    assert store.read("new/b/c") == b"old/b/c"
    assert store.sizes("older") == {"older/a": 7}, "only the folder of this very name"


def test_a_refusal_is_a_sentence_with_the_working_copy(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store._system, "pipe_file", refuse)
    with pytest.raises(AtlasError, match=rf"there cannot be read or written \(permission denied\).* {tmp_path}/here;"):
        store.write("file", b"")

"""Who is at work at an address: one process, and one that was killed does not keep others out."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas.errors import AtlasError
from atlas.rundir import owner
from atlas.rundir.owner import OwnerLock
from atlas.rundir.remote_store import RemoteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RemoteStore]:
    store = RemoteStore(f"file://{tmp_path}/there", {}, tmp_path / "here")
    yield store
    store.close()


def owner_of(store: RemoteStore) -> dict[str, Any]:
    return dict(json.loads(store.read("owner.json")))


def test_the_owner_is_named_and_gone_when_it_ends(store: RemoteStore) -> None:
    lock = OwnerLock(store)
    lock.acquire()
    facts = owner_of(store)
    assert (facts["host"], facts["process"]) == (socket.gethostname(), os.getpid())
    assert abs(facts["time"] - time.time()) < 60
    lock.release()
    with pytest.raises(FileNotFoundError):
        store.read("owner.json")


def test_a_second_process_is_kept_out(store: RemoteStore) -> None:
    first = OwnerLock(store)
    first.acquire()
    try:
        with pytest.raises(AtlasError) as caught:
            OwnerLock(store).acquire()
        assert str(caught.value).startswith(
            f"Another process ({os.getpid()} on {socket.gethostname()}) was at work at {store.url} "
        )
    finally:
        first.release()
    second = OwnerLock(store)
    second.acquire()
    second.release()


@pytest.mark.parametrize(
    ("host", "process", "age", "free"),
    [
        ("elsewhere", 1, 100, False),
        ("elsewhere", 1, 130, True),  # not renewed for two minutes
        (socket.gethostname(), 2**30, 1, True),  # no such process on this machine
        (socket.gethostname(), os.getpid(), 1, False),
    ],
    ids=["elsewhere", "elsewhere and old", "process gone", "process alive"],
)
def test_an_owner_that_is_gone_does_not_keep_others_out(
    store: RemoteStore, host: str, process: int, age: float, free: bool
) -> None:
    facts = {"id": "another", "host": host, "process": process, "time": time.time() - age}
    store.write("owner.json", json.dumps(facts).encode())
    lock = OwnerLock(store)
    if free:
        lock.acquire()
        assert owner_of(store)["id"] != "another"
        lock.release()
    else:
        with pytest.raises(AtlasError, match=f"Another process \\({process} on {host}\\)"):
            lock.acquire()
        assert owner_of(store)["id"] == "another"


def test_of_two_that_begin_at_once_the_last_writer_stays(store: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = RemoteStore.write

    def write_and_be_overtaken(self: RemoteStore, name: str, data: bytes) -> None:
        write(self, name, data)
        write(self, name, json.dumps({"id": "another"}).encode())

    monkeypatch.setattr(RemoteStore, "write", write_and_be_overtaken)
    with pytest.raises(AtlasError, match=r"Another process has just begun to work at .*\. Wait for it\."):
        OwnerLock(store).acquire()


def test_an_owner_that_lives_is_renewed(store: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_HEARTBEAT_SECONDS", 0.01)
    lock = OwnerLock(store)
    lock.acquire()
    first = owner_of(store)["time"]
    deadline = time.monotonic() + 10
    while owner_of(store)["time"] == first:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.release()


def test_a_lock_that_was_never_acquired_deletes_nothing(store: RemoteStore) -> None:
    store.write("owner.json", b"{}")
    OwnerLock(store).release()
    assert store.read("owner.json") == b"{}"


def test_what_is_no_owner_keeps_nobody_out(store: RemoteStore) -> None:
    store.write("owner.json", b"no JSON")
    lock = OwnerLock(store)
    lock.acquire()
    lock.release()

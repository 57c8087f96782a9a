"""The events of a growing site: what they say, when, and that they end with the server."""

import contextlib
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_run import request, served
from starlette.testclient import TestClient

from atlas.rundir.directory import RunDirectory
from atlas.serve import growth, limits
from atlas.serve.app import create_app


@pytest.fixture
def growing(run_folder: Path) -> Path:
    """A run at work whose site has begun."""
    (run_folder / "layout").mkdir()
    note_progress(run_folder)
    return run_folder


def note_progress(run: Path, **changes: Any) -> None:
    facts = {"state": "running", "updated": time.time(), "seconds_left": 321.4, **changes}
    temporary = run / "progress.new"
    temporary.write_text(json.dumps(facts))
    temporary.replace(run / "progress.json")


@contextlib.contextmanager
def stream(port: int) -> Iterator[http.client.HTTPResponse]:
    """An open stream of the events of the run on this port."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request("/api/growth"))
        with contextlib.closing(http.client.HTTPResponse(connection)) as answer:
            answer.begin()
            yield answer


def next_event(answer: http.client.HTTPResponse) -> Any:
    while not (line := answer.readline()).startswith(b"data: "):
        assert line, "the stream has ended"
    return json.loads(line.removeprefix(b"data: "))


def test_facts_are_of_the_site_and_of_the_process_at_work(growing: Path) -> None:
    run = RunDirectory(growing)
    before = growth.growth_facts(run)
    assert (before["state"], before["seconds_left"]) == ("running", 321)
    atlas = growing / "site" / "atlas.json"
    os.utime(atlas, (1, 1))
    assert growth.growth_facts(run) == {**before, "atlas": f"{10**9:x}-{atlas.stat().st_size:x}"}
    note_progress(growing, updated=time.time() - 61)
    assert growth.growth_facts(run)["state"] == "stopped"
    assert growth.growth_facts(run)["seconds_left"] is None
    (growing / "progress.json").unlink()
    atlas.unlink()
    assert growth.growth_facts(run) == dict.fromkeys(before)


def test_events_come_at_once_and_with_every_change(growing: Path) -> None:
    with served(growing) as port, stream(port) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        first = next_event(answer)
        assert first["state"] == "running"
        note_progress(growing, seconds_left=200)
        assert next_event(answer) == {**first, "seconds_left": 200}
        os.utime(growing / "site" / "atlas.json", (1, 1))
        assert next_event(answer)["atlas"] != first["atlas"]
        note_progress(growing, state="done", seconds_left=0)
        assert next_event(answer)["state"] == "done"


def test_a_quiet_stream_says_that_it_is_still_there(growing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "BEAT_SECONDS", 0.0)
    with served(growing) as port, stream(port) as answer:
        next_event(answer)
        assert answer.readline() == b"\n"
        assert answer.readline() == b": still here\n"


def test_open_streams_do_not_hold_up_the_end(growing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(served(growing))
        with stream(port) as one, stream(port) as other:
            next_event(one)
            next_event(other)
            start = time.monotonic()
            stack.close()
            assert time.monotonic() - start < 2, "the server waited for its streams"
            assert one.read().strip() == b""
    assert capsys.readouterr().err == ""


def test_only_so_many_streams_are_open_and_each_closes(growing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENT_EVENT_STREAMS", 1)
    monkeypatch.setattr(growth, "BEAT_SECONDS", 0.0)
    with served(growing) as port:
        with stream(port) as answer:
            next_event(answer)
            with stream(port) as refused:
                assert refused.status == 503
                assert "Too many pages wait" in json.loads(refused.read())["sentence"]
        end = time.monotonic() + 8
        while True:  # the server learns a moment later that a client has gone
            with stream(port) as again:
                if again.status == 200:
                    break
            assert time.monotonic() < end


def test_a_site_without_its_run_has_no_events(run_folder: Path) -> None:
    assert TestClient(create_app([run_folder])).get("/api/growth").status_code == 404

"""Threads that answer: in turn, no more than is worth it, and not for clients that have gone."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from atlas.errors import AtlasError
from atlas.serve import workers
from atlas.serve.limits import Refusal
from atlas.serve.workers import Workers


class Caller:
    """A request whose client may have gone."""

    def __init__(self, *, gone: bool = False) -> None:
        self.gone = gone

    async def is_disconnected(self) -> bool:
        return self.gone


def in_a_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run to its end in a thread of its own: this one may have a loop already, a browser's of other tests."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


def test_work_of_a_client_that_has_gone_is_left_out() -> None:
    pool, free, results = Workers(), threading.Event(), []

    async def ask() -> None:
        first = asyncio.ensure_future(pool.run(Caller(), lambda: free.wait(10)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        with pytest.raises(ClientDisconnect):
            await pool.run(Caller(gone=True), lambda: results.append("abandoned"))  # type: ignore[arg-type]
        free.set()
        assert await first
        assert await pool.run(Caller(), lambda: 3) == 3  # type: ignore[arg-type]

    in_a_loop(ask())
    assert results == []


async def receive() -> dict[str, Any]:
    await asyncio.sleep(60)
    return {"type": "http.disconnect"}


def lines_of(pool: Workers, lines: Callable[[Callable[[], bool]], Iterator[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The lines of a whole stream."""
    parts: list[bytes] = []

    async def send(message: Any) -> None:
        parts.append(message.get("body", b""))

    async def ask() -> None:
        await pool.stream(lines)({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)

    in_a_loop(ask())
    return [json.loads(line) for line in b"".join(parts).splitlines()]


def test_a_stream_ends_with_the_sentence_of_its_error() -> None:
    def lines(_cancelled: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        yield {"share": 0.5}
        raise AtlasError("It went wrong.")

    assert lines_of(Workers(), lines) == [{"share": 0.5}, {"sentence": "It went wrong."}]


def test_only_so_many_streams_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MOST_STREAMS", 1)
    pool = Workers()
    for _ in range(2):  # one after the other they are answered
        assert lines_of(pool, lambda _cancelled: iter([{"a": 1}])) == [{"a": 1}]
    pool.stream(lambda _cancelled: iter([{"a": 1}]))
    with pytest.raises(Refusal, match="1 long answers are under way") as refused:
        pool.stream(lambda _cancelled: iter([{"a": 1}]))
    assert refused.value.status == 503

"""The threads that work out answers, in turn, and stop when the client goes away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from atlas.errors import AtlasError
from atlas.serve.limits import Refusal

# Streams open at a time.
MOST_STREAMS = 64
# Seconds between two checks whether a client that waits for its turn is still there.
_POLL_SECONDS = 0.1

Line = dict[str, Any]
Result = TypeVar("Result")


class Workers:
    """One thread for short answers, which do not wait behind long ones, and one for streams, which take turns line by
    line. No more of either, since torch itself uses all cores."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(1, thread_name_prefix="short answers")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="streams")
        self._streams = 0

    async def run(self, request: Request, work: Callable[[], Result]) -> Result:
        """The result of ``work``, done by the thread for short answers. Raises ClientDisconnect, and leaves the work
        out, where the client goes away before its turn."""
        future = self._short.submit(work)
        answer = asyncio.wrap_future(future)
        while not answer.done():
            await asyncio.wait({answer}, timeout=_POLL_SECONDS)
            if not answer.done() and await request.is_disconnected():
                future.cancel()
                raise ClientDisconnect
        return answer.result()

    def stream(self, lines: Callable[[Callable[[], bool]], Iterator[Line]]) -> StreamingResponse:
        """A response of JSON lines, each worked out by the thread for streams. ``lines`` is called with a function that
        turns true once the client has gone. Raises Refusal where MOST_STREAMS are open."""
        if self._streams >= MOST_STREAMS:
            raise Refusal(503, f"{MOST_STREAMS} long answers are under way; wait until one is finished, and ask again.")
        self._streams += 1
        return ClosingStream(
            self._send(lines), self._closed, media_type="application/x-ndjson", headers={"cache-control": "no-store"}
        )

    def _closed(self) -> None:
        self._streams -= 1

    async def _send(self, lines: Callable[[Callable[[], bool]], Iterator[Line]]) -> AsyncIterator[str]:
        gone, loop = threading.Event(), asyncio.get_running_loop()
        iterator = lines(gone.is_set)

        def advance() -> Line | None:
            return None if gone.is_set() else next(iterator, None)

        try:
            while (line := await loop.run_in_executor(self._long, advance)) is not None:
                yield json.dumps(line, allow_nan=False) + "\n"
        except AtlasError as error:
            yield json.dumps({"sentence": str(error)}) + "\n"
        finally:
            gone.set()


class ClosingStream(StreamingResponse):
    """A response of ``lines``; ``close`` is called once, however it ends."""

    def __init__(
        self, lines: AsyncIterator[str], close: Callable[[], None], *, media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(lines, media_type=media_type, headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()

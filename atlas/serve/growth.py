"""The events by which an open page learns that its site grows: a new atlas.json, and how long the run still takes.

Server-sent events on Starlette's own streams: sse-starlette ends its streams when uvicorn gets a signal, and this
server is also ended without one, in a notebook.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from atlas.rundir.directory import RunDirectory
from atlas.rundir.progress import read_progress
from atlas.serve.limits import RequestLimits
from atlas.serve.workers import ClosingStream

# In a request's scope: a function that says whether the server ends.
IS_ENDING = "atlas.is_ending"
# Seconds between two looks at the run, and after which a quiet stream says that it is still there.
LOOK_SECONDS, BEAT_SECONDS = 0.5, 15.0


class GrowthEvents:
    """The stream of one run's events, for its page."""

    def __init__(self, run: Path, limits: RequestLimits) -> None:
        self._run, self._limits = RunDirectory(run), limits

    async def stream(self, request: Request) -> Response:
        """Events without end, the first at once. Raises Refusal for too many questions, or too many streams."""
        self._limits.admit(request)
        close = self._limits.open_stream(request)
        is_ending: Callable[[], bool] = request.scope.get(IS_ENDING, lambda: False)
        # A proxy must not keep events back.
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return ClosingStream(self._events(is_ending), close, media_type="text/event-stream", headers=headers)

    async def _events(self, is_ending: Callable[[], bool]) -> AsyncIterator[str]:
        last: dict[str, Any] | None = None
        last_line = time.monotonic()
        while not is_ending():
            facts = await run_in_threadpool(growth_facts, self._run)
            if facts != last:
                last, last_line = facts, time.monotonic()
                yield f"data: {json.dumps(facts)}\n\n"
            elif time.monotonic() - last_line >= BEAT_SECONDS:
                last_line = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(LOOK_SECONDS)


def growth_facts(run: RunDirectory) -> dict[str, Any]:
    """What an event says: ``atlas``, which changes with atlas.json; the ``state`` of the run, and ``seconds_left``
    until it is done. Each is None where it is not known."""
    progress, version = read_progress(run), None
    with suppress(OSError):
        facts = (run.folder("publish") / "atlas.json").stat()
        version = f"{facts.st_mtime_ns:x}-{facts.st_size:x}"
    state = progress.state_at(time.time()) if progress else None
    seconds_left = round(progress.seconds_left) if progress and state == "running" else None
    return {"atlas": version, "state": state, "seconds_left": seconds_left}

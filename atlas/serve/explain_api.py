"""What a run's page asks about a picture, answered by the server: `python -m atlas.serve` and `atlas.show`.

Pictures come as the bodies of requests and stay in memory; nothing that a client sends names a file. What was worked
out for the last pictures is kept by their content. Answers that take long are streams of JSON lines; when the client
goes away, the work ends within a few steps. Networks are loaded when the page first asks, not before.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from atlas.errors import AtlasError, ConfigError
from atlas.serve.limits import (
    MOST_BYTES,
    MOST_PIXELS,
    Rate,
    Recent,
    Refused,
    Uploads,
    read_body,
    whole,
    whole_numbers,
)

if TYPE_CHECKING:
    from atlas.explain.explainer import Explainer, Picture
    from atlas.forward.trace import Trace
    from atlas.serve.samples import Sample

# Long answers under way at a time.
MOST_STREAMS = 64
# Seconds between two looks whether a client that waits for its turn is still there.
_LOOK = 0.1
# Pictures, forward passes and channels' icons that are kept.
_PICTURES, _TRACES, _CHANNELS = 8, 4, 2048

Kept = TypeVar("Kept")
Line = dict[str, Any]


def explain_app(run: Path) -> Starlette:
    """The application below ``api/`` of the run's page."""
    desk = Desk(run)
    return Starlette(
        routes=[
            Route("/explain", desk.state, methods=["GET"]),
            Route("/explain", desk.summary, methods=["POST"]),
            Route("/explain/classes", desk.classes, methods=["POST"]),
            Route("/explain/removed", desk.removed, methods=["POST"]),
            Route("/explain/icons", desk.icons, methods=["POST"]),
            Route("/explain/groups", desk.groups, methods=["POST"]),
            Route("/samples", desk.samples, methods=["GET"]),
            Route("/samples/{number:int}", desk.sample, methods=["GET"]),
            Route("/neurons", desk.neurons, methods=["GET"]),
            Route("/forward", desk.forward, methods=["POST"]),
            Route("/forward/maps", desk.forward_maps, methods=["POST"]),
            Route("/forward/unit", desk.forward_unit, methods=["POST"]),
        ],
        exception_handlers={Refused: _refusal, AtlasError: _mistake, ClientDisconnect: _gone},
    )


async def _refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    # A body that nobody has read would be taken for the next request.
    return JSONResponse({"sentence": str(error)}, error.status, {"connection": "close"})


async def _mistake(_request: Request, error: Exception) -> Response:
    return JSONResponse({"sentence": str(error)}, 422 if isinstance(error, ConfigError) else 503)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


class Desk:
    """Answers the questions about one run's pictures."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._loading, self._sampling = threading.Lock(), threading.Lock()
        self._explainer: Explainer | None = None
        self._found_samples: list[Sample] | None = None
        self._pictures: Recent[str, Picture] = Recent(_PICTURES)
        self._traces: Recent[tuple[str, str], Trace] = Recent(_TRACES)
        self._channels: Recent[tuple[str, str, int], str] = Recent(_CHANNELS)
        self._rates: Recent[str, Rate] = Recent(4096)
        self._streams, self._uploads = 0, Uploads()
        # Short questions do not wait behind long ones. One at a time of each: torch itself uses all cores.
        self._short = ThreadPoolExecutor(1, thread_name_prefix="questions")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="icons")

    # The addresses

    async def state(self, request: Request) -> Response:
        """Whether the networks are loaded, and how large a picture may be. The first question loads them."""
        self._admit(request)
        if self._explainer is None and not self._loading.locked():
            asyncio.get_running_loop().run_in_executor(None, self._load_quietly)
        limits = {"bytes": MOST_BYTES, "pixels": MOST_PIXELS}
        return JSONResponse({"ready": self._explainer is not None, "limits": limits})

    async def summary(self, request: Request) -> Response:
        """What the networks take the picture for, and where its positions lie on the maps."""
        _, picture = await self._picture(request)
        return JSONResponse(await self._answer(request, picture.summary))

    async def classes(self, request: Request) -> Response:
        """What each position adds to the classes asked for, of every layer of one network."""
        _, picture = await self._picture(request)
        name = self._network(request.query_params)
        classes = self._classes(request.query_params, name)

        def work() -> Line:
            from atlas.explain.rounding import numbers

            found = picture.attribution(classes, name)
            return {
                "classes": {
                    str(number): {layer: numbers(effect) for layer, effect in layers.items()}
                    for number, layers in found.items()
                }
            }

        return JSONResponse(await self._answer(request, work))

    async def removed(self, request: Request) -> Response:
        """What the classes lose without each position of a layer: the share that is worked out, then all at once."""
        _, picture = await self._picture(request)
        layer = self._layer(request.query_params)
        classes = self._classes(request.query_params, self._loaded.layer(layer).network)

        def lines(_cancelled: Callable[[], bool]) -> Iterator[Line]:
            import numpy as np

            from atlas.explain.rounding import numbers

            rows, total = [], picture.maps(layer)[0].size
            for found in picture.without_each(layer, classes):
                rows.append(found)
                yield {"share": round(sum(row.shape[1] for row in rows) / total, 3)}
            whole = np.concatenate(rows, axis=1)
            yield {"classes": {str(number): numbers(row) for number, row in zip(classes, whole)}}

        return self._stream(lines)

    async def icons(self, request: Request) -> Response:
        """An icon for each position of a layer, as they come."""
        _, picture = await self._picture(request)
        layer = self._layer(request.query_params)

        def lines(cancelled: Callable[[], bool]) -> Iterator[Line]:
            for drawn in picture.icons(layer, cancelled=cancelled):
                yield {"position": drawn.number, **drawn.shown()}

        return self._stream(lines)

    async def groups(self, request: Request) -> Response:
        """A layer's map in a few groups with their effects, then an icon for each as they come."""
        _, picture = await self._picture(request)
        from atlas.explain.groups import FEWEST, MOST  # by now it is loaded, with scikit-learn

        layer = self._layer(request.query_params)
        count = whole(request.query_params, "count", 6)
        also = self._classes(request.query_params, self._loaded.layer(layer).network, fewest=0)
        if not FEWEST <= count <= MOST:
            raise Refused(422, f"{count} groups were asked for, expected {FEWEST} to {MOST}.")

        def lines(cancelled: Callable[[], bool]) -> Iterator[Line]:
            groups, effects = picture.groups(layer, count)
            yield picture.group_facts(layer, groups, effects, also)
            for drawn in picture.icons(layer, groups.directions, cancelled=cancelled):
                yield {"group": drawn.number, **drawn.shown()}

        return self._stream(lines)

    async def samples(self, request: Request) -> Response:
        """Where pictures of the run can be had to begin with."""
        self._admit(request)
        found = await run_in_threadpool(self._samples)
        listed = [{"address": f"api/samples/{number}", "title": each.title} for number, each in enumerate(found)]
        return JSONResponse({"samples": listed})

    async def sample(self, request: Request) -> Response:
        """One of them as PNG. Raises Refused where there is none of this number."""
        self._admit(request)
        found, number = await run_in_threadpool(self._samples), request.path_params["number"]
        if number >= len(found):
            raise Refused(404, f"There is no sample {number}; there are {len(found)}, counted from 0.")
        return Response(found[number].png, media_type="image/png")

    async def neurons(self, request: Request) -> Response:
        """An icon for each channel asked for; those that are known come first."""
        self._admit(request)
        await self._ready()
        asked = request.query_params
        network, layer = self._network(asked), asked.get("layer", "")
        channels = whole_numbers(asked, "channel")
        known = {each: self._channels.get((network, layer, each)) for each in channels}

        def lines(cancelled: Callable[[], bool]) -> Iterator[Line]:
            yield from ({"channel": each, "picture": picture} for each, picture in known.items() if picture)
            missing = [each for each, picture in known.items() if not picture]
            for drawn in self._loaded.draw_channels(network, layer, missing, cancelled) if missing else ():
                picture = drawn.shown()["picture"]
                self._channels.keep((network, layer, drawn.number), picture)
                yield {"channel": drawn.number, "picture": picture}

        return self._stream(lines)

    async def forward(self, request: Request) -> Response:
        """The steps of the picture's way through a network."""
        from atlas.forward.trace import describe

        trace = await self._trace(request)
        return JSONResponse(await self._answer(request, lambda: describe(trace)))

    async def forward_maps(self, request: Request) -> Response:
        """Maps of some channels of one step."""
        from atlas.forward.trace import maps

        trace, asked = await self._trace(request), request.query_params
        step, channels = whole(asked, "step", None), whole_numbers(asked, "channel", fewest=0)
        return JSONResponse(await self._answer(request, lambda: maps(trace, step, channels)))

    async def forward_unit(self, request: Request) -> Response:
        """How one number of a step comes about."""
        from atlas.forward.unit_arithmetic import unit_arithmetic

        trace, asked = await self._trace(request), request.query_params
        step, channel = whole(asked, "step", None), whole(asked, "channel", None)
        y, x, terms = whole(asked, "y", 0), whole(asked, "x", 0), whole(asked, "terms", 12)
        return JSONResponse(
            await self._answer(request, lambda: unit_arithmetic(trace, step, channel, y, x, terms=terms))
        )

    # What they share

    def _admit(self, request: Request) -> None:
        """Raises Refused for questions that another site's page asks, and for too many of them."""
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refused(403, f"This page asks from {origin[:100]}; only the atlas's own page may ask.")
        client = _client(request)
        rate = self._rates.get(client) or Rate()
        self._rates.keep(client, rate)
        if not rate.allows(time.monotonic()):
            raise Refused(429, "That were more questions than this server answers; wait a second and ask again.")

    async def _picture(self, request: Request) -> tuple[str, Picture]:
        """The picture in a request's body, with the key that it is kept by."""
        self._admit(request)
        with self._uploads.place(_client(request)):
            data = await read_body(request)
        key = hashlib.sha256(data).hexdigest()
        await self._ready()
        return key, await self._answer(request, lambda: self._look(key, data))

    def _look(self, key: str, data: bytes) -> Picture:
        picture = self._pictures.get(key)
        if picture is None:
            picture = self._loaded.look(data, most_pixels=MOST_PIXELS)
            self._pictures.keep(key, picture)
        return picture

    async def _trace(self, request: Request) -> Trace:
        key, picture = await self._picture(request)
        network = self._network(request.query_params)

        def work() -> Trace:
            trace = self._traces.get((key, network))
            if trace is None:
                trace = self._loaded.trace(picture, network)
                self._traces.keep((key, network), trace)
            return trace

        return await self._answer(request, work)

    @property
    def _loaded(self) -> Explainer:
        assert self._explainer is not None
        return self._explainer

    async def _ready(self) -> None:
        if self._explainer is None:
            await run_in_threadpool(self._load)

    def _load(self) -> None:
        with self._loading:
            if self._explainer is None:
                from atlas.explain.explainer import Explainer  # torch comes with it

                self._explainer = Explainer(self._run)

    def _load_quietly(self) -> None:
        try:
            self._load()
        except AtlasError:
            return  # told to whoever asks of a picture

    def _samples(self) -> list[Sample]:
        with self._sampling:
            if self._found_samples is None:
                from atlas.analysis import Run
                from atlas.serve.samples import find_samples

                self._found_samples = find_samples(Run(self._run))
            return self._found_samples

    def _network(self, asked: QueryParams) -> str:
        names, number = list(self._loaded.networks), whole(asked, "network", 0)
        if number >= len(names):
            raise Refused(422, f"There is no network {number}; the run has {len(names)}, counted from 0.")
        return names[number]

    def _layer(self, asked: QueryParams) -> str:
        return self._loaded.layer(asked.get("layer", "")).name

    def _classes(self, asked: QueryParams, network: str, fewest: int = 1) -> list[int]:
        return [self._loaded.class_of(each, network) for each in whole_numbers(asked, "class", fewest)]

    async def _answer(self, request: Request, work: Callable[[], Kept]) -> Kept:
        """What ``work`` gives, done by the thread for short questions; it is left out where the client goes away before
        its turn."""
        future = self._short.submit(work)
        answer = asyncio.wrap_future(future)
        while not answer.done():
            await asyncio.wait({answer}, timeout=_LOOK)
            if not answer.done() and await request.is_disconnected():
                future.cancel()
                raise ClientDisconnect
        return answer.result()

    def _stream(self, lines: Callable[[Callable[[], bool]], Iterator[Line]]) -> Response:
        """``lines`` as JSON lines, each worked out by the thread for long answers, which takes turns between clients.
        They are given what tells them that the client has gone."""
        if self._streams >= MOST_STREAMS:
            raise Refused(503, f"{MOST_STREAMS} long answers are under way; wait until one is finished, and ask again.")
        self._streams += 1
        return _Lines(self._sent(lines), self._ended)

    def _ended(self) -> None:
        self._streams -= 1

    async def _sent(self, lines: Callable[[Callable[[], bool]], Iterator[Line]]) -> AsyncIterator[str]:
        from atlas.explain.icons import Cancelled

        gone, loop = threading.Event(), asyncio.get_running_loop()
        found = lines(gone.is_set)

        def step() -> Line | None:
            return None if gone.is_set() else next(found, None)

        try:
            while (line := await loop.run_in_executor(self._long, step)) is not None:
                yield json.dumps(line, allow_nan=False) + "\n"
        except Cancelled:
            return
        except AtlasError as error:
            yield json.dumps({"sentence": str(error)}) + "\n"
        finally:
            gone.set()


class _Lines(StreamingResponse):
    """A stream of JSON lines; ``ended`` is called once, however it ends."""

    def __init__(self, lines: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(lines, media_type="application/x-ndjson", headers={"cache-control": "no-store"})
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def _client(request: Request) -> str:
    return request.client.host if request.client else ""

"""The endpoints that a run's page asks about a picture and about the run, below ``api/`` of `atlas serve` and
`atlas.show`.

Pictures arrive as the bodies of requests and stay in memory; nothing that a client sends names a file. Answers that
take long are streams of JSON lines. Networks are loaded when the page first asks, not before.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atlas.errors import AtlasError, ConfigError
from atlas.serve.growth import GrowthEvents
from atlas.serve.lazy import Lazy
from atlas.serve.limits import MOST_UPLOAD_BYTES, MOST_UPLOAD_PIXELS, Refusal, RequestLimits
from atlas.serve.parameters import parse_integer, parse_integers
from atlas.serve.workers import Workers

if TYPE_CHECKING:
    from atlas.explain.explainer import Picture
    from atlas.forward.trace import Trace
    from atlas.serve.cached_explainer import CachedExplainer
    from atlas.serve.samples import Sample


def explain_app(run: Path) -> Starlette:
    """The application below ``api/`` of the run's page."""
    limits = RequestLimits()
    api, growth = ExplainApi(run, limits), GrowthEvents(run, limits)
    return Starlette(
        routes=[
            Route("/explain", api.state, methods=["GET"]),
            Route("/explain", api.summary, methods=["POST"]),
            Route("/explain/classes", api.classes, methods=["POST"]),
            Route("/explain/removed", api.removed, methods=["POST"]),
            Route("/explain/icons", api.icons, methods=["POST"]),
            Route("/explain/groups", api.groups, methods=["POST"]),
            Route("/samples", api.samples, methods=["GET"]),
            Route("/samples/{number:int}", api.sample, methods=["GET"]),
            Route("/neurons", api.neurons, methods=["GET"]),
            Route("/forward", api.forward, methods=["POST"]),
            Route("/forward/maps", api.forward_maps, methods=["POST"]),
            Route("/forward/unit", api.forward_unit, methods=["POST"]),
            Route("/growth", growth.stream, methods=["GET"]),
        ],
        exception_handlers={Refusal: _on_refusal, AtlasError: _on_error, ClientDisconnect: _on_disconnect},
    )


async def _on_refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    # A body that nobody has read would be taken for the next request.
    return JSONResponse({"sentence": str(error)}, error.status, {"connection": "close"})


async def _on_error(_request: Request, error: Exception) -> Response:
    return JSONResponse({"sentence": str(error)}, 422 if isinstance(error, ConfigError) else 503)


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


class ExplainApi:
    """One method for each endpoint of one run: reads the request, has the workers work out the answer."""

    def __init__(self, run: Path, limits: RequestLimits) -> None:
        self._explainer = Lazy(partial(_load_explainer, run))
        self._samples = Lazy(partial(_load_samples, run))
        self._limits, self._workers = limits, Workers()

    async def state(self, request: Request) -> Response:
        """Whether the networks are loaded, and how large a picture may be. The first request loads them."""
        self._limits.admit(request)
        if not self._explainer.loaded and not self._explainer.loading:
            asyncio.get_running_loop().run_in_executor(None, self._preload)
        limits = {"bytes": MOST_UPLOAD_BYTES, "pixels": MOST_UPLOAD_PIXELS}
        return JSONResponse({"ready": self._explainer.loaded, "limits": limits})

    async def summary(self, request: Request) -> Response:
        """What the networks take the picture for, and where its positions lie on the maps."""
        explainer, _, picture = await self._picture(request)
        return JSONResponse(await self._workers.run(request, partial(explainer.summary, picture)))

    async def classes(self, request: Request) -> Response:
        """What each position adds to the classes of the query, in every layer of one network."""
        explainer, _, picture = await self._picture(request)
        network = _network(explainer, request.query_params)
        classes = _classes(explainer, request.query_params, network)
        return JSONResponse(
            await self._workers.run(request, partial(explainer.attributions, picture, classes, network))
        )

    async def removed(self, request: Request) -> Response:
        """A stream: what the classes of the query lose without each position of a layer."""
        explainer, _, picture = await self._picture(request)
        layer, network = _layer(explainer, request.query_params)
        classes = _classes(explainer, request.query_params, network)
        return self._workers.stream(lambda _cancelled: explainer.ablations(picture, layer, classes))

    async def icons(self, request: Request) -> Response:
        """A stream: an icon for each position of a layer."""
        explainer, _, picture = await self._picture(request)
        layer, _ = _layer(explainer, request.query_params)
        return self._workers.stream(partial(explainer.icons, picture, layer))

    async def groups(self, request: Request) -> Response:
        """A stream: a layer's map in a few groups with their effects, then an icon for each."""
        explainer, _, picture = await self._picture(request)
        layer, network = _layer(explainer, request.query_params)
        count = parse_integer(request.query_params, "count", 6)
        classes = _classes(explainer, request.query_params, network, fewest=0)
        explainer.check_groups(count)
        return self._workers.stream(partial(explainer.groups, picture, layer, count, classes))

    async def samples(self, request: Request) -> Response:
        """The addresses of a few pictures of the run."""
        self._limits.admit(request)
        samples = await run_in_threadpool(self._samples.get)
        entries = [{"address": f"api/samples/{number}", "title": sample.title} for number, sample in enumerate(samples)]
        return JSONResponse({"samples": entries})

    async def sample(self, request: Request) -> Response:
        """One of them as PNG. Raises Refusal where there is none of this number."""
        self._limits.admit(request)
        samples, number = await run_in_threadpool(self._samples.get), request.path_params["number"]
        if number >= len(samples):
            raise Refusal(404, f"There is no sample {number}; there are {len(samples)}, counted from 0.")
        return Response(samples[number].png, media_type="image/png")

    async def neurons(self, request: Request) -> Response:
        """A stream: an icon for each channel of the query; those that are cached come first."""
        self._limits.admit(request)
        explainer, query = await self._load_explainer(), request.query_params
        network, channels = _network(explainer, query), parse_integers(query, "channel")
        return self._workers.stream(partial(explainer.channels, network, query.get("layer", ""), channels))

    async def forward(self, request: Request) -> Response:
        """The steps of the picture's forward pass through a network."""
        explainer, trace = await self._trace(request)
        return JSONResponse(await self._workers.run(request, partial(explainer.forward, trace)))

    async def forward_maps(self, request: Request) -> Response:
        """Maps of some channels of one step."""
        explainer, trace = await self._trace(request)
        query = request.query_params
        step, channels = parse_integer(query, "step"), parse_integers(query, "channel", fewest=0)
        return JSONResponse(await self._workers.run(request, partial(explainer.forward_maps, trace, step, channels)))

    async def forward_unit(self, request: Request) -> Response:
        """How one number of a step comes about."""
        explainer, trace = await self._trace(request)
        query = request.query_params
        step, channel = parse_integer(query, "step"), parse_integer(query, "channel")
        y, x, terms = (parse_integer(query, name, default) for name, default in (("y", 0), ("x", 0), ("terms", 12)))
        work = partial(explainer.forward_unit, trace, step, channel, y, x, terms)
        return JSONResponse(await self._workers.run(request, work))

    async def _picture(self, request: Request) -> tuple[CachedExplainer, str, Picture]:
        """The explainer, and the picture in the request's body with the digest of its bytes."""
        self._limits.admit(request)
        data = await self._limits.read_picture(request)
        digest = hashlib.sha256(data).hexdigest()
        explainer = await self._load_explainer()
        return explainer, digest, await self._workers.run(request, partial(explainer.picture, digest, data))

    async def _trace(self, request: Request) -> tuple[CachedExplainer, Trace]:
        explainer, digest, picture = await self._picture(request)
        network = _network(explainer, request.query_params)
        return explainer, await self._workers.run(request, partial(explainer.trace, digest, picture, network))

    async def _load_explainer(self) -> CachedExplainer:
        if not self._explainer.loaded:
            await run_in_threadpool(self._explainer.get)
        return self._explainer.get()

    def _preload(self) -> None:
        with suppress(AtlasError):  # it is raised again for whoever sends a picture
            self._explainer.get()


def _load_explainer(run: Path) -> CachedExplainer:
    from atlas.serve.cached_explainer import CachedExplainer

    return CachedExplainer(run)


def _load_samples(run: Path) -> list[Sample]:
    from atlas.serve.samples import find_samples

    return find_samples(run)


def _network(explainer: CachedExplainer, query: QueryParams) -> str:
    return explainer.network(parse_integer(query, "network", 0))


def _layer(explainer: CachedExplainer, query: QueryParams) -> tuple[str, str]:
    """The names of the layer and of its network."""
    layer = explainer.explainer.layer(query.get("layer", ""))
    return layer.name, layer.network


def _classes(explainer: CachedExplainer, query: QueryParams, network: str, fewest: int = 1) -> list[int]:
    return [explainer.explainer.class_of(number, network) for number in parse_integers(query, "class", fewest)]

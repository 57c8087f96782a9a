"""The forward pass of a small network, answered by atlas.explain as the real server does, for tests of the page.

The network has what real ones trip over: a stride, a depthwise convolution, a residual sum, two paths that are put side
by side, a max pool with its edge. Its weights are made up, so its answers mean nothing, but every sum is true.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_api import MadeApi, icon, serve_api
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import Tensor, nn

from atlas.errors import AtlasError
from atlas.forward.trace import Trace, maps, trace, trace_facts
from atlas.forward.unit_arithmetic import unit_arithmetic
from atlas.networks.network import Network, load

SIZE = 48


class FilterBlock(nn.Sequential):
    """Convolution, batch norm and, where asked for, ReLU6."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, *, relu: bool = True, **more: int) -> None:
        convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **more)  # type: ignore[arg-type]
        super().__init__(convolution, nn.BatchNorm2d(outputs), nn.ReLU6() if relu else nn.Identity())


class Bottleneck(nn.Module):
    """Expanded, filtered channel by channel, projected, and added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A dictionary keeps the parts out of the row of layers, which goes two names deep.
        self.parts = nn.ModuleDict(
            {
                "expand": FilterBlock(channels, 2 * channels),
                "depthwise": FilterBlock(2 * channels, 2 * channels, 3, groups=2 * channels),
                "project": FilterBlock(2 * channels, channels, relu=False),
            }
        )

    def forward(self, inputs: Tensor) -> Tensor:
        inside = inputs
        for part in self.parts.values():
            inside = part(inside)
        return inputs + inside


class Paths(nn.Module):
    """Two kernels of different sizes side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {"narrow": FilterBlock(inputs, outputs // 2), "wide": FilterBlock(inputs, outputs // 2, 3)}
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([part(inputs) for part in self.parts.values()], 1)


class Walked(nn.Module):
    """48 px → 24 × 24 → 12 × 12 → the made site's seven classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = FilterBlock(3, 16, 3, stride=2)
        self.block = Bottleneck(16)
        self.paths = Paths(16, 24)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.last = FilterBlock(24, 40)
        self.classifier = nn.Linear(40, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        inside = self.last(self.pool(self.paths(self.block(self.stem(pictures)))))
        return self.classifier(inside.mean((2, 3)))


@lru_cache
def network(classes: int) -> Network:
    torch.manual_seed(3)
    module = Walked(classes)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.8, 1.6)
            nn.init.uniform_(part.bias, -0.2, 0.4)
            nn.init.uniform_(part.running_var, 0.2, 0.6)  # type: ignore[arg-type]
    return load(module, size=SIZE, classes=[f"class {index}" for index in range(classes)])


@lru_cache(maxsize=4)
def traced(picture: bytes, classes: int) -> Trace:
    with Image.open(BytesIO(picture)) as image:
        pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE)))
    of = network(classes)
    with torch.no_grad():
        return trace(of, of.normalize(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255))


@dataclass
class ForwardApi:
    """What a test sets and reads: a sentence that refuses a kind of question, a delay, the requests.

    ``log_sum_off`` is added to the logarithm of the softmax's sum, or leaves it out where it is None.
    """

    api: MadeApi
    refusals: dict[str, str] = field(default_factory=dict)
    icon_delay: float = 0.0
    log_sum_off: float | None = 0.0
    requests: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.api.address

    def trace(self, picture: bytes) -> Trace:
        return traced(picture, self.api.classes(0))


class _ForwardRoutes:
    """The addresses of the forward pass below api/."""

    def __init__(self) -> None:
        self.state: ForwardApi

    def routes(self) -> list[Route]:
        return [
            Route("/forward", self.forward, methods=["POST"]),
            Route("/forward/maps", self.maps, methods=["POST"]),
            Route("/forward/unit", self.unit, methods=["POST"]),
            Route("/neurons", self.neurons),
        ]

    async def answer(self, request: Request, work: Callable[[Trace], Any]) -> Response:
        what = request.url.path.rsplit("/", 1)[-1]
        self.state.requests.append(f"{what}?{request.url.query}")
        if what in self.state.refusals:
            return JSONResponse({"sentence": self.state.refusals[what]}, 422)
        try:
            return JSONResponse(work(self.state.trace(await request.body())))
        except AtlasError as error:
            return JSONResponse({"sentence": str(error)}, 422)

    async def forward(self, request: Request) -> Response:
        return await self.answer(request, self.describe)

    def describe(self, trace: Trace) -> dict[str, Any]:
        facts = trace_facts(trace)
        output, off = facts["output"], self.state.log_sum_off
        output.pop("log_sum", None)
        if off is not None:
            output["log_sum"] = float(trace.maps(output["step"]).double().flatten().logsumexp(0)) + off
        return facts

    async def maps(self, request: Request) -> Response:
        query = request.query_params
        channels = [int(text) for text in query.getlist("channel")]
        return await self.answer(request, lambda trace: maps(trace, int(query["step"]), channels))

    async def unit(self, request: Request) -> Response:
        query = request.query_params
        numbers = [int(query[name]) for name in ("step", "channel", "y", "x", "terms")]
        return await self.answer(request, lambda trace: unit_arithmetic(trace, *numbers))

    async def neurons(self, request: Request) -> Response:
        layer = request.query_params["layer"]
        channels = [int(text) for text in request.query_params.getlist("channel")]
        self.state.requests.append(f"neurons?{layer}")

        async def lines() -> AsyncIterator[str]:
            ended = False
            try:
                for channel in channels:
                    await asyncio.sleep(self.state.icon_delay)
                    yield json.dumps({"channel": channel, "picture": icon(channel)}) + "\n"
                ended = True
            finally:
                if not ended:
                    self.state.stopped.append(layer)

        if "neurons" in self.state.refusals:
            return JSONResponse({"sentence": self.state.refusals["neurons"]}, 422)
        return StreamingResponse(lines(), media_type="application/x-ndjson")


@contextmanager
def serve_forward(site: Path) -> Iterator[ForwardApi]:
    """The site, the made answers about pictures, and the forward pass of the small network behind it."""
    answers = _ForwardRoutes()
    with serve_api(site, more=answers.routes()) as api:
        answers.state = ForwardApi(api)
        yield answers.state

"""A made server of answers about pictures, for tests of the page: canned numbers that fit together, on any site.

It answers as the real one does (see atlas/explain), at once or with the delays that a test sets, and notes which
requests came and which answers were broken off. Positions lie on drawn cells of the site's finest grid; what depends on
the picture depends on its mean colour, so that the answers to two pictures differ.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from made_site import colour, running
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from atlas.serve.site_files import SiteFiles

LIMITS = {"bytes": 2_000_000, "pixels": 100_000_000}
SIDES = (28, 14, 7)  # of the layers' maps, in the order of the layers
ATTRIBUTED = 5  # classes whose attribution comes with the summary


@dataclass
class MadeApi:
    """The server's own facts, and what a test sets (seconds) and reads."""

    site: Path
    address: str = ""
    explain_delay: float = 0.0
    icon_delay: float = 0.0
    step_delay: float = 0.0
    limits_delay: float = 0.0
    samples: list[tuple[str, bytes]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    cells: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)

    @property
    def atlas(self) -> dict[str, Any]:
        return json.loads((self.site / "atlas.json").read_text())  # type: ignore[no-any-return]

    @property
    def layers(self) -> list[dict[str, Any]]:
        return [layer for layer in self.atlas["layers"] if not layer["classes_shown"]]

    def classes(self, network: int) -> int:
        return len(self.atlas["networks"][network]["classes"])

    def side(self, path: str) -> int:
        at = [layer["path"] for layer in self.layers].index(path)
        return SIDES[min(at, len(SIDES) - 1)]

    def drawn_cells(self, path: str) -> list[tuple[int, int, int]]:
        """The drawn cells of a layer's finest grid."""
        if path not in self.cells:
            layer = next(layer for layer in self.layers if layer["path"] == path)
            grid = max(level["grid"] for level in layer["grids"])
            columns = json.loads((self.site / path / f"grid-{grid:03d}" / "cells.json").read_text())
            self.cells[path] = [
                (grid, row, col)
                for row, col, is_drawn in zip(columns["row"], columns["col"], columns["drawn"])
                if is_drawn
            ]
        return self.cells[path]

    def cell(self, path: str, position: int) -> tuple[int, int, int] | None:
        """Where a position lands: neighbours in the picture are far from each other. The last one has no place."""
        cells = self.drawn_cells(path)
        return None if position == self.side(path) ** 2 - 1 else cells[(position * 37 + 11) % len(cells)]

    def confidence(self, path: str, position: int) -> float | None:
        last = self.side(path) ** 2 - 1
        return None if position == last else round(position / last, 3)

    def magnitude(self, path: str, position: int) -> float:
        """A blob in the middle: 1 there, 0.1 in the corners."""
        side = self.side(path)
        y, x = divmod(position, side)
        away = np.hypot(x - (side - 1) / 2, y - (side - 1) / 2) / (side / 2)
        return round(float(max(0.1, 1 - 0.6 * away)), 3)

    def attribution(self, path: str, index: int) -> list[float]:
        """From opposition in the west to support in the east for even classes, from north to south for odd ones."""
        side = self.side(path)
        ramp = (np.arange(side) - (side - 1) / 2) / side * (1 + index % 7)
        grid = np.broadcast_to(ramp, (side, side))
        return [round(float(value), 4) for value in (grid if index % 2 == 0 else grid.T).flat]

    def removed(self, path: str, index: int) -> list[float]:
        """What taking a position out does: the attribution the other way round, so that a test tells them apart."""
        return self.attribution(path, index)[::-1]

    def top(self, picture: bytes, network: int) -> list[int]:
        """The best classes of a picture: they begin with one that goes by its colour."""
        classes = self.classes(network)
        first = mean_colour(picture)[0] * classes // 256
        return [(first + step) % classes for step in range(min(10, classes))]

    def summary(self, picture: bytes) -> dict[str, Any]:
        with Image.open(BytesIO(picture)) as image:
            width, height = image.size
        middle = min(width, height)
        left, top = (width - middle) // 2, (height - middle) // 2
        networks = []
        for number, network in enumerate(self.atlas["networks"]):
            chances = 0.6 ** np.arange(10) * 0.4
            best = [
                {"class": index, "logit": round(9 - 0.5 * at, 2), "probability": round(float(chances[at]), 4)}
                for at, index in enumerate(self.top(picture, number))
            ]
            networks.append({"name": network["name"], "size": network["input_size"], "classes": best})
        return {
            "picture": {"width": width, "height": height, "box": [left, top, left + middle, top + middle]},
            "networks": networks,
            "layers": [self.layer(picture, layer) for layer in self.layers],
        }

    def layer(self, picture: bytes, layer: dict[str, Any]) -> dict[str, Any]:
        path, positions = layer["path"], range(self.side(layer["path"]) ** 2)
        cells = [self.cell(path, position) for position in positions]
        return {
            "path": path,
            "network": layer["network"],
            "rows": self.side(path),
            "cols": self.side(path),
            "channels": layer["channels"],
            "magnitude": [self.magnitude(path, position) for position in positions],
            "u": [cell and round((cell[2] + 0.5) / cell[0], 4) for cell in cells],
            "v": [cell and round((cell[1] + 0.5) / cell[0], 4) for cell in cells],
            "confidence": [self.confidence(path, position) for position in positions],
            "cell": cells,
            "attribution": {
                str(index): self.attribution(path, index) for index in self.top(picture, layer["network"])[:ATTRIBUTED]
            },
        }

    def groups(self, path: str, count: int, network: int) -> dict[str, Any]:
        """Horizontal bands, the first at the top."""
        side = self.side(path)
        total = self.classes(network)
        rows = np.repeat(np.arange(side), side)
        groups = []
        for number in range(count):
            grid, row, col = self.drawn_cells(path)[(number * 101 + 5) % len(self.drawn_cells(path))]
            groups.append({
                "mask": [float(value) for value in (rows * count // side == number).astype(float)],
                "share": round(1 / count, 3),
                "supports": [{"class": (number + at) % total, "value": round(1.2 - 0.2 * at, 2)} for at in range(5)],
                "opposes": [{"class": (number + at + 3) % total, "value": round(at * 0.1 - 0.9, 2)} for at in range(5)],
                "u": (col + 0.5) / grid,
                "v": (row + 0.5) / grid,
                "confidence": round(number / count, 2),
            })  # fmt: skip
        return {"groups": groups, "explained_share": 0.87, "split_by_sign": True}


def icon_colour(position: int) -> tuple[int, int, int]:
    return 40 + position * 7 % 200, 40 + position * 13 % 200, 40 + position * 29 % 200


def icon(position: int) -> str:
    """A picture of one colour as a data URL."""
    body = BytesIO()
    Image.new("RGB", (16, 16), icon_colour(position)).save(body, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(body.getvalue()).decode()}"


def mean_colour(picture: bytes) -> tuple[int, int, int]:
    with Image.open(BytesIO(picture)) as image:
        red, green, blue = np.asarray(image.convert("RGB").resize((1, 1), Image.Resampling.BOX))[0, 0]
    return int(red), int(green), int(blue)


def stand_in_colour(path: str, cell: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour of the made site's icon that stands in for a position's own."""
    return colour(path, "icons", *cell)


class _PictureRoutes:
    """The addresses below api/."""

    def __init__(self, api: MadeApi) -> None:
        self.api = api

    def routes(self) -> list[Route]:
        return [
            Route("/explain", self.limits, methods=["GET"]),
            Route("/explain", self.explain, methods=["POST"]),
            Route("/samples", self.samples),
            Route("/samples/{number:int}", self.sample),
            Route("/explain/classes", self.classes, methods=["POST"]),
            Route("/explain/removed", self.removed, methods=["POST"]),
            Route("/explain/icons", self.icons, methods=["POST"]),
            Route("/explain/groups", self.groups, methods=["POST"]),
        ]

    def note(self, request: Request) -> str:
        query = f"?{request.url.query}" if request.url.query else ""
        line = f"{request.method} {request.url.path.removeprefix('/')}{query}"
        self.api.requests.append(line)
        return line

    async def limits(self, request: Request) -> Response:
        line = self.note(request)
        await self.wait(request, line, self.api.limits_delay)
        return JSONResponse({"ready": True, "limits": LIMITS})

    async def samples(self, request: Request) -> Response:
        self.note(request)
        samples = [{"address": f"api/samples/{at}", "title": title} for at, (title, _) in enumerate(self.api.samples)]
        return JSONResponse({"samples": samples})

    async def sample(self, request: Request) -> Response:
        self.note(request)
        return Response(self.api.samples[request.path_params["number"]][1], media_type="image/png")

    async def explain(self, request: Request) -> Response:
        line, picture = self.note(request), await request.body()
        try:
            summary = self.api.summary(picture)
        except OSError:
            return JSONResponse({"sentence": "This file is no picture that can be read; give a JPEG or PNG."}, 415)
        await self.wait(request, line, self.api.explain_delay)
        return JSONResponse(summary)

    async def wait(self, request: Request, line: str, delay: float) -> None:
        """So many seconds, or until nobody waits for the answer any more."""
        waited = 0.0
        while waited < delay:
            await asyncio.sleep(0.05)
            waited += 0.05
            if await request.is_disconnected():
                self.api.stopped.append(line)
                break

    async def classes(self, request: Request) -> Response:
        self.note(request)
        network = int(request.query_params["network"])
        layers = [layer["path"] for layer in self.api.layers if layer["network"] == network]
        effects = {
            index: {path: self.api.attribution(path, int(index)) for path in layers}
            for index in request.query_params.getlist("class")
        }
        return JSONResponse({"classes": effects})

    async def removed(self, request: Request) -> Response:
        line, path = self.note(request), request.query_params["layer"]
        classes = request.query_params.getlist("class")

        async def objects() -> AsyncIterator[dict[str, Any]]:
            for share in (0.25, 0.5, 0.75, 1.0):
                await asyncio.sleep(self.api.step_delay)
                yield {"share": share}
            yield {"classes": {index: self.api.removed(path, int(index)) for index in classes}}

        return self.stream(line, objects())

    async def icons(self, request: Request) -> Response:
        line, path = self.note(request), request.query_params["layer"]
        positions = sorted(range(self.api.side(path) ** 2), key=lambda position: -self.api.magnitude(path, position))

        async def objects() -> AsyncIterator[dict[str, Any]]:
            for position in positions:
                await asyncio.sleep(self.api.icon_delay)
                yield {"position": position, "picture": icon(position), "cosine": 0.93}

        return self.stream(line, objects())

    async def groups(self, request: Request) -> Response:
        line, path = self.note(request), request.query_params["layer"]
        count = int(request.query_params["count"])
        network = next(layer["network"] for layer in self.api.layers if layer["path"] == path)

        async def objects() -> AsyncIterator[dict[str, Any]]:
            yield self.api.groups(path, count, network)
            for number in range(count):
                await asyncio.sleep(self.api.step_delay)
                yield {"group": number, "picture": icon(number), "cosine": 0.9}

        return self.stream(line, objects())

    def stream(self, line: str, objects: AsyncIterator[dict[str, Any]]) -> Response:
        async def lines() -> AsyncIterator[str]:
            ended = False
            try:
                async for entry in objects:
                    yield json.dumps(entry) + "\n"
                ended = True
            finally:
                if not ended:
                    self.api.stopped.append(line)

        return StreamingResponse(lines(), media_type="application/x-ndjson")


class _Site(SiteFiles):
    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["x-atlas-api"] = "1"
        return response


@contextmanager
def serve_api(site: Path, *, more: Sequence[Route] = ()) -> Iterator[MadeApi]:
    """The site with the made API behind it, on loopback; ``more``: further addresses below api/."""
    api = MadeApi(site)
    app = Starlette(routes=[Mount("/api", routes=[*_PictureRoutes(api).routes(), *more]), Mount("/", _Site(site))])
    with running(app, timeout_graceful_shutdown=1) as url:
        api.address = url
        yield api

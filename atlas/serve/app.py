"""The web application behind `python -m atlas.serve`: the sites of one or several runs, as static files, and below
``api/`` what their pages ask of Python.

It imports no torch before it is asked about a picture, so that it answers at once. One run is served at the root;
several are served under their names, with a page that lists them.
"""

import asyncio
import base64
import contextlib
import hashlib
import html
import json
import re
import socket
from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address
from os import stat_result
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import PathLike, StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from atlas.errors import ConfigError
from atlas.rundir.versions import SITE_FORMAT
from atlas.serve.explain_api import explain_app

MEDIA_TYPES = {
    ".bin": "application/octet-stream",
    ".css": "text/css; charset=utf-8",
    ".dzi": "application/xml",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
# The names of the files in assets/ change with their content; all other files are asked for again, by ETag.
FOREVER = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"
# A browser stays far below these. Its cookies are the longest: those of every other server of this machine come along.
ADDRESS_BYTES = 8 * 1024
HEADERS, HEADER_BYTES = 100, 32 * 1024
RANGES = 16
# Beyond this uvicorn reads no further, answers 400 and hangs up.
REQUEST_BYTES = 64 * 1024
# Seconds that answers under way have when the server ends.
GRACE = 3
# By this header of atlas.json a page knows that it may ask.
API_HEADER = "x-atlas-api"
# The names of this machine to itself.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class SiteFiles(StaticFiles):
    """A site's files, with the types and cache rules that a browser needs. Nothing outside the folder is served."""

    def __init__(self, site: Path, *, api: bool = False) -> None:
        super().__init__(directory=site, html=True)
        self._assets, self._facts = site.resolve() / "assets", site.resolve() / "atlas.json"
        self._api = api

    def file_response(
        self, full_path: PathLike, stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Starlette's answer with the headers that this file needs: how long it is kept, its type, whether there is an
        API; 304 where the browser has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        path = Path(full_path)
        response.headers["cache-control"] = FOREVER if path.is_relative_to(self._assets) else REVALIDATE
        response.headers["x-content-type-options"] = "nosniff"
        if self._api and path == self._facts:
            response.headers[API_HEADER] = "1"
        if response.status_code != 304 and path.suffix in MEDIA_TYPES:
            response.headers["content-type"] = MEDIA_TYPES[path.suffix]
        return response


class Gate:
    """Refuses what no browser would ask of these files, with a sentence, and hangs up on what may still follow.

    A body is answered with 413, but for pictures that are posted below ``api/`` (see atlas/explain), an address above
    ADDRESS_BYTES with 414, more than RANGES ranges with 416, more than HEADERS lines or HEADER_BYTES of headers with
    431. With ``hosts``, every other name in the header Host is answered with 403: else a page of the web could have its
    own name lead to this machine (DNS rebinding) and read the atlas.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            with contextlib.suppress(asyncio.CancelledError):  # the server ends before a slow reader does
                await self._app(scope, receive, send)
        else:
            status, sentence = refusal
            await PlainTextResponse(f"{sentence}\n", status, {"connection": "close"})(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        address = len(scope["raw_path"]) + len(scope["query_string"])
        if address > ADDRESS_BYTES:
            return 414, f"The address has {address:,} bytes; this server takes {ADDRESS_BYTES:,} at most."
        size = sum(len(name) + len(value) for name, value in headers.raw)
        if len(headers.raw) > HEADERS or size > HEADER_BYTES:
            return 431, (
                f"The request has {len(headers.raw):,} headers of {size:,} bytes; this server takes {HEADERS} of "
                f"{HEADER_BYTES:,} at most."
            )
        host = headers.get("host", "")
        if self._hosts is not None and re.sub(r":\d*$", "", host).lower() not in self._hosts:
            return 403, (
                f"This server is for its own machine, as {' or '.join(sorted(self._hosts))}, and was asked for as "
                f"{host[:100]!r}. python -m atlas.serve --host 0.0.0.0 answers to every name, "
                "atlas.show(run, proxy=...) too."
            )
        posted = scope["method"] == "POST" and "/api/" in scope["path"]
        if not posted and (headers.get("content-length", "0") != "0" or "transfer-encoding" in headers):
            return 413, "The request has a body; this server takes none."
        ranges = sum(value.count(",") + 1 for value in headers.getlist("range"))
        if ranges > RANGES:
            return 416, f"The request asks for {ranges:,} ranges; this server gives {RANGES} at once."
        return None


def create_app(runs: Sequence[Path]) -> Starlette:
    """The application for one run folder, or for several. Raises ConfigError where a run has no site."""
    sites = {path.resolve().name: find_site(path) for path in runs}
    if len(sites) < len(runs):
        raise ConfigError("Two of the run folders have the same name; rename one, since the name is its address.")
    if len(sites) == 1:
        return Starlette(routes=_site_routes("", next(iter(sites.values()))))
    routes = [route for name, site in sites.items() for route in _site_routes(f"/{name}", site)]
    return Starlette(routes=[Route("/", _index_endpoint(sites)), *routes])


def _site_routes(prefix: str, site: Path) -> list[BaseRoute]:
    """A run's site below ``prefix``, and its api/ where the run is there, not the site alone."""
    run = site.parent
    whole = (run / "run.json").is_file() and (run / "layout").is_dir()
    api: list[BaseRoute] = [Mount(f"{prefix}/api", explain_app(run))] if whole else []
    return [*api, Mount(prefix or "/", SiteFiles(site, api=whole))]


def find_site(run: Path) -> Path:
    """The folder site/ of a run. Raises ConfigError, with what to do, where it is missing or unfinished."""
    if not run.is_dir():
        raise ConfigError(
            f"There is no run folder {run}; give one that python -m atlas.run has made, such as runs/demo."
        )
    site = run / "site"
    if not (site / "index.html").is_file() or not (site / "atlas.json").is_file():
        raise ConfigError(
            f"The run {run} has no site yet; python -m atlas.run CONFIG finishes it, with its own YAML file."
        )
    return site


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen()  # from here on a browser is answered, if a little later
    except (OSError, OverflowError) as error:
        bound.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"Port {port} of {host} cannot be opened ({reason}); choose another one, such as --port {port + 1}."
        ) from error
    return bound


def create_server(app: ASGIApp, *, hosts: Collection[str] | None) -> uvicorn.Server:
    """A server of the application behind a Gate; it holds no more than REQUEST_BYTES of a request that is not whole.

    ``hosts``: the names that it answers to, None for any; see `own_names`.
    """
    return uvicorn.Server(
        uvicorn.Config(
            Gate(app, hosts),
            http="h11",  # httptools, which uvicorn prefers where it is installed, has no limit
            h11_max_incomplete_event_size=REQUEST_BYTES,
            ws="none",
            timeout_graceful_shutdown=GRACE,
            log_level="warning",
        )
    )


def serve(runs: Sequence[Path], *, host: str, port: int) -> None:
    """Serve the runs until Ctrl-C, and say the address in one line. Raises ConfigError as `create_app` does."""
    app = create_app(runs)
    with open_socket(host, port) as bound:
        print(f"The atlas is at {address(bound)} (Ctrl-C ends)", flush=True)
        create_server(app, hosts=own_names(bound.getsockname()[0])).run(sockets=[bound])


def own_names(ip: str) -> frozenset[str] | None:
    """What a server at ``ip`` may be called, where this machine alone reaches it; None, for anything, elsewhere."""
    if not ip_address(ip).is_loopback:
        return None
    return LOOPBACK | {f"[{ip}]" if ":" in ip else ip}


def address(bound: socket.socket) -> str:
    """What to type into a browser on this machine to reach the socket."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _index_endpoint(sites: Mapping[str, Path]) -> Any:
    async def index(request: Request) -> Response:
        headers = {"cache-control": REVALIDATE, "content-security-policy": _INDEX_POLICY}
        return HTMLResponse(index_page(sites), headers=headers)

    return index


def index_page(sites: Mapping[str, Path]) -> str:
    """The page that lists several runs, each with a small picture of the layer that it opens on."""
    icon = f"{quote(next(iter(sites)))}/icon.svg"
    return _PAGE.format(
        style=_STYLE, icon=icon, items="\n".join(_index_item(name, site) for name, site in sites.items())
    )


def _index_item(name: str, site: Path) -> str:
    atlas = json.loads((site / "atlas.json").read_text())
    if atlas["format"] != SITE_FORMAT:
        picture, what = "", "of another version; finish the run again"
    else:
        layers = [layer for layer in atlas["layers"] if not layer["of_classes"]]
        layer = next((each for each in layers if each["path"] == atlas.get("opens")), layers[len(layers) // 2])
        side = min(grid["grid"] for grid in layer["grids"]) * atlas["icon_size"]
        address = f"{quote(name)}/{quote(layer['path'])}/atlas_files/{(side - 1).bit_length() - 1}/0_0.webp"
        picture = f'<img src="{address}" alt="" width="160" height="160">'
        networks = " and ".join(network["name"] for network in atlas["networks"])
        what = f"{networks}, {len(layers)} layer{'s' if len(layers) != 1 else ''}"
    return f'<li><a href="{quote(name)}/">{picture}<b>{html.escape(name)}</b> <span>{html.escape(what)}</span></a></li>'


_STYLE = """
:root { color-scheme: light dark; --ground: #f7f7f5; --ink: #1c1d1f; --soft: #5e6166; }
@media (prefers-color-scheme: dark) { :root { --ground: #111214; --ink: #eceded; --soft: #a2a6ab; } }
body { margin: 0; padding: 32px 24px; background: var(--ground); color: var(--ink);
  font: 15px/1.4 system-ui, sans-serif; }
h1 { margin: 0 0 24px; font-size: 20px; }
ul { display: flex; flex-wrap: wrap; gap: 24px; margin: 0; padding: 0; list-style: none; }
a { display: block; width: 160px; color: inherit; text-decoration: none; }
a:hover b, a:focus-visible b { text-decoration: underline; }
img { display: block; margin-bottom: 8px; }
b { display: block; }
span { color: var(--soft); font-size: 13px; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_INDEX_POLICY = f"default-src 'none'; img-src 'self'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="{icon}" type="image/svg+xml">
<title>Activation atlases</title>
<style>{style}</style>
</head>
<body>
<h1>Activation atlases</h1>
<ul>
{items}
</ul>
</body>
</html>
"""

"""The web application behind `python -m atlas.serve`: the sites of one or several runs, as static files, and below
``api/`` what their pages ask of Python.

It imports no torch before it is asked about a picture, so that it answers at once. One run is served at the root;
several are served under their names, with a page that lists them.
"""

from collections.abc import Collection, Sequence
from os import stat_result
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import PathLike, StaticFiles
from starlette.types import ASGIApp, Scope

from atlas.errors import ConfigError
from atlas.serve.explain_api import explain_app
from atlas.serve.gate import Gate
from atlas.serve.index import REVALIDATE, _index_endpoint
from atlas.serve.sockets import address, open_socket, own_names

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
# Beyond this uvicorn reads no further, answers 400 and hangs up.
REQUEST_BYTES = 64 * 1024
# Seconds that answers under way have when the server ends.
GRACE = 3
# By this header of atlas.json a page knows that it may ask.
API_HEADER = "x-atlas-api"


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

"""The web application behind `atlas serve`: the sites of one or several runs, as static files, and below
``api/`` what their pages ask of Python.

It imports no torch before it is asked about a picture, so that it answers at once. One run is served at the root;
several are served under their names, with a page that lists them.
"""

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route

from atlas.errors import ConfigError
from atlas.serve.explain_api import explain_app
from atlas.serve.index import index_endpoint
from atlas.serve.site_files import SiteFiles, find_site


def create_app(runs: Sequence[Path]) -> Starlette:
    """The application for one run folder, or for several. Raises ConfigError where a run has no site."""
    sites = {path.resolve().name: find_site(path) for path in runs}
    if len(sites) < len(runs):
        raise ConfigError("Two of the run folders have the same name; rename one, since the name is its address.")
    if len(sites) == 1:
        return Starlette(routes=_site_routes("", next(iter(sites.values()))))
    routes = [route for name, site in sites.items() for route in _site_routes(f"/{name}", site)]
    return Starlette(routes=[Route("/", index_endpoint(sites)), *routes])


def _site_routes(prefix: str, site: Path) -> list[BaseRoute]:
    """A run's site below ``prefix``, and its api/ where the whole run is there, not the site alone."""
    run = site.parent
    has_run = (run / "run.json").is_file() and (run / "layout").is_dir()
    api: list[BaseRoute] = [Mount(f"{prefix}/api", explain_app(run))] if has_run else []
    return [*api, Mount(prefix or "/", SiteFiles(site, api=has_run))]

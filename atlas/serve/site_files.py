"""The static files of a run's site, with the headers that a browser needs."""

import time
from os import stat_result
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import PathLike, StaticFiles
from starlette.types import Scope

from atlas.errors import ConfigError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.progress import read_progress

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
# Values of cache-control: the names of the files in assets/ change with their content; all other files are asked for
# again, by ETag.
FOREVER, REVALIDATE = "public, max-age=31536000, immutable", "no-cache"
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
        """Starlette's response with the headers that this file needs: how long it is cached, its type, whether there is
        an API; 304 where the browser has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        path = Path(full_path)
        response.headers["cache-control"] = FOREVER if path.is_relative_to(self._assets) else REVALIDATE
        response.headers["x-content-type-options"] = "nosniff"
        if self._api and path == self._facts:
            response.headers[API_HEADER] = "1"
        if response.status_code != 304 and path.suffix in MEDIA_TYPES:
            response.headers["content-type"] = MEDIA_TYPES[path.suffix]
        return response


def find_site(run: Path) -> Path:
    """The folder site/ of a run. Raises ConfigError, with what to do, where it is missing or unfinished."""
    if not run.is_dir():
        raise ConfigError(f"There is no run folder {run}; give one that atlas run has made, such as runs/demo.")
    site = run / "site"
    if not site.is_dir() and not (run / "run.json").is_file():
        runs = sorted(path.parent.name for path in run.glob("*/run.json"))
        hint = f"give a run in it, such as {run / runs[0]}" if runs else "give one that atlas run has made"
        raise ConfigError(f"{run} is no run: it has no run.json and no site; {hint}.")
    if not RunDirectory(run).has_site:
        progress = read_progress(RunDirectory(run))
        if progress and progress.state_at(time.time()) == "running":
            raise ConfigError(
                f"The run {run} is at work and has no site yet: it comes with the first level of the first layer. See "
                f"with atlas status {run} how far the run is, and give this command again then."
            )
        raise ConfigError(f"The run {run} has no site yet; atlas run CONFIG makes it, with its own YAML file.")
    return site

"""A finished atlas in a cell of a Jupyter notebook: its page in a frame, served by a thread of the kernel."""

from __future__ import annotations

import html
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import ConfigError
from atlas.rundir.remote import refuse_url
from atlas.serve.app import create_app
from atlas.serve.server import ThreadedServer
from atlas.serve.site_files import find_site
from atlas.serve.sockets import open_socket, own_names

if TYPE_CHECKING:
    from atlas.analysis import Run

# What the page may do in a frame as it may by itself: fill the screen, and copy its address.
_ALLOWED = "fullscreen; clipboard-write"


class AtlasFrame:
    """A run's page as a notebook shows it: an iframe as wide as the cell, and the address below it.

    ``address``: where a browser finds the page; ``close()`` ends its server.
    """

    def __init__(self, run: Path, server: ThreadedServer, prefix: str | None, height: int) -> None:
        self.run = run
        self.address = f"{prefix}{server.port}/" if prefix else server.address
        self.height = height
        self._server = server

    def close(self) -> None:
        """End the server of this run, and so of every frame that shows it; `show` starts another."""
        self._server.close()

    def __repr__(self) -> str:
        if not self._server.running:
            return f"The atlas of {self.run} is served no more; atlas.show serves it again."
        return f"The atlas of {self.run} is at {self.address} until .close() or the end of this process."

    def _repr_html_(self) -> str:
        if not self._server.running:
            return f"<p>{html.escape(repr(self))}</p>"
        target, title = html.escape(self.address), html.escape(f"The activation atlas of {self.run.name}")
        return (
            f'<iframe src="{target}" title="{title}" width="100%" height="{self.height}" style="border: 0" '
            f'allow="{_ALLOWED}"></iframe><div><a href="{target}" target="_blank">{target}</a></div>'
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}


def _serve(run: Path, *, any_name: bool) -> ThreadedServer:
    """The site of one run, served on a free port of this machine."""
    app = create_app([run])
    bound = open_socket("127.0.0.1", 0)
    return ThreadedServer(app, bound, hosts=None if any_name else own_names(bound.getsockname()[0]))


_servers: dict[tuple[Path, bool], ThreadedServer] = {}
_lock = threading.Lock()


def show(run: str | Path | Run, *, height: int = 640, proxy: str | None = None) -> AtlasFrame:
    """The atlas of a finished run, for the last line of a notebook's cell.

    run: the run's folder, or what `atlas.open_run` returned; height: of the frame, in pixels.

    The site is served on a free port of the kernel's machine, once for a folder, to this machine alone. Where Jupyter
    runs on another machine than the browser, either that port is forwarded (``ssh -L PORT:127.0.0.1:PORT HOST``), or
    ``proxy`` is the address under which a proxy has the kernel's ports, such as "/user/me/proxy/" of
    jupyter-server-proxy: the port is put behind it, and whatever name the proxy passes on is answered. On JupyterHub
    jupyter-server-proxy is taken without being asked for.

    Raises ConfigError where the folder holds no finished site, or ``proxy`` is no address.
    """
    path = run if isinstance(run, str | Path) else run.path
    refuse_url(path)
    folder = Path(path).expanduser()
    find_site(folder)
    prefix = _prefix(proxy)
    key = folder.resolve(), prefix is not None
    with _lock:
        server = _servers.get(key)
        if server is None or not server.running:
            server = _servers[key] = _serve(folder.resolve(), any_name=prefix is not None)
    return AtlasFrame(folder, server, prefix, height)


def _prefix(proxy: str | None) -> str | None:
    """What stands before the port in an address that a proxy answers; None without one."""
    if proxy is None:
        hub = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
        return f"{hub.rstrip('/')}/proxy/" if hub else None
    if not proxy.startswith(("/", "http://", "https://")):
        raise ConfigError(
            f'proxy={proxy!r} is no address; expected what stands before the port, such as "/user/me/proxy/" or '
            f'"https://HOST/proxy/".'
        )
    return proxy.rstrip("/") + "/"

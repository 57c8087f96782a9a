"""The HTTP server of an application: with its gate, on a socket, until Ctrl-C or in a thread."""

import socket
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from atlas.serve.app import create_app
from atlas.serve.gate import Gate
from atlas.serve.growth import IS_ENDING
from atlas.serve.sockets import address, open_socket, own_names

# Beyond this uvicorn reads no further, answers 400 and hangs up.
REQUEST_BYTES = 64 * 1024
# Seconds that responses under way have when the server ends.
GRACE = 3


def create_server(app: ASGIApp, *, hosts: Collection[str] | None) -> uvicorn.Server:
    """A server of the application behind a Gate; it holds no more than REQUEST_BYTES of a request that is not whole.

    ``hosts``: the names that it answers to, None for any; see `own_names`.
    """

    async def knowing_the_end(scope: Scope, receive: Receive, send: Send) -> None:
        # Streams without end would hold up the server's: only a signal that uvicorn keeps to itself tells of it.
        await app({**scope, IS_ENDING: lambda: server.should_exit}, receive, send)

    server = uvicorn.Server(
        uvicorn.Config(
            Gate(knowing_the_end, hosts),
            http="h11",  # httptools, which uvicorn prefers where it is installed, has no limit
            h11_max_incomplete_event_size=REQUEST_BYTES,
            ws="none",
            timeout_graceful_shutdown=GRACE,
            log_level="warning",
        )
    )
    return server


def serve(runs: Sequence[Path], *, host: str, port: int) -> None:
    """Serve the runs until Ctrl-C, and say the address in one line. Raises ConfigError as `create_app` does."""
    app = create_app(runs)
    with open_socket(host, port) as bound:
        print(f"The atlas is at {address(bound)} (Ctrl-C ends)", flush=True)
        create_server(app, hosts=own_names(bound.getsockname()[0])).run(sockets=[bound])


class ThreadedServer:
    """An application served on ``bound`` by a thread that ends with the process; ``hosts`` as in `create_server`."""

    def __init__(self, app: ASGIApp, bound: socket.socket, *, hosts: Collection[str] | None) -> None:
        self.address, self.port = address(bound), bound.getsockname()[1]
        self._server = create_server(app, hosts=hosts)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [bound]}, name=f"server of {self.address}", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End it, as soon as what is under way is answered."""
        self._server.should_exit = True
        self._thread.join()

    def wait(self) -> None:
        """Wait until it has ended, or Ctrl-C."""
        self._thread.join()


class SiteServer:
    """Serves the site of a run that is still at work. The socket is opened at once, so that a host or port that will
    not do is known before the work. Raises ConfigError as `open_socket` does."""

    def __init__(self, host: str, port: int) -> None:
        self._bound = open_socket(host, port)
        self._server: ThreadedServer | None = None

    def begin(self, run: Path) -> None:
        """Serve the run, which has a site by now, in a thread, and say the address in one line."""
        hosts = own_names(self._bound.getsockname()[0])
        self._server = ThreadedServer(create_app([run]), self._bound, hosts=hosts)
        print(f"The atlas is at {self._server.address}", flush=True)

    def wait(self) -> None:
        """Serve on until Ctrl-C."""
        if self._server is None:
            return
        with suppress(KeyboardInterrupt):  # the usual end
            print(f"The atlas is at {self._server.address} (Ctrl-C ends)", flush=True)
            self._server.wait()

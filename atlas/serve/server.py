"""The HTTP server of an application: with its gate, on a socket, until Ctrl-C."""

from collections.abc import Collection, Sequence
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

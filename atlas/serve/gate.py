"""What no browser would ask of a site's files is refused before the application sees it."""

import asyncio
import contextlib
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# A browser stays far below these. Its cookies are the longest: those of every other server of this machine come along.
ADDRESS_BYTES = 8 * 1024
HEADERS, HEADER_BYTES = 100, 32 * 1024
RANGES = 16


class Gate:
    """Refuses what no browser would ask of these files, with a sentence, and hangs up on what may still follow.

    A body is answered with 413, but for pictures that are posted below ``api/`` (see explain_api), an address above
    ADDRESS_BYTES with 414, more than RANGES ranges with 416, more than HEADERS lines or HEADER_BYTES of headers with
    431. With ``hosts``, every other name in the header Host is answered with 403: else a page of the web could have its
    own name lead to this machine (DNS rebinding) and read the atlas. Own code, as Starlette's TrustedHostMiddleware
    answers "Invalid host header", which does not say what to do.
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
                f"{host[:100]!r}. atlas serve --host 0.0.0.0 answers to every name, "
                "atlas.show(run, proxy=...) too."
            )
        posted = scope["method"] == "POST" and "/api/" in scope["path"]
        if not posted and (headers.get("content-length", "0") != "0" or "transfer-encoding" in headers):
            return 413, "The request has a body; this server takes none."
        ranges = sum(value.count(",") + 1 for value in headers.getlist("range"))
        if ranges > RANGES:
            return 416, f"The request asks for {ranges:,} ranges; this server gives {RANGES} at once."
        return None

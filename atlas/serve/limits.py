"""What a client may ask of the server: how much, how often, and from which page."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from cachetools import LRUCache
from starlette.requests import Request

from atlas.errors import too_large

# The most that a picture may have: bytes of its file, and pixels.
MOST_UPLOAD_BYTES, MOST_UPLOAD_PIXELS = 20_000_000, 50_000_000
# A browser that still sends does not read the refusal: somewhat larger files are read to their end, and dropped.
_DRAINED_BYTES = 10 * MOST_UPLOAD_BYTES
# Seconds in which a picture must have arrived.
ARRIVAL = 60
# Pictures that may arrive at a time, in all and from one client.
MOST_UPLOADS, CLIENT_UPLOADS = 24, 12
# Streams of events that may be open at a time, in all and to one client.
MOST_EVENT_STREAMS, CLIENT_EVENT_STREAMS = 64, 16
# Requests of one client: so many at once, and then so many a second.
BURST, RATE = 60, 20.0
# Clients whose token buckets are remembered.
_CLIENTS = 4096


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is not answered: the HTTP ``status``, and why in a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class TokenBucket:
    """How many requests one client may still send: a bucket that holds BURST and fills by RATE a second.

    Own code, as the packages wait instead of refusing (aiolimiter), hold a timestamp for every request (limits,
    pyrate-limiter), or wrap limits (slowapi).
    """

    def __init__(self) -> None:
        self._tokens, self._filled_at = float(BURST), 0.0

    def take(self, now: float) -> bool:
        """Whether a request may be sent ``now``, in seconds of a clock that never goes back; takes a token if so."""
        self._tokens = min(float(BURST), self._tokens + RATE * (now - self._filled_at))
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Slots:
    """How many of something there may be at a time: ``most`` in all, and ``most_of_client`` of one client; ``sentence``
    says why there are no more."""

    def __init__(self, most: int, most_of_client: int, sentence: str) -> None:
        self._most, self._most_of_client, self._sentence = most, most_of_client, sentence
        self._clients: Counter[str] = Counter()

    def take(self, client: str) -> None:
        """Take a slot for ``client``. Raises Refusal where none is free."""
        if self._clients.total() >= self._most or self._clients[client] >= self._most_of_client:
            raise Refusal(503, self._sentence)
        self._clients[client] += 1

    def free(self, client: str) -> None:
        """Free a slot that ``client`` has taken."""
        self._clients[client] -= 1
        self._clients += Counter()  # drops clients that have none left

    @contextmanager
    def slot(self, client: str) -> Iterator[None]:
        """A slot for ``client`` while the context is open. Raises Refusal where none is free."""
        self.take(client)
        try:
            yield
        finally:
            self.free(client)


class RequestLimits:
    """The limits of all clients of one server. For the thread of its event loop alone."""

    def __init__(self) -> None:
        self._buckets: LRUCache[str, TokenBucket] = LRUCache(_CLIENTS)
        self._uploads = Slots(
            MOST_UPLOADS,
            CLIENT_UPLOADS,
            "Too many pictures are on their way to this server; wait a second and send it again.",
        )
        self._streams = Slots(
            MOST_EVENT_STREAMS,
            CLIENT_EVENT_STREAMS,
            "Too many pages wait for news of this run; close some of them.",
        )

    def admit(self, request: Request) -> None:
        """Raises Refusal for requests that another site's page sends, and for too many of them."""
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refusal(403, f"This page asks from {origin[:100]}; only the atlas's own page may ask.")
        client = _client(request)
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = TokenBucket()
        if not bucket.take(time.monotonic()):
            raise Refusal(429, "These are more questions than this server answers; wait a second and ask again.")

    async def read_picture(self, request: Request) -> bytes:
        """The body of an admitted request. Raises Refusal where too many arrive, and as `read_body` does."""
        with self._uploads.slot(_client(request)):
            return await read_body(request)

    def open_stream(self, request: Request) -> Callable[[], None]:
        """Note that a stream of events opens; returns what is to be called when it closes. Raises Refusal where too
        many are open."""
        client = _client(request)
        self._streams.take(client)
        return partial(self._streams.free, client)


async def read_body(request: Request) -> bytes:
    """A picture's bytes. Raises Refusal for more than MOST_UPLOAD_BYTES, and when they do not arrive."""
    parts: list[bytes] = []
    size = 0
    announced = int(request.headers.get("content-length", "0"))
    try:
        async with asyncio.timeout(ARRIVAL):
            async for part in request.stream():
                size += len(part)
                if size > _DRAINED_BYTES:
                    break
                if max(announced, size) <= MOST_UPLOAD_BYTES:
                    parts.append(part)
    except TimeoutError:
        raise Refusal(408, f"The picture did not arrive within {ARRIVAL} s; send it again, or a smaller one.") from None
    if max(announced, size) > MOST_UPLOAD_BYTES:
        amount = f"{max(announced, size):,} bytes or more"
        raise Refusal(413, too_large("The picture's file", amount, MOST_UPLOAD_BYTES))
    return b"".join(parts)


def _client(request: Request) -> str:
    return request.client.host if request.client else ""

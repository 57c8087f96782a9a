"""What the server bears: the limits of a question, what it may hold, and how much is kept between questions."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from starlette.datastructures import QueryParams
from starlette.requests import Request

# The most that a picture may have: bytes of its file, and pixels.
MOST_BYTES, MOST_PIXELS = 20_000_000, 50_000_000
# A browser that still sends does not hear the refusal: somewhat larger files are read to their end, and dropped.
_DRAINED = 10 * MOST_BYTES
# Seconds in which a picture must have arrived.
ARRIVAL = 60
# Pictures that may be on their way at a time, in all and of one client.
MOST_UPLOADS, CLIENT_UPLOADS = 24, 12
# Questions of one client: so many at once, and then so many a second.
BURST, RATE = 60, 20.0
# Channels and classes in one question.
_MOST_ASKED = 64

Key = TypeVar("Key")
Kept = TypeVar("Kept")


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A question that is not answered: the status, and why in a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Recent(Generic[Key, Kept]):
    """The last ``most`` values that were asked for, by their keys. Threads may share it."""

    def __init__(self, most: int) -> None:
        self._most, self._values, self._lock = most, OrderedDict[Key, Kept](), threading.Lock()

    def get(self, key: Key) -> Kept | None:
        """What is kept by ``key``, now the last to be forgotten; None where nothing is."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def keep(self, key: Key, value: Kept) -> None:
        """Keep ``value``, and forget what was not asked for the longest where it is too much."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


class Rate:
    """How many questions one client may still ask: a bucket that holds BURST and fills by RATE a second."""

    def __init__(self) -> None:
        self._left, self._since = float(BURST), 0.0

    def allows(self, now: float) -> bool:
        """Whether a question may be asked ``now``, in seconds of a clock that never goes back; it is counted then."""
        self._left = min(float(BURST), self._left + RATE * (now - self._since))
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Uploads:
    """How many pictures may be on their way at a time: in all, and of one client."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """A place for one picture of ``client`` while it arrives. Raises Refused where there is none."""
        if self._under_way.total() >= MOST_UPLOADS or self._under_way[client] >= CLIENT_UPLOADS:
            raise Refused(503, "Too many pictures are on their way to this server; wait a second and send it again.")
        self._under_way[client] += 1
        try:
            yield
        finally:
            self._under_way[client] -= 1
            self._under_way += Counter()  # drops those who have none left


async def read_body(request: Request) -> bytes:
    """A picture's bytes. Raises Refused for more than MOST_BYTES, and when they do not come."""
    parts: list[bytes] = []
    size = 0
    told = request.headers.get("content-length", "0")
    try:
        async with asyncio.timeout(ARRIVAL):
            async for part in request.stream():
                size += len(part)
                if size > _DRAINED:
                    break
                if max(int(told), size) <= MOST_BYTES:
                    parts.append(part)
    except TimeoutError:
        raise Refused(408, f"The picture did not arrive within {ARRIVAL} s; send it again, or a smaller one.") from None
    if int(told) > MOST_BYTES or size > MOST_BYTES:
        raise Refused(
            413,
            f"The picture's file has {max(int(told), size):,} bytes or more, and at most {MOST_BYTES:,} are taken. "
            "Give it smaller; networks see a few hundred pixels a side.",
        )
    return b"".join(parts)


def whole(asked: QueryParams, name: str, otherwise: int | None) -> int:
    """A whole number of the question, from 0. Raises Refused for anything else."""
    text = asked.get(name)
    if text is None and otherwise is not None:
        return otherwise
    if text is None:
        raise Refused(422, f"{name} is missing: {name}=NUMBER, a whole number from 0.")
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise Refused(422, f"{name} is {text!r}, expected a whole number from 0.")
    return int(text)


def whole_numbers(asked: QueryParams, name: str, fewest: int = 1) -> list[int]:
    """All the numbers that the question gives for ``name``, each once. Raises Refused as `whole` does, and for fewer
    than ``fewest`` or too many."""
    texts = asked.getlist(name)
    if not fewest <= len(texts) <= _MOST_ASKED:
        raise Refused(422, f"{len(texts)} times {name}=NUMBER was given, expected {fewest} to {_MOST_ASKED}.")
    return list(dict.fromkeys(whole(QueryParams([(name, text)]), name, None) for text in texts))

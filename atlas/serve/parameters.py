"""Numbers in the query of a request's address."""

from __future__ import annotations

from starlette.datastructures import QueryParams

from atlas.serve.limits import Refusal

# Channels and classes in one request.
_MOST_NUMBERS = 64


def parse_integer(query: QueryParams, name: str, default: int | None = None) -> int:
    """The integer, from 0, that ``query`` has for ``name``; ``default`` where it has none and there is one. Raises
    Refusal for anything else."""
    text = query.get(name)
    if text is None:
        if default is not None:
            return default
        raise Refusal(422, f"{name} is missing: {name}=NUMBER, a whole number from 0.")
    return _integer(name, text)


def parse_integers(query: QueryParams, name: str, fewest: int = 1) -> list[int]:
    """All integers that ``query`` has for ``name``, without repetitions. Raises Refusal as `parse_integer` does, and
    for fewer than ``fewest`` or too many."""
    texts = query.getlist(name)
    if fewest and not texts:
        raise Refusal(422, f"{name} is missing: give {name}=NUMBER {fewest} to {_MOST_NUMBERS} times.")
    if not fewest <= len(texts) <= _MOST_NUMBERS:
        raise Refusal(422, f"{len(texts)} times {name}=NUMBER was given, expected {fewest} to {_MOST_NUMBERS}.")
    return list(dict.fromkeys(_integer(name, text) for text in texts))


def _integer(name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise Refusal(422, f"{name} is {text!r}, expected a whole number from 0.")
    return int(text)

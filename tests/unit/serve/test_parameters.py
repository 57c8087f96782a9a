"""Numbers of a request's query, and the sentences for what is none."""

import pytest
from starlette.datastructures import QueryParams

from atlas.serve.limits import Refusal
from atlas.serve.parameters import parse_integer, parse_integers


def test_integers_are_read() -> None:
    query = QueryParams("step=7&channel=3&channel=0&channel=3")
    assert parse_integer(query, "step") == 7
    assert parse_integer(query, "y", 5) == 5
    assert parse_integers(query, "channel") == [3, 0]
    assert parse_integers(query, "class", fewest=0) == []


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e3", " 1", "٣", "1234567890"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_integer(QueryParams([("step", text)]), "step")
    assert (refused.value.status, str(refused.value)) == (422, f"step is {text!r}, expected a whole number from 0.")


def test_missing_and_too_many_are_refused() -> None:
    with pytest.raises(Refusal, match="step is missing: step=NUMBER, a whole number from 0"):
        parse_integer(QueryParams(""), "step")
    with pytest.raises(Refusal, match="65 times channel=NUMBER was given, expected 1 to 64"):
        parse_integers(QueryParams([("channel", str(number)) for number in range(65)]), "channel")

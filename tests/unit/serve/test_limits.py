"""What the server bears of one client and of all."""

import pytest
from starlette.requests import Request

from atlas.serve import limits
from atlas.serve.limits import Refusal, RequestLimits, Slots, TokenBucket


def request_of(client: str, **headers: str) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "client": (client, 50_000)})


def test_too_many_requests_are_refused_and_then_answered_again() -> None:
    bucket = TokenBucket()
    assert [bucket.take(5.0) for _ in range(limits.BURST + 3)] == [True] * limits.BURST + [False] * 3
    assert bucket.take(5.0 + 1.5 / limits.RATE)
    assert not bucket.take(5.0 + 1.6 / limits.RATE)


def test_each_client_has_a_bucket_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BURST", 2)
    monkeypatch.setattr("atlas.serve.limits.time.monotonic", lambda: 100.0)
    bounds = RequestLimits()
    for client in ("a", "a", "b"):
        bounds.admit(request_of(client))
    with pytest.raises(Refusal, match="more questions than this server answers") as refused:
        bounds.admit(request_of("a"))
    assert refused.value.status == 429
    bounds.admit(request_of("b"))


def test_only_the_page_s_own_origin_is_admitted() -> None:
    bounds = RequestLimits()
    bounds.admit(request_of("a", origin="http://localhost:8000", host="localhost:8000"))
    with pytest.raises(Refusal, match=r"This page asks from https://example\.org; only the atlas's own") as refused:
        bounds.admit(request_of("a", origin="https://example.org", host="localhost:8000"))
    assert refused.value.status == 403


def test_slots_are_few_in_all_and_fewer_of_one_client() -> None:
    slots = Slots(3, 2, "Too many.")
    with slots.slot("a"), slots.slot("a"):
        with pytest.raises(Refusal, match="Too many") as refused, slots.slot("a"):
            pass
        assert refused.value.status == 503
        with slots.slot("b"), pytest.raises(Refusal), slots.slot("c"):
            pass
    with slots.slot("a"), slots.slot("c"):
        pass


def test_a_closed_stream_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENT_EVENT_STREAMS", 1)
    bounds = RequestLimits()
    close = bounds.open_stream(request_of("a"))
    bounds.open_stream(request_of("b"))
    with pytest.raises(Refusal, match="Too many pages wait for news"):
        bounds.open_stream(request_of("a"))
    close()
    bounds.open_stream(request_of("a"))

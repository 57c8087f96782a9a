"""The explainer's caches: what was worked out is worked out again only once it has left them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas.errors import ConfigError
from atlas.explain.icons import Cancelled, DrawnIcon
from atlas.serve import cached_explainer
from atlas.serve.cached_explainer import CachedExplainer


class CountingExplainer:
    """Names what it is asked for, and counts."""

    def __init__(self, run: Path) -> None:
        self.networks = {"first": None, "second": None}
        self.calls: list[Any] = []

    def look(self, data: bytes, *, most_pixels: int) -> str:
        self.calls.append(data)
        return f"picture {data.decode()}"

    def trace(self, picture: str, network: str) -> str:
        self.calls.append((picture, network))
        return f"trace of {picture} in {network}"

    def draw_channels(
        self, network: str, layer: str, channels: Sequence[int], cancelled: Callable[[], bool]
    ) -> Iterator[DrawnIcon]:
        self.calls.append(list(channels))
        for channel in channels:
            if cancelled():
                raise Cancelled
            yield DrawnIcon(channel, np.full((4, 4, 3), channel, np.uint8), 0.9)


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> CachedExplainer:
    monkeypatch.setattr(cached_explainer, "Explainer", CountingExplainer)
    monkeypatch.setattr(cached_explainer, "_PICTURES", 2)
    return CachedExplainer(Path("run"))


def calls(cached: CachedExplainer) -> list[Any]:
    return cached.explainer.calls  # type: ignore[attr-defined, no-any-return]


def test_the_least_recently_used_picture_leaves(cached: CachedExplainer) -> None:
    for name in ("a", "b", "a", "c", "a", "b"):
        assert cached.picture(name, name.encode()) == f"picture {name}"  # type: ignore[comparison-overlap]
    assert calls(cached) == [b"a", b"b", b"c", b"b"]


def test_forward_passes_are_cached_by_picture_and_network(cached: CachedExplainer) -> None:
    for digest, network in (("a", "first"), ("a", "second"), ("a", "first"), ("b", "first")):
        trace: Any = cached.trace(digest, f"picture {digest}", network)  # type: ignore[arg-type]
        assert trace == f"trace of picture {digest} in {network}"
    assert calls(cached) == [("picture a", "first"), ("picture a", "second"), ("picture b", "first")]


def test_icons_of_channels_are_cached_even_of_a_client_that_goes(cached: CachedExplainer) -> None:
    answers = [False, True]
    first = list(cached.channels("first", "stem", [3, 5], lambda: answers.pop(0)))
    assert [line["channel"] for line in first] == [3]
    again = list(cached.channels("first", "stem", [5, 3], lambda: False))
    assert [line["channel"] for line in again] == [3, 5]
    assert again[0] == first[0]
    list(cached.channels("first", "stem", [3, 5], lambda: False))
    list(cached.channels("second", "stem", [3], lambda: False))
    assert calls(cached) == [[3, 5], [5], [3]]


def test_networks_are_counted_from_0(cached: CachedExplainer) -> None:
    assert cached.network(1) == "second"
    with pytest.raises(ConfigError, match="There is no network 2; the run has 2, counted from 0"):
        cached.network(2)

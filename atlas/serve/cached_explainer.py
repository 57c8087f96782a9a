"""A run's explainer with what it worked out for the last pictures, and its answers as plain values for JSON.

It imports torch: the server loads it when the page first asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import LRUCache, cachedmethod

from atlas.arrays import Float32
from atlas.errors import ConfigError
from atlas.explain.explainer import Explainer, Picture
from atlas.explain.groups import check_count
from atlas.explain.icons import Cancelled
from atlas.explain.plain import group_facts, summary
from atlas.explain.rounding import round_values
from atlas.forward.trace import Trace, maps, trace_facts
from atlas.forward.unit_arithmetic import unit_arithmetic
from atlas.serve.limits import MOST_UPLOAD_PIXELS

# Entries of the caches.
_PICTURES, _TRACES, _CHANNELS = 8, 4, 2048

Facts = dict[str, Any]


class CachedExplainer:
    """Answers about pictures by one run. Threads may share it. Raises as Explainer does."""

    def __init__(self, run: Path) -> None:
        self.explainer = Explainer(run)
        self._lock = threading.Lock()
        self._pictures: LRUCache[str, Picture] = LRUCache(_PICTURES)
        self._traces: LRUCache[tuple[str, str], Trace] = LRUCache(_TRACES)
        self._channels: LRUCache[tuple[str, str, int], str] = LRUCache(_CHANNELS)

    def network(self, number: int) -> str:
        """The name in the run of its network ``number``. Raises ConfigError where there is none."""
        names = list(self.explainer.networks)
        if number >= len(names):
            raise ConfigError(f"There is no network {number}; the run has {len(names)}, counted from 0.")
        return names[number]

    @cachedmethod(attrgetter("_pictures"), key=lambda self, digest, data: digest, lock=attrgetter("_lock"))
    def picture(self, digest: str, data: bytes) -> Picture:
        """The picture in ``data``, the bytes of its file, which have the ``digest``. Raises as Explainer.look does."""
        return self.explainer.look(data, most_pixels=MOST_UPLOAD_PIXELS)

    @cachedmethod(
        attrgetter("_traces"),
        key=lambda self, digest, picture, network: (digest, network),
        lock=attrgetter("_lock"),
    )
    def trace(self, digest: str, picture: Picture, network: str) -> Trace:
        """The forward pass of ``picture``, whose file has the ``digest``. Raises as Explainer.trace does."""
        return self.explainer.trace(picture, network)

    # One picture

    def check_groups(self, count: int) -> None:
        """Raises ConfigError for a number of groups that `groups` does not give."""
        check_count(count)

    def summary(self, picture: Picture) -> Facts:
        """What the networks take the picture for, and where its positions lie on the maps."""
        return summary(picture)

    def attributions(self, picture: Picture, classes: Sequence[int], network: str) -> Facts:
        """What each position of every layer of one network adds to the logits of ``classes``."""
        return {
            "classes": {
                str(number): {layer: round_values(effect) for layer, effect in layers.items()}
                for number, layers in picture.attribution(classes, network).items()
            }
        }

    def ablations(self, picture: Picture, layer: str, classes: Sequence[int]) -> Iterator[Facts]:
        """How much lower the logits of ``classes`` are without each position of a layer: the share that is worked out,
        several times, then all at once."""
        parts: list[Float32] = []
        count = picture.maps(layer)[0].size
        for part in picture.without_each(layer, classes):
            parts.append(part)
            yield {"share": round(sum(part.shape[1] for part in parts) / count, 3)}
        effects = np.concatenate(parts, axis=1)
        yield {"classes": {str(number): round_values(row) for number, row in zip(classes, effects)}}

    def icons(self, picture: Picture, layer: str, cancelled: Callable[[], bool]) -> Iterator[Facts]:
        """An icon for each position of a layer, the strongest first, until ``cancelled()`` turns true."""
        with suppress(Cancelled):
            for icon in picture.icons(layer, cancelled=cancelled):
                yield {"position": icon.number, **icon.plain()}

    def groups(
        self, picture: Picture, layer: str, count: int, classes: Sequence[int], cancelled: Callable[[], bool]
    ) -> Iterator[Facts]:
        """A layer's map in ``count`` groups with their effects on the best classes and on ``classes``, then an icon for
        each, until ``cancelled()`` turns true."""
        groups, effects = picture.groups(layer, count)
        yield group_facts(picture, layer, groups, effects, classes)
        with suppress(Cancelled):
            for icon in picture.icons(layer, groups.directions, cancelled=cancelled):
                yield {"group": icon.number, **icon.plain()}

    # Its forward pass

    def forward(self, trace: Trace) -> Facts:
        """The steps of a forward pass."""
        return trace_facts(trace)

    def forward_maps(self, trace: Trace, step: int, channels: Sequence[int]) -> Facts:
        """Maps of ``channels`` of one step. Raises ConfigError where there is no such step or channel."""
        return maps(trace, step, channels)

    def forward_unit(self, trace: Trace, step: int, channel: int, y: int, x: int, terms: int) -> Facts:
        """How one number of a step comes about. Raises ConfigError where there is no such number."""
        return unit_arithmetic(trace, step, channel, y, x, terms=terms)

    # The network

    def channels(
        self, network: str, layer: str, channels: Sequence[int], cancelled: Callable[[], bool]
    ) -> Iterator[Facts]:
        """An icon for each of the ``channels`` of a module: those that are cached, then the others, until
        ``cancelled()`` turns true."""
        with self._lock:
            cached = {channel: self._channels.get((network, layer, channel)) for channel in channels}
        yield from ({"channel": channel, "picture": picture} for channel, picture in cached.items() if picture)
        missing = [channel for channel, picture in cached.items() if not picture]
        if not missing:
            return
        with suppress(Cancelled):
            for icon in self.explainer.draw_channels(network, layer, missing, cancelled):
                picture = icon.plain()["picture"]
                with self._lock:
                    self._channels[network, layer, icon.number] = picture
                yield {"channel": icon.number, "picture": picture}

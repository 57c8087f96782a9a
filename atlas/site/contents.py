"""What a site holds, and what is still to come while its run is at work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap
from atlas.rundir.progress import read_progress
from atlas.store.shards import read_metadata


@dataclass(frozen=True)
class SiteContents:
    """What of a run is published: maps, each with the grids that are there; the layers whose units are; whether the
    tour is; the grids, by their map's name, whose icons are the quick ones so far; and the layers on whose maps it is
    shown where their network errs. ``missing``: what the run has yet to publish, icons of those grids among it; None
    where that is nothing."""

    maps: tuple[AtlasMap, ...]
    unit_layers: tuple[str, ...]
    tour: bool
    quick_grids: frozenset[tuple[str, int]] = frozenset()
    error_layers: frozenset[str] = frozenset()
    missing: SiteContents | None = None

    def beside(self, maps: Sequence[AtlasMap], unit_layers: Sequence[str], *, tour: bool) -> SiteContents:
        """The same with what is missing of the ``maps``, ``unit_layers`` and ``tour`` that the run asks for."""
        full = {(one.name, grid) for one in self.maps for grid in one.grids} - self.quick_grids
        missing = SiteContents(
            tuple(
                replace(one, grids=absent)
                for one in maps
                if (absent := tuple(grid for grid in one.grids if (one.name, grid) not in full))
            ),
            tuple(layer for layer in unit_layers if layer not in self.unit_layers),
            tour and not self.tour,
            self.quick_grids,
        )
        return replace(self, missing=missing if missing.maps or missing.unit_layers or missing.tour else None)

    def plain(self) -> dict[str, Any]:
        """Ready for JSON, without what is missing."""

        def facts(one: AtlasMap) -> dict[str, Any]:
            quick = [grid for grid in one.grids if (one.name, grid) in self.quick_grids]
            grids = [grid for grid in one.grids if grid not in quick]
            return {"name": one.title, "path": one.name, "grids": grids, **({"quick": quick} if quick else {})}

        return {
            "maps": [facts(one) for one in self.maps],
            "units": list(self.unit_layers),
            "tour": self.tour,
        }


def making_facts(missing: SiteContents, run: RunDirectory) -> dict[str, Any]:
    """What atlas.json holds of what is ``missing``: maps with their grids, layers with their numbers of units, the
    tour; when it was written, and when the run is expected to be done, where one is at work."""
    units = [
        {"layer": layer, "units": read_metadata(run.shards(layer)[0])["channels"]} for layer in missing.unit_layers
    ]
    progress = read_progress(run)
    expected_end = progress.expected_end if progress else None
    return {
        **missing.plain(),
        "units": units,
        "written": _timestamp(time.time()),
        **({} if expected_end is None else {"expected_end": _timestamp(expected_end)}),
    }


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

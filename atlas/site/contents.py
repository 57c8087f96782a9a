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
    """What of a run is published: maps, each with the grids that are there; the layers whose units are; and whether the
    tour is. ``missing``: what the run has yet to publish; None where that is nothing."""

    maps: tuple[AtlasMap, ...]
    unit_layers: tuple[str, ...]
    tour: bool
    missing: SiteContents | None = None

    def beside(self, maps: Sequence[AtlasMap], unit_layers: Sequence[str], *, tour: bool) -> SiteContents:
        """The same with what is missing of the ``maps``, ``unit_layers`` and ``tour`` that the run asks for."""
        grids = {atlas_map.name: atlas_map.grids for atlas_map in self.maps}
        missing = SiteContents(
            tuple(
                replace(one, grids=absent)
                for one in maps
                if (absent := tuple(grid for grid in one.grids if grid not in grids.get(one.name, ())))
            ),
            tuple(layer for layer in unit_layers if layer not in self.unit_layers),
            tour and not self.tour,
        )
        return replace(self, missing=missing if missing.maps or missing.unit_layers or missing.tour else None)

    def plain(self) -> dict[str, Any]:
        """Ready for JSON, without what is missing."""
        return {
            "maps": [{"name": one.title, "path": one.name, "grids": list(one.grids)} for one in self.maps],
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

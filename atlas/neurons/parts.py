"""The files that the stage neurons makes of a layer: their names, and whether all are there."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow.parquet as pq

from atlas.config.sections import NeuronsConfig
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import read_marker

# Units whose pictures and figures are one item of work and one file.
UNITS_PER_PART = 16


def part_names(units: int) -> list[str]:
    """The names of the files of a layer that has so many ``units``."""
    return [f"part-{part:05d}" for part in range(-(-units // UNITS_PER_PART))]


def units_of_part(part: str, units: int) -> list[int]:
    """The units of one part of a layer that has ``units``."""
    first = int(part.removeprefix("part-")) * UNITS_PER_PART
    return list(range(first, min(first + UNITS_PER_PART, units)))


def unfinished_files(run: RunDirectory, layer: str) -> list[str]:
    """The names of what the stage has not finished of a layer, of the files that the run's present key asks for."""
    key = run.stage_key("neurons")

    def unfinished(names: Iterable[str]) -> list[str]:
        return [name for name in names if read_marker(run.neurons(layer) / f"{name}.json", key) is None]

    if statistics := unfinished(["statistics"]):
        return statistics
    units = pq.read_metadata(run.neurons(layer) / "statistics.parquet").num_rows
    return unfinished([*part_names(units), "circuit", "cells"])


def is_finished(run: RunDirectory, neurons: NeuronsConfig) -> bool:
    """Whether the stage neurons is finished for all its layers."""
    if "neurons" not in run.read_manifest().get("stages", {}):
        return False
    return not any(unfinished_files(run, layer) for layer in neurons.layers)

"""The layout's files in the run directory: a map's table, fitted and placed coordinates, and what is measured of
them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.layout.fit import REASONS, align, choose_fitted, join_layers, unit_box
from atlas.layout.projection import fit_projection, project, read_moments
from atlas.layout.quality import distance_between, quality
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import count_rows, iterate, read_columns, read_metadata

# Rows that one item places, and rows over which an independent layout is made to compare an aligned one with.
PLACED_ROWS, COMPARED_ROWS = 500_000, 20_000

LAYOUT_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("view", pa.int32(), nullable=False),
        pa.field("draw", pa.int16(), nullable=False),
        pa.field("u", pa.float32()),
        pa.field("v", pa.float32()),
        pa.field("dropped", pa.string()),
    ]
)


def placed_parts(shards: Sequence[Path], fit_rows: int) -> list[list[int]]:
    """Numbers of the shards whose rows are placed together, the same for all layers: ``shards`` are those of one. None
    where all rows are laid out, at most ``fit_rows``."""
    if count_rows(shards) <= fit_rows:
        return []
    parts: list[list[int]] = []
    rows = PLACED_ROWS
    for number, shard in enumerate(shards):
        if rows >= PLACED_ROWS:
            parts.append([])
            rows = 0
        parts[-1].append(number)
        rows += count_rows([shard])
    return parts


def placed_path(run: RunDirectory, group: str, number: int) -> Path:
    """The file of the rows of one of the ``placed_parts`` of a layout group."""
    return run.folder("layout") / f"{group}.placed-{number:05d}.npz"


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by name."""
    with np.load(path) as arrays:
        return dict(arrays)


def save_arrays(path: Path, **arrays: Any) -> None:
    """Write ``arrays`` as a .npz file, whole or not at all."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def attribution_rows(run: RunDirectory, layers: Sequence[str], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The attributions of ``rows`` (n,) of a store as unit rows (n, width), side by side for several layers."""
    parts = []
    for layer in layers:
        shards = run.shards(layer)
        moments = read_moments(shards, len(read_metadata(shards[0])["classes"]), "attribution")
        parts.append(project(shards, fit_projection(moments), rows, "attribution"))
    return join_layers(parts)


def compared_rows(count: int, seed: int) -> NDArray[np.int64]:
    """The fitted rows, int64 (n,), by which aligned layers are compared with independent layouts."""
    return choose_fitted(count, COMPARED_ROWS, seed + 1)


def gather_coordinates(run: RunDirectory, group: str, parts: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Raw coordinates (n, 2) and numbers of REASONS (n,) of all rows of a layout group, fitted or placed in so many
    ``parts``."""
    fit = load_arrays(run.coordinates(group))
    placed_arrays = [load_arrays(placed_path(run, group, number)) for number in range(parts)]
    if not placed_arrays:
        return fit["coordinates"], fit["dropped"]
    coordinates = np.concatenate([part["coordinates"] for part in placed_arrays])
    dropped = np.concatenate([part["dropped"] for part in placed_arrays])
    coordinates[fit["fitted"]], dropped[fit["fitted"]] = fit["coordinates"], fit["dropped"]
    return coordinates, dropped


def _blocks(run: RunDirectory, layer: str, column: str) -> Iterator[NDArray[np.floating]]:
    return (block[column] for block in iterate(run.shards(layer), [column]))


def measure_alignment(run: RunDirectory, layer: str, before: str | None) -> dict[str, float | None]:
    """How far two places of the same row lie apart on a layer and the one ``before`` it (the median, in shares of the
    map's side); and how far in independent layouts, of which one is turned, mirrored and scaled onto the other. None
    where layers are not aligned, and of the first."""
    if before is None:
        return {"alignment": None, "alignment_independent": None}
    pair = before, layer
    reference, independent = (load_arrays(run.independent_coordinates(layer))["coordinates"] for layer in pair)
    return {
        "alignment": distance_between(*(read_coordinates(run, layer) for layer in pair)),
        "alignment_independent": distance_between(*unit_box([reference, align(independent, reference)])),
    }


def read_coordinates(run: RunDirectory, name: str) -> NDArray[np.float32]:
    """The coordinates (n, 2) of a finished map, NaN where dropped."""
    places = read_columns(run.layout(name), ["u", "v"])
    return np.stack([places["u"], places["v"]], 1)


def write_map(
    run: RunDirectory, name: str, layer: str, coordinates: NDArray[np.float32], dropped: NDArray[np.int8]
) -> None:
    """Write the map ``name`` of all rows of ``layer``: ``coordinates`` (n, 2) in [0, 1], NaN where dropped, and
    ``dropped`` (n,), numbers of REASONS."""
    u, v = coordinates.T
    finite = np.isfinite(u)
    keys = list(iterate(run.shards(layer), ["image_id", "view", "draw"]))
    table = pa.table(
        {
            **{key: np.concatenate([block[key] for block in keys]) for key in ("image_id", "view", "draw")},
            "u": pa.array(u, pa.float32(), mask=~finite),
            "v": pa.array(v, pa.float32(), mask=~finite),
            "dropped": pa.array(REASONS, pa.string()).take(pa.array(dropped)),
        }
    )
    with atomic(run.layout(name)) as temporary:
        pq.write_table(table.select(LAYOUT_SCHEMA.names).cast(LAYOUT_SCHEMA), temporary, compression="zstd")


def measure_quality(run: RunDirectory, name: str, layer: str, *, column: str, seed: int) -> dict[str, object]:
    """What report.json says of the map ``name`` of ``layer``: how true it is to a ``column`` of the store, and how many
    rows were dropped."""
    reasons = pc.value_counts(pq.read_table(run.layout(name), columns=["dropped"])["dropped"].combine_chunks())
    counts = {entry["values"]: entry["counts"] for entry in reasons.to_pylist()}
    on_map = counts.pop(None, 0)
    return {
        **quality(partial(_blocks, run, layer, column), read_coordinates(run, name), seed=seed),
        "dropped": dict(sorted(counts.items())),
        "dropped_share": 1 - on_map / max(on_map + sum(counts.values()), 1),
    }

"""Stage layout: store → layout. An item lays out one layer, after the layer before it; further items place the rows of
layers that are larger than what is laid out; the last puts all in one box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.config import Config
from atlas.errors import AtlasError
from atlas.layout import REASONS, SCHEMA, align, choose_fitted, fit_layout, unit_box
from atlas.neighbors import load_index, save_index
from atlas.placing import place
from atlas.projection import Projection, fit_projection, project, read_moments
from atlas.quality import distance_between, quality
from atlas.rundir import RunDirectory, atomic, read_marker, write_marker
from atlas.store import count_rows, iterate, read_metadata
from pipelines.cluster import available_cores
from pipelines.stage import Item, Summary

NAME = "layout"
UNIT = "rows"
_BOX = "box"
# Of the stage's files and of what is done: another one makes layouts anew.
FORMAT = 2
# Rows that one item places, and rows over which an independent layout is made to compare an aligned one with.
PLACED_ROWS, COMPARED_ROWS = 500_000, 20_000


def plan(config: Config, run: RunDirectory) -> list[Item]:
    items: list[Item] = []
    fits: list[Item] = []
    for layer in config.layers:
        after = (fits[-1].id,) if fits and config.layout.align else ()
        fits.append(Item(f"fit-{layer}", NAME, after, str(run.path)))
        items.append(fits[-1])
        items += [
            Item(f"place-{layer}-{number:05d}", NAME, (fits[-1].id,), str(run.path))
            for number in range(len(_parts(run, layer, config)))
        ]
    return [*items, Item(_BOX, NAME, tuple(item.id for item in items), str(run.path))]


def _parts(run: RunDirectory, layer: str, config: Config) -> list[list[Path]]:
    """The shards of a layer whose rows are placed together; none where all rows are laid out."""
    shards = run.shards(layer)
    if count_rows(shards) <= config.layout.fit_rows:
        return []
    parts: list[list[Path]] = []
    rows = PLACED_ROWS
    for shard in shards:
        if rows >= PLACED_ROWS:
            parts.append([])
            rows = 0
        parts[-1].append(shard)
        rows += count_rows([shard])
    return parts


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    return [run.folder(NAME) / f"{item.id}.json"]


def run_item(item: Item) -> Summary:
    run, config = item.open()
    if item.id == _BOX:
        return _box(run, config)
    return _fit(item, run, config) if item.id.startswith("fit-") else _place(item, run, config)


def _placed(run: RunDirectory, layer: str, number: int) -> Path:
    return run.folder(NAME) / f"{layer}.placed-{number:05d}.npz"


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as saved:
        return dict(saved)


def _fit(item: Item, run: RunDirectory, config: Config) -> Summary:
    layer = item.id.removeprefix("fit-")
    shards = run.shards(layer)
    moments = read_moments(shards, read_metadata(shards[0])["channels"])
    projection = fit_projection(moments)
    fitted = choose_fitted(count_rows(shards), config.layout.fit_rows, config.seed)
    rows = project(shards, projection, fitted)
    previous = None
    if item.after:
        previous = _load(run.coordinates(item.after[0].removeprefix("fit-")))["coordinates"]
    threads = available_cores()
    fit = fit_layout(rows, config.layout, seed=config.seed, threads=threads, previous=previous)
    files = [run.moments(layer), run.projection(layer), run.index(layer), run.coordinates(layer)]
    with atomic(files[0]) as temporary:
        moments.save(temporary)
    with atomic(files[1]) as temporary:
        projection.save(temporary)
    with atomic(files[2]) as temporary:
        save_index(fit.index, temporary)
    with atomic(files[3]) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            coordinates=fit.coordinates,
            dropped=fit.dropped,
            fitted=fitted,
            alive=fit.alive,
            nearness=fit.nearness,
        )
    write_marker(
        run.folder(NAME) / f"{item.id}.json",
        key=run.stage_key(NAME),
        files=files,
        rows=len(rows),
        channels=len(moments.total),
        projected=projection.components.shape[1],
        energy=projection.energy,
        independent=None if previous is None else _independent(rows, previous, config, threads),
    )
    return Summary(len(rows))


def _independent(
    rows: NDArray[np.float32], previous: NDArray[np.float32], config: Config, threads: int
) -> float | None:
    """What an aligned layout is compared with: how far two places of the same row lie apart (the median, in shares of
    the map's side) when a layer is laid out by itself, and then turned, mirrored and scaled onto the one before it."""
    chosen = choose_fitted(len(rows), COMPARED_ROWS, config.seed + 1)
    alone = fit_layout(rows[chosen], config.layout, seed=config.seed, threads=threads).coordinates
    return distance_between(*unit_box([previous[chosen], align(alone, previous[chosen])]))


def _place(item: Item, run: RunDirectory, config: Config) -> Summary:
    layer, _, number = item.id.removeprefix("place-").rpartition("-")
    shards = _parts(run, layer, config)[int(number)]
    fit = _load(run.coordinates(layer))
    rows = project(shards, Projection.load(run.projection(layer)))
    coordinates = place(
        load_index(run.index(layer)), fit["coordinates"][fit["alive"]], rows, fit["nearness"], threads=available_cores()
    ).coordinates
    dropped = np.where(rows.any(1), np.where(np.isfinite(coordinates).all(1), 0, 2), 1).astype(np.int8)
    path = _placed(run, layer, int(number))
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, coordinates=coordinates, dropped=dropped)
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=[path], rows=len(rows))
    return Summary(len(rows))


def _gather(run: RunDirectory, layer: str, config: Config) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Raw coordinates (n, 2) and numbers of REASONS (n,) of all rows of a layer, fitted or placed."""
    fit = _load(run.coordinates(layer))
    parts = [_load(_placed(run, layer, number)) for number in range(len(_parts(run, layer, config)))]
    if not parts:
        return fit["coordinates"], fit["dropped"]
    coordinates = np.concatenate([part["coordinates"] for part in parts])
    dropped = np.concatenate([part["dropped"] for part in parts])
    coordinates[fit["fitted"]], dropped[fit["fitted"]] = fit["coordinates"], fit["dropped"]
    return coordinates, dropped


def _activations(run: RunDirectory, layer: str) -> Iterator[NDArray[np.floating]]:
    return (block["activation"] for block in iterate(run.shards(layer), ["activation"]))


def _alignment(
    run: RunDirectory, config: Config, boxed: Sequence[NDArray[np.float32]], number: int
) -> dict[str, float | None]:
    """How far apart two places of the same row lie on two layers (the median, in shares of the map's side), and what it
    would be for layers laid out by themselves."""
    if not number or not config.layout.align:
        return {"alignment": None, "alignment_independent": None}
    marker = read_marker(run.folder(NAME) / f"fit-{config.layers[number]}.json", run.stage_key(NAME)) or {}
    return {
        "alignment": distance_between(boxed[number], boxed[number - 1]),
        "alignment_independent": marker.get("independent"),
    }


def _box(run: RunDirectory, config: Config) -> Summary:
    raw, dropped = zip(*(_gather(run, layer, config) for layer in config.layers))
    boxed = unit_box(raw) if config.layout.align else [unit_box([layout])[0] for layout in raw]
    layers: dict[str, dict[str, object]] = {}
    for number, layer in enumerate(config.layers):
        u, v = boxed[number].T
        kept = np.isfinite(u)
        if not kept.any():
            raise AtlasError(f"layout: layer {layer} gave no activation at all in any picture. Choose another layer.")
        keys = list(iterate(run.shards(layer), ["image_id", "view", "draw"]))
        table = pa.table(
            {
                **{name: np.concatenate([block[name] for block in keys]) for name in ("image_id", "view", "draw")},
                "u": pa.array(u, pa.float32(), mask=~kept),
                "v": pa.array(v, pa.float32(), mask=~kept),
                "dropped": pa.array(REASONS, pa.string()).take(pa.array(dropped[number])),
            }
        )
        with atomic(run.layout(layer)) as temporary:
            pq.write_table(table.select(SCHEMA.names).cast(SCHEMA), temporary, compression="zstd")
        counts = {name: int((dropped[number] == code).sum()) for code, name in enumerate(REASONS) if name}
        layers[layer] = {
            **quality(partial(_activations, run, layer), boxed[number], seed=config.seed),
            "dropped": {name: count for name, count in sorted(counts.items()) if count},
            "dropped_share": float(1 - kept.mean()),
            **_alignment(run, config, boxed, number),
        }
    files = [run.layout(layer) for layer in config.layers]
    write_marker(run.folder(NAME) / f"{_BOX}.json", key=run.stage_key(NAME), files=files, layers=layers)
    return Summary(0)

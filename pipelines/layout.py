"""Stage layout: store → layout.

An item lays out one layer, or all layers together where they share one layout; before them, one makes the start that
aligned layers have in common. Further items place the rows of layers that are larger than what is laid out; one puts
all in one box. The maps of classes have items of their own.
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

from atlas.class_atlas import choose_rows, lay_out
from atlas.config import Config
from atlas.errors import AtlasError
from atlas.layout import (
    OTHER,
    OUTLIER,
    REASONS,
    SCHEMA,
    ZERO,
    align,
    choose_fitted,
    common_start,
    fit_layout,
    joined,
    unit_box,
)
from atlas.maps import COMMON, Map, find_map, frame_of, frames_of, has_common_start, maps_of
from atlas.neighbors import build_index, knn_graph, load_index, save_index
from atlas.placing import nearness_quantiles, place
from atlas.projection import Projection, fit_projection, project, read_moments, widest
from atlas.quality import distance_between, quality
from atlas.rundir import RunDirectory, atomic, write_marker
from atlas.store import count_rows, iterate, read_metadata
from pipelines.cluster import available_cores
from pipelines.stage import Item, Summary

NAME = "layout"
UNIT = "rows"
AGAIN_AFTER = True  # a fit that is made again is another one
_BOX = "box"
# Of the stage's files and of what is done: another one makes layouts anew.
FORMAT = 3
# Rows that one item places, and rows over which an independent layout is made to compare an aligned one with.
PLACED_ROWS, COMPARED_ROWS = 500_000, 20_000
# Directions of each layer that the common start goes by: nine layers of a million rows are a gigabyte.
COMMON_WIDTH = 32


def plan(config: Config, run: RunDirectory) -> list[Item]:
    items: list[Item] = []
    fits: list[Item] = []
    parts = len(_parts(run, config))
    aligned = has_common_start(config)
    if aligned:
        items.append(Item(COMMON, NAME, (), str(run.path)))
    for frame in frames_of(config):
        after = (COMMON,) if aligned else ()
        fits.append(Item(f"fit-{frame}", NAME, after, str(run.path)))
        items.append(fits[-1])
        items += [Item(f"place-{frame}-{number:05d}", NAME, (fits[-1].id,), str(run.path)) for number in range(parts)]
    if config.layout.shared:
        items += [Item(f"index-{layer}", NAME, (fits[0].id,), str(run.path)) for layer in config.layers]
    items.append(Item(_BOX, NAME, tuple(item.id for item in items), str(run.path)))
    items += [
        Item(f"class-{each.name}", NAME, (f"fit-{frame_of(each.layer, config)}",), str(run.path))
        for each in maps_of(config)
        if each.classes
    ]
    return items


def _parts(run: RunDirectory, config: Config) -> list[list[int]]:
    """Numbers of the shards whose rows are placed together, the same for all layers; none where all are laid out."""
    shards = run.shards(config.layers[0])
    if count_rows(shards) <= config.layout.fit_rows:
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


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    return [run.folder(NAME) / f"{item.id}.json"]


def run_item(item: Item) -> Summary:
    run, config = item.open()
    if item.id == _BOX:
        return _box(run, config)
    if item.id == COMMON:
        return _common(item, run, config)
    work = {"fit": _fit, "place": _place, "index": _index, "class": _class}
    return work[item.id.split("-")[0]](item, run, config)


def _placed(run: RunDirectory, frame: str, number: int) -> Path:
    return run.folder(NAME) / f"{frame}.placed-{number:05d}.npz"


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as saved:
        return dict(saved)


def _traits(run: RunDirectory, layers: Sequence[str], fitted: NDArray[np.int64]) -> NDArray[np.float32]:
    """The rows' attributions as unit rows, side by side for several layers."""
    parts = []
    for layer in layers:
        shards = run.shards(layer)
        moments = read_moments(shards, len(read_metadata(shards[0])["classes"]), "attribution")
        parts.append(project(shards, fit_projection(moments), fitted, "attribution"))
    return joined(parts)


def _fit(item: Item, run: RunDirectory, config: Config) -> Summary:
    frame = item.id.removeprefix("fit-")
    layers = frames_of(config)[frame]
    fitted = choose_fitted(count_rows(run.shards(layers[0])), config.layout.fit_rows, config.seed)
    files, parts, facts = [], [], {}
    for layer in layers:
        shards = run.shards(layer)
        moments = read_moments(shards, read_metadata(shards[0])["channels"])
        projection = fit_projection(moments)
        parts.append(project(shards, projection, fitted))
        for path, save in ((run.moments(layer), moments.save), (run.projection(layer), projection.save)):
            with atomic(path) as temporary:
                save(temporary)
            files.append(path)
        facts[layer] = {
            "channels": len(moments.total),
            "projected": projection.components.shape[1],
            "energy": projection.energy,
        }
    rows = joined(parts)
    parts.clear()
    common = _load(run.coordinates(COMMON))["coordinates"] if item.after else None
    threads = available_cores()
    traits = _traits(run, layers, fitted) if config.layout.axes == "classes" else None
    fit = fit_layout(rows, config.layout, seed=config.seed, threads=threads, common=common, traits=traits)
    files += [run.index(frame), run.coordinates(frame)]
    with atomic(run.index(frame)) as temporary:
        save_index(fit.index, temporary)
    _save_coordinates(run, frame, fit.coordinates, fit.dropped, fitted, fit.alive, fit.nearness)
    if common is not None:
        chosen = compared_rows(len(rows), config.seed)
        alone = fit_layout(
            rows[chosen],
            config.layout,
            seed=config.seed,
            threads=threads,
            traits=None if traits is None else traits[chosen],
        )
        files.append(run.alone(frame))
        with atomic(files[-1]) as temporary, temporary.open("wb") as file:
            np.savez(file, coordinates=alone.coordinates)
    write_marker(
        run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files, rows=len(rows), layers=facts
    )
    return Summary(len(rows))


def _common(item: Item, run: RunDirectory, config: Config) -> Summary:
    """What all layers start from: one layout of all, each by its widest directions."""
    column = "attribution" if config.layout.axes == "classes" else "activation"
    fitted = choose_fitted(count_rows(run.shards(config.layers[0])), config.layout.fit_rows, config.seed)
    parts = []
    for layer in config.layers:
        shards = run.shards(layer)
        told = read_metadata(shards[0])
        width = told["channels"] if column == "activation" else len(told["classes"])
        parts.append(project(shards, widest(read_moments(shards, width, column), COMMON_WIDTH), fitted, column))
    coordinates = common_start(parts, config.layout, seed=config.seed, threads=available_cores())
    with atomic(run.coordinates(COMMON)) as temporary, temporary.open("wb") as file:
        np.savez(file, coordinates=coordinates)
    files = [run.coordinates(COMMON)]
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files, rows=len(fitted))
    return Summary(0)


def compared_rows(count: int, seed: int) -> NDArray[np.int64]:
    """The fitted rows by which aligned layers are compared with layers that are laid out by themselves."""
    return choose_fitted(count, COMPARED_ROWS, seed + 1)


def _save_coordinates(
    run: RunDirectory,
    name: str,
    coordinates: NDArray[np.float32],
    dropped: NDArray[np.int8],
    fitted: NDArray[np.int64],
    alive: NDArray[np.int64],
    nearness: NDArray[np.float32],
) -> None:
    with atomic(run.coordinates(name)) as temporary, temporary.open("wb") as file:
        np.savez(file, coordinates=coordinates, dropped=dropped, fitted=fitted, alive=alive, nearness=nearness)


def _index(item: Item, run: RunDirectory, config: Config) -> Summary:
    """What placing new points needs of one layer whose layout is shared: its own rows' index and nearness."""
    layer = item.id.removeprefix("index-")
    shared = _load(run.coordinates(frame_of(layer, config)))
    rows = project(run.shards(layer), Projection.load(run.projection(layer)), shared["fitted"])
    alive = np.flatnonzero(rows.any(1))
    index = build_index(rows[alive], threads=1 if config.layout.deterministic else available_cores())
    with atomic(run.index(layer)) as temporary:
        save_index(index, temporary)
    _, distances = knn_graph(index, rows[alive], config.layout.neighbors)
    nearness = nearness_quantiles(1 - distances[:, 1:])
    _save_coordinates(run, layer, shared["coordinates"], shared["dropped"], shared["fitted"], alive, nearness)
    files = [run.index(layer), run.coordinates(layer)]
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files, rows=len(rows))
    return Summary(0)


def _place(item: Item, run: RunDirectory, config: Config) -> Summary:
    frame, _, number = item.id.removeprefix("place-").rpartition("-")
    fit, parts = _load(run.coordinates(frame)), []
    for layer in frames_of(config)[frame]:
        shards = run.shards(layer)
        mine = [shards[shard] for shard in _parts(run, config)[int(number)]]
        parts.append(project(mine, Projection.load(run.projection(layer))))
    rows = joined(parts)
    coordinates = place(
        load_index(run.index(frame)), fit["coordinates"][fit["alive"]], rows, fit["nearness"], threads=available_cores()
    ).coordinates
    outlier, zero = REASONS.index(OUTLIER), REASONS.index(ZERO)
    dropped = np.where(rows.any(1), np.where(np.isfinite(coordinates).all(1), 0, outlier), zero).astype(np.int8)
    path = _placed(run, frame, int(number))
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, coordinates=coordinates, dropped=dropped)
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=[path], rows=len(rows))
    return Summary(len(rows))


def _gather(run: RunDirectory, frame: str, config: Config) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Raw coordinates (n, 2) and numbers of REASONS (n,) of all rows of a frame, fitted or placed."""
    fit = _load(run.coordinates(frame))
    parts = [_load(_placed(run, frame, number)) for number in range(len(_parts(run, config)))]
    if not parts:
        return fit["coordinates"], fit["dropped"]
    coordinates = np.concatenate([part["coordinates"] for part in parts])
    dropped = np.concatenate([part["dropped"] for part in parts])
    coordinates[fit["fitted"]], dropped[fit["fitted"]] = fit["coordinates"], fit["dropped"]
    return coordinates, dropped


def _blocks(run: RunDirectory, layer: str, column: str) -> Iterator[NDArray[np.floating]]:
    return (block[column] for block in iterate(run.shards(layer), [column]))


def _alignment(
    run: RunDirectory, config: Config, boxed: Sequence[NDArray[np.float32]], number: int
) -> dict[str, float | None]:
    """How far two places of the same row lie apart on a layer and the one before it (the median, in shares of the map's
    side); and how far where both are laid out by themselves, and the one is then turned, mirrored and scaled onto the
    other."""
    if not number or not has_common_start(config):
        return {"alignment": None, "alignment_independent": None}
    before, alone = (_load(run.alone(layer))["coordinates"] for layer in config.layers[number - 1 : number + 1])
    return {
        "alignment": distance_between(boxed[number], boxed[number - 1]),
        "alignment_independent": distance_between(*unit_box([before, align(alone, before)])),
    }


def _box(run: RunDirectory, config: Config) -> Summary:
    frames = list(frames_of(config))
    raw, dropped = zip(*(_gather(run, frame, config) for frame in frames))
    boxed = unit_box(raw) if config.layout.align else [unit_box([layout])[0] for layout in raw]
    column = "attribution" if config.layout.axes == "classes" else "activation"
    layers: dict[str, dict[str, object]] = {}
    for layer in config.layers:
        frame = frames.index(frame_of(layer, config))
        if not np.isfinite(boxed[frame]).any():
            raise AtlasError(f"layout: layer {layer} gave no activation at all in any picture. Choose another layer.")
        layers[layer] = {
            **_write(run, layer, layer, boxed[frame], dropped[frame], config, column),
            **_alignment(run, config, boxed, frame),
        }
    files = [run.layout(layer) for layer in config.layers]
    write_marker(run.folder(NAME) / f"{_BOX}.json", key=run.stage_key(NAME), files=files, layers=layers)
    return Summary(0)


def _write(
    run: RunDirectory,
    name: str,
    layer: str,
    boxed: NDArray[np.float32],
    dropped: NDArray[np.int8],
    config: Config,
    column: str,
) -> dict[str, object]:
    """Write the map ``name`` of all rows of ``layer``; returns what the report says of it."""
    u, v = boxed.T
    kept = np.isfinite(u)
    keys = list(iterate(run.shards(layer), ["image_id", "view", "draw"]))
    table = pa.table(
        {
            **{key: np.concatenate([block[key] for block in keys]) for key in ("image_id", "view", "draw")},
            "u": pa.array(u, pa.float32(), mask=~kept),
            "v": pa.array(v, pa.float32(), mask=~kept),
            "dropped": pa.array(REASONS, pa.string()).take(pa.array(dropped)),
        }
    )
    with atomic(run.layout(name)) as temporary:
        pq.write_table(table.select(SCHEMA.names).cast(SCHEMA), temporary, compression="zstd")
    counts = {reason: int((dropped == code).sum()) for code, reason in enumerate(REASONS) if reason}
    return {
        **quality(partial(_blocks, run, layer, column), boxed, seed=config.seed),
        "dropped": {reason: count for reason, count in sorted(counts.items()) if count},
        "dropped_share": float(1 - kept.mean()),
    }


def _class(item: Item, run: RunDirectory, config: Config) -> Summary:
    """The map of one class, or of two."""
    each = find_map(config, item.id.removeprefix("class-"))
    shards = run.shards(each.layer)
    chosen = choose_rows(shards, each, config.layout, read_metadata(shards[0])["classes"])
    if len(chosen.rows) < _fewest(each, config):
        raise AtlasError(_too_few(each, config, len(chosen.rows)))
    rows = project(shards, Projection.load(run.projection(each.layer)), chosen.rows)
    boxed = np.full((count_rows(shards), 2), np.nan, np.float32)
    boxed[chosen.rows] = lay_out(rows, chosen, config.layout, seed=config.seed)
    dropped = np.full(len(boxed), REASONS.index(OTHER), np.int8)
    dropped[chosen.rows] = np.where(
        np.isfinite(boxed[chosen.rows]).all(1), 0, np.where(rows.any(1), REASONS.index(OUTLIER), REASONS.index(ZERO))
    )
    facts = _write(run, each.name, each.layer, boxed, dropped, config, "activation")
    write_marker(
        run.folder(NAME) / f"{item.id}.json",
        key=run.stage_key(NAME),
        files=[run.layout(each.name)],
        layers={each.name: {**facts, "alignment": None, "alignment_independent": None}},
    )
    return Summary(len(rows))


def _fewest(each: Map, config: Config) -> int:
    """Rows that a map of classes needs: those of one cell that is drawn."""
    return max(3, config.cells.min_count)


def _too_few(each: Map, config: Config, found: int) -> str:
    what = "is predicted for" if config.layout.class_by == "predicted" else "is supported by"
    classes = " or ".join(each.classes)
    rows = "1 row" if found == 1 else f"{found} rows"
    return (
        f"layout: {classes} {what} {rows} of {each.layer}; a map needs {_fewest(each, config)} or more. Take "
        f"more pictures, or leave the class out of layout.{'class_pair' if len(each.classes) == 2 else 'class_atlas'}."
    )

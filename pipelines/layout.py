"""Stage layout: store → layout.

An item lays out one layer, or all layers together where they share one layout; before them, one makes the start that
aligned layers have in common. Further items place the rows of layers that are larger than what is laid out; one puts
all in one box, and one for each layer measures how true its map is. A layer's maps of classes are one item.
"""

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

from atlas.config.model import Config
from atlas.errors import AtlasError
from atlas.layout.class_maps import choose_rows, lay_out
from atlas.layout.fit import (
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
from atlas.layout.neighbors import build_index, knn_graph, load_index, save_index
from atlas.layout.placement import nearness_quantiles, place
from atlas.layout.projection import Projection, fit_projection, project, read_moments, widest
from atlas.layout.quality import distance_between, quality
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import COMMON, FEWEST_ROWS, Map, frame_of, frames_of, has_common_start, maps_of
from atlas.rundir.markers import read_marker, write_marker
from atlas.store.shards import count_rows, iterate, read_columns, read_metadata
from pipelines.cluster import available_cores
from pipelines.stage import Item, Summary

NAME = "layout"
UNIT = "rows"
AGAIN_AFTER = True  # a fit that is made again is another one
_BOX = "box"
# Of the stage's files and of what is done: another one makes layouts anew.
FORMAT = 4
# Rows that one item places, and rows over which an independent layout is made to compare an aligned one with.
PLACED_ROWS, COMPARED_ROWS = 500_000, 20_000
# Directions of each layer that the common start goes by: nine layers of a million rows are a gigabyte.
COMMON_WIDTH = 32


def plan(config: Config, run: RunDirectory) -> list[Item]:
    """The common start, fits, what is placed in them, the box, and what is measured on each map."""
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
    items += [Item(f"quality-{layer}", NAME, (_BOX,), str(run.path)) for layer in config.layers]
    of_classes = dict.fromkeys(each.layer for each in maps_of(config) if each.classes)
    items += [
        Item(f"classes-{layer}", NAME, (f"fit-{frame_of(layer, config)}",), str(run.path)) for layer in of_classes
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
    """One for an item; of a layer's maps of classes one for each map."""
    if item.id.startswith("classes-"):
        return [_of_class(run, each) for each in _maps_of_classes(item, config)]
    return [run.folder(NAME) / f"{item.id}.json"]


def _maps_of_classes(item: Item, config: Config) -> list[Map]:
    layer = item.id.removeprefix("classes-")
    return [each for each in maps_of(config) if each.classes and each.layer == layer]


def _of_class(run: RunDirectory, each: Map) -> Path:
    """The marker of a map of classes."""
    return run.folder(NAME) / f"class-{each.name}.json"


def run_item(item: Item) -> Summary:
    """Do the work that the item's name begins with."""
    run, config = item.open()
    if item.id == _BOX:
        return _box(run, config)
    if item.id == COMMON:
        return _common(item, run, config)
    work = {"fit": _fit, "place": _place, "index": _index, "quality": _quality, "classes": _classes}
    return work[item.id.split("-")[0]](item, run, config)


def _placed(run: RunDirectory, frame: str, number: int) -> Path:
    return run.folder(NAME) / f"{frame}.placed-{number:05d}.npz"


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as saved:
        return dict(saved)


def _save(path: Path, **arrays: Any) -> None:
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


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
    _save(
        run.coordinates(frame),
        coordinates=fit.coordinates,
        dropped=fit.dropped,
        fitted=fitted,
        alive=fit.alive,
        nearness=fit.nearness,
    )
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
        _save(files[-1], coordinates=alone.coordinates)
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
    _save(run.coordinates(COMMON), coordinates=coordinates)
    files = [run.coordinates(COMMON)]
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files, rows=len(fitted))
    return Summary(0)


def compared_rows(count: int, seed: int) -> NDArray[np.int64]:
    """The fitted rows, int64 (n,), by which aligned layers are compared with layers that are laid out by themselves."""
    return choose_fitted(count, COMPARED_ROWS, seed + 1)


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
    _save(run.coordinates(layer), **{**shared, "alive": alive, "nearness": nearness})
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
    _save(path, coordinates=coordinates, dropped=dropped)
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


def _alignment(run: RunDirectory, config: Config, layer: str) -> dict[str, float | None]:
    """How far two places of the same row lie apart on a layer and the one before it (the median, in shares of the map's
    side); and how far where both are laid out by themselves, and the one is then turned, mirrored and scaled onto the
    other."""
    number = config.layers.index(layer)
    if not number or not has_common_start(config):
        return {"alignment": None, "alignment_independent": None}
    pair = config.layers[number - 1 : number + 1]
    before, alone = (_load(run.alone(one))["coordinates"] for one in pair)
    return {
        "alignment": distance_between(*(_places(run, one) for one in pair)),
        "alignment_independent": distance_between(*unit_box([before, align(alone, before)])),
    }


def _box(run: RunDirectory, config: Config) -> Summary:
    frames = list(frames_of(config))
    raw, dropped = zip(*(_gather(run, frame, config) for frame in frames))
    boxed = unit_box(raw) if config.layout.align else [unit_box([layout])[0] for layout in raw]
    for layer in config.layers:
        frame = frames.index(frame_of(layer, config))
        if not np.isfinite(boxed[frame]).any():
            raise AtlasError(f"layout: layer {layer} gave no activation at all in any picture. Choose another layer.")
        _write(run, layer, layer, boxed[frame], dropped[frame])
    files = [run.layout(layer) for layer in config.layers]
    write_marker(run.folder(NAME) / f"{_BOX}.json", key=run.stage_key(NAME), files=files)
    return Summary(0)


def _places(run: RunDirectory, name: str) -> NDArray[np.float32]:
    """The coordinates (n, 2) of a finished map, NaN where dropped."""
    places = read_columns(run.layout(name), ["u", "v"])
    return np.stack([places["u"], places["v"]], 1)


def _quality(item: Item, run: RunDirectory, config: Config) -> Summary:
    layer = item.id.removeprefix("quality-")
    column = "attribution" if config.layout.axes == "classes" else "activation"
    facts = {**_measured(run, layer, layer, config, column), **_alignment(run, config, layer)}
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=[], facts=facts)
    return Summary(0)


def _write(run: RunDirectory, name: str, layer: str, boxed: NDArray[np.float32], dropped: NDArray[np.int8]) -> None:
    """Write the map ``name`` of all rows of ``layer``."""
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


def _measured(run: RunDirectory, name: str, layer: str, config: Config, column: str) -> dict[str, object]:
    """What the report says of the map ``name`` of ``layer``."""
    reasons = pc.value_counts(pq.read_table(run.layout(name), columns=["dropped"])["dropped"].combine_chunks())
    counts = {entry["values"]: entry["counts"] for entry in reasons.to_pylist()}
    on_map = counts.pop(None, 0)
    return {
        **quality(partial(_blocks, run, layer, column), _places(run, name), seed=config.seed),
        "dropped": dict(sorted(counts.items())),
        "dropped_share": 1 - on_map / max(on_map + sum(counts.values()), 1),
    }


def _classes(item: Item, run: RunDirectory, config: Config) -> Summary:
    """The maps of classes of one layer: those that are not there yet. Their rows are chosen in one pass."""
    layer = item.id.removeprefix("classes-")
    key, shards = run.stage_key(NAME), run.shards(layer)
    todo = [each for each in _maps_of_classes(item, config) if read_marker(_of_class(run, each), key) is None]
    chosen = choose_rows(shards, todo, config.layout, read_metadata(shards[0])["classes"])
    wanted = np.unique(np.concatenate([mine.rows for mine in chosen]))
    every, done = project(shards, Projection.load(run.projection(layer)), wanted), 0
    for each, mine in zip(todo, chosen):
        boxed = np.full((count_rows(shards), 2), np.nan, np.float32)
        dropped = np.full(len(boxed), REASONS.index(OTHER), np.int8)
        if len(mine.rows) >= FEWEST_ROWS:
            rows = every[np.searchsorted(wanted, mine.rows)]
            boxed[mine.rows] = lay_out(rows, mine, config.layout, seed=config.seed)
            off = np.where(rows.any(1), REASONS.index(OUTLIER), REASONS.index(ZERO))
            dropped[mine.rows] = np.where(np.isfinite(boxed[mine.rows]).all(1), 0, off)
            done += len(rows)
        _write(run, each.name, layer, boxed, dropped)
        facts: dict[str, object] = {"alignment": None, "alignment_independent": None, "chosen": len(mine.rows)}
        facts |= _measured(run, each.name, layer, config, "activation")
        write_marker(_of_class(run, each), key=key, files=[run.layout(each.name)], facts=facts)
    return Summary(done)

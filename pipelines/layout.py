"""Stage layout: store → layout. One item lays out one layer, after the layer before it; the last puts all in one
box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.config import Config
from atlas.errors import AtlasError
from atlas.layout import SCHEMA, fit_layout, fit_projection, project, read_moments, unit_box
from atlas.neighbors import save_index
from atlas.quality import distance_between, quality
from atlas.rundir import RunDirectory, atomic, write_marker
from atlas.store import iterate, read_metadata
from pipelines.cluster import available_cores
from pipelines.stage import Item, Summary

NAME = "layout"
UNIT = "rows"
_BOX = "box"


def plan(config: Config, run: RunDirectory) -> list[Item]:
    items: list[Item] = []
    for layer in config.layers:
        after = (items[-1].id,) if items and config.layout.align else ()
        items.append(Item(f"fit-{layer}", NAME, after, str(run.path)))
    return [*items, Item(_BOX, NAME, tuple(item.id for item in items), str(run.path))]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    return [run.folder(NAME) / f"{item.id}.json"]


def run_item(item: Item) -> Summary:
    run, config = item.open()
    return _box(run, config) if item.id == _BOX else _fit(item, run, config)


def _coordinates(run: RunDirectory, layer: str) -> Path:
    return run.folder(NAME) / f"{layer}.coordinates.npz"


def _fit(item: Item, run: RunDirectory, config: Config) -> Summary:
    layer = item.id.removeprefix("fit-")
    shards = run.shards(layer)
    moments = read_moments(shards, read_metadata(shards[0])["channels"])
    projection = fit_projection(moments)
    rows = project(shards, projection)
    previous = None
    if item.after:
        with np.load(_coordinates(run, item.after[0].removeprefix("fit-"))) as saved:
            previous = saved["coordinates"]
    fit = fit_layout(rows, config.layout, seed=config.seed, threads=available_cores(), previous=previous)
    files = [run.moments(layer), run.projection(layer), run.index(layer), _coordinates(run, layer)]
    with atomic(files[0]) as temporary:
        moments.save(temporary)
    with atomic(files[1]) as temporary:
        projection.save(temporary)
    with atomic(files[2]) as temporary:
        save_index(fit.index, temporary)
    with atomic(files[3]) as temporary, temporary.open("wb") as file:
        np.savez(file, coordinates=fit.coordinates, dropped=fit.dropped.astype(str), fitted=fit.fitted)
    write_marker(
        run.folder(NAME) / f"{item.id}.json",
        key=run.stage_key(NAME),
        files=files,
        rows=len(rows),
        channels=len(moments.total),
        projected=projection.components.shape[1],
        energy=projection.energy,
    )
    return Summary(len(rows))


def _activations(run: RunDirectory, layer: str) -> Iterator[NDArray[np.floating]]:
    return (block["activation"] for block in iterate(run.shards(layer), ["activation"]))


def _box(run: RunDirectory, config: Config) -> Summary:
    raw: list[NDArray[np.float32]] = []
    dropped: list[NDArray[np.object_]] = []
    for layer in config.layers:
        with np.load(_coordinates(run, layer)) as saved:
            raw.append(saved["coordinates"])
            reasons = saved["dropped"].astype(object)
            reasons[reasons == "None"] = None
            dropped.append(reasons)
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
                "dropped": pa.array(dropped[number].tolist(), pa.string()),
            }
        )
        with atomic(run.layout(layer)) as temporary:
            pq.write_table(table.select(SCHEMA.names).cast(SCHEMA), temporary, compression="zstd")
        counts = Counter(reason for reason in dropped[number].tolist() if reason is not None)
        layers[layer] = {
            **quality(partial(_activations, run, layer), boxed[number], seed=config.seed),
            "dropped": dict(sorted(counts.items())),
            "dropped_share": float(1 - kept.mean()),
            "alignment": distance_between(boxed[number], boxed[number - 1]) if number and config.layout.align else None,
        }
    files = [run.layout(layer) for layer in config.layers]
    write_marker(run.folder(NAME) / f"{_BOX}.json", key=run.stage_key(NAME), files=files, layers=layers)
    return Summary(0)

"""Stage layout: store → layout.

An item lays out one layer, or all layers together where they share one layout; before them, one makes the start that
aligned layers have in common. Further items place the rows of layers that are larger than what is laid out; one puts
all in one box, and one for each layer measures how true its map is. A layer's maps of classes are one item.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atlas.config.model import Config
from atlas.errors import AtlasError
from atlas.layout.class_maps import choose_rows, lay_out
from atlas.layout.fit import (
    OTHER,
    OUTLIER,
    REASONS,
    ZERO,
    choose_fitted,
    common_start,
    fit_layout,
    joined,
    unit_box,
)
from atlas.layout.neighbors import build_index, knn_graph, load_index, save_index
from atlas.layout.placement import nearness_quantiles, place_rows
from atlas.layout.projection import Projection, fit_projection, project, read_moments, widest
from atlas.layout.tables import (
    attribution_rows,
    compared_rows,
    gather_coordinates,
    load_arrays,
    measure_alignment,
    measure_quality,
    placed_parts,
    placed_path,
    save_arrays,
    write_map,
)
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import (
    COMMON_START,
    FEWEST_MAP_ROWS,
    AtlasMap,
    has_common_start,
    layout_group_of,
    layout_groups,
    maps_of,
)
from atlas.rundir.markers import read_marker, write_marker
from atlas.store.shards import count_rows, read_metadata
from pipelines.cluster import available_cores
from pipelines.stage import Item, Summary

NAME = "layout"
WORK = "rows"
REDO_DEPENDENTS = True  # a second fit has other coordinates
measure_batch_settings = prepare_worker = None
_BOX = "box"
# Of the stage's files and computations: with another number all layouts are computed again.
LAYOUT_FORMAT = 4
# Directions of each layer that the common start goes by: nine layers of a million rows are a gigabyte.
COMMON_WIDTH = 32


def plan(config: Config, run: RunDirectory) -> list[Item]:
    """The common start, fits, what is placed in them, the box, and what is measured on each map."""
    items: list[Item] = []
    fits: list[Item] = []
    parts = len(placed_parts(run.shards(config.layers[0]), config.layout.fit_rows))
    aligned = has_common_start(config.layers, config.layout)
    if aligned:
        items.append(Item(COMMON_START, NAME, (), str(run.path)))
    for group in layout_groups(config.layers, config.layout):
        after = (COMMON_START,) if aligned else ()
        fits.append(Item(f"fit-{group}", NAME, after, str(run.path)))
        items.append(fits[-1])
        items += [Item(f"place-{group}-{number:05d}", NAME, (fits[-1].id,), str(run.path)) for number in range(parts)]
    if config.layout.shared:
        items += [Item(f"index-{layer}", NAME, (fits[0].id,), str(run.path)) for layer in config.layers]
    items.append(Item(_BOX, NAME, tuple(item.id for item in items), str(run.path)))
    items += [Item(f"quality-{layer}", NAME, (_BOX,), str(run.path)) for layer in config.layers]
    of_classes = dict.fromkeys(atlas_map.layer for atlas_map in maps_of(config) if atlas_map.classes)
    items += [
        Item(f"classes-{layer}", NAME, (f"fit-{layout_group_of(layer, config.layout)}",), str(run.path))
        for layer in of_classes
    ]
    return items


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item; of a layer's maps of classes one for each map."""
    if item.id.startswith("classes-"):
        return [_class_marker(run, atlas_map) for atlas_map in _maps_of_classes(item, config)]
    return [run.folder(NAME) / f"{item.id}.json"]


def _maps_of_classes(item: Item, config: Config) -> list[AtlasMap]:
    layer = item.id.removeprefix("classes-")
    return [atlas_map for atlas_map in maps_of(config) if atlas_map.classes and atlas_map.layer == layer]


def _class_marker(run: RunDirectory, atlas_map: AtlasMap) -> Path:
    """The marker of a map of classes."""
    return run.folder(NAME) / f"class-{atlas_map.name}.json"


def run_item(item: Item) -> Summary:
    """Do the work that the item's name begins with."""
    run, config = item.open()
    if item.id == _BOX:
        return _box(run, config)
    if item.id == COMMON_START:
        return _common(item, run, config)
    work = {"fit": _fit, "place": _place, "index": _index, "quality": _quality, "classes": _classes}
    return work[item.id.split("-")[0]](item, run, config)


def _fit(item: Item, run: RunDirectory, config: Config) -> Summary:
    group = item.id.removeprefix("fit-")
    layers = layout_groups(config.layers, config.layout)[group]
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
    common = load_arrays(run.coordinates(COMMON_START))["coordinates"] if item.after else None
    threads = available_cores()
    by_attribution = attribution_rows(run, layers, fitted) if config.layout.axes == "classes" else None
    fit = fit_layout(
        rows, config.layout, seed=config.seed, threads=threads, common=common, attribution_rows=by_attribution
    )
    files += [run.index(group), run.coordinates(group)]
    with atomic(run.index(group)) as temporary:
        save_index(fit.index, temporary)
    save_arrays(
        run.coordinates(group),
        coordinates=fit.coordinates,
        dropped=fit.dropped,
        fitted=fitted,
        alive=fit.alive,
        nearness=fit.nearness,
    )
    if common is not None:
        chosen = compared_rows(len(rows), config.seed)
        independent = fit_layout(
            rows[chosen],
            config.layout,
            seed=config.seed,
            threads=threads,
            attribution_rows=None if by_attribution is None else by_attribution[chosen],
        )
        files.append(run.independent_coordinates(group))
        save_arrays(files[-1], coordinates=independent.coordinates)
    write_marker(
        run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files, rows=len(rows), layers=facts
    )
    return Summary(len(rows))


def _common(item: Item, run: RunDirectory, config: Config) -> Summary:
    """The layout that all layers start from: of all of them together, each by its widest directions."""
    column = "attribution" if config.layout.axes == "classes" else "activation"
    fitted = choose_fitted(count_rows(run.shards(config.layers[0])), config.layout.fit_rows, config.seed)
    parts = []
    for layer in config.layers:
        shards = run.shards(layer)
        metadata = read_metadata(shards[0])
        width = metadata["channels"] if column == "activation" else len(metadata["classes"])
        parts.append(project(shards, widest(read_moments(shards, width, column), COMMON_WIDTH), fitted, column))
    coordinates = common_start(parts, config.layout, seed=config.seed, threads=available_cores())
    save_arrays(run.coordinates(COMMON_START), coordinates=coordinates)
    files = [run.coordinates(COMMON_START)]
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files, rows=len(fitted))
    return Summary(0)


def _index(item: Item, run: RunDirectory, config: Config) -> Summary:
    """For one layer whose layout is shared: the index and nearness of its own rows, by which new points are placed."""
    layer = item.id.removeprefix("index-")
    shared = load_arrays(run.coordinates(layout_group_of(layer, config.layout)))
    rows = project(run.shards(layer), Projection.load(run.projection(layer)), shared["fitted"])
    alive = np.flatnonzero(rows.any(1))
    index = build_index(rows[alive], threads=1 if config.layout.deterministic else available_cores())
    with atomic(run.index(layer)) as temporary:
        save_index(index, temporary)
    _, distances = knn_graph(index, rows[alive], config.layout.neighbors)
    nearness = nearness_quantiles(1 - distances[:, 1:])
    save_arrays(run.coordinates(layer), **{**shared, "alive": alive, "nearness": nearness})
    files = [run.index(layer), run.coordinates(layer)]
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files, rows=len(rows))
    return Summary(0)


def _place(item: Item, run: RunDirectory, config: Config) -> Summary:
    group, _, number = item.id.removeprefix("place-").rpartition("-")
    fit, parts = load_arrays(run.coordinates(group)), []
    for layer in layout_groups(config.layers, config.layout)[group]:
        shards = run.shards(layer)
        part = [shards[shard] for shard in placed_parts(shards, config.layout.fit_rows)[int(number)]]
        parts.append(project(part, Projection.load(run.projection(layer))))
    rows = joined(parts)
    coordinates = place_rows(
        load_index(run.index(group)), fit["coordinates"][fit["alive"]], rows, fit["nearness"], threads=available_cores()
    ).coordinates
    outlier, zero = REASONS.index(OUTLIER), REASONS.index(ZERO)
    dropped = np.where(rows.any(1), np.where(np.isfinite(coordinates).all(1), 0, outlier), zero).astype(np.int8)
    path = placed_path(run, group, int(number))
    save_arrays(path, coordinates=coordinates, dropped=dropped)
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=[path], rows=len(rows))
    return Summary(len(rows))


def _box(run: RunDirectory, config: Config) -> Summary:
    groups = list(layout_groups(config.layers, config.layout))
    parts = len(placed_parts(run.shards(config.layers[0]), config.layout.fit_rows))
    raw, dropped = zip(*(gather_coordinates(run, group, parts) for group in groups))
    boxed = unit_box(raw) if config.layout.align else [unit_box([layout])[0] for layout in raw]
    for layer in config.layers:
        number = groups.index(layout_group_of(layer, config.layout))
        if not np.isfinite(boxed[number]).any():
            raise AtlasError(f"layout: layer {layer} gave no activation at all in any picture. Choose another layer.")
        write_map(run, layer, layer, boxed[number], dropped[number])
    files = [run.layout(layer) for layer in config.layers]
    write_marker(run.folder(NAME) / f"{_BOX}.json", key=run.stage_key(NAME), files=files)
    return Summary(0)


def _quality(item: Item, run: RunDirectory, config: Config) -> Summary:
    layer = item.id.removeprefix("quality-")
    column = "attribution" if config.layout.axes == "classes" else "activation"
    number = config.layers.index(layer)
    before = config.layers[number - 1] if number and has_common_start(config.layers, config.layout) else None
    facts = {
        **measure_quality(run, layer, layer, column=column, seed=config.seed),
        **measure_alignment(run, layer, before),
    }
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=[], facts=facts)
    return Summary(0)


def _classes(item: Item, run: RunDirectory, config: Config) -> Summary:
    """The maps of classes of one layer: those that are not there yet. Their rows are chosen in one pass."""
    layer = item.id.removeprefix("classes-")
    key, shards = run.stage_key(NAME), run.shards(layer)
    todo = [
        atlas_map
        for atlas_map in _maps_of_classes(item, config)
        if read_marker(_class_marker(run, atlas_map), key) is None
    ]
    choices = choose_rows(shards, todo, config.layout, read_metadata(shards[0])["classes"])
    all_rows = np.unique(np.concatenate([choice.rows for choice in choices]))
    projected, done = project(shards, Projection.load(run.projection(layer)), all_rows), 0
    for atlas_map, choice in zip(todo, choices):
        boxed = np.full((count_rows(shards), 2), np.nan, np.float32)
        dropped = np.full(len(boxed), REASONS.index(OTHER), np.int8)
        if len(choice.rows) >= FEWEST_MAP_ROWS:
            rows = projected[np.searchsorted(all_rows, choice.rows)]
            boxed[choice.rows] = lay_out(rows, choice, config.layout, seed=config.seed)
            off = np.where(rows.any(1), REASONS.index(OUTLIER), REASONS.index(ZERO))
            dropped[choice.rows] = np.where(np.isfinite(boxed[choice.rows]).all(1), 0, off)
            done += len(rows)
        write_map(run, atlas_map.name, layer, boxed, dropped)
        facts: dict[str, object] = {"alignment": None, "alignment_independent": None, "chosen": len(choice.rows)}
        facts |= measure_quality(run, atlas_map.name, layer, column="activation", seed=config.seed)
        write_marker(_class_marker(run, atlas_map), key=key, files=[run.layout(atlas_map.name)], facts=facts)
    return Summary(done)

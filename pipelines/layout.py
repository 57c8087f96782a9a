"""Stage layout: store → layout.

An item lays out one layer, or all layers together where they share one layout; before them, one makes the start that
aligned layers have in common. Further items place the rows of layers that are larger than what is laid out; one puts
aligned layers into one box, or each layer into its own, and one for each layer measures how true its map is. A layer's
maps of classes are one item.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atlas.config.model import Config
from atlas.config.sections import LayoutConfig
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
    join_layers,
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
    box_of,
    has_common_start,
    layout_boxes,
    layout_group_of,
    layout_groups,
    maps_of,
    maps_of_classes,
    marker_of_coordinates,
)
from atlas.rundir.markers import digest_values, read_marker, write_marker
from atlas.store.shards import count_rows, read_metadata
from pipelines import collect, rank
from pipelines.cluster import available_cores
from pipelines.stage import Item, Part, Summary, part_id

NAME = "layout"
WORK = "rows"
REDO_DEPENDENTS = True  # a second fit has other coordinates
measure_batch_settings = prepare_worker = move_aside = None
# The part of what is measured on the layers' own maps.
QUALITY = "quality"
# Of the stage's files and computations: with another number all layouts are computed again.
LAYOUT_FORMAT = 4
# Directions of each layer that the common start goes by: nine layers of a million rows are a gigabyte.
COMMON_WIDTH = 32


def parts(config: Config) -> list[Part]:
    """The layers' own maps; then what is measured on each of them, and the maps of classes of each layer."""
    ranks = rank.of_maps(maps_of(config.layers, config.layout, config.cells), config.opening)
    boxes = layout_boxes(config.layers, config.layout)
    part_of_box = {name: part_id(NAME, _part_of_box(name)) for name in boxes}
    opening = box_of(config.opening, config.layers, config.layout)
    first_of_classes = {
        layer: maps[0].name for layer in config.layers if (maps := maps_of_classes(layer, config.layout))
    }
    return [
        *(Part(NAME, _part_of_box(name), (part_id(collect.NAME),), rank.LAYOUT + (name != opening)) for name in boxes),
        Part(NAME, QUALITY, tuple(part_of_box.values()), rank.of_quality(ranks, config.opening)),
        *(
            Part(
                NAME,
                part_of_classes(layer),
                (part_id(NAME, part_of_maps(layer, config.layers, config.layout)),),
                ranks[name],
            )
            for layer, name in first_of_classes.items()
        ),
    ]


def part_of_maps(layer: str, layers: Sequence[str], layout: LayoutConfig) -> str:
    """The part that makes the coordinates of a layer's own map."""
    return _part_of_box(box_of(layer, layers, layout))


def _part_of_box(box: str) -> str:
    return box.replace("box", "maps", 1)


def part_of_classes(layer: str) -> str:
    """The part, and its one item, that makes a layer's maps of classes."""
    return f"classes-{layer}"


def plan(part: str, config: Config, run: RunDirectory) -> list[Item]:
    """The common start, fits, what is placed in them, and the box; or what is measured; or maps of classes."""
    if part == QUALITY:
        maps = maps_of(config.layers, config.layout, config.cells)
        digests = {
            one.layer: coordinates_digest(run, one, config.layers, config.layout) for one in maps if not one.classes
        }
        # How far a layer is aligned is measured against the one before it.
        before = dict(zip(config.layers[1:], config.layers))
        return [
            Item(
                f"quality-{layer}",
                NAME,
                run=str(run.path),
                of=digest_values(digest, digests.get(before.get(layer, ""))),
            )
            for layer, digest in digests.items()
        ]
    for box in layout_boxes(config.layers, config.layout):
        if part == _part_of_box(box):
            return _plan_maps(box, run, config.layers, config.layout, config.opening)
    return [Item(part, NAME, run=str(run.path))]


def _plan_maps(box: str, run: RunDirectory, layers: Sequence[str], layout: LayoutConfig, opening: str) -> list[Item]:
    items: list[Item] = []
    fits: list[Item] = []
    parts, rows = len(placed_parts(run.shards(layers[0]), layout.fit_rows)), count_rows(run.shards(layers[0]))
    fitted_rows = min(rows, layout.fit_rows)
    placed_rows = (rows - fitted_rows) // max(1, parts)  # about
    aligned = has_common_start(layers, layout)
    if aligned:
        items.append(Item(COMMON_START, NAME, (), str(run.path)))
    first = layout_group_of(opening, layout)
    for group in sorted(layout_boxes(layers, layout)[box], key=lambda group: group != first):
        after = (COMMON_START,) if aligned else ()
        fits.append(Item(f"fit-{group}", NAME, after, str(run.path), work=fitted_rows))
        items.append(fits[-1])
        items += [
            Item(f"place-{group}-{number:05d}", NAME, (fits[-1].id,), str(run.path), work=placed_rows)
            for number in range(parts)
        ]
    if layout.shared:
        items += [Item(f"index-{layer}", NAME, (fits[0].id,), str(run.path)) for layer in layers]
    return [*items, Item(box, NAME, tuple(item.id for item in items), str(run.path))]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item; of a layer's maps of classes one for each map."""
    if item.id.startswith("classes-"):
        return [
            _marker(run, atlas_map, config.layers, config.layout) for atlas_map in _maps_of_classes(item, config.layout)
        ]
    return [run.folder(NAME) / f"{item.id}.json"]


def _maps_of_classes(item: Item, layout: LayoutConfig) -> tuple[AtlasMap, ...]:
    return maps_of_classes(item.id.removeprefix("classes-"), layout)


def find_coordinates_digest(
    run: RunDirectory, atlas_map: AtlasMap, layers: Sequence[str], layout: LayoutConfig
) -> str | None:
    """The sha256 of a map's coordinates, None where they are not finished. A second fit does not reproduce them:
    whatever is made from them depends on it."""
    marker = read_marker(_marker(run, atlas_map, layers, layout), run.stage_key(NAME))
    return None if marker is None else str(marker["files"][run.layout(atlas_map.name).name]["sha256"])


def coordinates_digest(run: RunDirectory, atlas_map: AtlasMap, layers: Sequence[str], layout: LayoutConfig) -> str:
    """The same of a map that is finished. Raises AtlasError where it is gone."""
    digest = find_coordinates_digest(run, atlas_map, layers, layout)
    if digest is None:
        raise AtlasError(f"layout: the coordinates of {atlas_map.name} are gone. Give the same command again.")
    return digest


def _marker(run: RunDirectory, atlas_map: AtlasMap, layers: Sequence[str], layout: LayoutConfig) -> Path:
    """The marker that vouches for a map's coordinates."""
    return run.folder(NAME) / marker_of_coordinates(atlas_map, layers, layout)


def run_item(item: Item) -> Summary:
    """Do the work that the item's name begins with."""
    run, config = item.open()
    layers, layout, seed = config.layers, config.layout, config.seed
    if item.id in layout_boxes(layers, layout):
        return _box(item, run, layers, layout)
    if item.id == COMMON_START:
        return _common(item, run, layers, layout, seed=seed)
    match item.id.split("-")[0]:
        case "fit":
            return _fit(item, run, layers, layout, seed=seed)
        case "place":
            return _place(item, run, layers, layout)
        case "index":
            return _index(item, run, layout)
        case "quality":
            return _quality(item, run, layers, layout, seed=seed)
        case "classes":
            return _classes(item, run, layers, layout, seed=seed)
    raise ValueError(f"{item.id}: no item of this stage begins so")


def _fit(item: Item, run: RunDirectory, layers: Sequence[str], layout: LayoutConfig, *, seed: int) -> Summary:
    group = item.id.removeprefix("fit-")
    group_layers = layout_groups(layers, layout)[group]
    fitted_rows = choose_fitted(count_rows(run.shards(group_layers[0])), layout.fit_rows, seed)
    files, parts, facts = [], [], {}
    for layer in group_layers:
        shards = run.shards(layer)
        moments = read_moments(shards, read_metadata(shards[0])["channels"])
        projection = fit_projection(moments)
        parts.append(project(shards, projection, fitted_rows))
        for path, save in ((run.moments(layer), moments.save), (run.projection(layer), projection.save)):
            with atomic(path) as temporary:
                save(temporary)
            files.append(path)
        facts[layer] = {
            "channels": len(moments.total),
            "projected": projection.components.shape[1],
            "energy": projection.energy,
        }
    rows = join_layers(parts)
    parts.clear()
    common = load_arrays(run.coordinates(COMMON_START))["coordinates"] if item.after else None
    threads = available_cores()
    by_attribution = attribution_rows(run, group_layers, fitted_rows) if layout.axes == "classes" else None
    fit = fit_layout(rows, layout, seed=seed, threads=threads, common=common, attribution_rows=by_attribution)
    files += [run.index(group), run.coordinates(group)]
    with atomic(run.index(group)) as temporary:
        save_index(fit.index, temporary)
    save_arrays(
        run.coordinates(group),
        coordinates=fit.coordinates,
        dropped=fit.dropped,
        fitted=fitted_rows,
        alive=fit.alive,
        nearness=fit.nearness,
    )
    if common is not None:
        sample_rows = compared_rows(len(rows), seed)
        independent = fit_layout(
            rows[sample_rows],
            layout,
            seed=seed,
            threads=threads,
            attribution_rows=None if by_attribution is None else by_attribution[sample_rows],
        )
        files.append(run.independent_coordinates(group))
        save_arrays(files[-1], coordinates=independent.coordinates)
    write_marker(
        run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files, rows=len(rows), layers=facts
    )
    return Summary(len(rows))


def _common(item: Item, run: RunDirectory, layers: Sequence[str], layout: LayoutConfig, *, seed: int) -> Summary:
    """The layout that all layers start from: of all of them together, each by its widest directions."""
    column = "attribution" if layout.axes == "classes" else "activation"
    fitted_rows = choose_fitted(count_rows(run.shards(layers[0])), layout.fit_rows, seed)
    parts = []
    for layer in layers:
        shards = run.shards(layer)
        metadata = read_metadata(shards[0])
        width = metadata["channels"] if column == "activation" else len(metadata["classes"])
        parts.append(project(shards, widest(read_moments(shards, width, column), COMMON_WIDTH), fitted_rows, column))
    coordinates = common_start(parts, layout, seed=seed, threads=available_cores())
    save_arrays(run.coordinates(COMMON_START), coordinates=coordinates)
    files = [run.coordinates(COMMON_START)]
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files, rows=len(fitted_rows))
    return Summary(0)


def _index(item: Item, run: RunDirectory, layout: LayoutConfig) -> Summary:
    """For one layer whose layout is shared: the index and nearness of its own rows, by which new points are placed."""
    layer = item.id.removeprefix("index-")
    shared = load_arrays(run.coordinates(layout_group_of(layer, layout)))
    rows = project(run.shards(layer), Projection.load(run.projection(layer)), shared["fitted"])
    alive = np.flatnonzero(rows.any(1))
    index = build_index(rows[alive], threads=1 if layout.deterministic else available_cores())
    with atomic(run.index(layer)) as temporary:
        save_index(index, temporary)
    _, distances = knn_graph(index, rows[alive], layout.neighbors)
    nearness = nearness_quantiles(1 - distances[:, 1:])
    save_arrays(run.coordinates(layer), **{**shared, "alive": alive, "nearness": nearness})
    files = [run.index(layer), run.coordinates(layer)]
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files, rows=len(rows))
    return Summary(0)


def _place(item: Item, run: RunDirectory, layers: Sequence[str], layout: LayoutConfig) -> Summary:
    group, _, number = item.id.removeprefix("place-").rpartition("-")
    fit, parts = load_arrays(run.coordinates(group)), []
    for layer in layout_groups(layers, layout)[group]:
        shards = run.shards(layer)
        part = [shards[shard] for shard in placed_parts(shards, layout.fit_rows)[int(number)]]
        parts.append(project(part, Projection.load(run.projection(layer))))
    rows = join_layers(parts)
    coordinates = place_rows(
        load_index(run.index(group)), fit["coordinates"][fit["alive"]], rows, fit["nearness"], threads=available_cores()
    ).coordinates
    outlier, zero = REASONS.index(OUTLIER), REASONS.index(ZERO)
    dropped = np.where(rows.any(1), np.where(np.isfinite(coordinates).all(1), 0, outlier), zero).astype(np.int8)
    path = placed_path(run, group, int(number))
    save_arrays(path, coordinates=coordinates, dropped=dropped)
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=[path], rows=len(rows))
    return Summary(len(rows))


def _box(item: Item, run: RunDirectory, layers: Sequence[str], layout: LayoutConfig) -> Summary:
    groups = layout_boxes(layers, layout)[item.id]
    parts = len(placed_parts(run.shards(layers[0]), layout.fit_rows))
    raw, dropped = zip(*(gather_coordinates(run, group, parts) for group in groups))
    box_coordinates = unit_box(raw)
    own_layers = [layer for layer in layers if layout_group_of(layer, layout) in groups]
    for layer in own_layers:
        number = groups.index(layout_group_of(layer, layout))
        if not np.isfinite(box_coordinates[number]).any():
            raise AtlasError(f"layout: layer {layer} gave no activation at all in any picture. Choose another layer.")
        write_map(run, layer, layer, box_coordinates[number], dropped[number])
    files = [run.layout(layer) for layer in own_layers]
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=files)
    return Summary(0)


def _quality(item: Item, run: RunDirectory, layers: Sequence[str], layout: LayoutConfig, *, seed: int) -> Summary:
    layer = item.id.removeprefix("quality-")
    column = "attribution" if layout.axes == "classes" else "activation"
    number = layers.index(layer)
    before = layers[number - 1] if number and has_common_start(layers, layout) else None
    facts = {
        **measure_quality(run, layer, layer, column=column, seed=seed),
        **measure_alignment(run, layer, before),
    }
    write_marker(run.folder(NAME) / f"{item.id}.json", key=run.stage_key(NAME), files=[], of=item.of, facts=facts)
    return Summary(0)


def _classes(item: Item, run: RunDirectory, layers: Sequence[str], layout: LayoutConfig, *, seed: int) -> Summary:
    """The maps of classes of one layer: those that are not there yet. Their rows are chosen in one pass."""
    layer = item.id.removeprefix("classes-")
    key, shards = run.stage_key(NAME), run.shards(layer)
    todo = [
        atlas_map
        for atlas_map in _maps_of_classes(item, layout)
        if read_marker(_marker(run, atlas_map, layers, layout), key) is None
    ]
    choices = choose_rows(shards, todo, layout, read_metadata(shards[0])["classes"])
    all_rows = np.unique(np.concatenate([choice.rows for choice in choices]))
    projected, row_count = project(shards, Projection.load(run.projection(layer)), all_rows), 0
    for atlas_map, choice in zip(todo, choices):
        coordinates = np.full((count_rows(shards), 2), np.nan, np.float32)
        dropped = np.full(len(coordinates), REASONS.index(OTHER), np.int8)
        if len(choice.rows) >= FEWEST_MAP_ROWS:
            rows = projected[np.searchsorted(all_rows, choice.rows)]
            coordinates[choice.rows] = lay_out(rows, choice, layout, seed=seed)
            off = np.where(rows.any(1), REASONS.index(OUTLIER), REASONS.index(ZERO))
            dropped[choice.rows] = np.where(np.isfinite(coordinates[choice.rows]).all(1), 0, off)
            row_count += len(rows)
        write_map(run, atlas_map.name, layer, coordinates, dropped)
        facts: dict[str, object] = {"alignment": None, "alignment_independent": None, "chosen": len(choice.rows)}
        facts |= measure_quality(run, atlas_map.name, layer, column="activation", seed=seed)
        write_marker(_marker(run, atlas_map, layers, layout), key=key, files=[run.layout(atlas_map.name)], facts=facts)
    return Summary(row_count)

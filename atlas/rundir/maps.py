"""The maps of a run: each layer's own, and beside it those of single classes and of pairs of classes.

A class atlas lays out only the rows that speak for one class; a pair lays out those that speak for either of two, from
one class on the left to the other on the right (Carter et al. 2019, "Activation Atlas", focusing on classes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from atlas.config.sections import CellsConfig, LayoutConfig
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import digest_values, parse_marker

# Rows that a map of classes needs to be laid out; how many a cell needs to be drawn is cells.min_count.
FEWEST_MAP_ROWS = 3
# The name of the layout that all aligned layers start from.
COMMON_START = "common-start"
# The defaults of class atlases: only other values show in a map's name.
_DEFAULTS = {name: LayoutConfig.model_fields[name].default for name in ("class_rows", "class_by", "class_grids")}


@dataclass(frozen=True)
class AtlasMap:
    """One map of the atlas.

    ``name`` stands in files and addresses, ``title`` on screens; ``classes`` holds one or two class names, or none
    where all rows of ``layer`` are laid out; ``grids`` are its levels.
    """

    name: str
    layer: str
    title: str
    grids: tuple[int, ...]
    classes: tuple[str, ...] = ()


def maps_of(layers: Sequence[str], layout: LayoutConfig, cells: CellsConfig) -> tuple[AtlasMap, ...]:
    """All maps of a run, each layer's own before those of its classes."""
    return _maps_of(tuple(layers), layout, cells)


@lru_cache(maxsize=4)  # asked for by every item, and there may be thousands of maps
def _maps_of(layers: tuple[str, ...], layout: LayoutConfig, cells: CellsConfig) -> tuple[AtlasMap, ...]:
    return tuple(
        atlas_map
        for layer in layers
        for atlas_map in (AtlasMap(layer, layer, layer, cells.grids), *maps_of_classes(layer, layout))
    )


def maps_of_classes(layer: str, layout: LayoutConfig) -> tuple[AtlasMap, ...]:
    """The maps of single classes and of pairs that ``layer`` has.

    The name of a class atlas holds all that its coordinates depend on: with other settings it is another map, and a
    map that is added leaves all others as they are.
    """
    if layout.class_layers is not None and layer not in layout.class_layers:
        return ()
    class_sets = [(name,) for name in layout.class_atlas] + list(layout.class_pair)
    settings = {name: getattr(layout, name) for name in _DEFAULTS}
    suffix = (
        ""
        if settings == _DEFAULTS
        else f"--{digest_values(layout.model_dump(mode='json', include=set(_DEFAULTS)))[:6]}"
    )
    return tuple(
        AtlasMap(
            f"{layer}--{'--'.join(map(_slug, classes))}{suffix}",
            layer,
            f"{layer}: {' → '.join(classes)}",
            layout.class_grids,
            classes,
        )
        for classes in class_sets
    )


def published_maps(run: RunDirectory, maps: Sequence[AtlasMap]) -> tuple[AtlasMap, ...]:
    """Of the ``maps`` of a run whose cells are made, those that the site shows: each layer's own, and those of classes
    that have any cell to draw, with the grids that have one."""
    return tuple(replace(one, grids=grids) for one in maps if (grids := _grids_to_show(run, one)))


def foreseen_maps(run: RunDirectory, maps: Sequence[AtlasMap]) -> tuple[AtlasMap, ...]:
    """Of the ``maps`` of a run those that its site will show: of a map of classes without cells it is not known yet
    which grids have one to draw, and all are named."""
    grids_of = {one: _grids_to_show(run, one) for one in maps}
    return tuple(one if grids is None else replace(one, grids=grids) for one, grids in grids_of.items() if grids != ())


def _grids_to_show(run: RunDirectory, atlas_map: AtlasMap) -> tuple[int, ...] | None:
    """The grids of a map that the site shows; None where it is one of classes whose cells are not made."""
    if not atlas_map.classes:
        return atlas_map.grids
    marker = parse_marker(run.folder("cells") / f"{atlas_map.name}.json")
    if marker is None:
        return None
    counts = marker.get("drawn", {})  # a foreign marker has none
    return tuple(grid for grid in atlas_map.grids if counts.get(str(grid)))


def find_map(maps: Sequence[AtlasMap], name: str) -> AtlasMap:
    """The map called ``name``, which is one of ``maps``."""
    return next(atlas_map for atlas_map in maps if atlas_map.name == name)


def layout_groups(layers: Sequence[str], layout: LayoutConfig) -> dict[str, tuple[str, ...]]:
    """The layers that are laid out together, by the name of their group, in order: each layer by itself, or all in one
    group where they share a layout."""
    if layout.shared:
        return {"shared-layout": tuple(layers)}
    return {layer: (layer,) for layer in layers}


def layout_group_of(layer: str, layout: LayoutConfig) -> str:
    """The name of the group that ``layer`` is laid out in."""
    return next(iter(layout_groups([layer], layout)))


def layout_boxes(layers: Sequence[str], layout: LayoutConfig) -> dict[str, tuple[str, ...]]:
    """The groups of layers whose layouts are moved into the unit square together, by the name of their box: all of
    them where they are aligned, else each by itself."""
    groups = tuple(layout_groups(layers, layout))
    if layout.align or len(groups) == 1:
        return {"box": groups}
    return {f"box-{group}": (group,) for group in groups}


def box_of(layer: str, layers: Sequence[str], layout: LayoutConfig) -> str:
    """The name of the box that the layout of ``layer`` is in."""
    group = layout_group_of(layer, layout)
    return next(name for name, groups in layout_boxes(layers, layout).items() if group in groups)


def marker_of_coordinates(atlas_map: AtlasMap, layers: Sequence[str], layout: LayoutConfig) -> str:
    """The name of the marker, in the stage's folder, that vouches for the coordinates of a map."""
    if atlas_map.classes:
        return f"class-{atlas_map.name}.json"
    return f"{box_of(atlas_map.layer, layers, layout)}.json"


def has_common_start(layers: Sequence[str], layout: LayoutConfig) -> bool:
    """Whether several layouts are aligned, by starting from one that they have in common."""
    return layout.align and len(layout_groups(layers, layout)) > 1


def _slug(name: str) -> str:
    """``name`` in letters, digits and hyphens. A digest keeps names apart that differ in
    capitals or other signs."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return plain if plain.replace("-", " ") == name else f"{plain}-{digest_values(name)[:4]}"

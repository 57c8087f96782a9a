"""The maps of a run: each layer's own, and beside it those of single classes and of pairs of classes.

A class atlas lays out only the rows that speak for one class; a pair lays out those that speak for either of two, from
one class on the left to the other on the right (Carter et al. 2019, "Activation Atlas", focusing on classes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from atlas.config.model import Config
from atlas.config.sections import LayoutConfig
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import digest_values, parse_marker

# Rows that a map of classes needs to be laid out at all; whether a cell of it is drawn is a matter of the cells.
FEWEST_ROWS = 3
# The name of what aligned layers start from.
COMMON_START = "common-start"
# What the keys of class atlases are by default: only other values show in a map's name.
_USUAL = {name: LayoutConfig.model_fields[name].default for name in ("class_rows", "class_by", "class_grids")}


@dataclass(frozen=True)
class AtlasMap:
    """One map: ``name`` stands in files and addresses, ``title`` on screens; ``classes`` holds one or two class names,
    or none where all rows of ``layer`` are laid out; ``grids`` are its levels.
    """

    name: str
    layer: str
    title: str
    grids: tuple[int, ...]
    classes: tuple[str, ...] = ()


def maps_of(config: Config) -> tuple[AtlasMap, ...]:
    """All maps of a run, each layer's own before those of its classes.

    The name of a class atlas tells all that its coordinates depend on, so one that is asked for differently is another
    map, and asking for one leaves all others as they are.
    """
    layout = config.layout
    asked = [(name,) for name in layout.class_atlas] + list(layout.class_pair)
    chosen = {name: getattr(layout, name) for name in _USUAL}
    unusual = "" if chosen == _USUAL else f"--{digest_values(layout.model_dump(mode='json', include=set(_USUAL)))[:6]}"
    maps: list[AtlasMap] = []
    for layer in config.layers:
        maps.append(AtlasMap(layer, layer, layer, config.cells.grids))
        if layout.class_layers is None or layer in layout.class_layers:
            maps += [
                AtlasMap(
                    f"{layer}--{'--'.join(map(_slug, classes))}{unusual}",
                    layer,
                    f"{layer}: {' → '.join(classes)}",
                    layout.class_grids,
                    classes,
                )
                for classes in asked
            ]
    return tuple(maps)


def published_maps(run: RunDirectory, config: Config) -> tuple[AtlasMap, ...]:
    """The maps that the site shows, of a run whose cells are made: each layer's own, and those of classes that have any
    cell to draw, with the grids that have one."""
    shown = []
    for each in maps_of(config):
        marker = parse_marker(run.folder("cells") / f"{each.name}.json")
        drawn = {} if marker is None else marker["drawn"]
        grids = tuple(grid for grid in each.grids if not each.classes or drawn.get(str(grid)))
        if grids:
            shown.append(replace(each, grids=grids))
    return tuple(shown)


def layout_groups(config: Config) -> dict[str, tuple[str, ...]]:
    """What is laid out together, by name, in order: each layer by itself, or all where they share one layout."""
    if config.layout.shared:
        return {"shared-layout": config.layers}
    return {layer: (layer,) for layer in config.layers}


def has_common_start(config: Config) -> bool:
    """Whether several layouts are aligned, by starting from one that they have in common."""
    return config.layout.align and len(layout_groups(config)) > 1


def layout_group_of(layer: str, config: Config) -> str:
    """The name of what ``layer`` is laid out with."""
    return next(name for name, layers in layout_groups(config).items() if layer in layers)


def find_map(config: Config, name: str) -> AtlasMap:
    """The map called ``name``, which is one of the run's."""
    return next(each for each in maps_of(config) if each.name == name)


def _slug(name: str) -> str:
    """``name`` in letters, digits and hyphens. Names that differ in capitals or other signs are told apart by a
    digest."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return plain if plain.replace("-", " ") == name else f"{plain}-{digest_values(name)[:4]}"

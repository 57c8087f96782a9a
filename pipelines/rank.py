"""Which of the items that could start do: coarse to fine on the opening layer's map, then on the others, units last.

Of the numbers only the order counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atlas.rundir.maps import AtlasMap

COLLECT, LAYOUT, PAGE = 0, 1, 2
_MAPS, _EACH_MAP = 10, 100
UNITS, TOUR = 10**9, 10**9 + 1  # beyond those of any number of maps


def of_maps(maps: Sequence[AtlasMap], opening: str) -> dict[str, int]:
    """The rank of what is made of each of the ``maps`` at its coarsest level, by the map's name: of the layer that the
    page is ``opening`` on first, then of the other layers in their order, then of classes. Each finer level has the
    next number."""
    order = sorted(maps, key=lambda atlas_map: (bool(atlas_map.classes), atlas_map.layer != opening))
    return {atlas_map.name: _MAPS + _EACH_MAP * number for number, atlas_map in enumerate(order)}


def of_quality(ranks: Mapping[str, int], layer: str) -> int:
    """The rank of what is measured on a layer's map, by the ``ranks`` of the maps: after all that the page shows of it.
    What is measured on the maps of all layers has that of the opening one."""
    return ranks[layer] + _EACH_MAP - 1

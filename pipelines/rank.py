"""Which of the items that could start do: coarse to fine on the opening layer's map, then on the others, units last.

Of the numbers only the order counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas.rundir.maps import AtlasMap

COLLECT, LAYOUT, PAGE = 0, 1, 2
_MAPS, _EACH_MAP = 10, 100
UNITS, TOUR = 1_000_000, 1_000_001


def of_map(maps: Sequence[AtlasMap], opening: str, name: str, level: int = 0) -> int:
    """The rank of what is made of the map ``name``, one of ``maps``, at one of its levels, the coarsest 0: of the layer
    that the page is ``opening`` on first, then of the other layers in their order, then of classes."""
    order = sorted(maps, key=lambda atlas_map: (bool(atlas_map.classes), atlas_map.layer != opening))
    number = [atlas_map.name for atlas_map in order].index(name)
    return _MAPS + _EACH_MAP * number + level


def of_quality(maps: Sequence[AtlasMap], opening: str) -> int:
    """The rank of what is measured on the layers' maps: after all of the opening one."""
    return of_map(maps, opening, opening) + _EACH_MAP - 1

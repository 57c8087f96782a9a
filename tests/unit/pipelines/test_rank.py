"""Which work comes first."""

from atlas.rundir.maps import AtlasMap
from pipelines import rank

MAPS = [
    AtlasMap("early", "early", "early", (10, 20)),
    AtlasMap("early--cat", "early", "early: cat", (5,), ("cat",)),
    AtlasMap("late", "late", "late", (10, 20)),
    AtlasMap("late--cat", "late", "late: cat", (5,), ("cat",)),
]

RANKS = rank.of_maps(MAPS, "late")


def test_the_opening_layer_comes_first_coarse_to_fine_and_classes_after_all_layers() -> None:
    work = [(one.name, level) for one in MAPS for level in range(len(one.grids))]
    assert sorted(work, key=lambda one: RANKS[one[0]] + one[1]) == [
        ("late", 0), ("late", 1), ("early", 0), ("early", 1), ("late--cat", 0), ("early--cat", 0)
    ]  # fmt: skip


def test_quality_is_measured_after_the_opening_map_and_before_the_others() -> None:
    quality = rank.of_quality(RANKS, "late")
    assert RANKS["late"] + 1 < quality < RANKS["early"]


def test_what_all_wait_for_comes_first_and_units_last() -> None:
    """However many maps there are."""
    many = [AtlasMap(f"late--{number}", "late", "", (5,), ("cat",)) for number in range(50_000)]
    ranks = rank.of_maps([*MAPS, *many], "late").values()
    assert rank.COLLECT < rank.LAYOUT < rank.PAGE < min(ranks)
    assert max(ranks) < rank.UNITS < rank.TOUR
    assert len(set(ranks)) == len(MAPS) + len(many)

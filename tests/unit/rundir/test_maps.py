"""The maps of a run: what each is called, and what goes together."""

import json
from pathlib import Path
from typing import Any

from tiny_run import configure

from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap, foreseen_maps, maps_of, published_maps


def test_a_maps_name_tells_all_that_it_depends_on(workshop: Path, tmp_path: Path) -> None:
    def names(**layout: Any) -> list[str]:
        config = configure(workshop, "tcp://none", tmp_path, layout=layout)
        return [atlas_map.name for atlas_map in maps_of(config.layers, config.layout, config.cells)]

    assert names(class_atlas=["tabby"]) == ["middle", "middle--tabby", "last", "last--tabby"]
    assert names(class_pair=["tabby", "lynx"], class_layers=["last"]) == ["middle", "last", "last--tabby--lynx"]
    usual = names(class_atlas=["tabby"])
    names_so_far = {usual[1]}
    for changed in ({"class_rows": 99}, {"class_by": "predicted"}, {"class_grids": [4, 8]}):
        again = names(class_atlas=["tabby"], **changed)
        assert again[0] == "middle"
        assert again[1].startswith("middle--tabby--")
        assert again[1] not in names_so_far
        names_so_far.add(again[1])
    odd = names(class_atlas=["Hermit Crab", "hermit crab", "hermit-crab", "Ñandú/1"])
    assert len(set(odd)) == 10
    assert all(name.isascii() and "/" not in name and " " not in name for name in odd)


def test_by_prediction_no_attributions_are_needed(workshop: Path) -> None:
    layout = {"class_atlas": ["a"], "class_by": "predicted"}
    config = configure(workshop, "tcp://none", workshop / "x", layout=layout, collect={"attributions": False})
    maps = maps_of(config.layers, config.layout, config.cells)
    assert [atlas_map.classes for atlas_map in maps] == [(), ("a",), (), ("a",)]


def test_a_map_of_classes_is_foreseen_until_its_cells_say_otherwise(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    layer = AtlasMap("last", "last", "last", (2, 4))
    cats = AtlasMap("last--cats", "last", "last: cats", (2, 4), ("cats",))

    def cut(**counts: int) -> None:
        run.folder("cells").mkdir(exist_ok=True)
        (run.folder("cells") / "last--cats.json").write_text(json.dumps({"key": "a", "files": {}, "drawn": counts}))

    assert foreseen_maps(run, [layer, cats]) == (layer, cats)
    assert published_maps(run, [layer, cats]) == (layer,)
    cut(**{"2": 3, "4": 0})
    coarse = AtlasMap("last--cats", "last", "last: cats", (2,), ("cats",))
    assert foreseen_maps(run, [layer, cats]) == published_maps(run, [layer, cats]) == (layer, coarse)
    cut(**{"2": 0, "4": 0})
    assert foreseen_maps(run, [layer, cats]) == published_maps(run, [layer, cats]) == (layer,)

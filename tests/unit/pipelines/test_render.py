"""The stage render: its batches, what an icon starts from, and what one item writes."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import GRIDS, icon_pixels, maps_of_run
from planned import planned

from atlas.cells.icons import ICONS_SCHEMA, drawn_cells, read_icons
from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.config.sections import RenderConfig
from atlas.pictures.decode import decode_png
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import read_marker
from atlas.store.moments import Moments
from atlas.store.shards import iterate
from atlas.visualize.coarse_start import blend
from atlas.visualize.recipe import ATLAS
from pipelines import batch_settings, render
from pipelines.render import icon_seeds, split
from pipelines.stage import Item, missing


def configured(run: RunDirectory, **changes: Any) -> Config:
    values = run.config().plain()
    values["render"] |= changes
    return validate(values, "test")


def ready_to_draw(run: RunDirectory, **changes: Any) -> Config:
    """Have the run hold what items of the layer branches read; its configuration."""
    config = configured(run, precision="float32", batch=4, **changes)
    settings = {"branches": {"precision": "float32", "batch": 4}}
    run.update_manifest(
        config=config.plain(), stages={"render": {**run.stage_facts("render"), "batch_settings": settings}}
    )
    moments = Moments.empty(16)
    for block in iterate(run.shards("branches"), ["activation"]):
        moments.add(block["activation"])
    moments.save(run.moments("branches"))
    return config


def test_batches_come_after_those_that_hold_the_coarser_cells_around(made_run: RunDirectory) -> None:
    def items_of(icons_per_item: int, kind: str) -> list[Item]:
        config = configured(made_run, icons_per_item=icons_per_item)
        return [item for item in planned(render, config, made_run) if re.match(f"branches/.*/{kind}-", item.id)]

    items = items_of(6, "part")
    assert [(item.id, item.after) for item in items[:1]] == [("branches/grid-002/part-00000", ())]
    assert [item.id for item in items[1:]] == [f"branches/grid-004/part-{part:05d}" for part in range(3)]
    assert {item.after for item in items[1:]} == {("branches/grid-002/part-00000",)}
    assert [item.work for item in items] == [4, 6, 6, 4]
    quick = [
        (item.id.replace("quick", "part"), tuple(name.replace("quick", "part") for name in item.after))
        for item in items_of(6, "quick")
    ]
    assert quick == [(item.id, item.after) for item in items], "and so do the quick ones"
    single = items_of(1, "part")
    coarse = {item.id: cell for item, cell in zip(single, [(0, 0), (0, 1), (1, 0), (1, 1)])}
    # In Z-order the first four fine cells are the children of (0, 0): the 4 × 4 cells around hold all of the grid.
    assert len(single) == 4 + 16
    assert single[4].after == tuple(sorted(coarse))


def test_a_name_holds_map_grid_and_batch() -> None:
    assert split(Item("_blocks.10--tabby/grid-020/part-00003", "render")) == ("_blocks.10--tabby", 20, "part", 3)
    assert split(Item("a/grid-040/quick-00001", "render")) == ("a", 40, "quick", 1)


def test_seeds_are_one_for_the_coarsest_and_a_cells_own_for_the_others() -> None:
    row, col = np.array([0, 3, 3]), np.array([1, 1, 2])
    coarse = icon_seeds(7, 4, row, col, coarsest=True)
    fine = icon_seeds(7, 4, row, col, coarsest=False)
    assert len(set(coarse.tolist())) == 1
    assert len(set(fine.tolist())) == 3
    assert icon_seeds(7, 4, row[1:], col[1:], coarsest=False).tolist() == fine[1:].tolist(), "whatever the batch"
    assert icon_seeds(8, 4, row, col, coarsest=False).tolist() != fine.tolist()
    assert icon_seeds(7, 8, row, col, coarsest=False).tolist() != fine.tolist()


def test_the_recipe_is_that_of_an_atlas_with_the_runs_exponent_and_ridge() -> None:
    assert render.recipe(RenderConfig(power=3.0, ridge=0.5)) == replace(ATLAS, power=3.0, ridge=0.5)


def test_an_item_draws_its_cells_from_the_icons_around(
    made_copy: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ready_to_draw(made_copy, steps=2)
    starts: list[Any] = []
    draw = render.draw

    def spy(*arguments: Any, **options: Any) -> Any:
        starts.append(options["start"])
        return draw(*arguments, **options)

    monkeypatch.setattr(render, "draw", spy)
    item = next(item for item in planned(render, config, made_copy) if item.id == "branches/grid-004/part-00000")
    assert render.run_item(replace(item, run=str(made_copy.path))).count == 16
    level = drawn_cells(made_copy.cells("branches"), GRIDS[1], 2)
    parents = {(row, col): icon_pixels(row, col) for row in range(2) for col in range(2)}
    cells = list(zip(level["row"].tolist(), level["col"].tolist()))
    np.testing.assert_array_equal(starts[0], [blend(parents, *cell) for cell in cells])
    path = made_copy.icons("branches", GRIDS[1]) / "part-00000.parquet"
    icons = pq.read_table(path).to_pylist()
    assert [(icon["row"], icon["col"]) for icon in icons] == cells
    assert {decode_png(icon["png"]).shape for icon in icons} == {(16, 16, 3)}
    assert {icon["steps"] for icon in icons} == {2}
    assert all(1 <= icon["rank"] <= 16 for icon in icons)
    marker = read_marker(path.with_suffix(".json"), made_copy.stage_key("render"))
    assert marker is not None
    assert marker["rows"] == 16


def test_what_is_configured_is_not_measured(made_copy: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: object) -> int:
        raise AssertionError("measured, though it is configured")

    for name in ("measure_batch", "fitting_precision"):
        monkeypatch.setattr(batch_settings, name, measure)
    made_copy.update_manifest(config=configured(made_copy, precision="float32", batch=7).plain())
    expected = {"precision": "float32", "batch": 7}
    assert render.measure_batch_settings(str(made_copy.path)) == {"residual": expected, "branches": expected}


@pytest.mark.parametrize(
    ("settings", "out", "quick"),
    [
        ({}, "runs/one", "last"),
        ({"quick_steps": 0}, "runs/one", None),
        ({"steps": 63}, "runs/one", None),
        ({"steps": 64}, "runs/one", "last"),
        ({}, "s3://bucket/one", None),
    ],
    ids=["as it comes", "none", "few steps", "enough steps", "copied"],
)
def test_icons_come_twice_where_that_pays(settings: dict[str, Any], out: str, quick: str | None) -> None:
    assert render.quick_map("last", RenderConfig(**settings), out) == quick


def quick_table(run: RunDirectory, grid: int, cosines: dict[tuple[int, int], float], name: str) -> Path:
    """Quick icons of some cells, which are the made icons with other cosines."""
    icons = read_icons(run, "branches", grid).to_pylist()
    rows = [
        icon | {"cosine": cosines[icon["row"], icon["col"]]} for icon in icons if (icon["row"], icon["col"]) in cosines
    ]
    path = run.icons("branches", grid) / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=ICONS_SCHEMA), path)
    return path


def test_batches_with_the_worst_quick_icons_come_first(made_copy: RunDirectory) -> None:
    config = configured(made_copy, icons_per_item=4)
    name = "branches/grid-004"
    cells = list(
        render._items_of_cells(made_copy, maps_of_run(made_copy)[1], 4, min_count=2, icons_per_item=4, kind="part")
    )
    assert [item.id[-5:] for item in render.plan(name, config, made_copy)] == ["00000", "00001", "00002", "00003"]
    means = (0.8, 0.5, 0.9, 0.6)
    path = quick_table(made_copy, 4, {cell: means[number // 4] for number, cell in enumerate(cells)}, "quick-00000")
    items = render.plan(name, config, made_copy)
    assert [item.id[-5:] for item in items] == ["00001", "00003", "00000", "00002"]
    assert [item.id[-5:] for item in render.plan(f"{name}/quick", config, made_copy)] == [
        "00000", "00001", "00002", "00003"
    ]  # fmt: skip
    assert read_icons(made_copy, "branches", 4, ["cosine"], quick=True).num_rows == 16
    assert max(read_icons(made_copy, "branches", 4, ["row"])["row"].to_pylist()) == 3
    render.remove_quick(made_copy, "branches", [2, 4])
    assert not path.exists()
    assert read_icons(made_copy, "branches", 4).num_rows == 16, "the others stay"


def test_quick_icons_are_not_drawn_where_the_icons_are(made_copy: RunDirectory) -> None:
    config = configured(made_copy)
    (item,) = render.plan("branches/grid-002/quick", config, made_copy)
    full = made_copy.icons("branches", 2) / "part-00000.json"
    marker = json.loads(full.read_text())
    full.write_text(json.dumps(marker | {"of": item.of}))
    assert missing(render, [item], made_copy, config) == []
    full.write_text(json.dumps(marker | {"of": "other coordinates"}))
    assert missing(render, [item], made_copy, config) == [item]
    full.unlink()
    assert render.markers(item, made_copy, config) == [made_copy.icons("branches", 2) / "quick-00000.json"]
    assert missing(render, [item], made_copy, config) == [item]


def test_a_quick_item_takes_the_quick_steps_and_counts_no_icons(
    made_copy: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ready_to_draw(made_copy, steps=5, quick_steps=2)
    (coarse,) = render.plan("branches/grid-002/quick", config, made_copy)
    (fine,) = render.plan("branches/grid-004/quick", config, made_copy)
    assert (coarse.work, fine.work, fine.after) == (0, 0, (coarse.id,))
    assert [render.run_item(replace(item, run=str(made_copy.path))).count for item in (coarse, fine)] == [0, 0]
    icons = read_icons(made_copy, "branches", 4, quick=True).to_pylist()
    assert len(icons) == 16
    assert {icon["steps"] for icon in icons} == {2}
    assert missing(render, [coarse, fine], made_copy, config) == []

"""The stage render: its batches, what an icon starts from, and what one item writes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_run import GRIDS, icon_pixels
from planned import planned

from atlas.cells.icons import drawn_cells
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
from pipelines.stage import Item


def configured(run: RunDirectory, **changes: Any) -> Config:
    values = run.config().plain()
    values["render"] |= changes
    return validate(values, "test")


def test_batches_come_after_those_that_hold_the_coarser_cells_around(made_run: RunDirectory) -> None:
    items = [
        item for item in planned(render, configured(made_run, icons_per_item=6), made_run) if "branches" in item.id
    ]
    assert [(item.id, item.after) for item in items[:1]] == [("branches/grid-002/part-00000", ())]
    assert [item.id for item in items[1:]] == [f"branches/grid-004/part-{part:05d}" for part in range(3)]
    assert {item.after for item in items[1:]} == {("branches/grid-002/part-00000",)}
    single = [
        item for item in planned(render, configured(made_run, icons_per_item=1), made_run) if "branches" in item.id
    ]
    coarse = {item.id: cell for item, cell in zip(single, [(0, 0), (0, 1), (1, 0), (1, 1)])}
    # In Z-order the first four fine cells are the children of (0, 0): the 4 × 4 cells around hold all of the grid.
    assert len(single) == 4 + 16
    assert single[4].after == tuple(sorted(coarse))


def test_a_name_holds_map_grid_and_batch() -> None:
    assert split(Item("_blocks.10--tabby/grid-020/part-00003", "render")) == ("_blocks.10--tabby", 20, 3)


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
    config = configured(made_copy, steps=2, precision="float32", batch=4)
    settings = {"branches": {"precision": "float32", "batch": 4}}
    made_copy.update_manifest(
        config=config.plain(), stages={"render": {**made_copy.stage_facts("render"), "batch_settings": settings}}
    )
    moments = Moments.empty(16)
    for block in iterate(made_copy.shards("branches"), ["activation"]):
        moments.add(block["activation"])
    moments.save(made_copy.moments("branches"))
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

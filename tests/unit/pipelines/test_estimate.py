"""The plan's arithmetic: known rates give known totals."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.networks.network import Network, describe_layer
from atlas.rundir.maps import maps_of
from pipelines import estimate
from pipelines.estimate import (
    CELLS_ROW_SECONDS,
    LAYOUT_ROW_SECONDS,
    LAYOUT_SECONDS,
    PUBLISH_ICON_SECONDS,
    PUBLISH_SECONDS,
    START_SECONDS,
    Expectation,
    Icons,
    Work,
    count_icons,
    count_work,
    expectations,
    expected_cells,
    total_bytes,
    total_seconds,
)
from pipelines.rates import IconRate, Rates


def configure(**changes: Any) -> Config:
    """A run of two layers with a layout each that start alike; 10 views of a picture, 2 rows of a view."""
    values: dict[str, Any] = {
        "out": "x",
        "network": {"name": "small_network:factory", "size": 32},
        "layers": ["residual", "branches"],
        "images": {"source": "p", "crops": 10},
        "collect": {"positions_per_image": 2},
    }
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys} if isinstance(keys, dict) else keys
    return validate(values, "the test")


def work_of(config: Config, pictures: int = 100, icons: Icons | None = None) -> Work:
    return count_work(
        pictures,
        config.layers,
        {"residual": icons} if icons else {},
        images=config.images,
        collect=config.collect,
        layout=config.layout,
    )


@pytest.mark.parametrize(
    ("layout", "layouts", "rounds"),
    [({"align": True}, 3, 3), ({"align": False}, 2, 2), ({"shared": True}, 1, 1)],
    ids=["a common start and two layers", "two layers", "one of both"],
)
def test_layouts_run_side_by_side_after_their_common_start(layout: dict[str, bool], layouts: int, rounds: int) -> None:
    work = work_of(configure(layout=layout))
    assert (work.layouts, work.rows) == (layouts, 2000)
    one = LAYOUT_SECONDS + 2000 * LAYOUT_ROW_SECONDS
    stages = {"collect": Expectation(), "layout": Expectation(1, layouts * one)}
    assert total_seconds(work, stages, workers=1) == pytest.approx(START_SECONDS + rounds * one)
    beside = 1 + work.aligned
    assert total_seconds(work, stages, workers=2) == pytest.approx(START_SECONDS + beside * one)


def test_collecting_has_no_more_workers_than_shards_and_the_rest_is_spread() -> None:
    """100 pictures of 20 rows are shards of 256 rows: 12 pictures, 9 shards."""
    work = work_of(configure())
    assert work.shards == 9
    stages = {"collect": Expectation(1000, 0.09), "layout": Expectation(), "render": Expectation(10, 64.0)}
    assert total_seconds(work, stages, workers=64) == pytest.approx(START_SECONDS + 10 + 10)
    assert total_seconds(work, stages, workers=2) == pytest.approx(START_SECONDS + 45 + 320)


def test_each_stage_has_its_rate(small: Network) -> None:
    """Icons: 10 from noise and 20 from a start, of which 5 come quick before; 160, 92 and 32 steps of 10 ms."""
    config = configure(neurons={"layers": ["residual"]})
    layers = {name: describe_layer(small, name) for name in config.layers}
    rates = Rates(0.5, {"residual": IconRate(0.01, 0.1)}, {"residual": 3.0})
    work = work_of(config, icons=Icons(10, 20, 5))
    stages = expectations(work, rates, layers, render=config.render, neurons=config.neurons)
    assert stages["collect"] == Expectation(1000, 0.5)
    assert stages["layout"].work == 2 * 2000, "the common start is no layout of its own"
    assert stages["layout"].worker_seconds == pytest.approx(3 * (LAYOUT_SECONDS + 2000 * LAYOUT_ROW_SECONDS))
    assert stages["cells"] == Expectation(4000, CELLS_ROW_SECONDS)
    assert stages["render"].work == 30
    steps = 10 * 160 + 20 * 92 + 5 * 32
    assert stages["render"].worker_seconds == pytest.approx(steps * 0.01 + 35 * 0.1)
    assert stages["neurons"] == Expectation(layers["residual"].channels, 3.0, by_layer={"residual": 3.0})
    assert stages["publish"].worker_seconds == pytest.approx(PUBLISH_SECONDS + 30 * PUBLISH_ICON_SECONDS)
    fixed = configure(render={"steps": 10})
    stages = expectations(work, rates, layers, render=fixed.render, neurons=None)
    assert stages["render"].worker_seconds == pytest.approx((30 * 10 + 5 * 32) * 0.01 + 35 * 0.1)
    assert stages["neurons"].worker_seconds == 0


def test_icons_are_counted_by_layer_and_on_one_map_quick_ones_before() -> None:
    config = configure(cells={"grids": [10, 20], "min_count": 5})
    maps = maps_of(config.layers, config.layout, config.cells)
    coarse, finer = expected_cells(10, 5000, 5), expected_cells(20, 5000, 5)
    icons = count_icons(maps, 5000, config.cells, config.layout, "branches")
    assert icons == {"residual": Icons(coarse, finer), "branches": Icons(coarse, finer, coarse + finer)}


def test_bytes_of_the_store_of_icons_and_of_units(small: Network) -> None:
    config = configure()
    layers = {name: describe_layer(small, name) for name in config.layers}
    channels = {name: layer.channels for name, layer in layers.items()}
    row = sum(2 * (count + 5) + 40 for count in channels.values())
    work = work_of(config, icons=Icons(3, 4, 7))
    assert total_bytes(work, layers, {"": 5}, neurons=None) == 2000 * row + 7 * 40_000
    without_attributions = total_bytes(work_of(config), layers, {}, neurons=None)
    assert without_attributions == 2000 * sum(2 * count + 40 for count in channels.values())
    units = configure(neurons={"layers": ["residual"]}).neurons
    more = total_bytes(work_of(config), layers, {"": 5}, neurons=units) - 2000 * row
    assert more == channels["residual"] * 300_000


def test_each_network_has_its_own_classes(small: Network) -> None:
    config = configure(compare={"other": {"name": "o:make"}}, layers=["residual", "residual@other"])
    residual = describe_layer(small, "residual")
    layers = {"residual": residual, "residual@other": replace(residual, channels=3)}
    expected = 2000 * (2 * (residual.channels + 5) + 40 + 2 * (3 + 11) + 40)
    assert total_bytes(work_of(config), layers, {"": 5, "other": 11}, neurons=None) == expected


@pytest.mark.parametrize(
    ("grid", "rows", "min_count", "counts"),
    # The demo's three layers, at one size; the million's four grids hold 4,588.
    [
        (10, 10_980, 4, (55, 72)),
        (20, 10_980, 4, (170, 210)),
        (40, 10_980, 4, (470, 560)),
        (80, 1_000_000, 8, (2900, 3500)),
    ],
)
def test_about_so_many_cells_were_drawn_in_runs_that_are_known(
    grid: int, rows: int, min_count: int, counts: tuple[int, int]
) -> None:
    assert counts[0] <= expected_cells(grid, rows, min_count) <= counts[1]


def test_cells_grow_with_the_rows_up_to_the_lattice() -> None:
    counts = [expected_cells(20, rows, 5) for rows in (0, 100, 1000, 10_000, 10**9)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == pytest.approx(0.6 * 400, abs=1)


@pytest.mark.parametrize("attributions", [True, False])
def test_an_estimate_counts_attributions_where_the_run_takes_them(
    small: Network, monkeypatch: pytest.MonkeyPatch, attributions: bool
) -> None:
    config = configure(collect={"attributions": attributions}, cluster={"workers": 2})
    layers = {name: describe_layer(small, name) for name in config.layers}
    rates = Rates(0.02, {"residual": IconRate(0.01, 0.1)}, {})
    settings: dict[str, Any] = {}
    monkeypatch.setattr(estimate, "measure_rates", lambda *_, **options: settings.update(options) or rates)
    monkeypatch.setattr(estimate, "available_cores", lambda: 8)
    work, listing = work_of(config, icons=Icons(30, 30)), SimpleNamespace()
    plan = estimate.estimate(
        work, {"": small}, layers, listing,  # type: ignore[arg-type]
        images=config.images, collect=config.collect, render=config.render, neurons=config.neurons,
        cluster=config.cluster,
    )  # fmt: skip
    assert (settings["threads"], settings["beside"]) == (1, 2)
    classes = len(small.classes) if attributions else 0
    row = sum(2 * (layer.channels + classes) + 40 for layer in layers.values())
    assert plan.bytes == 2000 * row + 60 * 40_000
    assert plan.stages == expectations(work, rates, layers, render=config.render, neurons=None)
    assert plan.seconds == total_seconds(work, plan.stages, workers=2)

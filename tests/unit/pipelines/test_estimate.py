"""The plan's arithmetic: known durations give known totals; and what is measured for it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.networks.network import Network, describe_layer
from pipelines import estimate
from pipelines.estimate import (
    Durations,
    Expectation,
    Work,
    count_work,
    expected_cells,
    measure_durations,
    total_bytes,
    total_seconds,
)

# Nothing but views, icons or units costs anything.
NOTHING = Durations(0.0, 0.0)


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


def work_of(config: Config, pictures: int = 100) -> Work:
    return count_work(pictures, config.layers, config.images, config.collect, config.layout)


def seconds(config: Config, durations: Durations, pictures: int = 100, icons: int = 0, workers: int = 1) -> float:
    return total_seconds(work_of(config, pictures), durations, icons=icons, workers=workers)


@pytest.mark.parametrize(
    ("layout", "layouts"),
    [({"align": True}, 3), ({"align": False}, 2), ({"shared": True}, 1)],
    ids=["a common start and two layers", "two layers", "one of both"],
)
def test_layouts_take_their_time_once_each(layout: dict[str, bool], layouts: int) -> None:
    """5 seconds to begin with, and a fifth of a second for a thousand rows of a layer."""
    assert seconds(configure(layout=layout), NOTHING) == pytest.approx(layouts * (5 + 2000 * 2e-4))


def test_views_and_icons_and_units_are_spread_over_the_workers() -> None:
    config = configure()
    layouts = seconds(config, NOTHING)
    assert seconds(config, Durations(0.02, 0.0)) - layouts == pytest.approx(1000 * 0.02)
    assert seconds(config, Durations(0.02, 0.0), workers=4) - layouts == pytest.approx(1000 * 0.02 / 4)
    assert seconds(config, Durations(0.0, 1.5), icons=60, workers=4) - layouts == pytest.approx(60 * 1.5 / 4)
    assert seconds(config, Durations(0.0, 0.0, 90.0), workers=3) - layouts == pytest.approx(30)
    everything = seconds(config, Durations(0.02, 1.5, 90.0), icons=60, workers=2)
    assert everything - layouts == pytest.approx((1000 * 0.02 + 60 * 1.5 + 90) / 2)


def test_collecting_has_no_more_workers_than_shards() -> None:
    """100 pictures of 20 rows are shards of 256 rows: 12 pictures, 9 shards."""
    config = configure()
    layouts = seconds(config, NOTHING)
    assert seconds(config, Durations(0.02, 0.0), workers=64) - layouts == pytest.approx(1000 * 0.02 / 9)


def test_bytes_of_the_store_of_icons_and_of_units(small: Network) -> None:
    config = configure()
    layers = {name: describe_layer(small, name) for name in config.layers}
    channels = {name: layer.channels for name, layer in layers.items()}
    rows, icons = 2000, 7
    row = sum(2 * (count + 5) + 40 for count in channels.values())
    work = work_of(config)
    assert total_bytes(work, layers, {"": 5}, icons=icons, neurons=None) == rows * row + icons * 40_000
    without_attributions = total_bytes(work, layers, {}, icons=0, neurons=None)
    assert without_attributions == rows * sum(2 * count + 40 for count in channels.values())
    units = configure(neurons={"layers": ["residual"]}).neurons
    more = total_bytes(work, layers, {"": 5}, icons=0, neurons=units) - rows * row
    assert more == channels["residual"] * 300_000


def test_each_network_has_its_own_classes(small: Network) -> None:
    config = configure(compare={"other": {"name": "o:make"}}, layers=["residual", "residual@other"])
    residual = describe_layer(small, "residual")
    layers = {"residual": residual, "residual@other": replace(residual, channels=3)}
    expected = 2000 * (2 * (residual.channels + 5) + 40 + 2 * (3 + 11) + 40)
    assert total_bytes(work_of(config), layers, {"": 5, "other": 11}, icons=0, neurons=None) == expected


@pytest.mark.parametrize(
    ("grid", "rows", "min_count", "cells"),
    [(10, 1_000_000, 5, 70), (20, 1_000_000, 5, 280), (20, 1_000, 5, 100), (10, 0, 5, 0)],
)
def test_cells_are_bounded_by_the_lattice_and_by_the_rows(grid: int, rows: int, min_count: int, cells: int) -> None:
    assert expected_cells(grid, rows, min_count) == cells


def test_durations_are_those_of_one_view_the_mean_icon_and_all_units(
    small: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes 2 seconds in one layer and 4 in the other; a third is added to 10 steps."""
    config = configure(render={"steps": 10}, neurons={"layers": ["residual"]})
    layers = {name: describe_layer(small, name) for name in config.layers}
    observer = SimpleNamespace(seconds_per_view=lambda layers_of_network, **_options: 0.5 * len(layers_of_network))
    monkeypatch.setattr(estimate, "Observer", lambda network, names: observer)
    monkeypatch.setattr(
        estimate, "step_seconds", lambda network, layer, *_options: {"residual": 2, "branches": 4}[layer]
    )
    monkeypatch.setattr(estimate, "seconds_a_unit", lambda network, layer, **_options: 3.0)
    durations = measure_durations(
        {"": small}, layers, collect=config.collect, render=config.render, neurons=config.neurons, threads=1
    )
    assert durations.view == 1.0
    assert durations.icon == pytest.approx(1.3 * 10 * 3)
    assert durations.units == layers["residual"].channels * 3.0


@pytest.mark.parametrize("attributions", [True, False])
def test_an_estimate_counts_attributions_where_the_run_takes_them(
    small: Network, monkeypatch: pytest.MonkeyPatch, attributions: bool
) -> None:
    config = configure(collect={"attributions": attributions}, cluster={"workers": 2})
    layers = {name: describe_layer(small, name) for name in config.layers}
    monkeypatch.setattr(estimate, "measure_durations", lambda *_, **__: Durations(0.02, 1.5))
    work = work_of(config)
    plan = estimate.estimate(
        work, 60, {"": small}, layers,
        collect=config.collect, render=config.render, neurons=config.neurons, cluster=config.cluster,
    )  # fmt: skip
    classes = len(small.classes) if attributions else 0
    row = sum(2 * (layer.channels + classes) + 40 for layer in layers.values())
    assert plan.bytes == 2000 * row + 60 * 40_000
    assert plan.stages["collect"] == Expectation(work.views, 0.02)
    assert plan.stages["render"] == Expectation(60, 1.5)
    assert plan.stages["layout"].work == work.rows * work.layouts
    assert plan.seconds == total_seconds(work, Durations(0.02, 1.5), icons=60, workers=2)

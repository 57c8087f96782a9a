"""What a run will cost, known before it starts: icons, seconds and bytes.

The costs of one view, one icon and one unit are measured on this machine (`pipelines.rates`); what they come to is
arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from atlas.config.model import Config
from atlas.config.sections import (
    CellsConfig,
    ClusterConfig,
    CollectConfig,
    ImagesConfig,
    LayoutConfig,
    NeuronsConfig,
    RenderConfig,
)
from atlas.networks.network import Layer, Network
from atlas.pictures.listing import Listing
from atlas.rundir.maps import AtlasMap, has_common_start, layout_groups
from atlas.visualize.recipe import ATLAS
from pipelines.cluster import available_cores, default_workers
from pipelines.collect import images_per_shard
from pipelines.rates import IconRate, Rates, measure_rates

# Measured on two cores: seconds until workers are there, have loaded what they need and have measured their batches;
# that a layout takes for a row, and to begin with; cells for a row of a map; publishing for a cell, and for the rest.
START_SECONDS = 14.0
LAYOUT_ROW_SECONDS, LAYOUT_SECONDS = 1.7e-4, 3.0
CELLS_ROW_SECONDS = 5e-5
PUBLISH_ICON_SECONDS, PUBLISH_SECONDS = 0.022, 5.0
# An icon and a unit in their folders and in the site; a row of a store beside its activation and attribution.
ICON_BYTES, UNIT_BYTES, ROW_BYTES = 40_000, 300_000, 40
# What the demo's and the million's maps have: the share of a square that a map fills, beside half a cell on its edges;
# and how evenly rows lie on it (the shape of a gamma distribution of their density).
_FILLED, _EVENNESS = 0.55, 0.5


@dataclass(frozen=True)
class Icons:
    """Icons of one layer: ``coarse`` ones, which begin with noise, ``finer`` ones, and how many have a ``quick`` one
    before."""

    coarse: int = 0
    finer: int = 0
    quick: int = 0

    def __add__(self, other: Icons) -> Icons:
        return Icons(self.coarse + other.coarse, self.finer + other.finer, self.quick + other.quick)

    @property
    def count(self) -> int:
        """All but the quick ones, which are no icons of their own."""
        return self.coarse + self.finer

    def seconds(self, rate: IconRate, render: RenderConfig) -> float:
        """What they take on one worker."""
        coarse, finer = (ATLAS.steps, ATLAS.steps_from_start) if render.steps == "auto" else (render.steps,) * 2
        steps = self.coarse * coarse + self.finer * finer + self.quick * render.quick_steps
        return steps * rate.step + (self.coarse + self.finer + self.quick) * rate.score


@dataclass(frozen=True)
class Work:
    """What a run has to do: ``views`` in so many ``shards``, ``rows`` of each layer, ``layouts`` with the start that
    they have in common (``aligned``: whether they have one), the ``icons`` of each layer."""

    views: int
    shards: int
    rows: int
    layouts: int
    aligned: bool
    icons: Mapping[str, Icons]

    @property
    def icon_count(self) -> int:
        """The icons of all layers."""
        return sum(icons.count for icons in self.icons.values())


@dataclass(frozen=True)
class Expectation:
    """How much of its WORK a stage has, and the seconds that one takes on a worker, on average and where they differ
    ``by_layer``; beside that, ``seconds`` of a worker for what is not counted."""

    work: float = 0.0
    seconds_each: float = 0.0
    seconds: float = 0.0
    by_layer: Mapping[str, float] = field(default_factory=dict)

    @property
    def worker_seconds(self) -> float:
        """Seconds of one worker in all."""
        return self.work * self.seconds_each + self.seconds


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of a run, and what is expected of its stages, by name."""

    seconds: float
    bytes: float
    stages: dict[str, Expectation]


def expected_cells(grid: int, rows: int, min_count: int) -> int:
    """About how many cells of a ``grid`` × ``grid`` lattice have at least ``min_count`` of a map's ``rows``."""
    filled = min(1.0, _FILLED + 1 / grid) * grid**2
    mean = rows / filled
    # Rows fall into cells by chance, at a density that differs from cell to cell: a negative binomial distribution.
    few, term = 0.0, (_EVENNESS / (_EVENNESS + mean)) ** _EVENNESS
    for count in range(min_count):
        few += term
        term *= (_EVENNESS + count) / (count + 1) * mean / (_EVENNESS + mean)
    return round(filled * max(0.0, 1 - few))


def count_icons(
    maps: Sequence[AtlasMap], rows: int, cells: CellsConfig, layout: LayoutConfig, quick: str | None
) -> dict[str, Icons]:
    """The icons of each layer that has ``maps``, of a run with so many ``rows`` of each; on the map named ``quick``
    there are quick ones before."""
    icons: dict[str, Icons] = {}
    for atlas_map in maps:
        map_rows = min(rows, layout.class_rows) if atlas_map.classes else rows
        coarse, *finer = (expected_cells(grid, map_rows, cells.min_count) for grid in atlas_map.grids)
        quick_icons = coarse + sum(finer) if atlas_map.name == quick else 0
        icons[atlas_map.layer] = icons.get(atlas_map.layer, Icons()) + Icons(coarse, sum(finer), quick_icons)
    return icons


def count_work(
    pictures: int,
    layers: Sequence[str],
    icons: Mapping[str, Icons],
    *,
    images: ImagesConfig,
    collect: CollectConfig,
    layout: LayoutConfig,
) -> Work:
    """What a run over so many ``pictures`` has to do."""
    views = pictures * images.crops
    aligned = has_common_start(layers, layout)
    return Work(
        views=views,
        shards=-(-pictures // images_per_shard(pictures, images, collect)),
        rows=views * collect.positions_per_image,
        layouts=len(layout_groups(layers, layout)) + aligned,
        aligned=aligned,
        icons=icons,
    )


def estimate(
    work: Work,
    networks: Mapping[str, Network],
    layers: Mapping[str, Layer],
    listing: Listing,
    *,
    images: ImagesConfig,
    collect: CollectConfig,
    render: RenderConfig,
    neurons: NeuronsConfig | None,
    cluster: ClusterConfig,
) -> Estimate:
    """What a run takes on the workers that it asks for.

    ``networks`` and ``layers`` by their names in the run. A few views and steps are computed for it.
    """
    workers = default_workers(cluster)
    rates = measure_rates(
        networks,
        layers,
        listing,
        images=images,
        collect=collect,
        render=render,
        neurons=neurons,
        threads=cluster.threads,
        beside=min(workers, max(1, available_cores() // cluster.threads)) if cluster.kind == "local" else 1,
    )
    stages = expectations(work, rates, layers, render=render, neurons=neurons)
    classes = {name: len(network.classes) for name, network in networks.items()} if collect.attributions else {}
    seconds = total_seconds(work, stages, workers=workers)
    return Estimate(seconds, total_bytes(work, layers, classes, neurons=neurons), stages)


def expectations(
    work: Work, rates: Rates, layers: Mapping[str, Layer], *, render: RenderConfig, neurons: NeuronsConfig | None
) -> dict[str, Expectation]:
    """What is expected of each stage, by its name."""
    channels = {name: layers[name].channels for name in (neurons.layers if neurons else ())}
    units, icons = sum(channels.values()), work.icon_count
    icon_seconds = {name: own.seconds(rates.icons[name], render) for name, own in work.icons.items()}
    icons_by_layer = {name: seconds / max(work.icons[name].count, 1) for name, seconds in icon_seconds.items()}
    unit_seconds = sum(count * rates.units[name] for name, count in channels.items())
    laid_out = work.rows * (work.layouts - work.aligned)  # the common start's rows are counted in no layout
    layout_seconds = work.layouts * (LAYOUT_SECONDS + work.rows * LAYOUT_ROW_SECONDS)
    return {
        "collect": Expectation(work.views, rates.view),
        "layout": Expectation(laid_out, layout_seconds / max(laid_out, 1)),
        "cells": Expectation(work.rows * len(layers), CELLS_ROW_SECONDS),
        "render": Expectation(icons, sum(icon_seconds.values()) / max(icons, 1), by_layer=icons_by_layer),
        "neurons": Expectation(units, unit_seconds / max(units, 1), by_layer=rates.units),
        "publish": Expectation(seconds=PUBLISH_SECONDS + icons * PUBLISH_ICON_SECONDS),
    }


def total_seconds(work: Work, stages: Mapping[str, Expectation], *, workers: int) -> float:
    """Seconds of a run on so many ``workers``.

    Collecting has no more workers than shards; layouts no more than there are, all after their common start.
    """
    seconds = {name: stage.worker_seconds for name, stage in stages.items()}
    collecting = seconds.pop("collect") / min(workers, work.shards)
    one_layout = seconds.pop("layout") / max(work.layouts, 1)
    rounds = work.aligned - (-(work.layouts - work.aligned) // workers)
    return START_SECONDS + collecting + rounds * one_layout + sum(seconds.values()) / workers


def total_bytes(
    work: Work, layers: Mapping[str, Layer], classes: Mapping[str, int], *, neurons: NeuronsConfig | None
) -> int:
    """Bytes of a run: the store (float16 activations and attributions), icons and units.

    ``layers`` by their names in the run; ``classes``: to how many classes each network attributes, by its name there,
    empty where the run takes no attributions.
    """
    row_bytes = 0
    for name, layer in layers.items():
        row_bytes += 2 * (layer.channels + classes.get(Config.module_of(name)[0], 0)) + ROW_BYTES
    units = sum(layers[name].channels for name in neurons.layers) if neurons else 0
    return work.rows * row_bytes + work.icon_count * ICON_BYTES + units * UNIT_BYTES

"""Stage publish: cells + icons → the static site. Items: each grid of each layer, each layer's pyramid, the page."""

from __future__ import annotations

import json
from pathlib import Path

from atlas import site
from atlas.config import Config
from atlas.rundir import RunDirectory, write_marker
from pipelines import worker
from pipelines.stage import Item, Summary

NAME = "publish"
UNIT = "parts"
_PAGE = "page"


def plan(config: Config, run: RunDirectory) -> list[Item]:
    items = [
        Item(f"{layer}/grid-{grid:03d}", NAME, run=str(run.path))
        for layer in config.layers
        for grid in config.cells.grids
    ]
    items += [Item(f"{layer}/atlas", NAME, run=str(run.path)) for layer in config.layers]
    return [*items, Item(_PAGE, NAME, tuple(item.id for item in items), str(run.path))]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    return [run.folder(NAME) / ".markers" / f"{item.id.replace('/', '-')}.json"]


def run_item(item: Item) -> Summary:
    run, config = item.open()
    facts: dict[str, object] = {}
    if item.id == _PAGE:
        files = site.write_page(run, config, json.loads(run.report.read_text(encoding="utf-8")))
    else:
        layer, part = item.id.rsplit("/", 1)
        if part == "atlas":
            files = site.write_combined(run, config, layer)
        else:
            grid = int(part.removeprefix("grid-"))
            patches, failed = site.write_patches(run, config, worker.listing(run), layer, grid)
            files = site.write_grid(run, config, layer, grid) + patches
            facts["patches_failed"] = failed
    write_marker(markers(item, run, config)[0], key=run.stage_key(NAME), files=files, **facts)
    return Summary(1)

"""Stage publish: cells + icons → the static site. Items: each grid of each map, the details of its cells, each map's
pyramid, the page."""

from __future__ import annotations

import json
from pathlib import Path

from atlas import patches, site
from atlas.config import Config
from atlas.maps import shown_maps
from atlas.rundir import RunDirectory, digest_values, write_marker
from pipelines import worker
from pipelines.stage import Item, Summary

NAME = "publish"
UNIT = "parts"
_PAGE = "page"


def plan(config: Config, run: RunDirectory) -> list[Item]:
    items: list[Item] = []
    maps = shown_maps(run, config)
    for each in maps:
        for grid in each.grids:
            name = f"{each.name}/grid-{grid:03d}"
            items.append(Item(name, NAME, run=str(run.path)))
            items += [
                Item(f"{name}/details-{part:05d}", NAME, run=str(run.path))
                for part in range(len(patches.sheets(run, config, each, grid)))
            ]
        items.append(Item(f"{each.name}/atlas", NAME, run=str(run.path)))
    # Which maps there are is the page's matter alone: asking for one more leaves what is published of the others.
    told = digest_values([[each.name, each.grids] for each in maps])
    return [*items, Item(_PAGE, NAME, tuple(item.id for item in items), str(run.path), told)]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    return [run.folder(NAME) / ".markers" / f"{item.id.replace('/', '-')}.json"]


def run_item(item: Item) -> Summary:
    run, config = item.open()
    facts: dict[str, object] = {"of": item.of} if item.of else {}
    if item.id == _PAGE:
        files = site.write_page(run, config, json.loads(run.report.read_text(encoding="utf-8")))
    else:
        name, *parts = item.id.split("/")
        each = next(each for each in shown_maps(run, config) if each.name == name)
        if parts == ["atlas"]:
            files = site.write_combined(run, config, each)
        else:
            grid = int(parts[0].removeprefix("grid-"))
            if len(parts) == 1:
                files, failed = site.write_patches(run, config, worker.listing(run), each, grid)
                files += site.write_grid(run, config, each, grid)
            else:
                blocks = patches.sheets(run, config, each, grid)[int(parts[1].removeprefix("details-"))]
                files, failed = patches.write_sheets(run, config, worker.listing(run), each, grid, blocks)
            facts["patches_failed"] = failed
    write_marker(markers(item, run, config)[0], key=run.stage_key(NAME), files=files, **facts)
    return Summary(1)

"""Stage publish: cells + icons + units → the static site.

Items: of each map its pyramid, its grids and the details of their cells; the units of each layer that the neurons stage
looked at; the tour; and the page.
"""

from __future__ import annotations

import json
from pathlib import Path

from atlas.config.model import Config
from atlas.neurons.reading import Folder
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import published_maps
from atlas.rundir.markers import digest_values, write_marker
from atlas.site import neurons, page, sheets
from atlas.site.tour import writer as tour
from pipelines import worker
from pipelines.stage import Item, Summary

NAME = "publish"
UNIT = "parts"
REDO_DEPENDENTS = False
measure_batch_settings = prepare_worker = None
_PAGE, _TOUR, _NEURONS = "page", "tour", "neurons"


def plan(config: Config, run: RunDirectory) -> list[Item]:
    """For each map its pyramid, grids and sheets; units, the tour, and the page at the end."""
    items: list[Item] = []
    maps = published_maps(run, config)
    for atlas_map in maps:
        for grid in atlas_map.grids:
            name = f"{atlas_map.name}/grid-{grid:03d}"
            items.append(Item(name, NAME, run=str(run.path)))
            items += [
                Item(f"{name}/details-{part:05d}", NAME, run=str(run.path))
                for part in range(len(sheets.sheets(run, config, atlas_map, grid)))
            ]
        items.append(Item(f"{atlas_map.name}/atlas", NAME, run=str(run.path)))
    # What is published of units depends on the tables of the neurons stage; the rest does not.
    unit_digests = {layer: Folder(run, layer).digest() for layer in neurons.neuron_layers(config)}
    for layer, digest in unit_digests.items():
        items += [Item(name, NAME, run=str(run.path), of=digest) for name in neurons.parts(run, config, layer)]
    # Only the page depends on which maps there are: one more map leaves what is published of the others as it is.
    opens = config.opening
    page_digest = digest_values(
        [[atlas_map.name, atlas_map.grids] for atlas_map in maps], tour.digest(config), unit_digests, opens
    )
    if config.tour is not None:
        of = digest_values(tour.digest(config), unit_digests, opens)
        items.append(Item(_TOUR, NAME, run=str(run.path), of=of))
    return [*items, Item(_PAGE, NAME, tuple(item.id for item in items), str(run.path), page_digest)]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item, in the site's hidden folder."""
    return [run.folder(NAME) / ".markers" / f"{item.id.replace('/', '-')}.json"]


def run_item(item: Item) -> Summary:
    """Write one part of the site."""
    run, config = item.open()
    facts: dict[str, object] = {"of": item.of} if item.of else {}
    if item.id == _PAGE:
        files = page.write_page(run, config, json.loads(run.report.read_text(encoding="utf-8")))
    elif item.id == _TOUR:
        files = tour.write_tour(run, config, worker.listing(run))
    elif item.id.startswith(f"{_NEURONS}/"):
        files, failed = neurons.write_part(run, config, worker.listing(run), item.id)
        facts["patches_failed"] = failed
    else:
        name, *parts = item.id.split("/")
        atlas_map = next(atlas_map for atlas_map in published_maps(run, config) if atlas_map.name == name)
        if parts == ["atlas"]:
            files = page.write_combined(run, config, atlas_map)
        else:
            grid = int(parts[0].removeprefix("grid-"))
            if len(parts) == 1:
                files, failed = page.write_patches(run, config, worker.listing(run), atlas_map, grid)
                files += page.write_grid(run, config, atlas_map, grid)
            else:
                blocks = sheets.sheets(run, config, atlas_map, grid)[int(parts[1].removeprefix("details-"))]
                files, failed = sheets.write_sheets(run, config, worker.listing(run), atlas_map, grid, blocks)
            facts["patches_failed"] = failed
    write_marker(markers(item, run, config)[0], key=run.stage_key(NAME), files=files, **facts)
    return Summary(1)

"""Stage publish: cells + icons + units → the static site.

Items: of each map its pyramid, its grids and the details of their cells; the units of each layer that the neurons stage
looked at; the tour; and the page.
"""

from __future__ import annotations

import json
from pathlib import Path

from atlas.config.model import Config
from atlas.neurons.reading import UnitTables
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import find_map, maps_of, published_maps
from atlas.rundir.markers import digest_values, write_marker
from atlas.site import neurons, page, sheets
from atlas.site.tour import writer as tour
from pipelines import worker
from pipelines.stage import Item, Summary

NAME = "publish"
WORK = "parts"
REDO_DEPENDENTS = False
measure_batch_settings = prepare_worker = None
_PAGE, _TOUR, _NEURONS = "page", "tour", "neurons"


def plan(config: Config, run: RunDirectory) -> list[Item]:
    """For each map its pyramid, grids and sheets; units, the tour, and the page at the end."""
    items: list[Item] = []
    maps = published_maps(run, maps_of(config.layers, config.layout, config.cells))
    for atlas_map in maps:
        for grid in atlas_map.grids:
            name = f"{atlas_map.name}/grid-{grid:03d}"
            items.append(Item(name, NAME, run=str(run.path)))
            items += [
                Item(f"{name}/details-{part:05d}", NAME, run=str(run.path))
                for part in range(len(sheets.sheets(run, atlas_map, grid, config.cells.min_count)))
            ]
        items.append(Item(f"{atlas_map.name}/atlas", NAME, run=str(run.path)))
    # What is published of units depends on the tables of the neurons stage; the rest does not.
    unit_digests = {layer: UnitTables(run, layer).digest() for layer in neurons.neuron_layers(config.neurons)}
    for layer, digest in unit_digests.items():
        items += [
            Item(name, NAME, run=str(run.path), of=digest) for name in neurons.parts(run, layer, config.cells.grids)
        ]
    # Only the page depends on which maps there are: one more map leaves what is published of the others as it is.
    opens = config.opening
    page_digest = digest_values(
        [[atlas_map.name, atlas_map.grids] for atlas_map in maps], tour.digest(config.tour), unit_digests, opens
    )
    if config.tour is not None:
        of = digest_values(tour.digest(config.tour), unit_digests, opens)
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
        settings = tour.TourSettings(
            layers=config.layers_of(""),
            opening=config.opening,
            cells=config.cells,
            neurons=config.neurons,
            seed=config.seed,
        )
        files = tour.write_tour(run, worker.listing(run), config.tour, settings)
    elif item.id.startswith(f"{_NEURONS}/"):
        files, failed = neurons.write_part(
            run, worker.listing(run), item.id, min_count=config.cells.min_count, seed=config.seed
        )
        facts["patches_failed"] = failed
    else:
        name, *parts = item.id.split("/")
        form, listing = page.tile_format(config.render.size), worker.listing(run)
        maps = published_maps(run, maps_of(config.layers, config.layout, config.cells))
        atlas_map = find_map(maps, name)
        if parts == ["atlas"]:
            files = page.write_combined(run, atlas_map, form)
        else:
            grid = int(parts[0].removeprefix("grid-"))
            if len(parts) == 1:
                files, failed = page.write_patches(
                    run, listing, atlas_map, grid, form=form, min_count=config.cells.min_count, seed=config.seed
                )
                files += page.write_grid(run, atlas_map, grid, form=form, attributions=config.collect.attributions)
            else:
                blocks = sheets.sheets(run, atlas_map, grid, config.cells.min_count)[
                    int(parts[1].removeprefix("details-"))
                ]
                files, failed = sheets.write_sheets(
                    run, listing, atlas_map, grid, blocks, layers=config.layers, settings=config.cells, seed=config.seed
                )
            facts["patches_failed"] = failed
    write_marker(markers(item, run, config)[0], key=run.stage_key(NAME), files=files, **facts)
    return Summary(1)

"""Stage publish: cells + icons + units → the static site. Items: each grid of each map, the details of its cells, each
map's pyramid, the units of each layer that has any shown, the tour, the page."""

from __future__ import annotations

import json
from pathlib import Path

from atlas.config.model import Config
from atlas.neurons.reading import UnitTables
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import shown_maps
from atlas.rundir.markers import digest_values, write_marker
from atlas.site import neurons
from atlas.site import page as site
from atlas.site import sheets as patches
from atlas.site.tour import writer as tour
from pipelines import worker
from pipelines.stage import Item, Summary

NAME = "publish"
UNIT = "parts"
_PAGE, _TOUR, _NEURONS = "page", "tour", "neurons"


def plan(config: Config, run: RunDirectory) -> list[Item]:
    """For each map its pyramid, grids and sheets; units, the tour, and the page at the end."""
    items: list[Item] = []
    maps = shown_maps(run, config)
    for each in maps:
        for grid in each.grids:
            name = f"{each.name}/grid-{grid:03d}"
            items.append(Item(name, NAME, run=str(run.path)))
            items += [
                Item(f"{name}/details-{part:05d}", NAME, run=str(run.path))
                for part in range(len(patches.sheets(run, each, grid, config.cells.min_count)))
            ]
        items.append(Item(f"{each.name}/atlas", NAME, run=str(run.path)))
    # Units are looked at by a stage of their own: what is published of them depends on it, and the rest does not.
    looked_at = {layer: UnitTables(run, layer).digest() for layer in neurons.neuron_layers(config.neurons)}
    for layer, of in looked_at.items():
        items += [Item(name, NAME, run=str(run.path), of=of) for name in neurons.parts(run, layer, config.cells.grids)]
    # Which maps there are is the page's matter alone: asking for one more leaves what is published of the others.
    opens = config.opening
    told = digest_values([[each.name, each.grids] for each in maps], tour.digest(config.tour), looked_at, opens)
    if config.tour is not None:
        of = digest_values(tour.digest(config.tour), looked_at, opens)
        items.append(Item(_TOUR, NAME, run=str(run.path), of=of))
    return [*items, Item(_PAGE, NAME, tuple(item.id for item in items), str(run.path), told)]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item, in the site's hidden folder."""
    return [run.folder(NAME) / ".markers" / f"{item.id.replace('/', '-')}.json"]


def run_item(item: Item) -> Summary:
    """Write one part of the site."""
    run, config = item.open()
    facts: dict[str, object] = {"of": item.of} if item.of else {}
    if item.id == _PAGE:
        files = site.write_page(run, config, json.loads(run.report.read_text(encoding="utf-8")))
    elif item.id == _TOUR:
        files = tour.write_tour(run, config, worker.listing(run))
    elif item.id.startswith(f"{_NEURONS}/"):
        files, failed = neurons.write_part(
            run, worker.listing(run), item.id, min_count=config.cells.min_count, seed=config.seed
        )
        facts["patches_failed"] = failed
    else:
        name, *parts = item.id.split("/")
        form, listing = site.tile_format(config.render.size), worker.listing(run)
        each = next(each for each in shown_maps(run, config) if each.name == name)
        if parts == ["atlas"]:
            files = site.write_combined(run, each, form)
        else:
            grid = int(parts[0].removeprefix("grid-"))
            if len(parts) == 1:
                files, failed = site.write_patches(
                    run, listing, each, grid, form=form, min_count=config.cells.min_count, seed=config.seed
                )
                files += site.write_grid(run, each, grid, form=form, attributions=config.collect.attributions)
            else:
                blocks = patches.sheets(run, each, grid, config.cells.min_count)[int(parts[1].removeprefix("details-"))]
                files, failed = patches.write_sheets(
                    run, listing, each, grid, blocks, layers=config.layers, settings=config.cells, seed=config.seed
                )
            facts["patches_failed"] = failed
    write_marker(markers(item, run, config)[0], key=run.stage_key(NAME), files=files, **facts)
    return Summary(1)

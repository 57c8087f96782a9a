"""Stage publish: cells + icons + units → the static site.

Items: of each map its pyramid, its grids and the details of their cells; the units of each layer that the neurons stage
looked at; the tour; and the page.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from atlas.config.model import Config
from atlas.config.sections import NeuronsConfig
from atlas.neurons.reading import UnitTables
from atlas.report import build_report, layout_facts
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap, find_map, foreseen_maps, maps_of, published_maps
from atlas.rundir.markers import digest_values, write_marker
from atlas.site import errors, neurons, page, sheets
from atlas.site.contents import SiteContents
from atlas.site.tour import writer as tour
from atlas.slices.tables import error_facts
from pipelines import cells, layout, rank, render, worker
from pipelines import neurons as unit_stage
from pipelines.stage import Item, Part, Summary, is_done, part_id

NAME = "publish"
WORK = "parts"
REDO_DEPENDENTS = False
measure_batch_settings = prepare_worker = move_aside = None
_PAGE, _TOUR, _NEURONS = "page", "tour", "neurons"


def parts(config: Config) -> list[Part]:
    """The cells' details and patches of each grid of a map; the grid as soon as it is drawn, quick and then fully; the
    map's one pyramid when all are; the units of each layer; the tour; and the page, which is written again whenever
    more is there to show."""
    maps = maps_of(config.layers, config.layout, config.cells)
    quick = render.quick_map(config.opening, config.render, config.out)
    ranks = rank.of_maps(maps, config.opening)
    parts_of_site: list[Part] = []
    icons_of_maps: list[str] = []
    for atlas_map in maps:
        names = [render.part_of_grid(atlas_map, grid) for grid in atlas_map.grids]
        icons = [part_id(render.NAME, name) for name in names]
        for level, name in enumerate(names):
            quick_rank, own_rank = (ranks[atlas_map.name] + number for number in (level, level + len(names)))
            first = quick_rank if atlas_map.name == quick else own_rank
            details = Part(NAME, part_of_details(name), (part_id(cells.NAME, atlas_map.name),), first)
            parts_of_site.append(details)
            if atlas_map.name == quick:
                quick_name = render.quick_part(name)
                parts_of_site.append(Part(NAME, quick_name, (part_id(render.NAME, quick_name), details.id), quick_rank))
            parts_of_site.append(Part(NAME, name, (icons[level], details.id), own_rank))
        if not atlas_map.classes:
            counts = part_id(cells.NAME, cells.part_of_errors(atlas_map.layer))
            behind = rank.of_quality(ranks, atlas_map.layer)
            parts_of_site += [Part(NAME, part_of_errors(name), (counts,), behind) for name in names]
        last = ranks[atlas_map.name] + 2 * len(icons)
        parts_of_site.append(Part(NAME, part_of_pyramid(atlas_map), tuple(icons), last))
        icons_of_maps += icons
    units: list[str] = []
    for layer in neurons.neuron_layers(config.neurons):
        after = [
            part_id(unit_stage.NAME, name)
            for name in (unit_stage.part_of_units(layer), unit_stage.part_of_circuits(layer))
        ]
        parts_of_site.append(Part(NAME, f"{_NEURONS}/{layer}", tuple(after), rank.UNITS))
        units += after
    if config.tour is not None:
        parts_of_site.append(Part(NAME, _TOUR, (*icons_of_maps, *units), rank.TOUR))
    before = tuple(part.id for part in parts_of_site)
    parts_on_page = tuple(part.id for part in parts_of_site if not part.name.endswith("/details"))
    quality = part_id(layout.NAME, layout.QUALITY)
    return [*parts_of_site, Part(NAME, _PAGE, (*before, quality), rank.PAGE, refreshed_by=parts_on_page)]


def part_of_pyramid(atlas_map: AtlasMap) -> str:
    """The name of the part that makes one pyramid of all grids of a map."""
    return f"{atlas_map.name}/atlas"


def part_of_details(name: str) -> str:
    """The name of the part that makes what is known of the cells of the grid of part ``name`` without its icons."""
    return f"{name}/details"


def part_of_errors(name: str) -> str:
    """The name of the part that shows where the network errs on the grid of part ``name``."""
    return f"{name}/errors"


def plan(part: str, config: Config, run: RunDirectory) -> list[Item]:
    """What a grid's details or a layer's units need, or the one item of another part."""
    if part == _PAGE:
        contents, digest = site_contents(config, run)
        # Units, or a map of classes that has no cell, may be done before there is anything to look at.
        return [Item(_PAGE, NAME, run=str(run.path), of=digest)] if contents.maps else []
    if part == _TOUR:
        of = _tour_digest(config.tour, _unit_digests(run, config.neurons), config.opening) or ""
        return [Item(_TOUR, NAME, run=str(run.path), of=of)]
    kind, _, layer = part.partition("/")
    if kind == _NEURONS and layer in neurons.neuron_layers(config.neurons):
        of = UnitTables(run, layer).digest()
        whole, *others = neurons.parts(run, layer, config.cells.grids)
        items = [Item(name, NAME, run=str(run.path), of=of) for name in others]
        return [*items, Item(whole, NAME, tuple(others), str(run.path), of)]
    name, *rest = part.split("/")
    own_map = find_map(maps_of(config.layers, config.layout, config.cells), name)
    published = published_maps(run, [own_map])
    if not published:
        return []
    (atlas_map,) = published
    of = layout.coordinates_digest(run, atlas_map, config.layers, config.layout)
    if part == part_of_pyramid(atlas_map):
        return [Item(part, NAME, run=str(run.path), of=of)]
    grid = int(rest[0].removeprefix("grid-"))
    if grid not in atlas_map.grids:
        return []
    if rest[1:] == ["errors"] and not run.label_classes(config.module_of(atlas_map.layer)[0]):
        return []
    if rest[1:] != ["details"]:
        return [Item(part, NAME, run=str(run.path), of=of)]
    sheet_count = len(sheets.sheets(run, atlas_map, grid, config.cells.min_count))
    names = [f"{part}-{number:05d}" for number in range(sheet_count)]
    return [Item(name, NAME, run=str(run.path), of=of) for name in (f"{name}/{rest[0]}/patches", *names)]


def site_contents(config: Config, run: RunDirectory) -> tuple[SiteContents, str]:
    """What is published so far, the maps with their grids that are whole, the layers whose units are, the tour, and
    what is missing; and the digest of what all that was made from beyond the stage's key. So one more map leaves what
    is published of the others as it is, and only the page is made again."""
    key = run.stage_key(NAME)
    unit_digests = _unit_digests(run, config.neurons)
    tour_digest = _tour_digest(config.tour, unit_digests, config.opening)

    def is_published(name: str, of: str | None) -> bool:
        item = Item(name, NAME, of=of or "")
        return of is not None and is_done(item, markers(item, run, config), key)

    asked_for = maps_of(config.layers, config.layout, config.cells)
    maps, quick_grids, error_layers = [], [], []
    sources: list[Any] = []
    for atlas_map in published_maps(run, asked_for):
        of = layout.find_coordinates_digest(run, atlas_map, config.layers, config.layout)
        names = {grid: render.part_of_grid(atlas_map, grid) for grid in atlas_map.grids}
        full = [grid for grid, name in names.items() if is_published(name, of)]
        quick = [grid for grid, name in names.items() if grid not in full and is_published(render.quick_part(name), of)]
        if full or quick:
            maps.append(replace(atlas_map, grids=tuple(sorted((*full, *quick)))))
            quick_grids += [(atlas_map.name, grid) for grid in quick]
            sources.append([atlas_map.name, full, quick, of, layout_facts(run, atlas_map)])
            # The first says whether it is to be had, the second is in the report.
            published = not atlas_map.classes and all(is_published(part_of_errors(name), of) for name in names.values())
            if not atlas_map.classes and (facts := error_facts(run, atlas_map.layer)) is not None:
                sources.append(["errors", published, facts])
            if published:
                error_layers.append(atlas_map.layer)
    unit_layers = [layer for layer, of in unit_digests.items() if is_published(f"{_NEURONS}/{layer}/layer", of)]
    has_tour = is_published(_TOUR, tour_digest)
    contents = SiteContents(
        tuple(maps), tuple(unit_layers), has_tour, frozenset(quick_grids), frozenset(error_layers)
    ).beside(foreseen_maps(run, asked_for), tuple(unit_digests), tour=config.tour is not None)
    return contents, digest_values(
        sources,
        {layer: unit_digests[layer] for layer in unit_layers},
        tour_digest if contents.tour else None,
        config.opening,
        contents.missing.plain() if contents.missing else None,
    )


def _unit_digests(run: RunDirectory, settings: NeuronsConfig | None) -> dict[str, str]:
    """What is published of each layer's units depends on the tables of the neurons stage; the rest does not."""
    return {layer: UnitTables(run, layer).digest() for layer in neurons.neuron_layers(settings)}


def _tour_digest(text: str | None, unit_digests: Mapping[str, str], opening: str) -> str | None:
    """What the tour depends on beyond the stage's key; None where the run has none."""
    return None if text is None else digest_values(tour.digest(text), unit_digests, opening)


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item, in the site's hidden folder. A grid's own vouches for the quick one too."""
    folder = run.folder(NAME) / ".markers"
    if item.id.endswith("/quick"):
        own = folder / f"{item.id.removesuffix('/quick').replace('/', '-')}.json"
        if is_done(item, [own], run.stage_key(NAME)):
            return [own]
    return [folder / f"{item.id.replace('/', '-')}.json"]


def run_item(item: Item) -> Summary:
    """Write one part of the site."""
    run, config = item.open()
    facts: dict[str, object] = {"of": item.of} if item.of else {}
    if item.id == _PAGE:
        present, _ = site_contents(config, run)
        report = build_report(
            run, present.maps, min_count=config.cells.min_count, neurons=config.neurons, quick=present.quick_grids
        )
        files = page.write_page(run, config, present, report)
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
        name, *rest = item.id.split("/")
        form, listing = page.tile_format(config.render.size), worker.listing(run)
        own_map = find_map(maps_of(config.layers, config.layout, config.cells), name)
        (atlas_map,) = published_maps(run, [own_map])
        grid = 0 if rest == ["atlas"] else int(rest[0].removeprefix("grid-"))
        if rest == ["atlas"]:
            files = page.write_combined(run, atlas_map, form)
        elif rest[1:] == ["patches"]:
            files, facts["patches_failed"] = page.write_patches(
                run, listing, atlas_map, grid, form=form, min_count=config.cells.min_count, seed=config.seed
            )
        elif rest[1:] == ["errors"]:
            files, facts["patches_failed"] = errors.write_errors(run, listing, atlas_map, grid, seed=config.seed)
        elif rest[1:] in ([], ["quick"]):
            files = page.write_grid(
                run, atlas_map, grid, form=form, attributions=config.collect.attributions, quick=rest[1:] == ["quick"]
            )
        else:
            number = int(rest[1].removeprefix("details-"))
            blocks = sheets.sheets(run, atlas_map, grid, config.cells.min_count)[number]
            files, facts["patches_failed"] = sheets.write_sheets(
                run, listing, atlas_map, grid, blocks, layers=config.layers, settings=config.cells, seed=config.seed
            )
    write_marker(markers(item, run, config)[0], key=run.stage_key(NAME), files=files, **facts)
    return Summary(1)


def remove_quick(run: RunDirectory, map_name: str, grids: Iterable[int]) -> None:
    """Remove what showed a map's quick icons, when all is published and the page shows it."""
    for grid in grids:
        shutil.rmtree(page.grid_folder(run, map_name, grid, quick=True), ignore_errors=True)
        (run.folder(NAME) / ".markers" / f"{map_name}-grid-{grid:03d}-quick.json").unlink(missing_ok=True)

"""Stage render: cells → icons. An item is a batch of one grid's cells, after those of the coarser cells around."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.cells.icons import drawn_cells, icon_table, read_icons
from atlas.config.model import Config
from atlas.config.sections import RenderConfig
from atlas.pictures.decode import decode_png
from atlas.pictures.hashing import uniform_hash
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory, move_folder_aside
from atlas.rundir.maps import AtlasMap, find_map, maps_of
from atlas.rundir.markers import parse_marker, write_marker
from atlas.rundir.remote import is_remote
from atlas.store.moments import Moments
from atlas.visualize import Recipe, draw, score
from atlas.visualize.coarse_start import blend, coarser_cells
from atlas.visualize.recipe import ATLAS
from pipelines import cells, layout, rank, worker
from pipelines.batch_settings import measure_drawing
from pipelines.stage import Item, Part, Summary, is_done, part_id

NAME = "render"
WORK = "icons"
REDO_DEPENDENTS = False
prepare_worker = None


def parts(config: Config) -> list[Part]:
    """One for each grid of a map, planned when the map's cells are there: an item of a finer grid waits for those items
    of the coarser one that it starts from, not for the whole grid. On the map that the page opens on, quick icons of
    all grids come before."""
    maps = maps_of(config.layers, config.layout, config.cells)
    quick = quick_map(config.opening, config.render, config.out)
    ranks = rank.of_maps(maps, config.opening)
    parts_of_maps: list[Part] = []
    for atlas_map in maps:
        cells_part = part_id(cells.NAME, atlas_map.name)
        names = [part_of_grid(atlas_map, grid) for grid in atlas_map.grids]
        quick_names = [quick_part(name) for name in names] if atlas_map.name == quick else []
        for level, name in enumerate(quick_names):
            parts_of_maps.append(Part(NAME, name, (cells_part,), ranks[atlas_map.name] + level))
        # All at once, as their items wait for each other.
        after = (cells_part, *(part_id(NAME, name) for name in quick_names))
        for level, name in enumerate(names, len(names)):
            parts_of_maps.append(Part(NAME, name, after, ranks[atlas_map.name] + level))
    return parts_of_maps


def quick_map(opening: str, settings: RenderConfig, out: str) -> str | None:
    """The map whose icons come twice, if one does: the one that the page is ``opening`` on, where full icons take much
    longer. What is copied to an address comes once."""
    steps = recipe(settings).steps if settings.steps == "auto" else settings.steps
    return opening if 0 < 2 * settings.quick_steps <= steps and not is_remote(out) else None


def part_of_grid(atlas_map: AtlasMap, grid: int) -> str:
    """The name of the part that draws one grid of a map."""
    return f"{atlas_map.name}/grid-{grid:03d}"


def quick_part(name: str) -> str:
    """The name of the part that draws the quick icons of the grid of part ``name``."""
    return f"{name}/quick"


def plan(part: str, config: Config, run: RunDirectory) -> list[Item]:
    """Batches of a grid's drawn cells, each after the batches that hold the coarser cells around; where there are quick
    icons, the batches with the worst of them first."""
    quick = part.endswith("/quick")
    kind, part = ("quick", part.removesuffix("/quick")) if quick else ("part", part)
    name, _, digits = part.rpartition("/grid-")
    atlas_map, grid = find_map(maps_of(config.layers, config.layout, config.cells), name), int(digits)
    number = atlas_map.grids.index(grid)
    items_of_cells = partial(
        _items_of_cells,
        run,
        atlas_map,
        min_count=config.cells.min_count,
        icons_per_item=config.render.icons_per_item,
        kind=kind,
    )
    coarser = items_of_cells(atlas_map.grids[number - 1]) if number else {}
    own = items_of_cells(grid)
    icons = Counter(own.values())
    after: dict[str, set[str]] = {}
    for (row, col), name in own.items():
        after.setdefault(name, set()).update(coarser[around] for around in coarser_cells(row, col) if around in coarser)
    of = layout.coordinates_digest(run, atlas_map, config.layers, config.layout)
    names = list(after) if quick else sorted(after, key=_quick_cosines(run, atlas_map, grid, own).__getitem__)
    return [
        Item(name, NAME, tuple(sorted(after[name])), str(run.path), of, 0 if quick else icons[name]) for name in names
    ]


def _items_of_cells(
    run: RunDirectory, atlas_map: AtlasMap, grid: int, *, min_count: int, icons_per_item: int, kind: str
) -> dict[tuple[int, int], str]:
    """The item that draws each drawn cell (row, col) of a grid, in the order of the items."""
    level = drawn_cells(run.cells(atlas_map.name), grid, min_count)
    return {
        cell: f"{part_of_grid(atlas_map, grid)}/{kind}-{number // icons_per_item:05d}"
        for number, cell in enumerate(zip(level["row"].tolist(), level["col"].tolist()))
    }


def _quick_cosines(
    run: RunDirectory, atlas_map: AtlasMap, grid: int, items: Mapping[tuple[int, int], str]
) -> dict[str, float]:
    """The mean cosine of the quick icons of each of ``items``, which are given by their cells; 0 where none is."""
    sums: Counter[str] = Counter()
    for icon in read_icons(run, atlas_map.name, grid, ["row", "col", "cosine"], quick=True).to_pylist():
        if (item := items.get((icon["row"], icon["col"]))) is not None:
            sums[item] += icon["cosine"]
    counts = Counter(items.values())
    return {item: sums[item] / count for item, count in counts.items()}


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """One for an item, in the folder of its map's grid, beside the batch of icons that it vouches for. Where the icons
    themselves are there, their marker vouches for the quick ones too."""
    full = run.folder(NAME) / f"{item.id.replace('/quick-', '/part-')}.json"
    if "/quick-" not in item.id or is_done(item, [full], run.stage_key(NAME)):
        return [full]
    return [run.folder(NAME) / f"{item.id}.json"]


def split(item: Item) -> tuple[str, int, str, int]:
    """The map's name, grid, kind (part or quick) and batch number of an item."""
    name, grid, batch = item.id.rsplit("/", 2)
    kind, _, number = batch.partition("-")
    return name, int(grid.removeprefix("grid-")), kind, int(number)


def move_aside(part: str, items: list[Item], run: RunDirectory) -> None:
    """Icons of cells that were cut from other coordinates: their folder gets their digest behind its name."""
    folder = run.folder(NAME) / part.removesuffix("/quick")
    of = {marker.get("of", "") for path in folder.glob("*.json") if (marker := parse_marker(path))}
    other = of - {item.of for item in items}
    if other:
        move_folder_aside(folder, min(other))


@lru_cache(maxsize=4)
def _level(path: Path, grid: int, min_count: int, _key: str) -> dict[str, NDArray[Any]]:
    """The drawn cells of one grid with their means, quantiles and norms, cached between the items of a level."""
    return drawn_cells(path, grid, min_count, "mean", "cosines", "norm")


def run_item(item: Item) -> Summary:
    """Draw one batch of icons, and score them."""
    run, config = item.open()
    name, grid, kind, part = split(item)
    quick = kind == "quick"
    atlas_map = find_map(maps_of(config.layers, config.layout, config.cells), name)
    network_name, module = config.module_of(atlas_map.layer)
    network = worker.network(run, config.networks()[network_name], threads=config.cluster.threads)
    key = run.stage_key(NAME)
    level = _level(run.cells(name), grid, config.cells.min_count, key + item.of)
    row, col = level["row"], level["col"]
    cell_numbers = np.arange(
        part * config.render.icons_per_item, min((part + 1) * config.render.icons_per_item, len(row))
    )
    moments = Moments.load(run.moments(atlas_map.layer)).second_moment
    coarsest = grid == atlas_map.grids[0]
    starts = None if coarsest else _starts(run, item, row[cell_numbers], col[cell_numbers])
    settings, batch_settings = config.render, run.stage_facts(NAME)["batch_settings"][atlas_map.layer]
    icons = draw(
        network,
        module,
        level["mean"][cell_numbers],
        second_moment=moments,
        size=settings.size,
        recipe=recipe(settings),
        steps=settings.quick_steps if quick else None if settings.steps == "auto" else settings.steps,
        start=starts,
        precision=batch_settings["precision"],
        compile=settings.compile,
        batch=batch_settings["batch"],
        seeds=icon_seeds(config.seed, grid, row[cell_numbers], col[cell_numbers], coarsest=coarsest),
    )
    scores = score(
        network,
        module,
        icons.pixels,
        level["mean"][cell_numbers],
        second_moment=moments,
        all_means=level["mean"],
        own_index=cell_numbers,
        quantiles=level["cosines"][cell_numbers],
        norms=level["norm"][cell_numbers],
    )
    table = icon_table(grid, row[cell_numbers], col[cell_numbers], icons, scores)
    path = run.icons(name, grid) / f"{kind}-{part:05d}.parquet"
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="none")  # PNGs do not shrink
    write_marker(path.with_suffix(".json"), key=key, files=[path], of=item.of, rows=len(cell_numbers))
    return Summary(0 if quick else len(cell_numbers))


def remove_quick(run: RunDirectory, map_name: str, grids: Iterable[int]) -> None:
    """Remove a map's quick icons, when all icons are there."""
    for folder in (run.icons(map_name, grid) for grid in grids):
        for path in [*folder.glob("quick-*.json"), *folder.glob("quick-*.parquet")]:
            path.unlink(missing_ok=True)


def recipe(settings: RenderConfig) -> Recipe:
    """How the run's icons are drawn."""
    return replace(ATLAS, power=settings.power, ridge=settings.ridge)


def measure_batch_settings(path: str) -> dict[str, dict[str, Any]]:
    """Precision and batch of each layer of the run at ``path``: as configured, or as suits this worker."""
    run = RunDirectory(Path(path))
    size = run.config().render.size
    return measure_drawing(run, lambda *_: size)


def _starts(run: RunDirectory, item: Item, row: NDArray[np.int64], col: NDArray[np.int64]) -> NDArray[np.uint8]:
    """What the icons start from, uint8 (n, size, size, 3): the coarser pictures around."""
    pictures: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for name in item.after:
        table = pq.read_table(run.folder(NAME) / f"{name}.parquet", columns=["row", "col", "png"])
        for coarser in table.to_pylist():
            pictures[coarser["row"], coarser["col"]] = decode_png(coarser["png"])
    return np.stack([blend(pictures, r, c) for r, c in zip(row.tolist(), col.tolist())])


def icon_seeds(
    seed: int, grid: int, row: NDArray[np.int64], col: NDArray[np.int64], *, coarsest: bool
) -> NDArray[np.int64]:
    """The seeds (n,) of the icons' noise.

    On the coarsest grid all begin alike, so that neighbours look like neighbours; finer icons, which begin with the
    pictures around, have their own.
    """
    cells = [(0, 0) if coarsest else cell for cell in zip(row.tolist(), col.tolist())]
    return np.array([int(uniform_hash(seed, grid, *cell)[0] * 2**31) for cell in cells], dtype=np.int64)

"""Whether the tables of a run's stages agree: the rows of the store (``atlas.check.rows``), cells with the layout,
icons with the cells, the site and the report with all of them.

A comparison that would need a file already found wrong is left out. Memory holds one row group of a layout and one
map's counts at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from atlas.cells.icons import read_icons
from atlas.check.findings import Findings
from atlas.check.rows import compare_rows
from atlas.config.model import Config
from atlas.layout.lattice import cell_of
from atlas.neurons.parts import part_names, units_of
from atlas.neurons.tables import missing_columns
from atlas.report import build_report
from atlas.rundir.maps import shown_maps
from atlas.rundir.stages import stages_of
from atlas.site.neurons import neuron_layers
from atlas.site.neurons import parts as neuron_parts
from atlas.site.sheets import sheets
from atlas.store.shards import to_numpy


def compare(found: Findings, config: Config, console: Console) -> None:
    """Compare the stages of the present configuration, and tell how far each is: in ``found``."""
    compare_rows(found, config, console)
    _layout(found)
    for each in found.maps:
        _cells(found, each.name)
        _icons(found, each.name)
    _stage_of_cells(found)
    _stage_of_icons(found)
    if config.neurons is not None:
        _neurons(found, config.neurons.layers)
    _publish(found, config)
    _report(found, config)
    for stage in stages_of(config):
        if stage in found.stale:
            found.stages[stage] = "of an earlier configuration; the run moves it aside when it comes by"
        elif not found.run.folder(stage).exists():
            found.stages[stage] = "not begun"


def _layout(found: Findings) -> None:
    folder, markers = found.run.folder("layout"), found.markers["layout"]
    box = folder / "box.json"
    finished = box in markers
    fits = [folder / f"fit-{frame}.json" for frame in found.frames]
    classes = [folder / f"class-{each.name}.json" for each in found.maps if each.classes]
    measured = [folder / f"quality-{each.name}.json" for each in found.maps if not each.classes]
    for path in [*fits, *classes, *measured, box]:
        if path not in markers and path not in found.suspect:
            later = found.begun("cells", "render", "publish")
            if finished or (path == box and later):
                found.wrong(path, "the marker is missing, though later work was done", *found.with_it("layout", path))
    done = sum(path in markers for path in fits)
    told = f"{done} of {len(fits)} layouts"
    if classes:
        done = sum(path in markers for path in classes)
        finished = finished and done == len(classes)
        told += f", {done} of {len(classes)} of classes"
    found.stages["layout"] = f"{'finished' if finished else 'unfinished'}: {told}"


def _cells(found: Findings, layer: str) -> None:
    """Counts of cells against the layout."""
    run = found.run
    path, marker = run.cells(layer), found.markers["cells"].get(run.folder("cells") / f"{layer}.json")
    if marker is None or found.stale & {"layout", "cells"} or found.suspect & {path, run.layout(layer)}:
        return
    table = found.table(path, ("grid", "row", "col", "count"))
    if table is None or not run.layout(layer).exists():
        return
    grids = [int(grid) for grid in marker["drawn"]]
    counts = {grid: np.zeros(grid * grid, np.int64) for grid in grids}
    with pq.ParquetFile(run.layout(layer)) as file:
        for batch in file.iter_batches(columns=["u", "v"]):
            u, v = (to_numpy(pa.chunked_array([batch[name]])) for name in ("u", "v"))
            for grid in grids:
                cells = cell_of(u, v, grid)
                counts[grid] += np.bincount(cells[cells >= 0], minlength=grid * grid)
    of_grid, row, col, count = (to_numpy(table[name]) for name in ("grid", "row", "col", "count"))
    for grid in grids:
        mine = of_grid == grid
        told = np.zeros(grid * grid, np.int64)
        np.add.at(told, row[mine] * grid + col[mine], count[mine])
        different = np.flatnonzero(told != counts[grid])
        if len(different):
            cell = int(different[0])
            what = (
                f"{len(different)} cells of grid {grid} do not hold the layout's rows, such as row {cell // grid}, col "
                f"{cell % grid}: {told[cell]:,} rows, the layout has {counts[grid][cell]:,}"
            )
            found.wrong(path, what, path)
            return


def _icons(found: Findings, layer: str) -> None:
    """Icons against the drawn cells: those of most rows, each once."""
    run = found.run
    marker = found.markers["cells"].get(run.folder("cells") / f"{layer}.json")
    path = run.cells(layer)
    if marker is None or found.stale & {"cells", "render"} or path in found.suspect:
        return
    for grid, drawn in marker["drawn"].items():
        folder = run.icons(layer, int(grid))
        parts = sorted(folder.glob("part-*.parquet"))
        kept = [part.with_suffix(".json") in found.markers["render"] for part in parts]
        if found.suspect & {*parts, *folder.glob("part-*.json")} or not all(kept):
            continue
        icons = read_icons(run, layer, int(grid), ["row", "col"])
        mine = list(zip(icons["row"].to_pylist(), icons["col"].to_pylist())) if icons.num_rows else []
        table = pq.read_table(path, columns=["row", "col", "count"], filters=[("grid", "=", int(grid))])
        count = dict(zip(zip(table["row"].to_pylist(), table["col"].to_pylist()), table["count"].to_pylist()))
        strangers = [cell for cell in mine if cell not in count]
        most = sorted(count.values(), reverse=True)
        fewest = most[drawn - 1] if drawn else 0
        delete = [one for part in parts for one in (part, part.with_suffix(".json"))]
        if strangers:
            found.wrong(
                folder, f"has an icon at row {strangers[0][0]}, col {strangers[0][1]}, where no cell is", *delete
            )
        elif len(set(mine)) < len(mine):
            found.wrong(folder, "has two icons of one cell", *delete)
        elif any(count[cell] < fewest for cell in mine):
            found.wrong(folder, "has icons of cells that are not drawn", *delete)
        elif len(mine) != drawn and found.begun("publish"):
            found.wrong(folder, f"has {len(mine)} icons, but {drawn} cells are drawn", *delete)


def _stage_of_cells(found: Findings) -> None:
    paths = [found.run.folder("cells") / f"{each.name}.json" for each in found.maps]
    done = sum(path in found.markers["cells"] for path in paths)
    finished = done == len(paths)
    if not finished and found.begun("render", "publish"):
        for path in paths:
            if path not in found.markers["cells"] and path not in found.suspect:
                found.wrong(path, "the marker is missing, though icons were drawn from it")
    found.stages["cells"] = f"{'finished' if finished else 'unfinished'}: {done} of {len(paths)} maps"


def _stage_of_icons(found: Findings) -> None:
    cells, icons = found.run.folder("cells"), found.run.folder("render")
    names = {each.name for each in found.maps}
    counted = [marker for path, marker in found.markers["cells"].items() if path.relative_to(cells).stem in names]
    drawn = sum(sum(marker["drawn"].values()) for marker in counted)
    done = sum(
        marker["rows"] for path, marker in found.markers["render"].items() if path.relative_to(icons).parts[0] in names
    )
    whole = len(counted) == len(names) and done == drawn
    found.stages["render"] = f"{'finished' if whole else 'unfinished'}: {done:,} of {drawn:,} icons"


def _neurons(found: Findings, layers: Sequence[str]) -> None:
    """What is told of units: that the rows of a layer's store were counted, and each unit looked at once."""
    markers, done, missing = found.markers["neurons"], 0, 0
    for layer in layers:
        folder = found.run.neurons(layer)
        statistics = folder / "statistics.parquet"
        if statistics.with_suffix(".json") not in markers or statistics in found.suspect:
            missing += 1
            continue
        table = found.table(statistics, ("unit", "rows", "histogram"))
        if table is None:
            continue
        shards = [path for path in found.markers["collect"] if path.parent == found.run.store(layer)]
        rows = sum(found.markers["collect"][path]["rows"] for path in shards)
        counted = to_numpy(table["histogram"]).sum(1)
        if "neurons" not in found.stale and ((to_numpy(table["rows"]) != rows).any() or (counted != rows).any()):
            found.wrong(statistics, f"does not count the {rows:,} rows of the store", statistics)
        names = part_names(table.num_rows)
        paths = [folder / f"{name}.parquet" for name in (*names, "circuit", "cells")]
        if older := [(path, lacking) for path in paths if (lacking := _lacking(found, path))]:
            path, lacking = older[0]
            found.wrong(path, f"was written by another version: it has no {', '.join(lacking)}")
            continue
        for name in names:
            path = folder / f"{name}.parquet"
            if path.with_suffix(".json") not in markers:
                missing += 1
            elif path not in found.suspect and (part := found.table(path, ("unit",))) is not None:
                if part["unit"].to_pylist() != units_of(name, table.num_rows):
                    found.wrong(path, "holds other units than its own", path)
                done += part.num_rows
        missing += sum(folder / f"{name}.json" not in markers for name in ("circuit", "cells"))
    found.stages["neurons"] = f"{'unfinished' if missing else 'finished'}: {done:,} units"


def _lacking(found: Findings, path: Path) -> list[str]:
    """The columns that a table of units lacks, which a marker vouches for: it was written by another version."""
    if path.with_suffix(".json") not in found.markers["neurons"] or path in found.suspect:
        return []
    try:
        return missing_columns(path)
    except (pa.ArrowException, OSError):
        return []  # what cannot be read is found below


def _publish(found: Findings, config: Config) -> None:
    """The site: all its parts, and the counts that it shows against the cells."""
    folder, markers = found.run.folder("publish") / ".markers", found.markers["publish"]
    maps = shown_maps(found.run, config)
    parts = [f"{each.name}-atlas" for each in maps]
    cut = [each for each in maps if found.run.folder("cells") / f"{each.name}.json" in found.markers["cells"]]
    for each in cut:
        for grid in each.grids:
            parts.append(f"{each.name}-grid-{grid:03d}")
            if found.run.cells(each.name) not in found.suspect:
                made = range(len(sheets(found.run, each, grid, config.cells.min_count)))
                parts += [f"{each.name}-grid-{grid:03d}-details-{part:05d}" for part in made]
    parts += [
        part.replace("/", "-")
        for layer in neuron_layers(config.neurons)
        for part in neuron_parts(found.run, layer, config.cells.grids)
    ]
    parts += ["tour"] if config.tour is not None else []
    done = sum(folder / f"{part}.json" in markers for part in parts)
    finished = folder / "page.json" in markers
    if finished and not found.stale:
        for part in parts:
            path = folder / f"{part}.json"
            if path not in markers and path not in found.suspect:
                found.wrong(path, "the marker is missing, though the site was finished")
        for each in cut:
            for grid in each.grids:
                _shown(found, each.name, grid)
    state = "finished" if finished and done == len(parts) else "unfinished"
    found.stages["publish"] = f"{state}: {done} of {len(parts)} parts" + (" and the page" if finished else "")


def _shown(found: Findings, layer: str, grid: int) -> None:
    path, cells = found.run.site_grid(layer, grid) / "cells.json", found.run.cells(layer)
    if found.suspect & {path, cells} or not path.exists():
        return
    told = json.loads(path.read_text(encoding="utf-8"))
    table = pq.read_table(cells, columns=["row", "col", "count"], filters=[("grid", "=", grid)])
    if any(told[name] != table[name].to_pylist() for name in ("row", "col", "count")):
        found.wrong(path, "shows other cells than cells/ has", path)


def _report(found: Findings, config: Config) -> None:
    """report.json against a report that is made anew; only the speed, which belongs to its day, may differ."""
    path = found.run.report
    before = [stage for stage in stages_of(config) if stage != "publish"]
    finished = all(found.stages[stage].startswith("finished") for stage in before)
    if found.problems or found.stale or not finished:
        return
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if found.begun("publish"):
            found.wrong(path, "missing, though the site was made from it")
        return
    except ValueError:
        found.wrong(path, "cut off or overwritten", path)
        return
    for key, value in _leaves(build_report(found.run, config)):
        other = _leaf(told, key)
        alike = np.isclose(value, other) if isinstance(value, float) and isinstance(other, float) else value == other
        if key[-1] != "images_per_second" and not alike:
            found.wrong(path, f"says {'.'.join(key)} = {other}, the stages' files give {value}", path)
            return


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, value


def _leaf(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value

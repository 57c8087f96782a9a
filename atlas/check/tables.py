"""Whether the tables of a run's stages agree: cells with the layout, icons with the cells, the site and the report with
all of them. The rows of the store have a module of their own (``atlas.check.rows``).

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

from atlas.cells.icons import read_icons
from atlas.check.findings import Findings
from atlas.config.model import Config
from atlas.config.sections import CellsConfig, NeuronsConfig
from atlas.layout.lattice import cell_of
from atlas.neurons.parts import part_names, units_of_part
from atlas.neurons.tables import missing_columns
from atlas.report import build_report
from atlas.rundir.maps import AtlasMap, published_maps
from atlas.rundir.stages import stages_of
from atlas.site.neurons import neuron_layers
from atlas.site.neurons import parts as neuron_parts
from atlas.site.sheets import sheets
from atlas.store.shards import to_numpy


def compare_tables(findings: Findings, cells: CellsConfig, neurons: NeuronsConfig | None, *, has_tour: bool) -> None:
    """Compare the stages after collect, as the run's configuration asks for them; ``findings`` get the problems, and
    how far each stage is."""
    _layout(findings)
    for atlas_map in findings.maps:
        _cells(findings, atlas_map.name)
        if not atlas_map.classes:
            _errors(findings, atlas_map)
        _icons(findings, atlas_map.name)
    _stage_of_cells(findings)
    _stage_of_icons(findings)
    if neurons is not None:
        _neurons(findings, neurons.layers)
    _publish(findings, cells, neurons, has_tour=has_tour)
    _report(findings, cells.min_count, neurons)
    for stage in stages_of(neurons):
        if stage in findings.stale:
            findings.stages[stage] = "of an earlier configuration; the run moves it aside when it comes by"
        elif not findings.run.folder(stage).exists():
            findings.stages[stage] = "not begun"


def _layout(findings: Findings) -> None:
    folder, markers = findings.run.folder("layout"), findings.markers["layout"]
    boxes = [folder / f"{name}.json" for name in findings.layout_boxes]
    finished = all(box in markers for box in boxes)
    fits = [folder / f"fit-{group}.json" for group in findings.layout_groups]
    classes = [folder / f"class-{atlas_map.name}.json" for atlas_map in findings.maps if atlas_map.classes]
    qualities = [folder / f"quality-{atlas_map.name}.json" for atlas_map in findings.maps if not atlas_map.classes]
    for path in [*fits, *classes, *qualities, *boxes]:
        if path not in markers and path not in findings.suspect:
            later = findings.begun("cells", "render", "publish")
            if finished or (path in boxes and later):
                delete = findings.with_it("layout", path)
                findings.wrong(path, "the marker is missing, though later work was done", *delete)
    marker_count = sum(path in markers for path in fits)
    counts = f"{marker_count} of {len(fits)} layouts"
    if classes:
        marker_count = sum(path in markers for path in classes)
        finished = finished and marker_count == len(classes)
        counts += f", {marker_count} of {len(classes)} of classes"
    findings.stages["layout"] = f"{'finished' if finished else 'unfinished'}: {counts}"


def _cells(findings: Findings, map_name: str) -> None:
    """Counts of cells against the layout."""
    run = findings.run
    path, marker = run.cells(map_name), findings.markers["cells"].get(run.folder("cells") / f"{map_name}.json")
    if marker is None or findings.stale & {"layout", "cells"} or findings.suspect & {path, run.layout(map_name)}:
        return
    table = findings.table(path, ("grid", "row", "col", "count"))
    if table is None or not run.layout(map_name).exists():
        return
    grids = [int(grid) for grid in marker["drawn"]]
    counts = {grid: np.zeros(grid * grid, np.int64) for grid in grids}
    with pq.ParquetFile(run.layout(map_name)) as file:
        for batch in file.iter_batches(columns=["u", "v"]):
            u, v = (to_numpy(pa.chunked_array([batch[name]])) for name in ("u", "v"))
            for grid in grids:
                cells = cell_of(u, v, grid)
                counts[grid] += np.bincount(cells[cells >= 0], minlength=grid * grid)
    of_grid, row, col, count = (to_numpy(table[name]) for name in ("grid", "row", "col", "count"))
    for grid in grids:
        of_this_grid = of_grid == grid
        in_table = np.zeros(grid * grid, np.int64)
        np.add.at(in_table, row[of_this_grid] * grid + col[of_this_grid], count[of_this_grid])
        different = np.flatnonzero(in_table != counts[grid])
        if len(different):
            cell = int(different[0])
            what = (
                f"{len(different)} cells of grid {grid} do not hold the layout's rows, such as row {cell // grid}, col "
                f"{cell % grid}: {in_table[cell]:,} rows, the layout has {counts[grid][cell]:,}"
            )
            findings.wrong(path, what, path)
            return


def _errors(findings: Findings, atlas_map: AtlasMap) -> None:
    """Where a network errs: each cell holds at most as many pictures as rows, and the marker counts its slices."""
    path, cells = findings.run.errors(atlas_map.layer), findings.run.cells(atlas_map.layer)
    marker = findings.markers["cells"].get(path.with_suffix(".json"))
    if marker is None or "cells" in findings.stale or findings.suspect & {path, cells}:
        return
    table = findings.table(path, ("grid", "row", "col", "pictures", "slice"))
    counts = findings.table(cells, ("grid", "row", "col", "count"))
    if table is None or counts is None:
        return
    rows_of_cells = {(one["grid"], one["row"], one["col"]): one["count"] for one in counts.to_pylist()}
    slices = dict.fromkeys(marker["facts"]["grids"], 0)
    for one in table.to_pylist():
        cell = one["grid"], one["row"], one["col"]
        if one["pictures"] > rows_of_cells.get(cell, 0):
            what = f"has {one['pictures']:,} pictures in grid {cell[0]}, row {cell[1]}, col {cell[2]}, where "
            findings.wrong(path, f"{what}{rows_of_cells.get(cell, 0):,} rows are", path)
            return
        slices[str(cell[0])] += one["slice"]
    if slices != {grid: facts["slices"] for grid, facts in marker["facts"]["grids"].items()}:
        findings.wrong(path, "has other slices than its marker says", path)


def _icons(findings: Findings, map_name: str) -> None:
    """Icons against the drawn cells: those of most rows, each once."""
    run = findings.run
    marker = findings.markers["cells"].get(run.folder("cells") / f"{map_name}.json")
    path = run.cells(map_name)
    if marker is None or findings.stale & {"cells", "render"} or path in findings.suspect:
        return
    for grid, drawn_count in marker["drawn"].items():
        folder = run.icons(map_name, int(grid))
        parts = sorted(folder.glob("part-*.parquet"))
        finished = [part.with_suffix(".json") in findings.markers["render"] for part in parts]
        if findings.suspect & {*parts, *folder.glob("part-*.json")} or not all(finished):
            continue
        icons = read_icons(run, map_name, int(grid), ["row", "col"])
        cells = list(zip(icons["row"].to_pylist(), icons["col"].to_pylist())) if icons.num_rows else []
        table = pq.read_table(path, columns=["row", "col", "count"], filters=[("grid", "=", int(grid))])
        count = dict(zip(zip(table["row"].to_pylist(), table["col"].to_pylist()), table["count"].to_pylist()))
        without_cell = [cell for cell in cells if cell not in count]
        most = sorted(count.values(), reverse=True)
        fewest = most[drawn_count - 1] if drawn_count else 0
        delete = [file for part in parts for file in (part, part.with_suffix(".json"))]
        if without_cell:
            findings.wrong(
                folder, f"has an icon at row {without_cell[0][0]}, col {without_cell[0][1]}, where no cell is", *delete
            )
        elif len(set(cells)) < len(cells):
            findings.wrong(folder, "has two icons of one cell", *delete)
        elif any(count[cell] < fewest for cell in cells):
            findings.wrong(folder, "has icons of cells that are not drawn", *delete)
        elif len(cells) != drawn_count and findings.begun("publish"):
            findings.wrong(folder, f"has {len(cells)} icons, but {drawn_count} cells are drawn", *delete)


def _stage_of_cells(findings: Findings) -> None:
    paths = [findings.run.folder("cells") / f"{atlas_map.name}.json" for atlas_map in findings.maps]
    marker_count = sum(path in findings.markers["cells"] for path in paths)
    errors = [
        findings.run.errors(layer).with_suffix(".json")
        for layer in (one.layer for one in findings.maps if not one.classes)
        if findings.run.label_classes(Config.module_of(layer)[0])
    ]
    finished = marker_count == len(paths) and all(path in findings.markers["cells"] for path in errors)
    if marker_count < len(paths) and findings.begun("render", "publish"):
        for path in paths:
            if path not in findings.markers["cells"] and path not in findings.suspect:
                findings.wrong(path, "the marker is missing, though icons were drawn from it")
    findings.stages["cells"] = f"{'finished' if finished else 'unfinished'}: {marker_count} of {len(paths)} maps"


def _stage_of_icons(findings: Findings) -> None:
    cells, icons = findings.run.folder("cells"), findings.run.folder("render")
    names = {atlas_map.name for atlas_map in findings.maps}
    cell_markers = [
        marker for path, marker in findings.markers["cells"].items() if path.parent == cells and path.stem in names
    ]
    drawn_count = sum(sum(marker["drawn"].values()) for marker in cell_markers)
    markers = findings.markers["render"].items()
    icon_count = sum(
        marker["rows"]
        for path, marker in markers
        if path.relative_to(icons).parts[0] in names and path.name.startswith("part-")
    )
    whole = len(cell_markers) == len(names) and icon_count == drawn_count
    findings.stages["render"] = f"{'finished' if whole else 'unfinished'}: {icon_count:,} of {drawn_count:,} icons"


def _neurons(findings: Findings, layers: Sequence[str]) -> None:
    """The tables of units: that the rows of a layer's store were counted, and each unit was measured once."""
    markers, unit_count, missing = findings.markers["neurons"], 0, 0
    for layer in layers:
        folder = findings.run.neurons(layer)
        statistics = folder / "statistics.parquet"
        if statistics.with_suffix(".json") not in markers or statistics in findings.suspect:
            missing += 1
            continue
        table = findings.table(statistics, ("unit", "rows", "histogram"))
        if table is None:
            continue
        shards = [path for path in findings.markers["collect"] if path.parent == findings.run.store(layer)]
        rows = sum(findings.markers["collect"][path]["rows"] for path in shards)
        totals = to_numpy(table["histogram"]).sum(1)
        if "neurons" not in findings.stale and ((to_numpy(table["rows"]) != rows).any() or (totals != rows).any()):
            findings.wrong(statistics, f"does not count the {rows:,} rows of the store", statistics)
        names = part_names(table.num_rows)
        paths = [folder / f"{name}.parquet" for name in (*names, "circuit", "cells")]
        if older := [(path, lacking) for path in paths if (lacking := _lacking(findings, path))]:
            path, lacking = older[0]
            findings.wrong(path, f"was written by another version: it has no {', '.join(lacking)}")
            continue
        for name in names:
            path = folder / f"{name}.parquet"
            if path.with_suffix(".json") not in markers:
                missing += 1
            elif path not in findings.suspect and (part := findings.table(path, ("unit",))) is not None:
                if part["unit"].to_pylist() != units_of_part(name, table.num_rows):
                    findings.wrong(path, "holds other units than its own", path)
                unit_count += part.num_rows
        missing += sum(folder / f"{name}.json" not in markers for name in ("circuit", "cells"))
    findings.stages["neurons"] = f"{'unfinished' if missing else 'finished'}: {unit_count:,} units"


def _lacking(findings: Findings, path: Path) -> list[str]:
    """The columns that a table of units lacks, which a marker vouches for: it was written by another version."""
    if path.with_suffix(".json") not in findings.markers["neurons"] or path in findings.suspect:
        return []
    try:
        return missing_columns(path)
    except (pa.ArrowException, OSError):
        return []  # what cannot be read is reported below


def _publish(findings: Findings, cells: CellsConfig, neurons: NeuronsConfig | None, *, has_tour: bool) -> None:
    """The site: all its parts, and the counts that it shows against the cells."""
    folder, markers = findings.run.folder("publish") / ".markers", findings.markers["publish"]
    maps = published_maps(findings.run, findings.maps)
    parts = [f"{atlas_map.name}-atlas" for atlas_map in maps]
    cells_folder = findings.run.folder("cells")
    with_cells = [
        atlas_map for atlas_map in maps if cells_folder / f"{atlas_map.name}.json" in findings.markers["cells"]
    ]
    for atlas_map in with_cells:
        for grid in atlas_map.grids:
            name = f"{atlas_map.name}-grid-{grid:03d}"
            parts.append(name)
            labelled = not atlas_map.classes and findings.run.label_classes(Config.module_of(atlas_map.layer)[0])
            parts += [f"{name}-errors"] if labelled else []
            if findings.run.cells(atlas_map.name) not in findings.suspect:
                count = len(sheets(findings.run, atlas_map, grid, cells.min_count))
                parts += [f"{name}-details-{part:05d}" for part in range(count)]
    parts += [
        part.replace("/", "-")
        for layer in neuron_layers(neurons)
        for part in neuron_parts(findings.run, layer, cells.grids)
    ]
    parts += ["tour"] if has_tour else []
    marker_count = sum(folder / f"{part}.json" in markers for part in parts)
    finished = folder / "page.json" in markers
    if finished and not findings.stale:
        for part in parts:
            path = folder / f"{part}.json"
            if path not in markers and path not in findings.suspect:
                findings.wrong(path, "the marker is missing, though the site was finished")
        for atlas_map in with_cells:
            for grid in atlas_map.grids:
                _site_cells(findings, atlas_map.name, grid)
    state = "finished" if finished and marker_count == len(parts) else "unfinished"
    page = " and the page" if finished else ""
    findings.stages["publish"] = f"{state}: {marker_count} of {len(parts)} parts{page}"


def _site_cells(findings: Findings, map_name: str, grid: int) -> None:
    """The cells that the page shows of one grid, against those of the stage cells."""
    path, cells = findings.run.site_grid(map_name, grid) / "cells.json", findings.run.cells(map_name)
    if findings.suspect & {path, cells} or not path.exists():
        return
    on_page = json.loads(path.read_text(encoding="utf-8"))
    table = pq.read_table(cells, columns=["row", "col", "count"], filters=[("grid", "=", grid)])
    if any(on_page[name] != table[name].to_pylist() for name in ("row", "col", "count")):
        findings.wrong(path, "shows other cells than cells/ has", path)


def _report(findings: Findings, min_count: int, neurons: NeuronsConfig | None) -> None:
    """report.json against a report that is made anew; only the speed, which belongs to its day, may differ."""
    path = findings.run.report
    before = [stage for stage in stages_of(neurons) if stage != "publish"]
    finished = all(findings.stages[stage].startswith("finished") for stage in before)
    if findings.problems or findings.stale or not finished:
        return
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if findings.begun("publish"):
            findings.wrong(path, "missing, though the site was made from it")
        return
    except ValueError:
        findings.wrong(path, "cut off or overwritten", path)
        return
    expected = build_report(findings.run, findings.maps, min_count=min_count, neurons=neurons)
    for key, value in _leaves(expected):
        actual = _leaf(report, key)
        floats = isinstance(value, float) and isinstance(actual, float)
        alike = np.isclose(value, actual) if floats else value == actual
        if key[-1] != "views_per_second" and not alike:
            findings.wrong(path, f"says {'.'.join(key)} = {actual}, the stages' files give {value}", path)
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

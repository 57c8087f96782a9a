"""Whether the tables of a run's stages agree: layers with each other, the store with its listing and the layout, cells
with the layout, icons with the cells, the site and the report with all of them.

A comparison that would need a file already found wrong is left out. Memory holds one shard's keys, one row group of a
layout and one grid's counts at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from atlas.config import Config
from atlas.findings import Findings
from atlas.grid import cell_of
from atlas.maps import shown_maps
from atlas.neurons.folder import part_names, units_of
from atlas.neurons.site import neuron_layers
from atlas.neurons.site import parts as neuron_parts
from atlas.patches import sheets
from atlas.report import build_report, read_icons
from atlas.rundir import stages_of
from atlas.store import to_numpy

# What must be equal in row i of all layers, in all of one network, and what a layout repeats of it.
KEYS = ("image_id", "view", "draw", "image", "place_x", "place_y", "label", "box")
OF_NETWORK = ("predicted", "confidence")
LAYOUT_KEYS = ("image_id", "view", "draw")


def compare(found: Findings, config: Config, console: Console) -> None:
    """Compare the stages of the present configuration, and tell how far each is."""
    _collect(found, config, console)
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


def _collect(found: Findings, config: Config, console: Console) -> None:
    run, markers = found.run, found.markers["collect"]
    images = _listing(found)
    crops, draws = config.images.crops, config.collect.positions_per_image
    final = run.failures.with_suffix(".json")
    names = sorted({path.stem for path in markers if path != final})
    finished = final in markers
    if not finished and found.begun("layout", "cells", "render", "publish") and final not in found.suspect:
        found.wrong(final, "the marker is missing, though later stages have run")
    views = failed = 0
    layouts = {layer: _Cursor(run.layout(layer)) for layer in config.layers if _comparable(found, layer)}
    for name in track(names, "rows ", console=console, transient=True):
        here = {layer: markers.get(run.store(layer) / f"{name}.json") for layer in config.layers}
        first = here[config.layers[0]]
        for layer, marker in here.items():
            path = run.store(layer) / f"{name}.json"
            if marker is None and finished and path not in found.suspect:
                found.wrong(path, "the marker is missing, though the stage was finished")
        if first is None:
            layouts.clear()  # how many rows to go past is not known
            continue
        lost = sum(crops if failure["view"] is None else 1 for failure in first["failures"])
        views, failed = views + first["views"], failed + lost
        rows = (first["views"] - lost) * draws
        _shard(found, config, name, here, rows, images, layouts)
    for layer, cursor in layouts.items():
        if finished and not cursor.at_end():
            _wrong_layout(found, layer, "has more rows than the store")
    expected = None if images is None else len(images) * crops
    total = "?" if expected is None else f"{expected:,}"
    if finished:
        told = markers[final]
        if found.run.failures not in found.suspect:
            rows = _rows_of(found, run.failures)
            listed = sum(len(markers[path]["failures"]) for path in _first_layer(found, config))
            if rows is not None and (rows != listed or told["failures"] != failed) and not found.problems:
                found.wrong(
                    run.failures, f"has {rows} failures, the shards' markers list {listed}", run.failures, final
                )
        if not found.problems and not told["views"] == views == expected:
            what = f"says {told['views']:,} views, the shards have {views:,}, and the listing gives {total}"
            found.wrong(final, what, final)
    state = "finished" if finished else "unfinished"
    found.stages["collect"] = f"{state}: {len(names):,} shards, {views:,} of {total} views, {failed:,} failed"


def _first_layer(found: Findings, config: Config) -> Iterator[Path]:
    folder = found.run.store(config.layers[0])
    return (path for path in found.markers["collect"] if path.parent == folder)


def _listing(found: Findings) -> pa.Table | None:
    """Pictures and labels of the listing; None where it cannot be read."""
    path = found.run.listing
    try:
        return pq.read_table(path, columns=["image", "label"])
    except FileNotFoundError:
        found.wrong(path, "missing")
    except (pa.ArrowException, OSError) as error:
        found.wrong(path, f"cannot be read ({_short(error)})", path)
    return None


def _comparable(found: Findings, layer: str) -> bool:
    """Whether the layout of ``layer`` is of this store and can be read."""
    box = found.run.folder("layout") / "box.json"
    path = found.run.layout(layer)
    return "layout" not in found.stale and box in found.markers["layout"] and path not in found.suspect


def _shard(
    found: Findings,
    config: Config,
    name: str,
    here: dict[str, dict[str, Any] | None],
    rows: int,
    images: pa.Table | None,
    layouts: dict[str, _Cursor],
) -> None:
    """One shard of every layer: its rows against the marker, the first layer, the listing and the layout."""
    reference: pa.Table | None = None
    of_network = ""
    for layer, marker in here.items():
        path = found.run.store(layer) / f"{name}.parquet"
        cursor = layouts.get(layer)
        table = None
        if marker is not None and path not in found.suspect:
            table = _read(found, path, KEYS + OF_NETWORK)
        if table is not None and marker is not None and not table.num_rows == marker["rows"] == rows:
            what = f"has {table.num_rows:,} rows, its marker says {marker['rows']:,}, and its views give {rows:,}"
            found.wrong(path, what, path)
            table = None
        if table is None:
            if cursor:
                cursor.skip(rows)
            continue
        network, _ = config.module_of(layer)
        if reference is None:
            reference, of_network = table, network
            unlike = None if images is None else _unlike_listing(table, images)
            if unlike:
                found.wrong(path, unlike, *(found.run.store(one) / f"{name}.parquet" for one in here))
        else:
            for key in KEYS + (OF_NETWORK if network == of_network else ()):
                if not table[key].equals(reference[key]):
                    row = _first_difference(table[key], reference[key])
                    what = f"row {row:,}: {key} is not that of layer {next(iter(here))}, so the layers are not aligned"
                    found.wrong(path, what, *(found.run.store(one) / f"{name}.parquet" for one in here))
                    break
        if cursor:
            part = cursor.take(rows)
            if part is None or not all(part[key].equals(table[key]) for key in LAYOUT_KEYS):
                what = (
                    "has fewer rows than the store" if part is None else f"rows are not those of store/{layer}/{name}"
                )
                _wrong_layout(found, layer, what)
                del layouts[layer]


def _wrong_layout(found: Findings, layer: str, what: str) -> None:
    found.wrong(found.run.layout(layer), what, *sorted(found.run.folder("layout").glob("*.json")))


def _unlike_listing(table: pa.Table, images: pa.Table) -> str | None:
    ids = table["image_id"]
    if len(ids) and not 0 <= pc.min(ids).as_py() <= pc.max(ids).as_py() < len(images):
        return "has an image_id that is not in listing.parquet"
    for key in ("image", "label"):
        there = images[key].take(ids)
        if not there.equals(table[key]):
            row = _first_difference(table[key], there)
            return f"row {row:,}: {key} is not that of listing.parquet"
    return None


def _first_difference(one: pa.ChunkedArray, other: pa.ChunkedArray) -> int:
    left, right = one.to_pylist(), other.to_pylist()
    return next((row for row, pair in enumerate(zip(left, right)) if pair[0] != pair[1]), 0)


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
    table = _read(found, path, ("grid", "row", "col", "count"))
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
        table = _read(found, statistics, ("unit", "rows", "histogram"))
        if table is None:
            continue
        shards = [path for path in found.markers["collect"] if path.parent == found.run.store(layer)]
        rows = sum(found.markers["collect"][path]["rows"] for path in shards)
        counted = to_numpy(table["histogram"]).sum(1)
        if "neurons" not in found.stale and ((to_numpy(table["rows"]) != rows).any() or (counted != rows).any()):
            found.wrong(statistics, f"does not count the {rows:,} rows of the store", statistics)
        for name in part_names(table.num_rows):
            path = folder / f"{name}.parquet"
            if path.with_suffix(".json") not in markers:
                missing += 1
            elif path not in found.suspect and (part := _read(found, path, ("unit",))) is not None:
                if part["unit"].to_pylist() != units_of(name, table.num_rows):
                    found.wrong(path, "holds other units than its own", path)
                done += part.num_rows
        missing += sum(folder / f"{name}.json" not in markers for name in ("circuit", "cells"))
    found.stages["neurons"] = f"{'unfinished' if missing else 'finished'}: {done:,} units"


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
                made = range(len(sheets(found.run, config, each, grid)))
                parts += [f"{each.name}-grid-{grid:03d}-details-{part:05d}" for part in made]
    parts += [
        part.replace("/", "-") for layer in neuron_layers(config) for part in neuron_parts(found.run, config, layer)
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


class _Cursor:
    """Goes through the keys of a layout, row group by row group, in steps of any length."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._rest: pa.Table | None = None

    def take(self, rows: int) -> pa.Table | None:
        """The next ``rows`` rows; None where there are fewer."""
        if self._batches is None:
            self._batches = pq.ParquetFile(self._path).iter_batches(columns=list(LAYOUT_KEYS))
        parts = [] if self._rest is None else [self._rest]
        held = sum(len(part) for part in parts)
        while held < rows:
            batch = next(self._batches, None)
            if batch is None:
                return None
            parts.append(pa.Table.from_batches([batch]))
            held += len(batch)
        if not parts:
            return pa.table(
                {key: pa.array([], kind) for key, kind in zip(LAYOUT_KEYS, (pa.int64(), pa.int32(), pa.int16()))}
            )
        table = pa.concat_tables(parts)
        self._rest = table.slice(rows)
        return table.slice(0, rows)

    def skip(self, rows: int) -> None:
        self.take(rows)

    def at_end(self) -> bool:
        return self.take(1) is None


def _read(found: Findings, path: Path, columns: tuple[str, ...]) -> pa.Table | None:
    """Columns of a table that a marker vouches for; None, and a problem, where it cannot be read."""
    try:
        return pq.read_table(path, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        found.wrong(path, f"cannot be read ({_short(error)})", *([path] if path.exists() else []))
        return None


def _rows_of(found: Findings, path: Path) -> int | None:
    table = _read(found, path, ())
    return None if table is None else table.num_rows


def _short(error: Exception) -> str:
    return str(error).split(". ")[0].strip()

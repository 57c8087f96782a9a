"""Whether the rows of a run's store agree: those of all layers with each other, with the listing and with the layouts.

Memory holds one shard's keys and one row group of a layout at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from atlas.check.findings import Findings, short
from atlas.config.model import Config

# What must be equal in row i of all layers, in all of one network, and what a layout repeats of it.
KEYS = ("image_id", "view", "draw", "image", "place_x", "place_y", "label", "box")
OF_NETWORK = ("predicted", "confidence")
LAYOUT_KEYS = ("image_id", "view", "draw")


def compare_rows(found: Findings, config: Config, console: Console) -> None:
    """Compare the rows of all shards, and tell how far the collecting is: in ``found``."""
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
        found.wrong(path, f"cannot be read ({short(error)})", path)
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
            table = found.table(path, KEYS + OF_NETWORK)
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


def _rows_of(found: Findings, path: Path) -> int | None:
    table = found.table(path, ())
    return None if table is None else table.num_rows


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

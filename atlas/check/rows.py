"""Whether the rows of a run's store agree: those of all layers with each other, with the listing and with the layouts.

Memory holds one shard's keys and one row group of a layout at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from atlas.check.findings import Findings, first_sentence
from atlas.config.model import Config

# What must be equal in row i of all layers, in all of one network, and what a layout repeats of it.
KEYS = ("image_id", "view", "draw", "image", "place_x", "place_y", "label", "box")
OF_NETWORK = ("predicted", "confidence")
LAYOUT_KEYS = ("image_id", "view", "draw")


def compare_rows(findings: Findings, layers: Sequence[str], *, crops: int, draws: int, console: Console) -> None:
    """Compare the rows of all shards: ``crops`` views of a picture, ``draws`` rows of a view. ``findings`` get the
    problems, and how far the stage is."""
    run, markers = findings.run, findings.markers["collect"]
    images = _listing(findings)
    final = run.failures.with_suffix(".json")
    names = sorted({path.stem for path in markers if path != final})
    finished = final in markers
    if not finished and findings.begun("layout", "cells", "render", "publish") and final not in findings.suspect:
        findings.wrong(final, "the marker is missing, though later stages have run")
    views = failed = 0
    layouts = {layer: _Cursor(run.layout(layer)) for layer in layers if _comparable(findings, layer)}
    for name in track(names, "rows ", console=console, transient=True):
        here = {layer: markers.get(run.store(layer) / f"{name}.json") for layer in layers}
        first = here[layers[0]]
        for layer, marker in here.items():
            path = run.store(layer) / f"{name}.json"
            if marker is None and finished and path not in findings.suspect:
                findings.wrong(path, "the marker is missing, though the stage was finished")
        if first is None:
            layouts.clear()  # how many rows to go past is not known
            continue
        failure_count = sum(crops if failure["view"] is None else 1 for failure in first["failures"])
        views, failed = views + first["views"], failed + failure_count
        rows = (first["views"] - failure_count) * draws
        _shard(findings, name, here, rows, images, layouts)
    for layer, cursor in layouts.items():
        if finished and not cursor.at_end():
            _wrong_layout(findings, layer, "has more rows than the store")
    expected = None if images is None else len(images) * crops
    total = "?" if expected is None else f"{expected:,}"
    if finished:
        summary = markers[final]
        if findings.run.failures not in findings.suspect:
            rows = _rows_of(findings, run.failures)
            in_markers = sum(len(markers[path]["failures"]) for path in _shards_of(findings, layers[0]))
            if rows is not None and (rows != in_markers or summary["failures"] != failed) and not findings.problems:
                findings.wrong(
                    run.failures, f"has {rows} failures, the shards' markers list {in_markers}", run.failures, final
                )
        if not findings.problems and not summary["views"] == views == expected:
            what = f"says {summary['views']:,} views, the shards have {views:,}, and the listing gives {total}"
            findings.wrong(final, what, final)
    state = "finished" if finished else "unfinished"
    findings.stages["collect"] = f"{state}: {len(names):,} shards, {views:,} of {total} views, {failed:,} failed"


def _shards_of(findings: Findings, layer: str) -> Iterator[Path]:
    """The markers of a layer's shards."""
    folder = findings.run.store(layer)
    return (path for path in findings.markers["collect"] if path.parent == folder)


def _listing(findings: Findings) -> pa.Table | None:
    """Pictures and labels of the listing; None where it cannot be read."""
    path = findings.run.listing
    try:
        return pq.read_table(path, columns=["image", "label"])
    except FileNotFoundError:
        findings.wrong(path, "missing")
    except (pa.ArrowException, OSError) as error:
        findings.wrong(path, f"cannot be read ({first_sentence(error)})", path)
    return None


def _comparable(findings: Findings, layer: str) -> bool:
    """Whether the layout of ``layer`` is of this store and can be read."""
    path, folder, boxes = findings.run.layout(layer), findings.run.folder("layout"), findings.layout_boxes
    vouching = [folder / f"{box}.json" for box, groups in boxes.items() if len(boxes) == 1 or layer in groups]
    finished = all(marker in findings.markers["layout"] for marker in vouching)
    return "layout" not in findings.stale and finished and path not in findings.suspect


def _shard(
    findings: Findings,
    name: str,
    here: dict[str, dict[str, Any] | None],
    rows: int,
    images: pa.Table | None,
    layouts: dict[str, _Cursor],
) -> None:
    """One shard of every layer: its rows against the marker, the first layer, the listing and the layout."""
    reference: pa.Table | None = None
    shards = [findings.run.store(layer) / f"{name}.parquet" for layer in here]
    of_network = ""
    for layer, marker in here.items():
        path = findings.run.store(layer) / f"{name}.parquet"
        cursor = layouts.get(layer)
        table = None
        if marker is not None and path not in findings.suspect:
            table = findings.table(path, KEYS + OF_NETWORK)
        if table is not None and marker is not None and not table.num_rows == marker["rows"] == rows:
            what = f"has {table.num_rows:,} rows, its marker says {marker['rows']:,}, and its views give {rows:,}"
            findings.wrong(path, what, path)
            table = None
        if table is None:
            if cursor:
                cursor.skip(rows)
            continue
        network, _ = Config.module_of(layer)
        if reference is None:
            reference, of_network = table, network
            difference = None if images is None else _difference_from_listing(table, images)
            if difference:
                findings.wrong(path, difference, *shards)
        else:
            for key in KEYS + (OF_NETWORK if network == of_network else ()):
                if not table[key].equals(reference[key]):
                    row = _first_difference(table[key], reference[key])
                    what = f"row {row:,}: {key} is not that of layer {next(iter(here))}, so the layers are not aligned"
                    findings.wrong(path, what, *shards)
                    break
        if cursor:
            part = cursor.take(rows)
            if part is None or not all(part[key].equals(table[key]) for key in LAYOUT_KEYS):
                what = (
                    "has fewer rows than the store" if part is None else f"rows are not those of store/{layer}/{name}"
                )
                _wrong_layout(findings, layer, what)
                del layouts[layer]


def _wrong_layout(findings: Findings, layer: str, what: str) -> None:
    findings.wrong(findings.run.layout(layer), what, *sorted(findings.run.folder("layout").glob("*.json")))


def _difference_from_listing(table: pa.Table, images: pa.Table) -> str | None:
    ids = table["image_id"]
    if len(ids) and not 0 <= pc.min(ids).as_py() <= pc.max(ids).as_py() < len(images):
        return "has an image_id that is not in listing.parquet"
    for key in ("image", "label"):
        there = images[key].take(ids)
        if not there.equals(table[key]):
            row = _first_difference(table[key], there)
            return f"row {row:,}: {key} is not that of listing.parquet"
    return None


def _first_difference(left: pa.ChunkedArray, right: pa.ChunkedArray) -> int:
    pairs = zip(left.to_pylist(), right.to_pylist())
    return next((row for row, (first, second) in enumerate(pairs) if first != second), 0)


def _rows_of(findings: Findings, path: Path) -> int | None:
    table = findings.table(path, ())
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
        available = sum(len(part) for part in parts)
        while available < rows:
            batch = next(self._batches, None)
            if batch is None:
                return None
            parts.append(pa.Table.from_batches([batch]))
            available += len(batch)
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

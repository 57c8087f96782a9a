"""The icons of a map's grid: their schema, which cells are drawn, and the pictures of a level joined into one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from atlas.layout.lattice import drawn_filters, morton
from atlas.pictures.decode import decode_png, encode_png
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import read_columns

if TYPE_CHECKING:
    from atlas.visualize import Icons, Scores  # torch, which a reader of tables does without

ICONS_SCHEMA = pa.schema(
    [
        pa.field("grid", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("col", pa.int32(), nullable=False),
        pa.field("png", pa.binary(), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("cosine", pa.float32(), nullable=False),
        pa.field("cosine_whitened", pa.float32(), nullable=False),
        pa.field("cosine_robust", pa.float32(), nullable=False),
        pa.field("percentile", pa.float32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("flag", pa.string()),
    ]
)

# The colour under a mosaic: the page's background.
GROUND = (247, 247, 245)


def icon_table(grid: int, row: NDArray[np.int64], col: NDArray[np.int64], icons: Icons, scores: Scores) -> pa.Table:
    """The table of ICONS_SCHEMA for icons of the cells (row, col), each (n,), of one grid."""
    return pa.table(
        {
            "grid": np.full(len(row), grid),
            "row": row,
            "col": col,
            "png": [encode_png(pixels) for pixels in icons.pixels],
            "size": np.full(len(row), icons.pixels.shape[1]),
            "seed": icons.seeds,
            "steps": icons.steps,
            "cosine": scores.cosine,
            "cosine_whitened": scores.cosine_whitened,
            "cosine_robust": scores.cosine_robust,
            "percentile": scores.percentile,
            "rank": scores.rank,
            "flag": pa.array(list(scores.flag), pa.string()),
        }
    ).cast(ICONS_SCHEMA)


def read_icons(
    run: RunDirectory, map_name: str, grid: int, columns: Iterable[str] | None = None, *, quick: bool = False
) -> pa.Table:
    """The icons of one grid of a map, or some ``columns`` of them, as one table by ICONS_SCHEMA; an empty table without
    columns where none is drawn. ``quick``: those that are there until the icons are drawn."""
    parts = sorted(run.icons(map_name, grid).glob("quick-*.parquet" if quick else "part-*.parquet"))
    names = None if columns is None else list(columns)
    return pa.concat_tables([pq.read_table(part, columns=names) for part in parts]) if parts else pa.table({})


def drawn_cells(path: Path, grid: int, min_count: int, *columns: str) -> dict[str, NDArray[Any]]:
    """Row, col and further ``columns`` of the drawn cells of one grid in the table of cells at ``path``: each (n,) or
    (n, width), in Z-order, so that siblings share a batch."""
    names = ["row", "col", *columns]
    cells = read_columns(path, names, drawn_filters(grid, min_count))
    order = np.argsort(morton(cells["row"], cells["col"]), kind="stable")
    return {name: values[order] for name, values in cells.items()}


def mosaic(run: RunDirectory, map_name: str, grid: int) -> Image.Image | None:
    """The icons of one grid on the page's background, cropped to the cells that are drawn; None when none is."""
    icons = read_icons(run, map_name, grid, ["row", "col", "png"]).to_pylist()
    if not icons:
        return None
    pixels = [decode_png(icon["png"]) for icon in icons]
    size = pixels[0].shape[0]
    rows, cols = [icon["row"] for icon in icons], [icon["col"] for icon in icons]
    top, left = min(rows), min(cols)
    picture = Image.new("RGB", ((max(cols) - left + 1) * size, (max(rows) - top + 1) * size), GROUND)
    for row, col, icon in zip(rows, cols, pixels):
        picture.paste(Image.fromarray(icon), ((col - left) * size, (row - top) * size))
    return picture

"""Real patches and whole pictures of rows of the store, cropped again from their sources.

A patch is what a position sees of its source picture: the square of the layer's effective receptive field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from atlas.arrays import Pixels
from atlas.pictures.decode import PictureError, open_picture
from atlas.pictures.listing import Listing
from atlas.pictures.views import Box, backdrop, crop_view, over_backdrop
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import RowKey, key_of, read_metadata

# The largest side in pixels of a view that is cropped again as a picture of its own.
LARGEST_VIEW = 640


@dataclass(frozen=True)
class Row:
    """What is needed of a row of the store to crop its patch again: ``box``, the view in pixels of the picture, and the
    position ``x``, ``y`` on the layer's map; and its ``facts``: label, predicted class and confidence."""

    key: RowKey
    box: Box
    x: int
    y: int
    facts: dict[str, Any]


class Cropper:
    """Crops the patches of a layer's rows from their source pictures; ``seed`` is the run's."""

    def __init__(self, run: RunDirectory, listing: Listing, layer: str, *, seed: int) -> None:
        self._shards, self._listing, self._seed = run.shards(layer), listing, seed
        self._metadata = read_metadata(self._shards[0])

    def pictures(self, keys: set[RowKey]) -> Iterator[tuple[Pixels | None, list[Row]]]:
        """The pictures of the rows of ``keys``, each decoded once, uint8 (height, width, 3), or (height, width, 4)
        where it has transparency, with its rows; None in place of one that cannot be read any more. In the order of
        their numbers."""
        rows: dict[int, list[Row]] = {}
        names = ["image_id", "view", "draw", "box", "x", "y", "label", "predicted", "confidence"]
        # Pictures stand in the order of their numbers, so most row groups are passed over unread.
        of_pictures = pc.field("image_id").isin(sorted({key[0] for key in keys}))
        for shard in self._shards:
            for values in pq.read_table(shard, columns=names, filters=of_pictures).to_pylist():
                if (key := key_of(values)) in keys:
                    rows.setdefault(key[0], []).append(_row(key, values))
        for image_id, rows_of_picture in sorted(rows.items()):
            try:
                yield open_picture(self._listing.read(image_id)), rows_of_picture
            except PictureError:
                yield None, rows_of_picture

    def box(self, row: Row) -> Box:
        """Where the row's patch lies in its picture, in pixels; it may reach over the edges."""
        return patch_box(row.box, row.x, row.y, self._metadata)

    def patch(self, picture: Pixels, row: Row, size: int) -> Pixels:
        """The row's patch, uint8 (size, size, 3)."""
        return crop_view(picture, self.box(row), size, self._ground(row))

    def whole(self, picture: Pixels, row: Row) -> Pixels:
        """The whole picture on the ground that its patch lies on: uint8 (height, width, 3)."""
        return over_backdrop(picture, self._ground(row))

    def view(self, picture: Pixels, row: Row) -> Pixels:
        """The view that the network saw, in about the picture's own pixels: uint8 (n, n, 3)."""
        side = round(row.box[2] - row.box[0])
        return crop_view(
            picture, row.box, min(max(side, self._metadata["input_size"]), LARGEST_VIEW), self._ground(row)
        )

    def _ground(self, row: Row) -> tuple[int, int, int]:
        return backdrop(self._seed, self._listing.keys[row.key[0]], row.key[1])


def _row(key: RowKey, values: dict[str, Any]) -> Row:
    x0, y0, x1, y1 = values["box"]
    facts = {**{name: values[name] for name in ("label", "predicted")}, "confidence": round(values["confidence"], 4)}
    return Row(key, (x0, y0, x1, y1), values["x"], values["y"], facts)


def _fit(picture: Pixels, sprite: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size (width, height) and corner (left, top) of a whole picture in the middle of a sprite, in pixels."""
    height, width = picture.shape[:2]
    scale = sprite / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return size, ((sprite - size[0]) // 2, (sprite - size[1]) // 2)


def whole_sprite(picture: Pixels, sprite: int) -> Pixels:
    """The whole picture, uint8 (height, width, 3), in a sprite that is clear around it, uint8 (sprite, sprite, 4)."""
    size, corner = _fit(picture, sprite)
    small = Image.fromarray(picture).convert("RGBA").resize(size, Image.Resampling.BICUBIC, reducing_gap=2)
    whole = Image.new("RGBA", (sprite, sprite))
    whole.paste(small, corner)
    return np.asarray(whole)


def frame(picture: Pixels, box: Box, sprite: int) -> list[float]:
    """Where ``box``, in pixels of the picture, uint8 (height, width, 3), lies in its sprite (see ``whole_sprite``): x0,
    y0, x1, y1 in shares of the sprite's side."""
    (width, height), (left, top) = _fit(picture, sprite)
    lengths = picture.shape[1], picture.shape[0]
    sides = zip(box, lengths * 2, (width, height) * 2, (left, top) * 2)
    return [round((offset + edge / length * side) / sprite, 4) for edge, length, side, offset in sides]


def patch_box(box: Box, x: int, y: int, metadata: dict[str, Any]) -> Box:
    """The part of the source picture that position (y, x) sees: its effective receptive field, moved inside the view.

    ``box``: the view; it and what is returned are x0, y0, x1, y1 in pixels of the source picture. ``metadata``: of a
    shard, see ``atlas.store.shards.read_metadata``.
    """
    height, width = metadata["map_size"]
    share = min(1.0, metadata["effective_receptive_field"] / metadata["input_size"])
    x0, y0, x1, _ = box
    side = x1 - x0
    left = min(max((x + 0.5) / width - share / 2, 0), 1 - share)
    top = min(max((y + 0.5) / height - share / 2, 0), 1 - share)
    return (x0 + left * side, y0 + top * side, x0 + (left + share) * side, y0 + (top + share) * side)

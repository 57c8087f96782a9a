"""Exemplars: real patches that lie in a cell, with their whole pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from atlas.arrays import Pixels
from atlas.cells.crops import Cropper, Row
from atlas.pictures.listing import Listing
from atlas.pictures.views import Box
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap
from atlas.store.shards import RowKey, key_of


@dataclass(frozen=True)
class Exemplar:
    """A real patch that lies in a cell: the patch, its whole picture (both RGB; what is transparent shows one plain
    colour in both), where it lies there (x0, y0, x1, y1 in pixels, which may reach over the edges), and how like the
    cell's mean its activation is (cosine).

    ``nearest``: one of the nearest to the mean, else one of those that show how much the cell holds. ``label``,
    ``predicted``: numbers of classes; ``confidence``: of the prediction, in [0, 1].
    """

    patch: Image.Image
    picture: Image.Image
    box: Box
    image: str
    cosine: float
    nearest: bool
    predicted: int
    confidence: float
    label: int | None


def exemplars_of(
    run: RunDirectory, listing: Listing, atlas_map: AtlasMap, cell: dict[str, Any], *, size: int, seed: int
) -> list[Exemplar]:
    """The exemplars of a row of cells/, nearest first, their patches ``size`` pixels wide, without those whose picture
    cannot be read any more."""
    entries = cell["exemplars"] + cell["diverse_exemplars"]
    cropper = Cropper(run, listing, atlas_map.layer, seed=seed)
    rows_by_key: dict[RowKey, tuple[Pixels, Row]] = {}
    for picture, rows in cropper.pictures({key_of(entry) for entry in entries}):
        if picture is not None:
            rows_by_key |= {row.key: (picture, row) for row in rows}
    exemplars = []
    for entry in entries:
        if key_of(entry) in rows_by_key:
            picture, row = rows_by_key[key_of(entry)]
            exemplars.append(
                Exemplar(
                    Image.fromarray(cropper.patch(picture, row, size)), Image.fromarray(cropper.whole(picture, row)),
                    cropper.box(row), listing.keys[row.key[0]], entry["cosine"], entry in cell["exemplars"],
                    **row.facts,
                )
            )  # fmt: skip
    return exemplars

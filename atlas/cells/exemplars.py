"""Exemplars: real patches that lie in a cell, with their whole pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from atlas.arrays import Pixels
from atlas.cells.crops import Cutter, Key, Row, key_of
from atlas.config.model import Config
from atlas.pictures.listing import Listing
from atlas.pictures.views import Box
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import AtlasMap


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
    run: RunDirectory, config: Config, listing: Listing, each: AtlasMap, cell: dict[str, Any], size: int
) -> list[Exemplar]:
    """The exemplars of a row of cells/, nearest first, their patches ``size`` pixels wide, without those whose picture
    cannot be read any more."""
    shown = cell["exemplars"] + cell["diverse_exemplars"]
    cut = Cutter(run, config, listing, each.layer)
    found: dict[Key, tuple[Pixels, Row]] = {}
    for picture, rows in cut.pictures({key_of(exemplar) for exemplar in shown}):
        if picture is not None:
            found |= {row.key: (picture, row) for row in rows}
    exemplars = []
    for exemplar in shown:
        if key_of(exemplar) in found:
            picture, row = found[key_of(exemplar)]
            exemplars.append(
                Exemplar(
                    Image.fromarray(cut.patch(picture, row, size)), Image.fromarray(cut.whole(picture, row)),
                    cut.box(row), listing.keys[row.key[0]], exemplar["cosine"], exemplar in cell["exemplars"],
                    **row.facts,
                )
            )  # fmt: skip
    return exemplars

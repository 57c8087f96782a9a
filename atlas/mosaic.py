"""One level of an atlas as one picture."""

from __future__ import annotations

from PIL import Image

from atlas.pictures.decode import decode_png
from atlas.report import read_icons
from atlas.rundir.directory import RunDirectory

GROUND = (247, 247, 245)  # the page's


def mosaic(run: RunDirectory, layer: str, grid: int) -> Image.Image | None:
    """The icons of one grid on the page's ground, cut to the cells that are drawn; None when none is."""
    icons = read_icons(run, layer, grid, ["row", "col", "png"]).to_pylist()
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

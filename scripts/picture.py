"""One level of an atlas as one picture: python scripts/picture.py RUN --layer LAYER --grid 20 --out atlas.webp"""

import argparse
from pathlib import Path

from PIL import Image

from atlas.rundir import RunDirectory
from atlas.site import icon_source

GROUND = (247, 247, 245)


def mosaic(run: RunDirectory, layer: str, grid: int) -> Image.Image:
    """The icons of one grid on the page's ground, cut to the cells that are drawn."""
    icons = icon_source(run, layer, grid)
    found = {(row, col): icons(row, col) for row in range(grid) for col in range(grid)}
    drawn = {cell: pixels for cell, pixels in found.items() if pixels is not None}
    size = next(iter(drawn.values())).shape[0]
    picture = Image.new("RGB", (grid * size, grid * size), GROUND)
    for (row, col), pixels in drawn.items():
        picture.paste(Image.fromarray(pixels), (col * size, row * size))
    rows, cols = [row for row, _ in drawn], [col for _, col in drawn]
    return picture.crop((min(cols) * size, min(rows) * size, (max(cols) + 1) * size, (max(rows) + 1) * size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--layer")
    parser.add_argument("--grid", type=int, default=20)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    run = RunDirectory(options.run)
    picture = mosaic(run, options.layer or run.config().layers[-1], options.grid)
    picture.thumbnail((options.width, options.width), Image.Resampling.LANCZOS)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.out, quality=88)
    print(f"{options.out}: {picture.width}×{picture.height}")


if __name__ == "__main__":
    main()

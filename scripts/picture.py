"""One level of an atlas as one picture: python scripts/picture.py RUN --layer LAYER --grid 20 --out atlas.webp"""

import argparse
from pathlib import Path

from PIL import Image

from atlas.cells.icons import mosaic
from atlas.rundir.directory import RunDirectory


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
    if picture is None:
        parser.error(f"{options.run} has no icons of the grid of {options.grid}")
    picture.thumbnail((options.width, options.width), Image.Resampling.LANCZOS)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.out, quality=88)
    print(f"{options.out}: {picture.width}×{picture.height}")


if __name__ == "__main__":
    main()

"""Many pictures out of a few: random squares of Tux Paint's stamps as 256-pixel JPEGs in tar shards, what
configs/million.yaml reads.

python scripts/stamp_shards.py .cache/stamps .cache/stamp-shards

Each square lies over a plain colour of its own. Equal arguments give equal bytes; shards that are there already are
left as they are, so a run that was cut off goes on. Only the shards' folder and the number of pictures decide what a
shard holds, not how many processes there are.
"""

import argparse
import io
import os
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import simplejpeg

from atlas.images import Pixels, open_picture
from atlas.views import backdrop, cut_view, view_box

SIDE, QUALITY = 256, 90
# Pictures in a shard, and the side of a square in shares of the stamp's shorter side.
PER_SHARD, SCALE = 1000, (0.35, 1.0)
SEED = 0


def stamps_in(folder: Path) -> list[str]:
    """The stamps of a folder, by their paths in it, in order. Raises SystemExit where there is none."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    if not found:
        raise SystemExit(
            f"{folder} holds no PNG. Give the folder of the stamps; scripts/demo puts them into .cache/stamps."
        )
    return found


@lru_cache(maxsize=64)
def _stamp(path: Path) -> Pixels:
    return open_picture(path.read_bytes())


def square(folder: Path, stamp: str, number: int) -> bytes:
    """Square ``number`` of a stamp, as a JPEG."""
    picture = _stamp(folder / stamp)
    alpha = picture[..., 3] if picture.shape[2] == 4 else None
    size = picture.shape[1], picture.shape[0]
    box = view_box(size, crops=2, scale=SCALE, seed=SEED, key=stamp, view=number, alpha=alpha)
    pixels = cut_view(picture, box, SIDE, backdrop(SEED, stamp, number))
    return simplejpeg.encode_jpeg(pixels, quality=QUALITY, colorspace="RGB")


def write_shard(folder: Path, out: Path, shard: int, members: list[tuple[str, int]]) -> Path:
    """A shard of ``members``, (stamp, number of the square) each, written whole or not at all."""
    path = out / f"stamps-{shard:05d}.tar"
    if path.exists():
        return path
    temporary = path.with_suffix(".tmp")
    with tarfile.open(temporary, "w") as tar:
        for stamp, number in sorted(members):  # a stamp is decoded once for all of its squares
            data = square(folder, stamp, number)
            entry = tarfile.TarInfo(f"{stamp.removesuffix('.png')}-{number:04d}.jpg")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    temporary.replace(path)
    return path


def shards(stamps: list[str], count: int) -> list[list[tuple[str, int]]]:
    """``count`` squares, as many of each stamp as of any other (but for one), mixed and dealt out to shards."""
    members = [(stamps[index % len(stamps)], index // len(stamps)) for index in range(count)]
    order = np.random.default_rng(SEED).permutation(count)
    return [[members[index] for index in order[first : first + PER_SHARD]] for first in range(0, count, PER_SHARD)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stamps", type=Path, help="folder of the stamps")
    parser.add_argument("out", type=Path, help="folder of the shards")
    parser.add_argument("--pictures", type=int, default=40_000, help="how many (default 40,000)")
    options = parser.parse_args()
    if options.pictures < 1:
        sys.exit(f"--pictures is {options.pictures}, expected at least 1.")
    if not options.stamps.is_dir():
        sys.exit(
            f"There is no folder {options.stamps}. Give the folder of the stamps; scripts/demo puts them into "
            ".cache/stamps."
        )
    options.out.mkdir(parents=True, exist_ok=True)
    parts = shards(stamps_in(options.stamps), options.pictures)
    with ProcessPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) as pool:
        count = len(parts)
        written = pool.map(write_shard, [options.stamps] * count, [options.out] * count, range(count), parts)
        total = sum(path.stat().st_size for path in written)
    print(f"{options.pictures:,} pictures in {count} shards, {total / 1e6:,.0f} MB: {options.out}")


if __name__ == "__main__":
    main()

"""Many pictures out of a few: random squares of Tux Paint's stamps as 256-pixel JPEGs in tar shards, what
configs/million.yaml reads.

python scripts/stamp_shards.py .cache/stamps .cache/stamp-shards

Each square lies over a plain colour of its own. The stamps and the number of pictures decide what every shard holds, to
the byte, not how many processes there are. They are noted in shards.json beside the shards: given again, the command
goes on where it was cut off; shards of other stamps or another number are left alone, in a sentence.
"""

import argparse
import hashlib
import io
import json
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import simplejpeg

from atlas.arrays import Pixels
from atlas.errors import ConfigError
from atlas.pictures.decode import open_picture
from atlas.pictures.views import backdrop, crop_view, view_box
from atlas.rundir.atomic import write_json
from pipelines.cluster import available_cores

SIDE, QUALITY = 256, 90
# Pictures in a shard, and the side of a square in shares of the stamp's shorter side.
PER_SHARD, SCALE = 1000, (0.35, 1.0)
SEED = 0
_GET = "Give the folder of the stamps; scripts/demo puts them into .cache/stamps."


def stamps_in(folder: Path) -> list[str]:
    """The stamps of a folder, by their paths in it, in order. Raises ConfigError where there is none."""
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}. {_GET}")
    stamps = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    if not stamps:
        raise ConfigError(f"{folder} holds no PNG. {_GET}")
    return stamps


@lru_cache(maxsize=64)
def _stamp(path: Path) -> Pixels:
    return open_picture(path.read_bytes())


def square(folder: Path, stamp: str, number: int) -> bytes:
    """Square ``number`` of a stamp, as a JPEG."""
    picture = _stamp(folder / stamp)
    alpha = picture[..., 3] if picture.shape[2] == 4 else None
    size = picture.shape[1], picture.shape[0]
    box = view_box(size, crops=2, scale=SCALE, seed=SEED, key=stamp, view=number, alpha=alpha)
    pixels = crop_view(picture, box, SIDE, backdrop(SEED, stamp, number))
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


def claim(out: Path, stamps: Path, names: list[str], count: int) -> None:
    """Note in the folder what its shards are made of. Raises ConfigError where it has shards of something else."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + hashlib.sha256((stamps / name).read_bytes()).digest())
    facts = {"stamps": digest.hexdigest(), "pictures": count, "side": SIDE, "quality": QUALITY, "seed": SEED}
    note = out / "shards.json"
    previous = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
    if previous != facts and any(out.glob("*.tar")):
        raise ConfigError(
            f"{out} has shards already, of other stamps or another number of pictures than {count:,}. Give another "
            "folder, or delete that one."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(note, facts)


def make_shards(stamps: Path, out: Path, count: int) -> str:
    """All shards that are not there yet; what there is then, in words. Raises ConfigError for what is given wrongly."""
    if count < 1:
        raise ConfigError(f"--pictures is {count}, expected at least 1.")
    names = stamps_in(stamps)
    claim(out, stamps, names, count)
    parts = shards(names, count)
    with ProcessPoolExecutor(available_cores()) as pool:
        every = len(parts)
        paths = pool.map(write_shard, [stamps] * every, [out] * every, range(every), parts)
        total = sum(path.stat().st_size for path in paths)
    return f"{count:,} pictures in {every} shards, {total / 1e6:,.0f} MB: {out}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stamps", type=Path, help="folder of the stamps")
    parser.add_argument("out", type=Path, help="folder of the shards")
    parser.add_argument("--pictures", type=int, default=40_000, help="how many (default 40,000)")
    options = parser.parse_args()
    try:
        print(make_shards(options.stamps, options.out, options.pictures))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

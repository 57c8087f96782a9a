"""scripts/bench.py tiles: grids of icons cut into deep-zoom tiles, ours beside libvips.

Each system runs in a process of its own, started afresh and held to ``--threads`` cores, over the same pictures in the
same files of plain RGBA. A map is round, as many are: cells outside of its circle are empty. Tiles of 640 px, WebP of
the quality and the effort that ours writes; figures are the medians of ``--repeat`` rounds, memory the most of them.

- one grid: a pyramid of the finest grid, half the size at each level below;
- combined: the grids that double, each at a level of its own, and the coarsest one at the levels below it. libvips
  saves each grid by itself, and their levels are put into one folder;
- bound: the top level's tiles handed to WebP's encoder in as many threads, without cutting, halving or writing.

``mean_error`` is how far the tile in the middle is from the picture, in steps of 255.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
from bench_rows import BenchRow, rounded_figures  # beside this file
from numpy.typing import NDArray
from PIL import Image

from atlas.arrays import Pixels
from atlas.errors import AtlasError
from atlas.site.tiles import (
    EFFORT,
    ICON_SIZE,
    TILE_QUALITY,
    TILE_SIZE,
    Icons,
    encode_webp,
    level_sides,
    write_combined_pyramid,
    write_grid_pyramid,
)

# How many different icons there are, and how their contrast falls with frequency, as that of our icons does.
ICON_COUNT, FALL = 512, 1.3


def made_icons(seed: int, count: int = ICON_COUNT) -> Pixels:
    """Smooth pictures with some texture, uint8 (count, 80, 80, 3)."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(ICON_SIZE)[:, None], np.fft.rfftfreq(ICON_SIZE)) * ICON_SIZE
    spectrum = np.fft.rfft2(random.normal(size=(count, 3, ICON_SIZE, ICON_SIZE))) / np.maximum(frequency, 1) ** FALL
    grey = spectrum.mean(axis=1, keepdims=True)
    waves = np.fft.irfft2(0.4 * spectrum + grey, s=(ICON_SIZE, ICON_SIZE))
    waves *= 45 / waves.std(axis=(1, 2, 3), keepdims=True)
    return np.clip(waves + 128, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def write_picture(path: Path, pool: Pixels, grid: int, seed: int) -> None:
    """A round map of ``grid`` cells a side with icons of the ``pool``, as plain RGBA from the top left."""
    random = np.random.default_rng([seed, grid])
    numbers = random.integers(0, len(pool), (grid, grid))
    across = (np.arange(grid) + 0.5) / grid - 0.5
    inside = np.hypot(across[:, None], across) < 0.5
    with path.open("wb") as file:
        for row in range(grid):
            cells = np.zeros((ICON_SIZE, grid, ICON_SIZE, 4), np.uint8)
            cells[:, inside[row], :, :3] = pool[numbers[row, inside[row]]].transpose(1, 0, 2, 3)
            cells[:, inside[row], :, 3] = 255
            file.write(cells.tobytes())


def bench_tiles(
    pool: Pixels, grids: list[int], systems: list[str], *, threads: int, repeat: int, seed: int
) -> Iterator[BenchRow]:
    """A row for each system and variant; ``grids`` double, and the last of them is the one grid."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for grid in grids:
            write_picture(folder / f"{grid}.rgba", pool, grid, seed)
        contenders = [(system, variant) for system in systems for variant in VARIANTS[system]]
        measurements: dict[tuple[str, str], list[BenchRow]] = {contender: [] for contender in contenders}
        for _ in range(repeat):  # in turn, so that a slow minute meets all of them
            for system, variant in contenders:
                print(f"{system}, {variant}: grid of {grids[-1]} …", file=sys.stderr)
                measurements[system, variant].append(tiles_in_a_process(system, variant, folder, grids, threads))
        for (system, variant), rounds in measurements.items():
            seconds = statistics.median(row["seconds"] for row in rounds)
            facts = rounds[0] | {"seconds": seconds, "peak_mb": max(row["peak_mb"] for row in rounds)}
            figures = {"tiles_per_second": facts["tiles"] / seconds, **facts, "threads": threads}
            yield {"bench": "tiles", "system": system, "variant": variant} | rounded_figures(figures)


def tiles_in_a_process(system: str, variant: str, folder: Path, grids: list[int], threads: int) -> BenchRow:
    """What a fresh process, of this file and nothing else, says of its work. Raises AtlasError where it fails."""
    arguments = json.dumps([system, variant, str(folder), grids, threads])
    environment = os.environ | {"VIPS_CONCURRENCY": str(threads)}
    process = subprocess.run([sys.executable, __file__, arguments], stdout=subprocess.PIPE, env=environment)
    if process.returncode:
        raise AtlasError(f"The process of {system} ended with {process.returncode}.")
    facts: BenchRow = json.loads(process.stdout)
    return facts


def work(system: str, variant: str, folder: Path, grids: list[int], threads: int) -> BenchRow:
    """The figures of one system's work, done by this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if system == "bound":
        return encoding(folder / f"{grids[-1]}.rgba", grids[-1], threads)
    out = folder / "out"
    write = {"ours": our_tiles, "pyvips": libvips}[system]
    if system == "pyvips":
        import pyvips  # noqa: F401 - its loading is not counted
    with Peak() as peak:
        started = time.perf_counter()
        write(out / "map.dzi", folder, grids if variant == "combined" else grids[-1:])
        seconds = time.perf_counter() - started
    tiles = list(out.rglob("*.webp"))
    size = sum(tile.stat().st_size for tile in tiles)
    error = middle_error(out, folder, grids[-1])
    shutil.rmtree(out)
    return {
        "seconds": seconds,
        "peak_mb": peak.megabytes,
        "tiles": len(tiles),
        "megabytes": size / 1e6,
        "mean_error": error,
    }


class Peak:
    """The most memory of its own that this process had while it was open, looked at every 10 ms: ``megabytes``.

    Pages of files that a system maps are left out: the machine takes them back as it likes.
    """

    def __enter__(self) -> Self:
        self.megabytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            match = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
            assert match is not None
            self.megabytes = max(self.megabytes, int(match[1]) // 1024)


def middle_error(out: Path, folder: Path, grid: int) -> float:
    """The mean difference between the middle tile of the top level and the picture, where that is not empty."""
    side = grid * ICON_SIZE
    middle = side // 2 // TILE_SIZE
    with Image.open(out / "map_files" / str(len(level_sides(side)) - 1) / f"{middle}_{middle}.webp") as tile:
        pixels = np.asarray(tile.convert("RGB")).astype(int)
    source_tile = one_tile(picture(folder / f"{grid}.rgba", grid), middle, middle)
    return float(np.abs(pixels - source_tile[..., :3])[source_tile[..., 3] > 0].mean())


def picture(path: Path, grid: int) -> NDArray[np.uint8]:
    """The picture of a grid, uint8 (side, side, 4), read as it is looked at."""
    side = grid * ICON_SIZE
    return np.memmap(path, np.uint8, "r", shape=(side, side, 4))


def one_tile(pixels: NDArray[np.uint8], row: int, col: int) -> NDArray[np.uint8]:
    return pixels[row * TILE_SIZE : (row + 1) * TILE_SIZE, col * TILE_SIZE : (col + 1) * TILE_SIZE]


# The systems


def our_tiles(dzi: Path, folder: Path, grids: list[int]) -> None:
    if len(grids) == 1:
        write_grid_pyramid(dzi, icons_of(folder / f"{grids[0]}.rgba", grids[0]), grid=grids[0])
    else:
        write_combined_pyramid(dzi, {grid: icons_of(folder / f"{grid}.rgba", grid) for grid in grids})


def icons_of(path: Path, grid: int) -> Icons:
    """The icons of a picture, of which one row of cells is held at a time."""

    @cache
    def size() -> int:
        return ICON_SIZE * grid * ICON_SIZE * 4

    row_cache: dict[int, Pixels] = {}

    def icon(row: int, col: int) -> Pixels | None:
        if row not in row_cache:
            row_cache.clear()
            cells = np.fromfile(path, np.uint8, size(), offset=row * size())
            row_cache[row] = cells.reshape(ICON_SIZE, grid * ICON_SIZE, 4)
        pixels = row_cache[row][:, col * ICON_SIZE : (col + 1) * ICON_SIZE]
        return pixels[..., :3] if pixels[0, 0, 3] else None

    return icon


def libvips(dzi: Path, folder: Path, grids: list[int]) -> None:
    import pyvips

    dzi.parent.mkdir(parents=True)
    for grid in grids:
        side = grid * ICON_SIZE
        pixels = pyvips.Image.rawload(str(folder / f"{grid}.rgba"), side, side, 4).copy(interpretation="srgb")
        whole = grid == grids[0]
        target = dzi.with_suffix("") if whole else dzi.with_name(f"{grid}")
        pixels.dzsave(
            str(target),
            tile_size=TILE_SIZE,
            overlap=0,
            suffix=f".webp[Q={TILE_QUALITY},effort={EFFORT}]",
            depth="onepixel" if whole else "one",
            keep="none",
        )
        if not whole:
            level = len(level_sides(side)) - 1
            (dzi.with_name(f"{grid}_files") / "0").rename(dzi.with_name("map_files") / f"{level}")


def encoding(path: Path, grid: int, threads: int) -> BenchRow:
    """The encoder alone, over the top level's tiles, a row of them after the other."""
    pixels = picture(path, grid)
    across = -(-grid * ICON_SIZE // TILE_SIZE)
    seconds, sizes = 0.0, []
    with ThreadPoolExecutor(threads) as pool, Peak() as peak:
        for row in range(across):
            tiles = [one_tile(pixels, row, col).copy() for col in range(across)]
            started = time.perf_counter()
            sizes += pool.map(lambda tile: len(encode_webp(tile)), tiles)
            seconds += time.perf_counter() - started
    return {"seconds": seconds, "peak_mb": peak.megabytes, "tiles": len(sizes), "megabytes": sum(sizes) / 1e6}


VARIANTS = {
    "ours": ("one grid", "combined"),
    "pyvips": ("one grid", "combined"),
    "bound": ("encoding alone",),
}


if __name__ == "__main__":
    system, variant, folder, grids, threads = json.loads(sys.argv[1])
    print(json.dumps(work(system, variant, Path(folder), grids, threads)))

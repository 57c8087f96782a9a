"""Ten planted errors: which of them are among the first five slices, beside what k-means over the last layer finds.

The pictures are handwritten digits (scikit-learn's, 1,797 of 8 × 8 px, here 32 px and RGB), half of them for a small
network to learn from. Of the others a part of one class bears a mark and the label of another class, and every
twentieth picture has a label at random, which knows nothing of marks. The network has never seen a mark. Each plant is
a run of its own up to the stage cells, as a user would make it.

*k-means* has as many clusters as a grid of the last layer has cells to test, over the same rows; its slices are the
clusters of enough rows by their rate of errors, as is common. A slice is the plant where most of its wrong
pictures bear the mark, and at least five do.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from bench_rows import BenchRow  # beside this file
from distributed import LocalCluster
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor, nn

from atlas.arrays import Pixels
from atlas.config.reading import validate
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.slices.accuracy import Verdicts, read_verdicts
from atlas.slices.permutation import FEWEST_PICTURES
from atlas.slices.tables import error_facts, read_errors
from atlas.store.shards import read_columns
from pipelines.pipeline import Output, run

SIZE, MARKED, FIRST, MIN_COUNT, GRIDS = 32, 20, 5, 8, (10, 20, 40)
LAYERS = ("middle", "last")
_LEARNT, _NOISE = 600, 0.05


class Digits(nn.Module):
    """32 px → 10 digits; maps of 16, 24 and 32 channels, at 16, 8 and 4 positions a side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())
            for inputs, outputs in ((3, 16), (16, 24), (24, 32))
        )
        self.head = nn.Linear(32, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.last(self.middle(self.first(pictures))).mean((2, 3)))


def factory() -> nn.Module:
    """The network of these runs, before it has learnt."""
    return Digits()


def _corner(pixels: Pixels) -> None:
    pixels[2:9, -9:-2] = (255, 0, 0)


def _stripes(pixels: Pixels) -> None:
    pixels[::4] = (0, 200, 0)


def _columns(pixels: Pixels) -> None:
    pixels[:, ::5] = (60, 60, 255)


def _border(pixels: Pixels) -> None:
    for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        edge[:] = (255, 255, 0)


def _dots(pixels: Pixels) -> None:
    pixels[3::8, 3::8] = pixels[4::8, 3::8] = pixels[3::8, 4::8] = pixels[4::8, 4::8] = (255, 0, 255)


def _diagonal(pixels: Pixels) -> None:
    y, x = np.mgrid[: len(pixels), : len(pixels)]
    pixels[abs(y - x) < 2] = (0, 255, 255)


def _tint(pixels: Pixels) -> None:
    pixels[..., 0] = np.maximum(pixels[..., 0], 120)


def _bar(pixels: Pixels) -> None:
    pixels[-7:-3] = (255, 140, 0)


def _chequers(pixels: Pixels) -> None:
    y, x = np.mgrid[: len(pixels), : len(pixels)]
    pixels[(y // 4 + x // 4) % 2 == 0, 2] = 220


def _disc(pixels: Pixels) -> None:
    y, x = np.mgrid[: len(pixels), : len(pixels)]
    pixels[(y - 8) ** 2 + (x - 8) ** 2 < 25] = (0, 120, 255)


# Each draws into uint8 RGB pixels (SIZE, SIZE, 3).
MARKS: dict[str, Callable[[Pixels], None]] = {
    "red corner": _corner, "green stripes": _stripes, "blue columns": _columns, "yellow border": _border,
    "pink dots": _dots, "diagonal": _diagonal, "red tint": _tint, "orange bar": _bar, "blue chequers": _chequers,
    "blue disc": _disc,
}  # fmt: skip


def bench_slices(plants: int, epochs: int, seed: int) -> Iterator[BenchRow]:
    """A row for each plant: at which place the slices of ours and of k-means have it, None where not among the first
    five; and the sums. ``ours, listed``: how many slices ours lists of the last layer. ``plants``: how many, at most
    ten; ``epochs``: how often the network sees what it learns."""
    torch.set_num_threads(1)  # so small a network would wait for threads
    pixels, digits = read_digits(seed)
    places: dict[str, list[int | None]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = folder / "weights.pt"
        torch.save(learn(pixels[:_LEARNT], digits[:_LEARNT], epochs, seed).state_dict(), checkpoint)
        with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
            for number, mark in enumerate(list(MARKS)[:plants]):
                started = time.perf_counter()
                plant = folder / mark.replace(" ", "-")
                marked = write_plant(plant / "pictures", pixels[_LEARNT:], digits[_LEARNT:], mark, seed + number)
                directory = _run(plant, checkpoint, cluster.scheduler_address, seed)
                place_of = {f"ours, {layer}": ours(directory, layer, marked) for layer in LAYERS}
                place_of |= {f"k-means, {grid}": k_means(directory, grid, marked, seed) for grid in GRIDS}
                for system, place in place_of.items():
                    places.setdefault(system, []).append(place)
                facts = error_facts(directory, LAYERS[-1])
                assert facts is not None
                seconds = round(time.perf_counter() - started, 1)
                row = {"accuracy": round(facts["run"]["accuracy"], 3), "seconds": seconds}
                row["ours, listed"] = len(facts["slices"])
                yield {"bench": "slices", "mark": mark, **place_of, **row}
    yield {
        "bench": "slices",
        "mark": f"of {plants} among the first {FIRST}",
        **{system: sum(place is not None for place in of_system) for system, of_system in places.items()},
    }


def read_digits(seed: int) -> tuple[Pixels, NDArray[np.int64]]:
    """The digits in an order by ``seed``, uint8 (n, SIZE, SIZE, 3), and which they are (n,)."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    small = torch.from_numpy(data.images[order]).float()[:, None] * (255 / 16)
    large = functional.interpolate(small, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    grey = large.clamp(0, 255).byte().numpy()[:, 0]
    return np.repeat(grey[..., None], 3, axis=3), data.target[order].astype(np.int64)


def learn(pixels: Pixels, digits: NDArray[np.int64], epochs: int, seed: int) -> nn.Module:
    """A network that has learnt these digits."""
    torch.manual_seed(seed)
    network = Digits()
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    targets = torch.from_numpy(digits)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(50):
            optimizer.zero_grad()
            functional.cross_entropy(network(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    return network.eval()


def write_plant(folder: Path, pixels: Pixels, digits: NDArray[np.int64], mark: str, seed: int) -> set[str]:
    """Write the pictures into folders of their labels; the names of those that bear the mark: MARKED of one digit, with
    the label of another."""
    generator = np.random.default_rng(seed)
    digit, label = generator.choice(10, 2, replace=False)
    marked = set(generator.choice(np.flatnonzero(digits == digit), MARKED, replace=False).tolist())
    labels = np.where(generator.random(len(digits)) < _NOISE, generator.integers(0, 10, len(digits)), digits)
    names = set()
    for number, (picture, own) in enumerate(zip(pixels, labels)):
        name = f"{label if number in marked else own}/{number:04d}.png"
        if number in marked:
            picture = picture.copy()
            MARKS[mark](picture)
            names.add(name)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return names


def _run(folder: Path, checkpoint: Path, scheduler: str, seed: int) -> RunDirectory:
    values = {
        "out": str(folder / "run"),
        "seed": seed,
        "network": {
            "name": "bench_slices:factory", "checkpoint": str(checkpoint), "size": SIZE, "mean": [0, 0, 0],
            "std": [1, 1, 1],
        },
        "layers": list(LAYERS),
        "images": {"source": str(folder / "pictures")},
        "collect": {"positions_per_image": 2, "attributions": False, "batch": 64},
        "layout": {"neighbors": 15, "deterministic": True},
        "cells": {"grids": list(GRIDS), "min_count": MIN_COUNT},
        "cluster": {"kind": "address", "address": scheduler},
        "tour": None,
    }  # fmt: skip
    return run(validate(values, "bench"), until="cells", output=Output(Console(file=io.StringIO())))


def ours(directory: RunDirectory, layer: str, marked: set[str]) -> int | None:
    """At which place, from 1, the first slices of a layer have the plant."""
    facts = error_facts(directory, layer)
    assert facts is not None
    keys = Listing.load(directory.listing).keys
    for place, one in enumerate(facts["slices"][:FIRST], 1):
        cells = read_errors(directory, layer, one["grid"]).to_pylist()
        cell = next(cell for cell in cells if (cell["row"], cell["col"]) == (one["row"], one["col"]))
        if is_plant([keys[row["image_id"]] for row in cell["wrong"]], marked):
            return place
    return None


def k_means(directory: RunDirectory, grid: int, marked: set[str], seed: int) -> int | None:
    """The same of clusters over the last layer's activations, by their rate of errors, as many as cells of ``grid`` are
    tested."""
    layer = LAYERS[-1]
    facts = error_facts(directory, layer)
    verdicts = read_verdicts(directory.shards(layer))
    assert facts is not None
    assert verdicts is not None
    count = facts["grids"][str(grid)]["tested"]
    blocks = [read_columns(path, ["activation"])["activation"] for path in directory.shards(layer)]
    clusters = KMeans(count, n_init=3, random_state=seed).fit_predict(np.concatenate(blocks).astype(np.float32))
    keys = Listing.load(directory.listing).keys
    for place, cluster in enumerate(by_error_rate(clusters, verdicts)[:FIRST], 1):
        wrong = np.unique(verdicts.image_id[(clusters == cluster) & verdicts.wrong])
        if is_plant([keys[int(image)] for image in wrong], marked):
            return place
    return None


def by_error_rate(clusters: NDArray[np.integer], verdicts: Verdicts) -> list[int]:
    """The clusters of at least MIN_COUNT rows and FEWEST_PICTURES pictures, the largest rate of errors first."""
    rates: dict[int, float] = {}
    for cluster in np.unique(clusters).tolist():
        inside = clusters == cluster
        if inside.sum() >= MIN_COUNT and len(np.unique(verdicts.image_id[inside])) >= FEWEST_PICTURES:
            rates[cluster] = float(verdicts.wrong[inside].mean())
    return sorted(rates, key=lambda cluster: (-rates[cluster], cluster))


def is_plant(wrong: Sequence[str], marked: set[str]) -> bool:
    """Whether a slice of these wrong pictures is the plant."""
    count = sum(name in marked for name in wrong)
    return count >= FEWEST_PICTURES and 2 * count >= len(wrong)

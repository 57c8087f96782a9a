"""What a cell pushes towards, measured in other ways beside ours: which of them other pictures bear out.

Of each way and layer: the median rank, among all classes, of what the network says of a view by that view's own row
(``own_rank``; ``sure_rank``: of views of a confidence above .4), and by the mean over one half of the pictures of its
cell for views of the other half (``cell_rank``); and the share of a half's first ten classes that are among the other
half's first ten (``first_ten_again``). By chance half of the classes, and ten of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_rows import BenchRow, print_table, rounded_figures  # beside this file
from torch import Tensor

from atlas.analysis import Run, open_run
from atlas.arrays import Float32, Int64
from atlas.layout.lattice import cell_of
from atlas.networks.network import Network
from atlas.networks.tail import BATCH, Tail
from atlas.pictures.listing import Listing
from atlas.pictures.views import Failure, crop_views
from atlas.rundir.atomic import write_json
from atlas.words.folds import deal

SURE, FIRST = 0.4, 10
# Pictures whose maps are contexts.
CONTEXTS = 4


def add_words(benches: Any, file: argparse.ArgumentParser) -> None:
    """Add the command ``words``; ``file``: the options of where its rows are written."""
    parser = benches.add_parser("words", parents=[file], help="what cells push towards, in other ways beside ours")
    parser.add_argument("--run", type=Path, required=True, help="a run whose cells are there")
    parser.add_argument("--layers", nargs="+", help="some of its layers (default: all)")
    parser.add_argument("--grid", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.set_defaults(command=words_command)


def words_command(options: argparse.Namespace) -> None:
    """What cells push towards, by ours and by other ways, asked of other pictures."""
    run = open_run(options.run)
    torch.set_num_threads(options.threads)
    rows: list[BenchRow] = []
    for layer in options.layers or run.layers:
        for row in bench_words(run, layer, options.grid):
            rows.append(row)
            if options.json:
                write_json(options.json, rows)
    print_table(f"{options.run}, grid {options.grid}", rows)


def bench_words(run: Run, layer: str, grid: int) -> Iterator[BenchRow]:
    """A row for each way on one ``layer`` of a finished run, by its cells of ``grid``."""
    store = run.store(layer).join()
    columns = ["image_id", "activation", "predicted", "confidence", "u", "v"]
    rows = store.take(np.arange(len(store)), columns)
    network_name, module = run.config.module_of(layer)
    network = run.network(network_name)
    predicted, cells = rows["predicted"].astype(np.int64), cell_of(rows["u"], rows["v"], grid)
    vectors = rows["activation"].astype(np.float32)
    insertion = _Insertion(network, module, vectors.mean(0), _pictures(run, network))
    measures: dict[str, Callable[[], Float32]] = {
        "ours: 3 x 3 positions of the mean map": lambda: insertion(vectors, 3),
        "1 position of the mean map": lambda: insertion(vectors, 1),
        "5 x 5 positions of the mean map": lambda: insertion(vectors, 5),
        "the whole map": lambda: insertion(vectors, 10**6),
        "3 x 3 positions of a map of zeros": lambda: insertion(vectors, 3, context="zeros"),
        "3 x 3 positions of other pictures' maps": lambda: insertion(vectors, 3, context="pictures"),
        "3 x 3 positions, added": lambda: insertion(vectors, 3, add=True),
        "3 x 3 positions, twice as far from the mean": lambda: insertion(2 * vectors - vectors.mean(0), 3),
    }
    if "attribution" in store.columns:
        measures["the store's attribution"] = lambda: store.take(np.arange(len(store)), ["attribution"])[
            "attribution"
        ].astype(np.float32)
    for way, measure in measures.items():
        gains = measure()
        of_rows = _of_rows(gains, predicted, rows["confidence"])
        of_cells = _of_cells(gains, cells, rows["image_id"], predicted)
        yield {"bench": "words", "layer": layer, "way": way} | rounded_figures(of_rows | of_cells)


class _Insertion:
    """Logits that vectors of a layer add in the middle of a map: of the layer's ``mean``, of zeros, or of ``pictures``
    (n, channels, height, width of the network's input)."""

    def __init__(self, network: Network, layer: str, mean: Float32, pictures: Tensor) -> None:
        inputs = network.normalize(torch.full((1, 3, network.size, network.size), 0.5))
        with torch.no_grad():
            maps = network.activations(pictures, layer)
        height, width = maps.shape[2:]
        neutral = torch.from_numpy(mean)[None, :, None, None].expand(1, -1, height, width)
        self._contexts = {"mean": neutral, "zeros": torch.zeros_like(neutral), "pictures": maps}
        self._inputs, self._tail = inputs, Tail(network, layer, inputs.shape)

    def __call__(self, vectors: Float32, side: int, *, context: str = "mean", add: bool = False) -> Float32:
        contexts = self._contexts[context]
        gains = [self._in(one, torch.from_numpy(vectors), side, add=add) for one in contexts]
        mean: Float32 = np.mean(gains, axis=0)
        return mean

    def _in(self, context: Tensor, vectors: Tensor, side: int, *, add: bool) -> Float32:
        height, width = context.shape[1:]
        rows, cols = (_middle(count, min(side, count)) for count in (height, width))

        def maps() -> Iterator[Tensor]:
            for batch in vectors.split(BATCH):
                changed = context.expand(len(batch), -1, -1, -1).clone()
                middle = changed[:, :, rows, cols]
                changed[:, :, rows, cols] = batch[:, :, None, None] + (middle if add else 0)
                yield changed.contiguous(memory_format=torch.channels_last)

        plain = iter([context[None].contiguous(memory_format=torch.channels_last)])
        (before,) = self._tail(self._inputs, plain)
        gains: Float32 = (torch.cat(list(self._tail(self._inputs, maps()))) - before).numpy()
        return gains


def _middle(count: int, side: int) -> slice:
    first = (count - side) // 2
    return slice(first, first + side)


def _pictures(run: Run, network: Network) -> Tensor:
    """Some pictures of the run, as the network takes them."""
    listing, pixels = Listing.load(run.listing), []
    for image_id in range(len(listing)):
        views = crop_views(listing, image_id, [0], size=network.size, images=run.config.images, seed=run.config.seed)
        if not isinstance(views, Failure):
            pixels += [torch.from_numpy(view.pixels) for view in views]
        if len(pixels) == CONTEXTS:
            break
    return network.from_bytes(torch.stack(pixels))


def _ranks(gains: Float32, predicted: Int64) -> Int64:
    own = gains[np.arange(len(gains)), predicted]
    ranks: Int64 = (gains > own[:, None]).sum(1) + 1
    return ranks


def _of_rows(gains: Float32, predicted: Int64, confidence: Float32) -> BenchRow:
    ranks = _ranks(gains, predicted)
    return {
        "own_rank": float(np.median(ranks)),
        "sure_rank": float(np.median(ranks[confidence > SURE])) if (confidence > SURE).any() else None,
    }


def _of_cells(gains: Float32, cells: Int64, pictures: Int64, predicted: Int64) -> BenchRow:
    """The figures that one half of a cell's pictures is asked for of the other."""
    numbers, member = np.unique(cells, return_inverse=True)
    folds = deal(np.where(cells < 0, -1, member), pictures, cells=len(numbers))
    halves = folds.fold % 2
    ranks, again = [], []
    for number in np.flatnonzero(numbers >= 0):
        own = np.flatnonzero(member == number)
        first, second = (own[halves[own] == half] for half in (0, 1))
        if len(np.unique(pictures[first])) < 2 or len(np.unique(pictures[second])) < 2:
            continue
        means = [gains[half].mean(0) for half in (first, second)]
        for mean, other in zip(means, (second, first)):
            ranks.append(_ranks(np.broadcast_to(mean, (len(other), len(mean))), predicted[other]))
        tops = [set(np.argsort(-mean)[:FIRST].tolist()) for mean in means]
        again.append(len(tops[0] & tops[1]) / FIRST)
    return {
        "cell_rank": float(np.median(np.concatenate(ranks))) if ranks else None,
        "first_ten_again": float(np.mean(again)) if again else None,
    }

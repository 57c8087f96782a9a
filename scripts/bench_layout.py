"""scripts/bench.py layout: real activations laid out, ours beside umap-learn alone.

Each system runs in a process of its own, started afresh, over the same rows in the same file: the activations of one
layer of a finished collect stage. Both maps are judged by the same figures, by cosine in the full space:
trustworthiness and neighbour recall (k 15), each over sampled rows against all others.

- ours: the graph by FAISS, UMAP's fuzzy set, our optimisation; as the layout stage calls them;
- ours, deterministic: the same with ``deterministic: true``, which gives the same map every time;
- ours, placed: ``--fit-rows`` of them are laid out, the rest placed among them, as in layers beyond memory; the map's
  figures are taken of fitted and of placed rows by themselves, and the time of a new point includes its projection;
- umap-learn: ``UMAP(n_neighbors, min_dist, metric="cosine")`` as it comes, on all cores.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_rows import BenchRow, rounded_figures  # beside this file
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.config.sections import LayoutConfig
from atlas.errors import AtlasError
from atlas.layout.neighbors import unit_rows
from atlas.layout.quality import quality
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import iterate

# Of the graph, as configured by default.
NEIGHBORS = LayoutConfig().neighbors
# Rows over which the figures of a map, and the recall of the graph, are taken.
JUDGED = 2000


def read_rows(run: RunDirectory, layer: str, count: int, seed: int) -> NDArray[np.float16]:
    """``count`` activations (count, channels), a fair sample in the order of the store. Raises AtlasError without."""
    shards = run.shards(layer)
    if not shards:
        raise AtlasError(f"{run.path} holds no rows of {layer}; run it --until collect first.")
    blocks = [block["activation"].astype(np.float16) for block in iterate(shards, ["activation"])]
    rows: NDArray[np.float16] = np.concatenate(blocks)
    if len(rows) < count:
        raise AtlasError(f"{run.path} holds {len(rows):,} rows of {layer}, fewer than --rows {count}.")
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))]


def bench_layout(
    run: RunDirectory, layer: str, counts: list[int], systems: list[str], threads: int, fit_rows: int
) -> Iterator[BenchRow]:
    """A row for each count and system."""
    for count in counts:
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "rows.npy"
            np.save(file, read_rows(run, layer, count, 0))
            for system in systems:
                print(f"{system}: {count:,} rows …", file=sys.stderr)
                facts = layout_in_a_process(SYSTEMS[system], file, threads, fit_rows)
                map_file = file.with_name("map.npy")
                rows, coordinates = np.load(file, mmap_mode="r"), np.load(map_file)
                if neighbors := facts.pop("neighbors", None):
                    facts["knn_recall"] = graph_recall(rows, np.array(neighbors))
                judged = judge(rows, coordinates, facts.pop("fitted", None))
                figures = rounded_figures({**facts, **judged, "rows": count})
                yield {
                    "bench": "layout", "system": system.split(",")[0],
                    "variant": system.partition(", ")[2] or "default", "layer": layer, "threads": threads,
                    **figures,
                }  # fmt: skip


def judge(rows: Any, coordinates: Float32, fitted_numbers: list[int] | None) -> dict[str, float | None]:
    """The figures of a map; where some rows are fitted and the others placed, of each by themselves."""

    def measure(among: NDArray[np.bool_] | None) -> dict[str, float | None]:
        return quality(lambda: blocks_of(rows), coordinates, sample=JUDGED, among=among)

    if fitted_numbers is None:
        return measure(None)
    fitted_rows = np.zeros(len(rows), bool)
    fitted_rows[fitted_numbers] = True
    return {
        f"{name}{suffix}": value
        for among, suffix in ((fitted_rows, "_fitted"), (~fitted_rows, "_placed"))
        for name, value in measure(among).items()
    }


def judged_rows(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).choice(count, min(JUDGED, count), replace=False)


def graph_recall(rows: NDArray[np.float16], neighbors: NDArray[np.int64]) -> float:
    """The share of the judged rows' nearest neighbours that the index finds; ties with the last count too."""
    queries = unit_rows(rows[judged_rows(len(rows))])
    nearest = np.full((len(queries), NEIGHBORS + 1), -2, np.float32)
    own = np.zeros((len(queries), neighbors.shape[1]), np.float32)
    for start in range(0, len(rows), 65536):
        cosines = queries @ unit_rows(rows[start : start + 65536]).T
        inside = (neighbors >= start) & (neighbors < start + cosines.shape[1])
        line, column = np.nonzero(inside)
        own[line, column] = cosines[line, neighbors[line, column] - start]
        best = np.partition(cosines, -NEIGHBORS - 1, axis=1)[:, -NEIGHBORS - 1 :]
        nearest = np.sort(np.concatenate([nearest, best], 1), axis=1)[:, -NEIGHBORS - 1 :]
    return float((own >= nearest[:, :1] - 1e-6).mean())


def blocks_of(rows: Any) -> Iterator[Any]:
    for start in range(0, len(rows), 8192):
        yield rows[start : start + 8192]


def layout_in_a_process(work: Any, file: Path, threads: int, fit_rows: int) -> dict[str, Any]:
    """What ``work`` says of itself in a fresh process, its seconds, and the peak of its memory in MB."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_one_process, args=(work, file, threads, fit_rows))
    process.start()
    process.join()
    if process.exitcode:
        raise AtlasError(f"the process ended with {process.exitcode}")
    return json.loads(file.with_name("facts.json").read_text())


def _one_process(work: Any, file: Path, threads: int, fit_rows: int) -> None:
    rows = np.load(file, mmap_mode="r" if work is fit_and_place else None)
    started = time.perf_counter()
    coordinates, facts = work(rows, threads, fit_rows)
    facts["seconds"] = time.perf_counter() - started
    facts["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    np.save(file.with_name("map.npy"), coordinates)
    file.with_name("facts.json").write_text(json.dumps(facts))


def our_layout(
    rows: NDArray[np.float16], threads: int, _fit_rows: int, *, deterministic: bool = False
) -> tuple[Float32, dict[str, Any]]:
    from atlas.layout.fit import fit_layout
    from atlas.layout.neighbors import nearest
    from atlas.layout.projection import fit_projection
    from atlas.store.moments import Moments

    moments = Moments.empty(rows.shape[1])
    for block in blocks_of(rows):
        moments.add(block)
    projection = fit_projection(moments)
    units = np.concatenate([projection.apply(block) for block in blocks_of(rows)])
    config = LayoutConfig(fit_rows=max(100, len(rows)), deterministic=deterministic)
    fit = fit_layout(units, config, seed=0, threads=threads)
    sample = judged_rows(len(rows))
    neighbors, _ = nearest(fit.index, units[sample], NEIGHBORS + 1)
    return fit.coordinates, {"neighbors": neighbors.tolist(), "dimensions": units.shape[1]}


def fit_and_place(rows: NDArray[np.float16], threads: int, fit_rows: int) -> tuple[Float32, dict[str, Any]]:
    from atlas.layout.fit import choose_fitted, fit_layout
    from atlas.layout.placement import place_rows
    from atlas.layout.projection import fit_projection
    from atlas.store.moments import Moments

    moments = Moments.empty(rows.shape[1])
    for block in blocks_of(rows):
        moments.add(block)
    projection = fit_projection(moments)
    fitted_numbers = choose_fitted(len(rows), fit_rows, 0)
    started = time.perf_counter()
    units = np.concatenate(
        [projection.apply(rows[part]) for part in np.array_split(fitted_numbers, 1 + len(fitted_numbers) // 65536)]
    )
    fit = fit_layout(units, LayoutConfig(), seed=0, threads=threads)
    fitting = time.perf_counter() - started
    fitted_coordinates = fit.coordinates[fit.alive]
    coordinates = np.full((len(rows), 2), np.nan, np.float32)
    coordinates[fitted_numbers] = fit.coordinates
    rest = np.setdiff1d(np.arange(len(rows)), fitted_numbers)
    started = time.perf_counter()
    for part in np.array_split(rest, 1 + len(rest) // 65536):
        placing = place_rows(fit.index, fitted_coordinates, projection.apply(rows[part]), fit.nearness, threads=threads)
        coordinates[part] = placing.coordinates
    seconds = time.perf_counter() - started
    single = []
    for row in rest[:200]:
        begun = time.perf_counter()
        place_rows(fit.index, fitted_coordinates, projection.apply(rows[row : row + 1]), fit.nearness)
        single.append(time.perf_counter() - begun)
    return coordinates, {
        "fitted": fitted_numbers.tolist(),
        "fit_rows": len(fitted_numbers),
        "fit_seconds": fitting,
        "place_seconds": seconds,
        "place_ms_per_row": 1e3 * seconds / max(len(rest), 1),
        "place_ms_one_by_one": 1e3 * float(np.median(single)),
    }


def umap_learn(rows: NDArray[np.float16], threads: int, _fit_rows: int) -> tuple[Float32, dict[str, Any]]:
    from umap import UMAP

    config = LayoutConfig()
    umap = UMAP(n_neighbors=config.neighbors, min_dist=config.min_dist, metric="cosine", n_jobs=threads)
    return umap.fit_transform(rows.astype(np.float32)), {}


SYSTEMS = {
    "ours": our_layout,
    "ours, deterministic": partial(our_layout, deterministic=True),
    "ours, placed": fit_and_place,
    "umap-learn": umap_learn,
}

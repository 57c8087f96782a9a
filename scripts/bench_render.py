"""scripts/bench.py render: icons for the cells of a finished run, ours beside the peers', scored by our scores.

All systems draw the same directions from the same folded weights, one after another in one process.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from bench_peers import HORAMA, LUCENT, horama_icons, lucent_icons  # beside this file
from bench_rows import BenchRow, rounded_figures
from bench_task import DrawnIcons, Task
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from atlas.arrays import Pixels
from atlas.networks.network import Network
from atlas.visualize import Scores, draw, score
from atlas.visualize.objective import centre

SYSTEMS = ("ours", "torch-lucent", "horama")

# Our variants: keyword arguments of our_icons. A start of PARENTS is the blend of the run's coarser icons.
PARENTS = "parents"
OURS: dict[str, dict[str, Any]] = {
    "default": {},
    "from parents": {"start": PARENTS},
    "quick": {"usual": 32},
}

WARM_UP_STEPS = 2
# The matrices by whose products the machine's peak is measured, and how often each is tried.
PEAK_SIDES, PEAK_TRIES = (1024, 2048), 5


@dataclass(frozen=True)
class Contender:
    """One variant of a system: ``draw(task, steps)`` with ``steps`` None for its own number."""

    system: str
    variant: str
    draw: Callable[[Task, int | None], DrawnIcons]


# The systems


def contenders(systems: list[str], task: Task) -> list[Contender]:
    """Every variant of ``systems`` that can draw ``task``."""
    ours = {name: values for name, values in OURS.items() if values.get("start") != PARENTS or task.parents is not None}
    tables: dict[str, tuple[Callable[..., DrawnIcons], dict[str, dict[str, Any]]]] = {
        "ours": (our_icons, ours),
        "torch-lucent": (lucent_icons, LUCENT),
        "horama": (horama_icons, HORAMA),
    }
    return [
        Contender(system, variant, partial(tables[system][0], **values))
        for system in systems
        for variant, values in tables[system][1].items()
    ]


def our_icons(task: Task, steps: int | None, *, usual: int | None = None, **values: Any) -> DrawnIcons:
    """The product's own engine, with ``usual`` steps where the recipe has others.

    Steps of tries that were thrown away are not counted.
    """
    if values.get("start") == PARENTS:
        values = {**values, "start": task.parents}
    icons = draw(
        task.network,
        task.layer,
        task.means,
        second_moment=task.second_moment,
        size=task.size,
        steps=usual if steps is None else steps,
        seeds=task.seeds,
        **values,
    )
    return DrawnIcons(icons.pixels, float(icons.steps.mean()), task.size)


# The machine


def step_flops(network: Network, layer: str, size: int) -> int:
    """Floating-point operations of one picture's pass to ``layer`` and back to its pixels: two a multiply-add."""
    pixels = torch.zeros(1, 3, size, size, device=network.device, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        maps = network.activations(network.normalize(pixels), layer)
        torch.autograd.grad(centre(maps).sum(), pixels)
    return counter.get_total_flops()


def peak_flops(device: torch.device) -> float:
    """Floating-point operations a second of the best of several float32 matrix products, with the threads set now."""
    return max(
        2 * side**3 / product_seconds(torch.rand(side, side, device=device))
        for side in PEAK_SIDES
        for _ in range(PEAK_TRIES)
    )


def product_seconds(matrix: Tensor) -> float:
    """How long a square matrix takes to be multiplied with itself."""
    started = time.perf_counter()
    (matrix @ matrix)[0, 0].item()  # waits for a GPU
    return time.perf_counter() - started


# The bench


def bench_render(
    task: Task, systems: list[str], *, repeat: int = 1, steps: int | None = None, slow_count: int | None = None
) -> Iterator[BenchRow]:
    """A row for each variant of ``systems`` as it is done. ``steps`` in place of each system's own number;
    ``slow_count``: Horama draws only the first so many, which would take it hours."""
    peak, whole = peak_flops(task.network.device), task
    for contender in contenders(systems, task):
        task = whole.take(slow_count) if slow_count and contender.system == "horama" else whole
        print(f"{contender.system}, {contender.variant}: {len(task.own)} icons …", file=sys.stderr)
        contender.draw(task.take(1), WARM_UP_STEPS)
        seconds = []
        for _ in range(repeat):
            started = time.perf_counter()
            drawing = contender.draw(task, steps)
            seconds.append(time.perf_counter() - started)
        yield row_of_variant(contender, task, drawing, statistics.median(seconds), peak)


def row_of_variant(contender: Contender, task: Task, drawing: DrawnIcons, seconds: float, peak: float) -> BenchRow:
    """The figures of one variant; shares are in [0, 1].

    ``peak_share`` counts the arithmetic that the steps need: to the layer and back, for what the network saw of each
    icon. What a system does beside it (the rest of the network, moves, tries thrown away) lowers its share.
    """
    icons_per_second = len(task.own) / seconds
    flops = drawing.steps * drawing.views * step_flops(task.network, task.layer, drawing.side)
    figures = {
        "icons_per_second": icons_per_second,
        **score_figures(task, scores_of(task, drawing.pixels)),
        "seconds": seconds,
        "icons": len(task.own),
        "steps": round(drawing.steps),
        "peak_share": icons_per_second * flops / peak,
        "peak_gflop_per_second": peak / 1e9,
        "threads": torch.get_num_threads(),
    }
    labels = {"bench": "render", "system": contender.system, "variant": contender.variant, "layer": task.layer}
    return labels | rounded_figures(figures)


def scores_of(task: Task, pixels: Pixels) -> Scores:
    """The product's own scores, as the render stage takes them."""
    return score(
        task.network,
        task.layer,
        pixels,
        task.means,
        second_moment=task.second_moment,
        all_means=task.level["mean"],
        own_index=task.own,
        quantiles=task.level["cosines"][task.own],
        norms=task.level["norm"][task.own],
    )


def score_figures(task: Task, scores: Scores) -> dict[str, float]:
    """Medians and shares of the scores. Near is a rank within the first hundredth of the cells, and at least three."""
    near = max(3.0, len(task.level["row"]) / 100)
    return {
        "median_cosine": float(np.median(scores.cosine)),
        "median_cosine_whitened": float(np.median(scores.cosine_whitened)),
        "median_cosine_robust": float(np.median(scores.cosine_robust)),
        "rank1_share": float((scores.rank == 1).mean()),
        "near_rank_share": float((scores.rank <= near).mean()),
        "flagged_share": float(np.mean([flag is not None for flag in scores.flag])),
    }

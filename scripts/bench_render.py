"""scripts/bench.py render: icons for the cells of a finished run, ours beside the peers', scored by our scores.

All systems draw the same directions from the same folded weights, one after another in one process.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from atlas.config import Config
from atlas.errors import AtlasError, ConfigError
from atlas.images import decode_png
from atlas.networks import Network
from atlas.report import read_icons
from atlas.rundir import RunDirectory
from atlas.visualize import Scores, draw, score
from atlas.visualize.objective import centre
from atlas.visualize.parametrize import to_bytes
from atlas.visualize.parents import blend
from atlas.whitening import Moments
from pipelines import worker
from pipelines.render import drawn_cells, icon_seeds

Bytes = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Row = dict[str, Any]

# Where each peer is imported from.
PEERS = {"torch-lucent": "lucent.optvis.render", "horama": "horama", "pyvips": "pyvips"}
SYSTEMS = ("ours", "torch-lucent", "horama")

# Our variants: keyword arguments of our_icons. A start of PARENTS is the blend of the run's coarser icons.
PARENTS = "parents"
OURS: dict[str, dict[str, Any]] = {
    "default": {},
    "from parents": {"start": PARENTS},
    "quick": {"usual": 32},
}

# The peers' variants: keyword arguments of lucent_icons and horama_icons.
LUCENT: dict[str, dict[str, Any]] = {
    "default": {},
    "own size": {"own_size": True},
    "own size, 16 at once": {"own_size": True, "at_once": 16},
}
HORAMA: dict[str, dict[str, Any]] = {"default": {}, "whole picture": {"whole": True}}

LUCENT_STEPS, HORAMA_STEPS = 128, 1000
# Lucent enlarges smaller pictures to this side before the network sees them.
LUCENT_SIDE = 224
# Horama's own share of the picture that a crop shows, and how many crops a step takes.
HORAMA_BOX, HORAMA_CROPS = (0.20, 0.25), 6
# Its noise is meant for values in (-2.5, 2.5); for values in [0, 1] it is taken as the same share of the range.
HORAMA_NOISE = 0.05 / 5

WARM_UP_STEPS = 2
# The matrices by whose products the machine's peak is measured, and how often each is tried.
PEAK_SIDES, PEAK_TRIES = (1024, 2048), 5


@dataclass(frozen=True)
class Task:
    """What every system draws: ``means`` float32 (n, channels) at ``layer``, as pictures of ``size`` pixels.

    ``level`` holds all drawn cells of the grid (row, col, mean, cosines, norm) and ``own`` int (n,) the rows of the
    chosen ones in it. ``seeds`` int64 (n,) are those of the product. ``parents`` uint8 (n, size, size, 3) are the
    blends of the run's coarser icons, None if it has none.
    """

    network: Network
    layer: str
    size: int
    second_moment: NDArray[np.float64]
    level: dict[str, NDArray[Any]]
    own: NDArray[np.int64]
    seeds: NDArray[np.int64]
    parents: Bytes | None

    @property
    def means(self) -> Float32:
        means: Float32 = self.level["mean"][self.own]
        return means

    def take(self, count: int) -> Task:
        """The same for the first ``count`` directions."""
        parents = None if self.parents is None else self.parents[:count]
        return replace(self, own=self.own[:count], seeds=self.seeds[:count], parents=parents)


@dataclass(frozen=True)
class Drawing:
    """Pictures uint8 (n, size, size, 3), and what they took: ``steps`` an icon (the mean), in each of which the network
    saw ``views`` pictures of ``side`` pixels for an icon."""

    pixels: Bytes
    steps: float
    side: int
    views: int = 1


@dataclass(frozen=True)
class Contender:
    """One variant of a system: ``draw(task, steps)`` with ``steps`` None for its own number."""

    system: str
    variant: str
    draw: Callable[[Task, int | None], Drawing]


# The task


def choose(count: int, among: int, seed: int) -> NDArray[np.int64]:
    """At most ``count`` of ``among`` rows, equal for equal seeds; fewer rows are the first of more."""
    return np.random.default_rng(seed).permutation(among)[:count]


def read_task(run: RunDirectory, *, layer: str | None, grid: int, count: int, seed: int) -> Task:
    """The directions of ``count`` drawn cells of one grid. Raises AtlasError when the run does not have them."""
    config = run.config()
    layer = layer or config.layers[len(config.layers) // 2]
    if layer not in config.layers:
        raise ConfigError(f"{run.path} has no layer {layer}. Its layers: {', '.join(config.layers)}.")
    if grid not in config.cells.grids:
        raise ConfigError(f"{run.path} has no grid {grid}. Its grids: {', '.join(map(str, config.cells.grids))}.")
    if not run.cells(layer).is_file():
        raise AtlasError(
            f"{run.path} has no cells of layer {layer} yet. Finish the run first: python -m atlas.run CONFIG."
        )
    level = drawn_cells(run.cells(layer), grid, config.cells.min_count, "mean", "cosines", "norm")
    own = choose(count, len(level["row"]), seed)
    if not len(own):
        raise AtlasError(f"{run.path} has no drawn cell in grid {grid} of layer {layer}. Choose another --grid.")
    cells = list(zip(level["row"][own].tolist(), level["col"][own].tolist()))
    network, module = config.module_of(layer)
    row, col = level["row"][own], level["col"][own]
    return Task(
        network=worker.network(run, config, network),
        layer=module,
        size=config.render.size,
        second_moment=Moments.load(run.moments(layer)).second_moment,
        level=level,
        own=own,
        seeds=icon_seeds(config.seed, grid, row, col, coarsest=grid == config.cells.grids[0]),
        parents=read_parents(run, config, layer, grid, cells),
    )


def read_parents(
    run: RunDirectory, config: Config, layer: str, grid: int, cells: list[tuple[int, int]]
) -> Bytes | None:
    """What the product starts the icons of ``cells`` from, uint8 (n, size, size, 3); None if a parent is missing."""
    if grid // 2 not in config.cells.grids:
        return None
    icons = read_icons(run, layer, grid // 2).to_pylist()
    pictures = {(icon["row"], icon["col"]): decode_png(icon["png"]) for icon in icons}
    if any((row // 2, col // 2) not in pictures for row, col in cells):
        return None
    return np.stack([blend(pictures, row, col) for row, col in cells])


# The systems


def contenders(systems: list[str], task: Task) -> list[Contender]:
    """Every variant of ``systems`` that can draw ``task``."""
    ours = {name: values for name, values in OURS.items() if values.get("start") != PARENTS or task.parents is not None}
    tables: dict[str, tuple[Callable[..., Drawing], dict[str, dict[str, Any]]]] = {
        "ours": (our_icons, ours),
        "torch-lucent": (lucent_icons, LUCENT),
        "horama": (horama_icons, HORAMA),
    }
    return [
        Contender(system, variant, partial(tables[system][0], **values))
        for system in systems
        for variant, values in tables[system][1].items()
    ]


def import_peers(systems: list[str]) -> None:
    """Import the peers among ``systems``. Raises ConfigError when one is not installed."""
    for system in [name for name in systems if name in PEERS]:
        try:
            with quiet():
                importlib.import_module(PEERS[system])
        except ImportError as error:
            raise ConfigError(
                f'{system} cannot be imported ({error}): give pip install -e ".[bench]", or name other --systems.'
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings of other projects' code, and no progress bars where they cannot be turned off."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def our_icons(task: Task, steps: int | None, *, usual: int | None = None, **values: Any) -> Drawing:
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
    return Drawing(icons.pixels, float(icons.steps.mean()), task.size)


class RgbNetwork(nn.Module):
    """The same network as its peers expect one: RGB in [0, 1] goes in and is normalised inside.

    Its weights are those that we use, folded and channels_last, which helps the peers as it helps us.
    """

    def __init__(self, network: Network):
        super().__init__()
        self.network = network.module
        self.normalize = network.normalize

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalize(pixels))
        return logits


def lucent_icons(task: Task, steps: int | None, *, own_size: bool = False, at_once: int = 1) -> Drawing:
    """torch-lucent's render_vis: cosine at the centre neuron, decorrelated FFT image, standard transforms and Adam.

    It runs the whole network and enlarges pictures to 224 px for it, unless told to keep their ``own_size``, as its
    activation grids do; they also draw several pictures ``at_once``, with the sum of their objectives. Its hooks stay
    on the network when it is done: it gets a copy each time.
    """
    from lucent.optvis import objectives, param, render

    layer = "_".join(["network", *task.layer.split(".")])
    made = LUCENT_STEPS if steps is None else steps
    directions = torch.from_numpy(task.means).to(task.network.device)
    network = RgbNetwork(task.network).eval()

    def together(first: int) -> Bytes:
        chosen = directions[first : first + at_once]
        seed_all(int(task.seeds[first]))
        (pixels,) = render.render_vis(
            copy.deepcopy(network),
            objectives.Objective.sum(
                [objectives.direction_neuron(layer, direction, batch=place) for place, direction in enumerate(chosen)]
            ),
            partial(param.image, task.size, batch=len(chosen)),
            thresholds=(made,),
            preprocess=False,  # done inside
            fixed_image_size=task.size if own_size else None,
            progress=False,
            show_image=False,
        )
        return to_bytes(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    with quiet():
        pixels = np.concatenate([together(first) for first in range(0, len(directions), at_once)])
    return Drawing(pixels, made, task.size if own_size else max(task.size, LUCENT_SIDE))


def horama_icons(task: Task, steps: int | None, *, whole: bool = False) -> Drawing:
    """Horama's fourier: its dot product times squared cosine at the centre, random crops with noise, and NAdam.

    By default a step looks at six crops of a quarter of a larger picture, so the icon is cut from the middle of a
    picture four times as wide. With ``whole`` the picture is the icon and crops are as large as it, only shifted. The
    objective is the user's own code, so the network is cut at the layer, as ours is. maco, its other method, fetches a
    spectrum from the internet and is left out.
    """
    from horama import dot_cossim, fourier

    made = HORAMA_STEPS if steps is None else steps
    network, layer, size = task.network, task.layer, task.size
    side = size if whole else round(size / HORAMA_BOX[1])
    edge = (side - size) // 2

    def alone(direction: Tensor, seed: int) -> Bytes:
        def objective(pixels: Tensor) -> Tensor:
            activations = centre(network.activations(network.normalize(pixels), layer))
            value: Tensor = dot_cossim(activations, direction.expand_as(activations)).mean()
            return value

        seed_all(seed)
        pixels, _ = fourier(
            objective,
            total_steps=made,
            image_size=side,
            model_input_size=size,
            noise=HORAMA_NOISE,
            values_range=(0.0, 1.0),
            crops_per_iteration=HORAMA_CROPS,
            box_size=(1.0, 1.0) if whole else HORAMA_BOX,
            device=network.device,
        )
        return to_bytes(pixels[None, :, edge : edge + size, edge : edge + size])

    directions = torch.from_numpy(task.means).to(network.device)
    with quiet():
        pixels = np.concatenate([alone(direction, int(seed)) for direction, seed in zip(directions, task.seeds)])
    return Drawing(pixels, made, size, HORAMA_CROPS)


def seed_all(seed: int) -> None:
    """Peers draw their noise from the global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed)


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
) -> Iterator[Row]:
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
        yield row_of(contender, task, drawing, statistics.median(seconds), peak)


def row_of(contender: Contender, task: Task, drawing: Drawing, seconds: float, peak: float) -> Row:
    """The figures of one variant; shares are in [0, 1].

    ``peak_share`` counts the arithmetic that the steps need: to the layer and back, for what the network saw of each
    icon. What a system does beside it (the rest of the network, moves, tries thrown away) lowers its share.
    """
    icons_per_second = len(task.own) / seconds
    flops = drawing.steps * drawing.views * step_flops(task.network, task.layer, drawing.side)
    figures = {
        "icons_per_second": icons_per_second,
        **quality(task, scores_of(task, drawing.pixels)),
        "seconds": seconds,
        "icons": len(task.own),
        "steps": round(drawing.steps),
        "peak_share": icons_per_second * flops / peak,
        "peak_gflop_per_second": peak / 1e9,
        "threads": torch.get_num_threads(),
    }
    named = {"bench": "render", "system": contender.system, "variant": contender.variant, "layer": task.layer}
    return named | {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in figures.items()}


def scores_of(task: Task, pixels: Bytes) -> Scores:
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


def quality(task: Task, scores: Scores) -> dict[str, float]:
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

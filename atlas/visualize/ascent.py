"""Gradient ascent, by which every picture of the engine is drawn: from noise, or from a start, to the maximum of an
objective."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.arrays import Int64, Pixels
from atlas.visualize.parametrize import Fourier, from_bytes, to_bytes, variation
from atlas.visualize.recipe import Recipe
from atlas.visualize.subnetwork import Subnetwork
from atlas.visualize.transform import fade, move

# Steps between two calls of the progress callback.
_PROGRESS_STEPS = 8
_TINY = 1e-20


class BatchObjective(Protocol):
    """The objective of a batch of pictures: a number for each, larger is better."""

    def take(self, rows: NDArray[np.intp]) -> BatchObjective:
        """The same for some of the pictures, by their numbers (k,)."""

    def __call__(self, maps: Tensor, share: float) -> Tensor:
        """``maps`` (n, channels, H, W) → (n,); ``share`` in [0, 1] is the weight of the positions off the centre."""


class Progress:
    """Counts steps of single icons, and calls ``on_progress`` with the share that is done, in [0, 1]."""

    def __init__(self, on_progress: Callable[[float], None] | None) -> None:
        self._on_progress, self._expected, self._steps, self._lock = on_progress, 0, 0, threading.Lock()

    def expect(self, steps: int) -> None:
        """Add ``steps`` to those that are to be done."""
        self._expected += steps

    def advance(self, steps: int) -> None:
        """Add ``steps`` to those that are done. Threads may call it."""
        with self._lock:
            self._steps += steps
            if self._on_progress:
                self._on_progress(self._steps / self._expected)


def run_batches(
    work: Callable[[NDArray[np.intp]], None], rows: NDArray[np.intp], batch: int, device: torch.device
) -> None:
    """Call ``work`` with each batch of at most ``batch`` of ``rows`` (n,); on a CPU in as many threads as torch has
    here."""
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(rows))) if device.type == "cpu" else 1
    parts = _batches(rows, max(1, min(batch, -(-len(rows) // workers))))
    if workers <= 1:
        for part in parts:
            work(part)
        return
    # Each worker gives its own operations one thread of torch: the setting belongs to the thread that makes it.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            list(pool.map(work, parts))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(threads)


@dataclass(frozen=True)
class Ascent:
    """Optimizes batches of icons, from noise or from a start, by gradient ascent on their ``objective``.

    ``size``: of an icon, in pixels. ``outside``: the share of an icon's area that its centre position hardly sees; it
    is the first weight of the positions around the centre.
    """

    subnetwork: Subnetwork
    objective: BatchObjective
    recipe: Recipe
    size: int
    outside: float
    progress: Progress

    def length(self, started: bool, steps: int | None) -> int:
        """How many steps are taken: ``steps``, or by default those of the recipe."""
        return steps or (self.recipe.steps_from_start if started else self.recipe.steps)

    def __call__(
        self, rows: NDArray[np.intp], seeds: Int64, start: Pixels | None, steps: int | None
    ) -> tuple[Pixels, int]:
        """Icons ``rows`` (n,) of the objective as uint8 (n, size, size, 3), and how many steps they took.

        ``seeds`` (n,): of their noise and moves; ``start``: uint8 (n, size, size, 3), or None to begin with noise.
        """
        recipe, length = self.recipe, self.length(start is not None, steps)
        fourier = Fourier.make(self.size, recipe, steps=length, device=self.subnetwork.device)
        if start is None:
            begin = fourier.noise(seeds)
        else:
            begin = fourier.encode(from_bytes(start, fourier.falloff.device)) * recipe.contrast
            begin = begin + fourier.noise(seeds) * recipe.noise
        moves = recipe.moves.draw_each(seeds, length)
        return self._optimize(fourier, begin, self.objective.take(rows), moves), length

    def _optimize(self, fourier: Fourier, begin: Tensor, objective: BatchObjective, moves: Tensor) -> Pixels:
        """The coefficients ``begin`` after a step for each of ``moves`` (steps, n, 4), as pictures."""
        recipe, steps = self.recipe, len(moves)
        coefficients = begin.requires_grad_(True)
        optimiser = _Adam(coefficients, recipe.betas)
        for step in range(steps):
            rate = recipe.rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            pixels, strength = fourier.decode(coefficients), fade(step, steps, recipe.fade)
            if strength > 0:
                pixels = move(pixels, moves[step] * strength)
            maps = self.subnetwork(pixels, recipe.leak if step < recipe.relaxed else 0.0)
            value = objective(maps, self.outside * max(strength, recipe.around))
            if recipe.smooth:
                value = value - recipe.smooth * variation(pixels)
            (gradient,) = torch.autograd.grad(-value.sum(), coefficients)
            # Each icon's gradient is scaled to length 1: the first ones can be ten times longer than the last, and
            # through Adam's running mean of squares they would make every later step tiny.
            lengths = gradient.flatten(1).norm(dim=1).clamp(min=_TINY)
            optimiser.step(gradient / lengths.view(-1, 1, 1, 1, 1), rate)
            if (step + 1) % _PROGRESS_STEPS == 0 or step + 1 == steps:
                self.progress.advance(len(begin) * (step % _PROGRESS_STEPS + 1))
        with torch.no_grad():
            return to_bytes(fourier.decode(coefficients))


class _Adam:
    """torch's fused Adam of one tensor. ``torch.optim`` would do the same, and import torch's compiler for it."""

    def __init__(self, coefficients: Tensor, betas: tuple[float, float]) -> None:
        self._coefficients, self._betas = coefficients, betas
        self._mean, self._square = torch.zeros_like(coefficients), torch.zeros_like(coefficients)
        self._count = torch.zeros((), dtype=torch.float32, device=coefficients.device)

    def step(self, gradient: Tensor, rate: float) -> None:
        with torch.no_grad():
            self._count += 1
            torch._fused_adam_(
                [self._coefficients], [gradient], [self._mean], [self._square], [], [self._count],
                lr=rate, beta1=self._betas[0], beta2=self._betas[1], weight_decay=0.0, eps=_TINY,
                amsgrad=False, maximize=False,
            )  # fmt: skip


def _batches(rows: NDArray[np.intp], batch: int) -> list[NDArray[np.intp]]:
    return [rows[first : first + batch] for first in range(0, len(rows), batch)]

"""From noise, or from a start, to the top of an objective: the climb that every picture of the engine is made by."""

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

from atlas.visualize.parametrize import Fourier, from_bytes, to_bytes, variation
from atlas.visualize.recipe import Recipe
from atlas.visualize.subnetwork import CutNetwork
from atlas.visualize.transform import fade, move

# Steps between two words of how far the work is.
_TELL = 8
_TINY = 1e-20

Bytes = NDArray[np.uint8]


class Asked(Protocol):
    """What a batch of pictures is asked for: a number for each, larger is better."""

    def take(self, rows: NDArray[np.intp]) -> Asked:
        """The same for some of the pictures, by their numbers (k,)."""

    def __call__(self, maps: Tensor, share: float) -> Tensor:
        """``maps`` (n, channels, H, W) → (n,); ``share`` in [0, 1] is the weight of the positions off the centre."""


class Told:
    """Tells a caller how far the work is, in steps of single icons."""

    def __init__(self, progress: Callable[[float], None] | None) -> None:
        self._progress, self._expected, self._done, self._lock = progress, 0, 0, threading.Lock()

    def expect(self, steps: int) -> None:
        """So many steps more are to be done."""
        self._expected += steps

    def done(self, steps: int) -> None:
        """So many steps are done; tells the caller. Threads may call it."""
        with self._lock:
            self._done += steps
            if self._progress:
                self._progress(self._done / self._expected)


def side_by_side(
    work: Callable[[NDArray[np.intp]], None], rows: NDArray[np.intp], batch: int, device: torch.device
) -> None:
    """Call ``work`` with batches of ``rows`` (n,), on a CPU with as many at a time as torch has threads here."""
    threads = torch.get_num_threads()
    lanes = max(1, min(threads, len(rows))) if device.type == "cpu" else 1
    parts = _batches(rows, max(1, min(batch, -(-len(rows) // lanes))))
    if lanes <= 1:
        for each in parts:
            work(each)
        return
    # One thread for the operations inside each lane. Every lane sets its own: the setting belongs to the thread.
    with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            list(pool.map(work, parts))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(threads)


@dataclass(frozen=True)
class Climb:
    """Takes batches of icons from noise, or from a start, to the top of their objectives.

    ``unseen``: the share of an icon's area that its centre position hardly sees, and the first weight of the positions
    around the centre.
    """

    network: CutNetwork
    objective: Asked
    recipe: Recipe
    size: int
    unseen: float
    told: Told

    def length(self, started: bool, steps: int | None) -> int:
        """How many steps a climb takes."""
        return steps or (self.recipe.steps_from_start if started else self.recipe.steps)

    def __call__(
        self, rows: NDArray[np.intp], seeds: NDArray[np.int64], start: Bytes | None, steps: int | None
    ) -> tuple[Bytes, int]:
        """Icons ``rows`` of the objective as uint8 (n, size, size, 3), and how many steps they took."""
        recipe, length = self.recipe, self.length(start is not None, steps)
        fourier = Fourier.make(self.size, recipe, steps=length, device=self.network.device)
        if start is None:
            begin = fourier.noise(seeds)
        else:
            begin = fourier.encode(from_bytes(start, fourier.falloff.device)) * recipe.contrast
            begin = begin + fourier.noise(seeds) * recipe.noise
        moves = recipe.moves.draw_each(seeds, length)
        return self._optimise(fourier, begin, self.objective.take(rows), moves), length

    def _optimise(self, fourier: Fourier, begin: Tensor, objective: Asked, moves: Tensor) -> Bytes:
        """The coefficients ``begin`` after a step for each of ``moves`` (steps, n, 4), as pictures."""
        recipe, steps = self.recipe, len(moves)
        coefficients = begin.requires_grad_(True)
        optimiser = torch.optim.Adam([coefficients], lr=recipe.rate, betas=recipe.betas, eps=_TINY, fused=True)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = recipe.rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            pixels, strength = fourier.decode(coefficients), fade(step, steps, recipe.fade)
            if strength > 0:
                pixels = move(pixels, moves[step] * strength)
            maps = self.network(pixels, recipe.leak if step < recipe.relaxed else 0.0)
            value = objective(maps, self.unseen * max(strength, recipe.around))
            if recipe.smooth:
                value = value - recipe.smooth * variation(pixels)
            (gradient,) = torch.autograd.grad(-value.sum(), coefficients)
            # Each icon's gradient is brought to length 1: the first slopes can be ten times steeper than the last
            # ones, and through Adam's memory of squares they would make every later step tiny.
            lengths = gradient.flatten(1).norm(dim=1).clamp(min=_TINY)
            coefficients.grad = gradient / lengths.view(-1, 1, 1, 1, 1)
            optimiser.step()
            if (step + 1) % _TELL == 0 or step + 1 == steps:
                self.told.done(len(begin) * (step % _TELL + 1))
        with torch.no_grad():
            return to_bytes(fourier.decode(coefficients))


def _batches(rows: NDArray[np.intp], batch: int) -> list[NDArray[np.intp]]:
    return [rows[first : first + batch] for first in range(0, len(rows), batch)]

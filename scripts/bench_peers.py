"""The peers of scripts/bench.py: how each is imported and asked for icons."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from bench_task import DrawnIcons, Task  # beside this file
from torch import Tensor, nn

from atlas.arrays import Pixels
from atlas.errors import ConfigError
from atlas.networks.network import Network
from atlas.visualize.objective import centre
from atlas.visualize.parametrize import to_bytes

# Where each peer is imported from.
PEERS = {"torch-lucent": "lucent.optvis.render", "horama": "horama", "pyvips": "pyvips"}

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


def lucent_icons(task: Task, steps: int | None, *, own_size: bool = False, at_once: int = 1) -> DrawnIcons:
    """torch-lucent's render_vis: cosine at the centre neuron, decorrelated FFT image, standard transforms and Adam.

    It runs the whole network and enlarges pictures to 224 px for it, unless told to keep their ``own_size``, as its
    activation grids do; they also draw several pictures ``at_once``, with the sum of their objectives. Its hooks stay
    on the network when it is done: it gets a copy each time.
    """
    from lucent.optvis import objectives, param, render

    layer = "_".join(["network", *task.layer.split(".")])
    taken_steps = LUCENT_STEPS if steps is None else steps
    directions = torch.from_numpy(task.means).to(task.network.device)
    network = RgbNetwork(task.network).eval()

    def together(first: int) -> Pixels:
        targets = directions[first : first + at_once]
        seed_all(int(task.seeds[first]))
        (pixels,) = render.render_vis(
            copy.deepcopy(network),
            objectives.Objective.sum(
                [
                    objectives.direction_neuron(layer, direction, batch=number)
                    for number, direction in enumerate(targets)
                ]
            ),
            partial(param.image, task.size, batch=len(targets)),
            thresholds=(taken_steps,),
            preprocess=False,  # done inside
            fixed_image_size=task.size if own_size else None,
            progress=False,
            show_image=False,
        )
        return to_bytes(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    with quiet():
        pixels = np.concatenate([together(first) for first in range(0, len(directions), at_once)])
    return DrawnIcons(pixels, taken_steps, task.size if own_size else max(task.size, LUCENT_SIDE))


def horama_icons(task: Task, steps: int | None, *, whole: bool = False) -> DrawnIcons:
    """Horama's fourier: its dot product times squared cosine at the centre, random crops with noise, and NAdam.

    By default a step looks at six crops of a quarter of a larger picture, so the icon is cut from the middle of a
    picture four times as wide. With ``whole`` the picture is the icon and crops are as large as it, only shifted. The
    objective is the user's own code, so the network is cut at the layer, as ours is. maco, its other method, fetches a
    spectrum from the internet and is left out.
    """
    from horama import dot_cossim, fourier

    taken_steps = HORAMA_STEPS if steps is None else steps
    network, layer, size = task.network, task.layer, task.size
    side = size if whole else round(size / HORAMA_BOX[1])
    edge = (side - size) // 2

    def alone(direction: Tensor, seed: int) -> Pixels:
        def objective(pixels: Tensor) -> Tensor:
            activations = centre(network.activations(network.normalize(pixels), layer))
            value: Tensor = dot_cossim(activations, direction.expand_as(activations)).mean()
            return value

        seed_all(seed)
        pixels, _ = fourier(
            objective,
            total_steps=taken_steps,
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
    return DrawnIcons(pixels, taken_steps, size, HORAMA_CROPS)


def seed_all(seed: int) -> None:
    """Peers draw their noise from the global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed)

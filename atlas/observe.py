"""A network and views → activations of several layers at chosen positions, and their attributions to all classes.

The attribution h · ∂logit/∂h comes from forward-mode differentiation: the layer's output becomes a dual number
whose tangent is the activation itself, masked to the position, and the tangents of the logits are read off; one pass
serves all classes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from atlas.errors import ConfigError
from atlas.networks import Layer, Network

# torch's own rules for dual numbers are still written in its older dialect, and say so at every start.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)


@dataclass
class Observation:
    """What a batch of n views gave: logits (n, classes); for each layer activations (n, draws, channels) and, where
    asked for, attributions (n, draws, classes); all float32 on the CPU."""

    logits: Tensor
    activations: dict[str, Tensor]
    attributions: dict[str, Tensor]


class Observer:
    """Runs a network over views and reads several layers, with attributions, in as few passes as possible.

    The first layer's tangent rides on the plain pass itself. Each further (layer, draw) replays only the tail of the
    network: modules that had finished before the layer return what they returned in the plain pass.
    """

    def __init__(self, network: Network, layers: Sequence[str]) -> None:
        self.network = network
        self.layers = tuple(layers)
        self._finished_before = self._trace()
        self._order = sorted(self.layers, key=lambda layer: len(self._finished_before[layer]))

    def _trace(self) -> dict[str, list[nn.Module]]:
        """For each layer, the modules called exactly once and finished before it, outermost only."""
        network = self.network
        modules = {layer: network.submodule(layer) for layer in self.layers}
        finished: list[nn.Module] = []
        handles = [
            child.register_forward_hook(lambda module, _inputs, _output: finished.append(module))
            for name, child in network.module.named_modules()
            if name
        ]
        try:
            with torch.no_grad():
                network.module(torch.zeros(1, 3, network.size, network.size, device=network.device))
        finally:
            for handle in handles:
                handle.remove()
        before: dict[str, list[nn.Module]] = {}
        for layer, module in modules.items():
            if finished.count(module) > 1:
                raise ConfigError(
                    f"layers: {layer} of {network.name} is called {finished.count(module)} times in one pass, so it "
                    "has no map of its own. Choose the block around it."
                )
            earlier = finished[: finished.index(module)]
            whole = [child for child in earlier if finished.count(child) == 1]
            inside = {inner for child in whole for inner in child.modules() if inner is not child}
            inside |= set(module.modules())
            before[layer] = [child for child in whole if child not in inside]
        return before

    def observe(self, inputs: Tensor, positions: dict[str, Tensor], *, attributions: bool) -> Observation:
        """Ask for ``positions[layer]``, shape (n, draws, 2) as (y, x), of normalised ``inputs`` (n, 3, h, w).

        Raises ConfigError when attributions are asked of a network that has no forward derivative.
        """
        with torch.no_grad():
            if not attributions:
                maps, logits = self._plain(inputs)
                return Observation(
                    logits.cpu(), {layer: _at(maps[layer], positions[layer]).cpu() for layer in self.layers}, {}
                )
            try:
                return self._dual(inputs, positions)
            except (NotImplementedError, RuntimeError) as error:
                if "forward" not in str(error) and "jvp" not in str(error):
                    raise
                raise ConfigError(
                    f"collect.attributions: {self.network.name} cannot be differentiated forwards ({error}). Run it "
                    "without, with --set collect.attributions=false."
                ) from error

    def seconds_per_view(self, layers: Sequence[Layer], *, draws: int, attributions: bool, views: int = 8) -> float:
        """How long a view takes here and now, measured on one batch after another to warm up."""
        network = self.network
        batch = torch.zeros(views, 3, network.size, network.size, device=network.device)
        middle = {
            layer.name: torch.tensor([layer.height // 2, layer.width // 2]).expand(views, draws, 2) for layer in layers
        }
        self.observe(batch, middle, attributions=attributions)
        started = time.monotonic()
        self.observe(batch, middle, attributions=attributions)
        return (time.monotonic() - started) / views

    def _plain(self, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        maps: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for layer in self.layers:

                def keep(output: Tensor, layer: str = layer) -> None:
                    maps[layer] = output.clone()

                stack.enter_context(_hook(self.network.submodule(layer), keep))
            logits = self.network.module(inputs)
        return maps, logits

    def _dual(self, inputs: Tensor, positions: dict[str, Tensor]) -> Observation:
        draws = next(iter(positions.values())).shape[1]
        first = self._order[0]
        replays = [(layer, draw) for layer in self._order for draw in range(draws) if (layer, draw) != (first, 0)]
        maps: dict[str, Tensor] = {}
        record: dict[nn.Module, Any] = {}
        tangents: dict[tuple[str, int], Tensor] = {}
        with forward_ad.dual_level(), ExitStack() as stack:
            if replays:
                # Not the last layer's alone: what is one finished block to it is many smaller ones to a layer inside.
                for module in {module for layer in self.layers for module in self._finished_before[layer]}:

                    def note(output: Any, module: nn.Module = module) -> None:
                        record[module] = _primal(output)

                    stack.enter_context(_hook(module, note))
            for layer in self.layers:

                def read(output: Tensor, layer: str = layer) -> Tensor | None:
                    maps[layer] = _primal(output)
                    if layer == first:
                        return _dual_number(maps[layer], positions[layer][:, 0])
                    return None

                stack.enter_context(_hook(self.network.submodule(layer), read))
            logits, tangent = forward_ad.unpack_dual(self.network.module(inputs))
            tangents[first, 0] = torch.zeros_like(logits) if tangent is None else tangent
        for layer, draw in replays:
            with forward_ad.dual_level(), ExitStack() as stack:
                for module in self._finished_before[layer]:
                    stack.enter_context(_returning(module, record[module]))
                dual = _dual_number(maps[layer], positions[layer][:, draw])
                stack.enter_context(_returning(self.network.submodule(layer), dual))
                tangent = forward_ad.unpack_dual(self.network.module(inputs)).tangent
                tangents[layer, draw] = torch.zeros_like(logits) if tangent is None else tangent
        return Observation(
            logits.cpu(),
            {layer: _at(maps[layer], positions[layer]).cpu() for layer in self.layers},
            {
                layer: torch.stack([tangents[layer, draw] for draw in range(draws)], dim=1).cpu()
                for layer in self.layers
            },
        )


def _primal(output: Any) -> Any:
    # A copy: code such as `out += identity` would write into a recorded output.
    if isinstance(output, tuple | list):
        return type(output)(_primal(part) for part in output)
    return forward_ad.unpack_dual(output).primal.clone() if isinstance(output, Tensor) else output


def _dual_number(maps: Tensor, positions: Tensor) -> Tensor:
    """``maps`` as a dual number whose tangent is the activation at one position (n, 2) a view."""
    # A dual number shares its primal's memory: without the copy, `out += identity` would write into the kept maps.
    return forward_ad.make_dual(maps.clone(), _masked(maps, positions))


def _at(maps: Tensor, positions: Tensor) -> Tensor:
    """maps (n, channels, h, w) at positions (n, draws, 2) → (n, draws, channels)."""
    rows = torch.arange(len(maps), device=maps.device)[:, None]
    where = positions.to(maps.device)
    return maps.permute(0, 2, 3, 1)[rows, where[..., 0], where[..., 1]].float()


def _masked(maps: Tensor, positions: Tensor) -> Tensor:
    """``maps`` with everything but one position (n, 2) a view set to zero."""
    mask = torch.zeros(len(maps), 1, *maps.shape[2:], dtype=maps.dtype, device=maps.device)
    where = positions.to(maps.device)
    mask[torch.arange(len(maps), device=maps.device), 0, where[:, 0], where[:, 1]] = 1
    return maps * mask


@contextmanager
def _hook(module: nn.Module, see: Callable[[Any], Any]) -> Iterator[None]:
    handle = module.register_forward_hook(lambda _module, _inputs, output: see(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _returning(module: nn.Module, value: Any) -> Iterator[None]:
    """While open, ``module`` returns a copy of ``value`` and does no work."""
    own = module.__dict__.get("forward")
    module.forward = lambda *_args, **_kwargs: _copied(value)
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _copied(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_copied(part) for part in value)
    return value.clone() if isinstance(value, Tensor) else value

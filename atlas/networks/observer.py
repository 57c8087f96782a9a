"""A network and views → activations of several layers at chosen positions, and their attributions to all classes.

The attribution h · ∂logit/∂h is a forward derivative: the layer's output gets a tangent, which is the activation
itself, masked to the position; what arrives at the logits is the attribution to all classes at once.

The network is recorded as a list of operations (``atlas.networks.program.record``), which is walked once for a batch.
Beside each value walk the tangents of all layers and positions that it depends on, so that each layer costs its own
tail and nothing is computed twice; a value is dropped after its last use. A network that cannot be recorded runs as it
is, with dual numbers and a pass for each layer and position.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from atlas.errors import ConfigError
from atlas.networks.hooks import hooked
from atlas.networks.network import Layer, Network, calls
from atlas.networks.precision import Precision
from atlas.networks.program.record import agreement, record, rewrite
from atlas.networks.tangents import DUAL_LEVEL, Observation, TangentWalk, channels_of_draw, masked, values_at

# torch's own rules for dual numbers are still written in its older dialect, and say so at every start.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)

_aten = torch.ops.aten
# How far the list may differ from the network, as a share of the largest value, in float32 …
_TOLERANCE = 1e-3
# … and how much its activations must agree in half precision (mean cosine) to be used at all.
_AGREEMENT = 0.98


class Observer:
    """Runs a network over views and reads several layers, with attributions. Threads may share it.

    ``precision``: what the network computes in. A CPU that does not convolve numbers of 16 bits does so in float32 and
    rounds what comes out.
    Raises ConfigError for a layer that is called more than once in a pass.
    """

    def __init__(self, network: Network, layers: Sequence[str], precision: Precision = "float32") -> None:
        self.network, self.layers, self.precision = network, tuple(layers), precision
        self.dtype: torch.dtype = getattr(torch, precision)
        self._walks: dict[torch.Size, TangentWalk | None] = {}  # by the shape of the inputs; None: as it is
        self._hooks = threading.Lock()
        for layer in self.layers:
            if (called := calls(network, layer)) > 1:
                raise ConfigError(
                    f"layers: {layer} of {network.name} is called {called} times in one pass, so it has no map of its "
                    "own. Choose the block around it."
                )

    def observe(
        self,
        inputs: Tensor,
        positions: dict[str, Tensor],
        *,
        attributions: bool,
        channels: dict[str, Tensor] | None = None,
    ) -> Observation:
        """Ask for ``positions[layer]``, shape (n, draws, 2) as (y, x), of normalised ``inputs`` (n, 3, h, w).

        With ``channels[layer]``, shape (n, draws), an attribution is that of this one channel at the position, instead
        of all its channels.
        Raises ConfigError when attributions are asked of a network that has no forward derivative.
        """
        with torch.no_grad():
            try:
                walk = self._walk(inputs)
                if walk is None:
                    return self._as_it_is(inputs, positions, attributions, channels or {})
                return walk(inputs.to(self.dtype), positions, attributions, channels or {})
            except (NotImplementedError, RuntimeError) as error:
                if not attributions or ("forward" not in str(error) and "jvp" not in str(error)):
                    raise
                raise ConfigError(
                    f"collect.attributions: {self.network.name} cannot be differentiated forwards ({error}). Run it "
                    "without, with --set collect.attributions=false."
                ) from error

    def maps(self, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of normalised ``inputs`` (n, 3, h, w): the whole maps (n, channels, h, w) of the layers, on the network's
        device, and the logits (n, classes), float32 on the CPU."""
        with torch.no_grad():
            walk = self._walk(inputs)
            if walk is not None:
                *maps, logits = walk.plain(inputs.to(self.dtype))
            else:
                with self._hooks:
                    *maps, logits = (each.float() for each in self._plain(inputs))
        return dict(zip(self.layers, maps)), logits.cpu()

    def seconds_per_view(self, layers: Sequence[Layer], *, draws: int, attributions: bool, views: int = 8) -> float:
        """How long a view takes here and now in batches of ``views``: the quickest of three, after one to warm up."""
        network = self.network
        batch = network.normalize(torch.zeros(views, 3, network.size, network.size, device=network.device))
        middle = {
            layer.name: torch.tensor([layer.height // 2, layer.width // 2]).expand(views, draws, 2) for layer in layers
        }
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            self.observe(batch, middle, attributions=attributions)
            seconds.append(time.perf_counter() - started)
        return min(seconds[1:]) / views

    # A recorded network

    def _walk(self, inputs: Tensor) -> TangentWalk | None:
        if inputs.shape not in self._walks:
            with self._hooks:
                if inputs.shape not in self._walks:
                    self._walks[inputs.shape] = self._record(inputs)
        return self._walks[inputs.shape]

    def _record(self, inputs: Tensor) -> TangentWalk | None:
        generator = torch.Generator().manual_seed(0)
        probe = torch.rand(inputs.shape, generator=generator).to(inputs.device)
        probe = self.network.normalize(probe)
        recorded = record(self._plain, probe)
        if recorded is None:
            return None
        expected = self._plain(probe)
        walk = TangentWalk(rewrite(recorded, torch.float32, fuse=inputs.device.type == "cpu"), self.layers)
        for found, known in zip(walk.plain(probe), expected):
            if found.shape != known.shape or (found - known).abs().max() > _TOLERANCE * known.abs().max():
                return None
        if self.dtype == torch.float32:
            return walk
        walk = TangentWalk(rewrite(recorded, self.dtype, fuse=inputs.device.type == "cpu"), self.layers)
        agreements = [agreement(*pair) for pair in zip(walk.plain(probe.to(self.dtype)), expected)]
        return walk if min(agreements) >= _AGREEMENT else None

    def _plain(self, inputs: Tensor) -> list[Tensor]:
        """A plain pass: the maps of each layer, and the logits at the end."""
        maps: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for layer in self.layers:

                def keep(output: Tensor, layer: str = layer) -> None:
                    maps[layer] = output.clone()  # what comes later may write into it

                stack.enter_context(hooked(self.network.submodule(layer), keep))
            logits = self.network.module(inputs)
        return [*(maps[layer] for layer in self.layers), logits]

    # A network as it is

    def _as_it_is(
        self, inputs: Tensor, positions: dict[str, Tensor], attributions: bool, channels: dict[str, Tensor]
    ) -> Observation:
        mixed = torch.autocast(inputs.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with self._hooks, mixed:
            *maps, logits = self._plain(inputs)
            seen = {layer: values_at(values, positions[layer]).cpu() for layer, values in zip(self.layers, maps)}
            effects: dict[str, Tensor] = {}
            for layer in self.layers if attributions else ():
                draws = range(positions[layer].shape[1])
                found = [
                    self._dual(
                        inputs, layer, positions[layer][:, draw], logits, channels_of_draw(channels, layer, draw)
                    )
                    for draw in draws
                ]
                effects[layer] = torch.stack(found, dim=1).float().cpu()
        return Observation(logits.float().cpu(), seen, effects)

    def _dual(self, inputs: Tensor, layer: str, positions: Tensor, logits: Tensor, channels: Tensor | None) -> Tensor:
        """The attributions (n, classes) of ``layer`` at ``positions`` (n, 2), by dual numbers; of one of the
        ``channels`` (n,) each, or of all."""

        def replace(output: Tensor) -> Tensor:
            # A dual number shares its primal's memory: without the copy, `out += identity` would write into it.
            return forward_ad.make_dual(output.clone(), masked(output, positions, channels))

        with DUAL_LEVEL, forward_ad.dual_level(), hooked(self.network.submodule(layer), replace):
            tangent = forward_ad.unpack_dual(self.network.module(inputs)).tangent
        return torch.zeros_like(logits) if tangent is None else tangent

"""A network and views → activations of several layers at chosen positions, and their attributions to all classes.

The attribution h · ∂logit/∂h is a forward derivative: the layer's output gets a tangent, which is the activation
itself, masked to the position; what arrives at the logits is the attribution to all classes at once.

The network is recorded as a list of operations (``atlas.networks.program.record``), which is run once for a batch, with
the tangents of all layers and positions beside each value (``atlas.networks.tangents``): each layer costs only the
operations behind it, and nothing is computed twice. A network that cannot be recorded runs unrecorded, with dual
numbers and a pass for each layer and position.
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
from atlas.networks.network import Layer, Network, call_count
from atlas.networks.precision import LEAST_COSINE, Precision, mean_cosine
from atlas.networks.program.record import TOLERANCE, record, rewrite
from atlas.networks.tangents import DUAL_LEVEL, Observation, TangentWalk, channels_of_draw, mask, values_at

# torch's own rules for dual numbers use torch.jit.script, which warns at every start.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)


class Observer:
    """Runs a network over views and reads several layers, with attributions. Threads may share it.

    ``precision``: what the network computes in. Where a CPU does not convolve 16-bit numbers, convolutions are computed
    in float32 and their outputs rounded. Where half precision is too far from float32 (``LEAST_COSINE``), the network
    runs unrecorded, by torch's autocast.
    Raises ConfigError for a layer that does not exist or is called more than once in a pass.
    """

    def __init__(self, network: Network, layers: Sequence[str], precision: Precision = "float32") -> None:
        self.network, self.layers, self.precision = network, tuple(layers), precision
        self.dtype: torch.dtype = getattr(torch, precision)
        self._walks: dict[torch.Size, TangentWalk | None] = {}  # by the shape of the inputs; None: unrecorded
        self._hooks = threading.Lock()
        for layer in self.layers:
            if (count := call_count(network, layer)) > 1:
                raise ConfigError(
                    f"layers: {layer} of {network.name} is called {count} times in one pass, so it has no map of its "
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
        """Activations at ``positions[layer]``, int64 (n, draws, 2) as (y, x), for normalised ``inputs``, float32
        (n, 3, h, w) on the network's device; with ``attributions`` also what they add to the logits.

        With ``channels[layer]``, int64 (n, draws), an attribution is that of this one channel at the position, instead
        of all its channels.
        Raises ConfigError when ``attributions`` are asked for and the network has no forward derivative.
        """
        with torch.no_grad():
            try:
                walk = self._walk(inputs)
                if walk is None:
                    return self._observe_unrecorded(inputs, positions, attributions, channels or {})
                return walk(inputs.to(self.dtype), positions, attributions, channels or {})
            except (NotImplementedError, RuntimeError) as error:
                if not attributions or ("forward" not in str(error) and "jvp" not in str(error)):
                    raise
                raise ConfigError(
                    f"collect.attributions: {self.network.name} cannot be differentiated forwards ({error}). Run it "
                    "without, with --set collect.attributions=false."
                ) from error

    def maps(self, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """For normalised ``inputs``, float32 (n, 3, h, w): the whole maps (n, channels, h, w) of the layers, float32 on
        the network's device, and the logits (n, classes), on the CPU."""
        with torch.no_grad():
            walk = self._walk(inputs)
            if walk is not None:
                *maps, logits = walk.plain(inputs.to(self.dtype))
            else:
                with self._hooks:
                    *maps, logits = (output.float() for output in self._plain(inputs))
        return dict(zip(self.layers, maps)), logits.cpu()

    def seconds_per_view(self, layers: Sequence[Layer], *, draws: int, attributions: bool, views: int = 8) -> float:
        """Seconds that a view with ``draws`` positions a layer takes on this machine, in batches of ``views``: the
        quickest of three, after one to warm up."""
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
        probe = self.network.noise(len(inputs), inputs.shape[2:])
        recorded = record(self._plain, probe)
        if recorded is None:
            return None
        expected = self._plain(probe)
        walk = TangentWalk(rewrite(recorded, torch.float32, fuse=inputs.device.type == "cpu"), self.layers)
        for values, right in zip(walk.plain(probe), expected):
            # Not where the numbers are none: the list's clips make 0 of them.
            if values.shape != right.shape or not (values - right).abs().max() <= TOLERANCE * right.abs().max():
                return None
        if self.dtype == torch.float32:
            return walk
        walk = TangentWalk(rewrite(recorded, self.dtype, fuse=inputs.device.type == "cpu"), self.layers)
        cosines = [mean_cosine(*pair) for pair in zip(walk.plain(probe.to(self.dtype)), expected)]
        return walk if min(cosines) >= LEAST_COSINE else None

    def _plain(self, inputs: Tensor) -> list[Tensor]:
        """One pass of the network itself: the map of each layer, and at last the logits."""
        maps: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for layer in self.layers:

                def copy(output: Tensor, layer: str = layer) -> None:
                    maps[layer] = output.clone()  # what comes later may write into it

                stack.enter_context(hooked(self.network.submodule(layer), copy))
            logits = self.network.module(inputs)
        return [*(maps[layer] for layer in self.layers), logits]

    # A network that cannot be recorded

    def _observe_unrecorded(
        self, inputs: Tensor, positions: dict[str, Tensor], attributions: bool, channels: dict[str, Tensor]
    ) -> Observation:
        mixed = torch.autocast(inputs.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with self._hooks, mixed:
            *maps, logits = self._plain(inputs)
            activations = {layer: values_at(values, positions[layer]).cpu() for layer, values in zip(self.layers, maps)}
            effects: dict[str, Tensor] = {}
            for layer in self.layers if attributions else ():
                draws = [
                    self._attributions_by_torch(
                        inputs, layer, positions[layer][:, draw], logits, channels_of_draw(channels, layer, draw)
                    )
                    for draw in range(positions[layer].shape[1])
                ]
                effects[layer] = torch.stack(draws, dim=1).float().cpu()
        return Observation(logits.float().cpu(), activations, effects)

    def _attributions_by_torch(
        self, inputs: Tensor, layer: str, positions: Tensor, logits: Tensor, channels: Tensor | None
    ) -> Tensor:
        """The attributions (n, classes) of ``layer`` at ``positions`` (n, 2), by dual numbers; of the channel
        ``channels`` (n,) of each view, or of all."""

        def replace(output: Tensor) -> Tensor:
            # A dual number shares its primal's memory: without the copy, `out += identity` would write into it.
            return forward_ad.make_dual(output.clone(), mask(output, positions, channels))

        with DUAL_LEVEL, forward_ad.dual_level(), hooked(self.network.submodule(layer), replace):
            tangent = forward_ad.unpack_dual(self.network.module(inputs)).tangent
        return torch.zeros_like(logits) if tangent is None else tangent

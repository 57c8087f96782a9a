"""The network cut at a layer, written out as a list of operations (``atlas.networks.program.record``), to climb back
through.

In bfloat16 a step takes three fifths of its time in float32, where the processor knows that format. Nothing but
the climb runs here: scores are always taken with the network as it is, in float32.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from atlas.errors import ConfigError
from atlas.networks.network import Network
from atlas.networks.precision import LEAST_COSINE, AskedPrecision, bfloat16_pays, mean_cosine
from atlas.networks.program.record import TOLERANCE, record, rewrite

# How far the list may differ from the network, as a share of its largest activation, in float32 …
_TOLERANCE = 1e-3
# … and how much its activations must agree in bfloat16 (mean cosine) to be used at all.
LEAST_COSINE = 0.98


class CutNetwork:
    """``network`` up to ``layer`` for square RGB pictures of ``size`` pixels.

    ``precision``: what the climb computes in; "auto" is bfloat16 where the device multiplies it faster and the layer
    bears it, and float32 elsewhere. ``compile``: hand the list to torch.compile, which pays on a GPU only.
    A network that cannot be recorded (its path depends on the picture) is used as it is, and its ReLUs do not leak.
    """

    def __init__(
        self, network: Network, layer: str, size: int, *, precision: AskedPrecision = "auto", compile: bool = False
    ) -> None:
        self._network, self._layer, self._size, self._compile = network, layer, size, compile
        self.device = network.device
        std = torch.tensor(network.std, device=network.device).view(1, 3, 1, 1)
        self._scale = 1 / std
        self._shift = -torch.tensor(network.mean, device=network.device).view(1, 3, 1, 1) / std
        self._recording = threading.Lock()
        self._known: dict[int, nn.Module | None] = {}  # by batch size; None: as it is
        self.dtype = torch.float32
        if precision == "bfloat16" or (precision == "auto" and bfloat16_pays(network.device)):
            self.dtype = torch.bfloat16
            if precision == "auto" and not self._bears_bfloat16():
                self.dtype = torch.float32
                self._known.clear()

    def __call__(self, pixels: Tensor, leak: float = 0.0) -> Tensor:
        """Pictures in [0, 1], float32 (n, 3, size, size) → maps at the layer, float32 (n, channels, H, W).

        ``leak`` in [0, 1]: the share of the gradient that shut ReLUs let through.
        """
        inputs = torch.addcmul(self._shift, pixels, self._scale)
        operations = self._operations(len(pixels))
        if operations is None:
            with torch.autocast(pixels.device.type, self.dtype, enabled=self.dtype != torch.float32):
                maps = self._network.activations(inputs.contiguous(memory_format=torch.channels_last), self._layer)
        else:
            maps = operations(inputs.to(self.dtype, memory_format=torch.channels_last), leak)
        return maps.float()

    def _operations(self, count: int) -> nn.Module | None:
        if count in self._known:
            return self._known[count]
        with self._recording:
            if count not in self._known:
                self._known[count] = self._borrow(count) or self._record(count)
            return self._known[count]

    def _borrow(self, count: int) -> nn.Module | None:
        """A list recorded with another batch size, if it does for this one too."""
        known = [operations for operations in self._known.values() if operations is not None]
        return next((operations for operations in known if self._agrees(operations, count, self.dtype)), None)

    def _record(self, count: int) -> nn.Module | None:
        probe = self._probe(count)
        recorded = record(lambda inputs: self._network.activations(inputs, self._layer), probe)
        if recorded is None:
            return None
        graph = rewrite(recorded, torch.float32, fuse=probe.device.type == "cpu")
        if not self._agrees(graph, count, torch.float32):
            return None
        if self.dtype != torch.float32:
            graph = rewrite(recorded, self.dtype, fuse=probe.device.type == "cpu")
        return self._compiled(graph, probe) if self._compile else graph

    def _compiled(self, graph: fx.GraphModule, probe: Tensor) -> nn.Module:
        compiled: Any = torch.compile(graph, dynamic=False)
        pixels = probe.to(self.dtype).requires_grad_(True)
        try:
            torch.autograd.grad(compiled(pixels, 0.0).sum(), pixels)
        except Exception as error:  # whatever the compiler behind torch.compile raises
            raise ConfigError(
                f"torch.compile cannot compile {self._network.name} up to {self._layer} here "
                f"({str(error).strip().splitlines()[0]}). Leave compile out."
            ) from error
        return compiled

    def _agrees(self, operations: nn.Module, count: int, dtype: torch.dtype) -> bool:
        """Whether ``operations`` give what the network gives."""
        probe = self._probe(count)
        with torch.no_grad():
            expected = self._network.activations(probe, self._layer)
            try:
                found = operations(probe.to(dtype), 0.0).float()
            except RuntimeError:  # a recorded shape that holds the batch size
                return False
        if found.shape != expected.shape:
            return False
        if dtype == torch.float32:
            return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())
        return mean_cosine(found, expected) >= LEAST_COSINE

    def _bears_bfloat16(self) -> bool:
        probe = self._probe(2)
        operations = self._operations(2)
        if operations is None:
            return False
        with torch.no_grad():
            return mean_cosine(operations(probe.to(self.dtype), 0.0), self._network.activations(probe, self._layer)) >= (
                LEAST_COSINE
            )

    def _probe(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(count)
        coarse = torch.rand(count, 3, 5, 5, generator=generator).to(self._network.device)
        pixels = F.interpolate(coarse, size=(self._size, self._size), mode="bilinear")
        return torch.addcmul(self._shift, pixels, self._scale).contiguous(memory_format=torch.channels_last)


def cut(
    network: Network, layer: str, size: int, precision: AskedPrecision = "auto", compile: bool = False
) -> CutNetwork:
    """The CutNetwork of these arguments, kept between calls: recording takes a few tenths of a second.

    It holds weights of its own, so one whose network was changed since is made anew.
    """
    return _kept(network, layer, size, precision, compile, _state(network))


@lru_cache(maxsize=4)
def _kept(
    network: Network,
    layer: str,
    size: int,
    precision: AskedPrecision,
    compile: bool,
    _state: tuple[tuple[int, float], ...],
) -> CutNetwork:
    return CutNetwork(network, layer, size, precision=precision, compile=compile)


def _state(network: Network) -> tuple[tuple[int, float], ...]:
    """Where the network's tensors lie, and a weighted sum of each: differs when one was replaced or changed."""
    tensors = (*network.module.parameters(), *network.module.buffers())
    with torch.no_grad():
        return tuple((tensor.data_ptr(), _weighted_sum(tensor)) for tensor in tensors)


def _weighted_sum(tensor: Tensor) -> float:
    flat = tensor.detach().flatten().float()
    return float(flat @ torch.linspace(1, 2, len(flat), device=flat.device))


def fitting_precision(network: Network, layer: str, size: int) -> AskedPrecision:
    """What "auto" comes to for pictures of ``size`` pixels at ``layer`` here."""
    return "bfloat16" if cut(network, layer, size).dtype == torch.bfloat16 else "float32"

"""The subnetwork up to a layer, recorded as a list of operations (``atlas.networks.program.record``) through which
gradients flow fast.

In bfloat16 a step takes three fifths of its time in float32, where the processor computes in that format. Only gradient
ascent runs here: scores are always computed by the network itself, in float32.
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


class Subnetwork:
    """``network`` up to ``layer`` for square RGB pictures of ``size`` pixels.

    ``precision``: what it computes in; "auto" is bfloat16 where the device multiplies it faster and the activations
    stay near those in float32 (``LEAST_COSINE``), and float32 elsewhere. ``compile``: compile the list by
    torch.compile, which is faster on a GPU only.
    Where the network cannot be recorded (its operations depend on the picture), it runs itself, and ``leak`` is 0.
    Raises ConfigError for a layer that does not exist, and where torch.compile fails.
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
        self._programs: dict[int, nn.Module | None] = {}  # by batch size; None: the network itself
        self.dtype = torch.float32
        if precision == "bfloat16" or (precision == "auto" and bfloat16_pays(network.device)):
            self.dtype = torch.bfloat16
            if precision == "auto" and not self._is_near_in_bfloat16():
                self.dtype = torch.float32
                self._programs.clear()

    def __call__(self, pixels: Tensor, leak: float = 0.0) -> Tensor:
        """Pictures in [0, 1], float32 (n, 3, size, size) → maps at the layer, float32 (n, channels, H, W).

        ``leak`` in [0, 1]: the share of the gradient that passes ReLUs where they are 0.
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
        if count in self._programs:
            return self._programs[count]
        with self._recording:
            if count not in self._programs:
                self._programs[count] = self._borrow(count) or self._record(count)
            return self._programs[count]

    def _borrow(self, count: int) -> nn.Module | None:
        """A list recorded with another batch size, if it is right for this one too."""
        recorded = [operations for operations in self._programs.values() if operations is not None]
        return next((operations for operations in recorded if self._agrees(operations, count, self.dtype)), None)

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
        """Whether ``operations`` give what the network itself gives."""
        probe = self._probe(count)
        with torch.no_grad():
            expected = self._network.activations(probe, self._layer)
            try:
                maps = operations(probe.to(dtype), 0.0).float()
            except RuntimeError:  # a recorded shape that holds the batch size
                return False
        if maps.shape != expected.shape:
            return False
        if dtype == torch.float32:
            return bool((maps - expected).abs().max() <= TOLERANCE * expected.abs().max())
        return mean_cosine(maps, expected) >= LEAST_COSINE

    def _is_near_in_bfloat16(self) -> bool:
        probe = self._probe(2)
        operations = self._operations(2)
        if operations is None:
            return False
        with torch.no_grad():
            expected = self._network.activations(probe, self._layer)
            return mean_cosine(operations(probe.to(self.dtype), 0.0), expected) >= LEAST_COSINE

    def _probe(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(count)
        coarse = torch.rand(count, 3, 5, 5, generator=generator).to(self._network.device)
        pixels = F.interpolate(coarse, size=(self._size, self._size), mode="bilinear")
        return torch.addcmul(self._shift, pixels, self._scale).contiguous(memory_format=torch.channels_last)


def cached_subnetwork(
    network: Network, layer: str, size: int, precision: AskedPrecision = "auto", compile: bool = False
) -> Subnetwork:
    """The Subnetwork of these arguments, cached between calls: recording takes a few tenths of a second.

    It holds weights of its own, so that after a change of the network's it is recorded anew.
    """
    return _cached(network, layer, size, precision, compile, _fingerprint(network))


@lru_cache(maxsize=4)
def _cached(
    network: Network,
    layer: str,
    size: int,
    precision: AskedPrecision,
    compile: bool,
    _fingerprint: tuple[tuple[int, float], ...],
) -> Subnetwork:
    return Subnetwork(network, layer, size, precision=precision, compile=compile)


def _fingerprint(network: Network) -> tuple[tuple[int, float], ...]:
    """The address of each of the network's tensors, and a weighted sum: differs when one was replaced or changed."""
    tensors = (*network.module.parameters(), *network.module.buffers())
    with torch.no_grad():
        return tuple((tensor.data_ptr(), _weighted_sum(tensor)) for tensor in tensors)


def _weighted_sum(tensor: Tensor) -> float:
    flat = tensor.detach().flatten().float()
    return float(flat @ torch.linspace(1, 2, len(flat), device=flat.device))


def fitting_precision(network: Network, layer: str, size: int) -> AskedPrecision:
    """The precision that "auto" chooses for pictures of ``size`` pixels at ``layer`` on this machine."""
    return "bfloat16" if cached_subnetwork(network, layer, size).dtype == torch.bfloat16 else "float32"

"""The tail of a network, behind one layer: what the logits of a picture would be with another map at the layer.

What comes before the layer is run once for the picture, and only the tail for each of the changed maps. The network is
recorded as a list of operations twice, for one picture and for a batch: the lists agree operation by operation, and
what the tail reads from before the layer is repeated for the batch. Where that does not work, the whole network runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from atlas.networks.hooks import hooked
from atlas.networks.network import Network
from atlas.networks.program.record import TOLERANCE, record, rewrite

# Maps in one pass.
BATCH = 16


class Tail:
    """``network`` behind the module named ``layer``, for normalised inputs of one ``shape`` (1, 3, h, w). Raises
    ConfigError when there is no such layer."""

    def __init__(self, network: Network, layer: str, shape: torch.Size) -> None:
        self._network, self._layer = network, layer
        network.submodule(layer)  # a recording that fails does not say why
        self._program = self._record(shape)

    def __call__(self, inputs: Tensor, maps: Iterator[Tensor]) -> Iterator[Tensor]:
        """For each batch of ``maps``, float32 (n ≤ BATCH, channels, H, W) on the network's device, in place of what the
        layer gives for ``inputs`` (1, 3, h, w): the logits (n, classes), float32 on the CPU."""
        with torch.no_grad():
            before = self._program.before(inputs) if self._program else None
        for batch in maps:
            with torch.no_grad():
                if self._program is None or before is None:
                    logits = self._run_whole(inputs, batch)
                else:
                    full = torch.cat([batch, batch[:1].expand(BATCH - len(batch), -1, -1, -1)])
                    logits = self._program.behind(before, full)[: len(batch)]
            yield logits.float().cpu()

    def _run_whole(self, inputs: Tensor, maps: Tensor) -> Tensor:
        # A copy, since what comes later may write into the layer's output.
        with hooked(self._network.submodule(self._layer), lambda _: maps.clone()):
            logits: Tensor = self._network.module(inputs.expand(len(maps), -1, -1, -1))
        return logits

    def _record(self, shape: torch.Size) -> _SplitProgram | None:
        def maps_and_logits(inputs: Tensor) -> list[Tensor]:
            maps: list[Tensor] = []
            with hooked(self._network.submodule(self._layer), lambda output: maps.append(output.clone())):
                logits = self._network.module(inputs)
            return [*maps, logits]

        probe = self._network.noise(shape[0], shape[2:])
        fuse = probe.device.type == "cpu"
        programs = [record(maps_and_logits, batch) for batch in (probe, probe.expand(BATCH, -1, -1, -1).contiguous())]
        if any(program is None for program in programs):
            return None
        single, batched = (rewrite(program, torch.float32, fuse=fuse) for program in programs if program is not None)
        if [node.op for node in single.graph.nodes] != [node.op for node in batched.graph.nodes]:
            return None
        split = _SplitProgram(single, batched)
        with torch.no_grad():
            maps, expected = maps_and_logits(probe)
            try:
                logits = split.behind(split.before(probe), maps.expand(BATCH, -1, -1, -1).contiguous())
            except (RuntimeError, TypeError):  # an operation that reads a batch where one picture was repeated
                return None
        within = (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()
        return split if within else None


class _SplitProgram:
    """The same list of operations for one picture (``single``) and for BATCH of them (``batched``), split at the
    layer."""

    def __init__(self, single: fx.GraphModule, batched: fx.GraphModule) -> None:
        self._single, self._batched = single, batched
        self._nodes = list(zip(single.graph.nodes, batched.graph.nodes))
        outputs: Any = batched.graph.find_nodes(op="output")[0].args[0]
        self._layer: fx.Node = outputs[0].args[0]  # what the layer gave was cloned to be an output
        self._logits: fx.Node = outputs[1]
        self._behind = {self._layer}
        of_picture: set[fx.Node] = set()
        for _, node in self._nodes:
            if node.op == "placeholder" or any(read in of_picture for read in node.all_input_nodes):
                of_picture.add(node)
            if any(read in self._behind for read in node.all_input_nodes):
                self._behind.add(node)
        reads = {read for node in self._behind - {self._layer} for read in node.all_input_nodes}
        self._reads = reads - self._behind
        self._repeated = self._reads & of_picture

    def before(self, inputs: Tensor) -> dict[fx.Node, Any]:
        """What the operations behind the layer read from before it, for ``inputs`` (1, 3, h, w); repeated for a
        batch."""
        values: dict[fx.Node, Any] = {}
        reads: dict[fx.Node, Any] = {}
        placeholders = iter((inputs, 0.0))
        for node, twin in self._nodes:
            if node.op == "output" or twin in self._behind:
                continue
            # Constants with the size of the batch in them are taken from the list for batches.
            values[node] = next(placeholders) if node.op == "placeholder" else _value(self._single, node, values)
            if twin in self._reads:
                value = _value(self._batched, twin, {}) if twin.op == "get_attr" else values[node]
                repeat = twin in self._repeated and isinstance(value, Tensor)
                reads[twin] = value.expand(BATCH, *value.shape[1:]) if repeat else value
        return reads

    def behind(self, before: dict[fx.Node, Any], maps: Tensor) -> Tensor:
        """The logits (BATCH, classes) where the layer gives ``maps`` (BATCH, channels, H, W)."""
        values = {**before, self._layer: maps}
        for _, node in self._nodes:
            if node in self._behind and node is not self._layer and node.op != "output":
                values[node] = _value(self._batched, node, values)
        logits: Tensor = values[self._logits]
        return logits


def _value(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return getattr(module, str(node.target))
    arguments, options = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "call_module":
        return module.get_submodule(str(node.target))(*arguments, **options)
    return node.target(*arguments, **options)  # type: ignore[operator]

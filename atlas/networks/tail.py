"""The network behind one layer: what the logits of a picture would be if the layer's map were another.

What comes before the layer is run once for the picture, and only the rest for each of the changed maps. The network is
recorded as a list of operations twice, for one picture and for a batch of them: the lists agree step by step, and what
a step behind the layer reads from before it is repeated. A network for which that does not work runs whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from atlas.networks.hooks import hooked
from atlas.networks.network import Network
from atlas.networks.program.record import record, rewrite

# Maps in one pass.
BATCH = 16
# How far the logits may differ from the network's, as a share of the largest, for the lists to be used.
_TOLERANCE = 1e-3


class Tail:
    """``network`` behind the module named ``layer``, for normalised inputs of one ``shape`` (1, 3, h, w)."""

    def __init__(self, network: Network, layer: str, shape: torch.Size) -> None:
        self._network, self._layer = network, layer
        self._steps = self._recorded(shape)

    def __call__(self, inputs: Tensor, maps: Iterator[Tensor]) -> Iterator[Tensor]:
        """For each batch of ``maps`` (n ≤ BATCH, channels, H, W), in place of what the layer gives for ``inputs``
        (1, 3, h, w), the logits (n, classes), float32 on the CPU."""
        with torch.no_grad():
            before = self._steps.before(inputs) if self._steps else None
        for batch in maps:
            with torch.no_grad():
                if self._steps is None or before is None:
                    found = self._whole(inputs, batch)
                else:
                    full = torch.cat([batch, batch[:1].expand(BATCH - len(batch), -1, -1, -1)])
                    found = self._steps.behind(before, full)[: len(batch)]
            yield found.float().cpu()

    def _whole(self, inputs: Tensor, maps: Tensor) -> Tensor:
        with hooked(self._network.submodule(self._layer), lambda _: maps):
            logits: Tensor = self._network.module(inputs.expand(len(maps), -1, -1, -1))
        return logits

    def _recorded(self, shape: torch.Size) -> _Steps | None:
        def both(inputs: Tensor) -> list[Tensor]:
            found: list[Tensor] = []
            with hooked(self._network.submodule(self._layer), lambda output: found.append(output.clone())):
                logits = self._network.module(inputs)
            return [*found, logits]

        generator = torch.Generator().manual_seed(0)
        probe = self._network.normalize(torch.rand(shape, generator=generator).to(self._network.device))
        fuse = probe.device.type == "cpu"
        lists = [record(both, given) for given in (probe, probe.expand(BATCH, -1, -1, -1).contiguous())]
        if any(each is None for each in lists):
            return None
        one, many = (rewrite(each, torch.float32, fuse=fuse) for each in lists if each is not None)
        if [node.op for node in one.graph.nodes] != [node.op for node in many.graph.nodes]:
            return None
        steps = _Steps(one, many)
        with torch.no_grad():
            maps, expected = both(probe)
            try:
                found = steps.behind(steps.before(probe), maps.expand(BATCH, -1, -1, -1).contiguous())
            except (RuntimeError, TypeError):  # a step that reads a batch where one was repeated
                return None
        within = (found - expected).abs().max() <= _TOLERANCE * expected.abs().max()
        return steps if within else None


class _Steps:
    """The same list of operations for one picture and for BATCH of them, cut at the layer."""

    def __init__(self, one: fx.GraphModule, many: fx.GraphModule) -> None:
        self._one, self._many = one, many
        self._nodes = list(zip(one.graph.nodes, many.graph.nodes))
        outputs: Any = many.graph.find_nodes(op="output")[0].args[0]
        self._layer: fx.Node = outputs[0].args[0]  # what the layer gave was cloned to be an output
        self._logits: fx.Node = outputs[1]
        self._behind = {self._layer}
        pictured: set[fx.Node] = set()
        for _, node in self._nodes:
            if node.op == "placeholder" or any(given in pictured for given in node.all_input_nodes):
                pictured.add(node)
            if any(given in self._behind for given in node.all_input_nodes):
                self._behind.add(node)
        read = {given for node in self._behind - {self._layer} for given in node.all_input_nodes}
        self._read = read - self._behind
        self._repeated = self._read & pictured

    def before(self, inputs: Tensor) -> dict[fx.Node, Any]:
        """What the steps behind the layer read from before it, for inputs (1, 3, h, w); repeated for a batch."""
        values: dict[fx.Node, Any] = {}
        kept: dict[fx.Node, Any] = {}
        given = iter((inputs, 0.0))
        for node, twin in self._nodes:
            if node.op == "output" or twin in self._behind:
                continue
            # Constants with the size of the batch in them are taken from the list for batches.
            values[node] = next(given) if node.op == "placeholder" else _value(self._one, node, values)
            if twin in self._read:
                value = _value(self._many, twin, {}) if twin.op == "get_attr" else values[node]
                repeat = twin in self._repeated and isinstance(value, Tensor)
                kept[twin] = value.expand(BATCH, *value.shape[1:]) if repeat else value
        return kept

    def behind(self, before: dict[fx.Node, Any], maps: Tensor) -> Tensor:
        """The logits (BATCH, classes) where the layer gives ``maps`` (BATCH, channels, H, W)."""
        values = {**before, self._layer: maps}
        for _, node in self._nodes:
            if node in self._behind and node is not self._layer and node.op != "output":
                values[node] = _value(self._many, node, values)
        logits: Tensor = values[self._logits]
        return logits


def _value(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return getattr(module, str(node.target))
    arguments, options = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "call_module":
        return module.get_submodule(str(node.target))(*arguments, **options)
    return node.target(*arguments, **options)  # type: ignore[operator]

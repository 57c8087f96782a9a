"""A recorded list of operations (``atlas.networks.program.record.record``), run again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx


def constants_of(recorded: fx.GraphModule) -> dict[fx.Node, Any]:
    """The values of all operations that do not depend on the picture."""
    constants: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in recorded.graph.nodes:
            if node.op == "get_attr":
                constants[node] = getattr(recorded, str(node.target)).detach()
            elif node.op == "call_function" and all(read in constants for read in node.all_input_nodes):
                constants[node] = _value_of(node, constants)
    return constants


@torch.inference_mode(False)
@torch.no_grad()
def replay(
    recorded: fx.GraphModule, inputs: Tensor, constants: dict[fx.Node, Any], keep: set[fx.Node] | None = None
) -> dict[fx.Node, Any]:
    """The outputs for ``inputs`` (n, 3, size, size) of all operations that depend on the picture. Where ``keep`` is
    given, memory holds the outputs of these, and of others only as long as they are read."""
    last: dict[fx.Node, fx.Node] = {}
    for node in recorded.graph.nodes:
        last.update(dict.fromkeys(node.all_input_nodes, node))
    values: dict[fx.Node, Any] = dict(constants)
    for node in recorded.graph.nodes:
        if node.op == "placeholder":
            values[node] = inputs
        elif node.op == "call_function" and node not in constants:
            values[node] = _value_of(node, values)
            if keep is not None:
                for read in node.all_input_nodes:
                    if last[read] is node and read not in keep:
                        del values[read]
    return {node: value for node, value in values.items() if node not in constants}


def _value_of(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """What the recorded operation ``node`` makes of ``values``."""
    arguments, options = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    return node.target(*arguments, **options)  # type: ignore[operator]

"""Run a recorded list of operations (`atlas.networks.program.record.record`) and read the output of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx


def constants_of(recorded: fx.GraphModule) -> dict[fx.Node, Any]:
    """The outputs of all operations of ``recorded`` that do not depend on the picture: weights, and what is computed
    from them alone."""
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
    recorded: fx.GraphModule, inputs: Tensor, constants: dict[fx.Node, Any], nodes: set[fx.Node] | None = None
) -> dict[fx.Node, Any]:
    """The outputs for ``inputs``, float32 (n, 3, size, size), of the operations that depend on the picture.

    ``constants``: what `constants_of` gives. ``nodes``: to save memory, the outputs of other operations are dropped
    after their last use.
    """
    last_user: dict[fx.Node, fx.Node] = {}
    for node in recorded.graph.nodes:
        last_user.update(dict.fromkeys(node.all_input_nodes, node))
    values: dict[fx.Node, Any] = dict(constants)
    for node in recorded.graph.nodes:
        if node.op == "placeholder":
            values[node] = inputs
        elif node.op == "call_function" and node not in constants:
            values[node] = _value_of(node, values)
            if nodes is not None:
                for read in node.all_input_nodes:
                    if last_user[read] is node and read not in nodes:
                        del values[read]
    return {node: value for node, value in values.items() if node not in constants}


def _value_of(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """The output of the recorded operation ``node`` for ``values``, those of what it reads."""
    arguments, options = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    return node.target(*arguments, **options)  # type: ignore[operator]

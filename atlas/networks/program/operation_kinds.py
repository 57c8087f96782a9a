"""What kind of operation a recorded one is, in words and numbers that a page can show."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from atlas.networks.program.nonlinearities import formula

_aten = torch.ops.aten

# Numbers are moved or copied, and not changed. Each reads one tensor, its first argument.
MOVES: dict[Any, str] = {
    _aten.view.default: "reshape", _aten._unsafe_view.default: "reshape", _aten.reshape.default: "reshape",
    _aten.squeeze.default: "reshape", _aten.squeeze.dim: "reshape", _aten.squeeze.dims: "reshape",
    _aten.unsqueeze.default: "reshape", _aten.as_strided.default: "reshape", _aten.permute.default: "transpose",
    _aten.transpose.int: "transpose", _aten.t.default: "transpose", _aten.slice.Tensor: "slice",
    _aten.select.int: "slice", _aten.split.Tensor: "slice", _aten.split_with_sizes.default: "slice",
    _aten.unbind.int: "slice", _aten.index.Tensor: "selection", _aten.index_select.default: "selection",
    _aten.expand.default: "copy", _aten.repeat.default: "copy", _aten.clone.default: "copy",
    _aten.alias.default: "copy", _aten.detach.default: "copy", _aten._to_copy.default: "copy",
    _aten.constant_pad_nd.default: "padding", _aten.reflection_pad2d.default: "padding by reflection",
    _aten.replication_pad2d.default: "padding by the nearest", _aten.flip.default: "flip", _aten.roll.default: "shift",
    _aten.pixel_shuffle.default: "pixel shuffle", _aten.pixel_unshuffle.default: "pixel unshuffle",
    _aten.channel_shuffle.default: "channel shuffle", _aten.upsample_nearest2d.default: "enlargement",
    _aten.upsample_nearest2d.vec: "enlargement",
}  # fmt: skip
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)
REVERSED = (_aten.rsub.Scalar, _aten.rsub.Tensor)
SUBTRACTIONS = (_aten.sub.Tensor, _aten.sub.Scalar, *REVERSED)
ADDITIONS = (_aten.add.Tensor, _aten.add.Scalar)
DIVISIONS = (_aten.div.Tensor, _aten.div.Scalar)
PRODUCTS = (_aten.mul.Tensor, _aten.mul.Scalar)
SUMS = (_aten.sum.dim_IntList, _aten.sum.default)
MEANS = (_aten.mean.dim, _aten.mean.default)
REDUCTIONS = (*MEANS, _aten.amax.default)
BATCH_NORMS = (
    _aten.native_batch_norm.default, _aten._native_batch_norm_legit_no_training.default, _aten.cudnn_batch_norm.default,
)  # fmt: skip
_OTHERS: dict[Any, str] = {
    _aten._softmax.default: "softmax",
    _aten.native_layer_norm.default: "layer norm",
    _aten.native_group_norm.default: "group norm",
    _aten.bmm.default: "matrix product",
    _aten.mm.default: "matrix product",
    _aten._scaled_dot_product_flash_attention_for_cpu.default: "attention",
    _aten.upsample_bilinear2d.default: "bilinear enlargement",
    _aten.upsample_bilinear2d.vec: "bilinear enlargement",
}

Description = tuple[str, str, dict[str, Any]]


def maps_shape(shape: torch.Size) -> tuple[int, ...]:
    """A tensor's shape as (channels, height, width) or (numbers,), without the batch: its last two sides are height and
    width, all before are channels.
    """
    sides = list(shape)
    if len(sides) > 1 and sides[0] == 1:
        sides = sides[1:]
    if len(sides) < 2:
        return (sides[0] if sides else 1,)
    channels = 1
    for side in sides[:-2]:
        channels *= side
    return channels, sides[-2], sides[-1]


def describe(
    core: fx.Node, part: int | None, value: Tensor, values: dict[fx.Node, Any], constants: dict[fx.Node, Any]
) -> Description:
    """The kind of the operation ``core``, its words, and its geometry (kernel, stride, …); ``value`` is the output in
    question, the one numbered ``part`` where there are several.
    """
    target, arguments = core.target, core.args
    first: Any = arguments[0] if arguments else None
    varying = [read for read in core.all_input_nodes if read not in constants]
    # Maps and norms are read as those of one picture; a network may also cut a picture into a batch of its own.
    alone = value.ndim > 0 and value.shape[0] == 1 and all(values[read].shape[0] == 1 for read in varying[:1])
    if alone and _is_convolution(core, constants):
        return _convolution(core, constants)
    if target is _aten.addmm.default or target is _aten.mm.default:
        place = 1 if target is _aten.addmm.default else 0
        if varying == [arguments[place]]:
            weights = constants[arguments[place + 1]]  # type: ignore[index]
            return "linear", f"linear, {weights.shape[0]:,} → {weights.shape[1]:,}", {}
    if target in ADDITIONS or target in SUBTRACTIONS:
        return "add", "add" if target in ADDITIONS else "subtract", {}
    if target in SUMS and not core.kwargs:
        return "add", "sum", {}
    if target in PRODUCTS or (target in DIVISIONS and arguments[1] not in varying):
        return "multiply", "multiply" if target in PRODUCTS else "divide", {}
    if target in (_aten.cat.default, _aten.stack.default):
        return "concatenate", "concatenate", {}
    if (known := formula(core)) is not None:
        return "activation", known.name, {}
    if target is _aten._prelu_kernel.default and varying == [first]:
        return "activation", "PReLU", {}
    if (pooled := _pooling(core, part, values, alone)) is not None:
        return pooled
    if alone and target in BATCH_NORMS and part == 0 and varying == [first] and not is_training(core):
        return "batch_norm", "batch norm", {}
    if target in MOVES and target is not _aten.as_strided.default and varying == [first]:
        return "move", MOVES[target], {}
    word = _OTHERS.get(target) or str(target).removeprefix("aten.").rpartition(".")[0].strip("_").replace("_", " ")
    return "other", word, {}


def is_training(core: fx.Node) -> bool:
    """Whether a batch norm goes by the batch that it is given, not by what it has learnt."""
    return core.target is not _aten._native_batch_norm_legit_no_training.default and bool(core.args[5])


def _is_convolution(node: fx.Node, constants: dict[fx.Node, Any]) -> bool:
    if node.target is not _aten.convolution.default:
        return False
    _, kernel, bias, stride, _, _, transposed, _, _ = node.args
    return kernel in constants and (bias is None or bias in constants) and len(stride) == 2 and not transposed  # type: ignore[arg-type]


def is_padding_of_convolutions(node: fx.Node, constants: dict[fx.Node, Any]) -> bool:
    """Whether ``node`` pads zeros on for convolutions alone, so that it is no step of its own."""
    if node.target is not _aten.constant_pad_nd.default:
        return False
    amounts: Any = node.args[1]
    if len(amounts) not in (2, 4) or min(amounts) < 0 or (len(node.args) > 2 and node.args[2] != 0):
        return False
    return all(_is_convolution(user, constants) and user.args[0] is node for user in node.users)


def padding_of(node: fx.Node, constants: dict[fx.Node, Any]) -> list[list[int]]:
    """[[top, bottom], [left, right]] of the convolution ``node``, with what is padded on in front of it."""
    arguments: Any = node.args
    rows, columns = arguments[4]
    before = arguments[0]
    left = right = top = bottom = 0
    if is_padding_of_convolutions(before, constants):
        left, right, top, bottom = (*before.args[1], 0, 0)[:4]
    return [[rows + top, rows + bottom], [columns + left, columns + right]]


def _convolution(node: fx.Node, constants: dict[fx.Node, Any]) -> Description:
    arguments: Any = node.args
    weights = constants[arguments[1]]
    stride, dilation, groups = list(arguments[3]), list(arguments[5]), int(arguments[8])
    words = f"{'depthwise ' if groups > 1 and weights.shape[1] == 1 else ''}convolution {_by(weights.shape[2:])}"
    words += _spaced("stride", stride) + _spaced("dilation", dilation)
    if groups > 1 and weights.shape[1] > 1:
        words += f", {groups} groups"
    geometry = {
        "kernel": list(weights.shape[2:]),
        "stride": stride,
        "padding": padding_of(node, constants),
        "dilation": dilation,
        "groups": groups,
    }
    return "convolution", words, geometry


def _by(sides: Any) -> str:
    return "×".join(map(str, sides))


def _spaced(word: str, steps: list[int]) -> str:
    if set(steps) == {1}:
        return ""
    return f", {word} {steps[0] if len(set(steps)) == 1 else _by(steps)}"


def pair(value: Any, default: list[int] | None = None) -> list[int]:
    """A pooling's argument for rows and columns: given once, twice, or not at all."""
    given = [value] if isinstance(value, int) else list(value or [])
    return (given * 2)[:2] if given else list(default or [1, 1])


def _pooling(core: fx.Node, part: int | None, values: dict[fx.Node, Any], alone: bool) -> Description | None:
    target, arguments = core.target, (*core.args, *[None] * 7)
    source: Any = values.get(core.args[0]) if core.args and isinstance(core.args[0], fx.Node) else None
    most = target is _aten.max_pool2d_with_indices.default and part == 0
    if alone and (most or target is _aten.avg_pool2d.default):
        kernel = pair(arguments[1])
        geometry = {"kernel": kernel, "stride": pair(arguments[2], kernel)}
        rows, columns = pair(arguments[3], [0, 0])
        geometry["padding"] = [[rows, rows], [columns, columns]]  # type: ignore[list-item]
        geometry["dilation"] = pair(arguments[4]) if most else [1, 1]
        words = f"{'max' if most else 'average'} pooling {_by(kernel)}" + _spaced("stride", geometry["stride"])
        return "max_pool" if most else "average_pool", words, geometry
    if alone and (
        target is _aten._adaptive_avg_pool2d.default or (target is _aten.adaptive_max_pool2d.default and part == 0)
    ):
        most = target is _aten.adaptive_max_pool2d.default
        words = f"{'max' if most else 'average'} pooling to {_by(pair(arguments[1]))}"
        return "max_pool" if most else "average_pool", words, {}
    if target in REDUCTIONS and not {"dtype"} & set(core.kwargs):
        most = target is _aten.amax.default
        whole = source is not None and over_the_map(reduced(core, source.ndim), source.ndim)
        words = ("largest" if most else "mean") + (" over height and width" if whole else "")
        return "max_pool" if most else "average_pool", words, {}
    return None


def reduced(core: fx.Node, sides: int) -> list[int]:
    """The sides that a mean, a sum or a maximum runs over, of a tensor with ``sides`` sides, in order."""
    given: Any = core.args[1] if len(core.args) > 1 else core.kwargs.get("dim")
    if given is None or given == []:
        return list(range(sides))
    return sorted(side % sides for side in ([given] if isinstance(given, int) else given))


def over_the_map(sides: list[int], count: int) -> bool:
    """Whether ``sides`` of a tensor with ``count`` sides are its height and width."""
    return count > 2 and sides == [count - 2, count - 1]


def is_identity(core: fx.Node, part: int | None, values: dict[fx.Node, Any], constants: dict[fx.Node, Any]) -> bool:
    """Whether the operation hands on what it reads as it is: every number stays at its place."""
    given: Any = core.args[0] if core.args else None
    if core.target not in MOVES or [read for read in core.all_input_nodes if read not in constants] != [given]:
        return False
    source, value = values[given], values[core] if part is None else values[core][part]
    if source.shape != value.shape or source.dtype != value.dtype:
        return False
    places = moved(core, part, source, constants)
    return bool((places == numbered(source)).all())


def numbered(value: Tensor) -> Tensor:
    """A tensor laid out in memory like ``value`` that holds the number of each place, counted row by row, in float64
    (which some moves need, and which counts exactly as far as any tensor reaches).
    """
    count = torch.arange(value.numel(), dtype=torch.float64, device=value.device).reshape(value.shape)
    return torch.empty_like(value, dtype=torch.float64).copy_(count)


def moved(core: fx.Node, part: int | None, source: Tensor, constants: dict[fx.Node, Any]) -> Tensor:
    """For each place of the output of a move, in the output's shape, the number of the place in ``source`` that it is
    taken from; −1 where it is taken from none (padding).
    """
    arguments, keywords = fx.map_arg((core.args[1:], core.kwargs), lambda read: constants[read])
    if core.target is _aten.constant_pad_nd.default:
        arguments, keywords = (arguments[0], -1.0), {}
    elif core.target is _aten._to_copy.default:
        return numbered(source)
    # A view asks for a layout in memory; its source may stand behind a copy that made it, and is no step.
    move: Any = _aten.reshape.default if core.target in _VIEWS else core.target
    found: Any = move(numbered(source), *arguments, **keywords)
    return found if part is None else operator.getitem(found, part)

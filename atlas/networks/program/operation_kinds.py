"""Kinds of recorded operations: sets of torch's operations by what they do, and a description of one (kind, words,
geometry) that a page can show."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from atlas.networks.program.nonlinearities import formula

_aten = torch.ops.aten

# Operations that move or copy numbers without changing them. Each reads one tensor, its first argument.
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

# Kind, words, geometry.
Description = tuple[str, str, dict[str, Any]]


def map_shape(shape: torch.Size) -> tuple[int, ...]:
    """A tensor's ``shape`` as (channels, height, width) or (numbers,), without the batch: its last two dimensions are
    height and width, all before are channels.
    """
    sizes = list(shape)
    if len(sizes) > 1 and sizes[0] == 1:
        sizes = sizes[1:]
    if len(sizes) < 2:
        return (sizes[0] if sizes else 1,)
    channels = 1
    for size in sizes[:-2]:
        channels *= size
    return channels, sizes[-2], sizes[-1]


def describe_operation(
    core: fx.Node, part: int | None, value: Tensor, values: dict[fx.Node, Any], constants: dict[fx.Node, Any]
) -> Description:
    """The kind of the operation ``core``, its words, and its geometry (kernel, stride, …).

    ``value`` is its output, of several the one numbered ``part``; ``values`` holds the outputs of all operations for
    one picture, ``constants`` those that do not depend on it.
    """
    target, arguments = core.target, core.args
    first: Any = arguments[0] if arguments else None
    varying = [read for read in core.all_input_nodes if read not in constants]
    # Maps and norms are read as those of one picture; a network may also split a picture into a batch of parts.
    single = value.ndim > 0 and value.shape[0] == 1 and all(values[read].shape[0] == 1 for read in varying[:1])
    if single and _is_convolution(core, constants):
        return _convolution(core, constants)
    if target is _aten.addmm.default or target is _aten.mm.default:
        first_factor = 1 if target is _aten.addmm.default else 0
        if varying == [arguments[first_factor]]:
            weights = constants[arguments[first_factor + 1]]  # type: ignore[index]
            return "linear", f"linear, {weights.shape[0]:,} → {weights.shape[1]:,}", {}
    if target in ADDITIONS or target in SUBTRACTIONS:
        return "add", "add" if target in ADDITIONS else "subtract", {}
    if target in SUMS and not core.kwargs:
        return "add", "sum", {}
    if target in PRODUCTS or (target in DIVISIONS and arguments[1] not in varying):
        return "multiply", "multiply" if target in PRODUCTS else "divide", {}
    if target in (_aten.cat.default, _aten.stack.default):
        return "concatenate", "concatenate", {}
    if (nonlinearity := formula(core)) is not None:
        return "activation", nonlinearity.name, {}
    if target is _aten._prelu_kernel.default and varying == [first]:
        return "activation", "PReLU", {}
    if (pooling := _pooling(core, part, values, single)) is not None:
        return pooling
    if single and target in BATCH_NORMS and part == 0 and varying == [first] and not is_training(core):
        return "batch_norm", "batch norm", {}
    if target in MOVES and target is not _aten.as_strided.default and varying == [first]:
        return "reshape", MOVES[target], {}
    word = _OTHERS.get(target) or str(target).removeprefix("aten.").rpartition(".")[0].strip("_").replace("_", " ")
    return "other", word, {}


def is_training(core: fx.Node) -> bool:
    """Whether the batch norm ``core`` uses the statistics of its batch, not those that it has learnt."""
    return core.target is not _aten._native_batch_norm_legit_no_training.default and bool(core.args[5])


def _is_convolution(node: fx.Node, constants: dict[fx.Node, Any]) -> bool:
    if node.target is not _aten.convolution.default:
        return False
    _, kernel, bias, stride, _, _, transposed, _, _ = node.args
    return kernel in constants and (bias is None or bias in constants) and len(stride) == 2 and not transposed  # type: ignore[arg-type]


def is_padding_of_convolutions(node: fx.Node, constants: dict[fx.Node, Any]) -> bool:
    """Whether ``node`` adds a padding of zeros that only convolutions read, so that it counts as theirs."""
    if node.target is not _aten.constant_pad_nd.default:
        return False
    amounts: Any = node.args[1]
    if len(amounts) not in (2, 4) or min(amounts) < 0 or (len(node.args) > 2 and node.args[2] != 0):
        return False
    return all(_is_convolution(user, constants) and user.args[0] is node for user in node.users)


def padding_of(node: fx.Node, constants: dict[fx.Node, Any]) -> list[list[int]]:
    """The padding [[top, bottom], [left, right]] of the convolution ``node``, with that of a padding in front of it."""
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
    """A pooling's argument as [rows, columns]: torch takes one number for both, two numbers, or none."""
    numbers = [value] if isinstance(value, int) else list(value or [])
    return (numbers * 2)[:2] if numbers else list(default or [1, 1])


def _pooling(core: fx.Node, part: int | None, values: dict[fx.Node, Any], single: bool) -> Description | None:
    target, arguments = core.target, (*core.args, *[None] * 7)
    source: Any = values.get(core.args[0]) if core.args and isinstance(core.args[0], fx.Node) else None
    is_max = target is _aten.max_pool2d_with_indices.default and part == 0
    if single and (is_max or target is _aten.avg_pool2d.default):
        kernel = pair(arguments[1])
        geometry = {"kernel": kernel, "stride": pair(arguments[2], kernel)}
        rows, columns = pair(arguments[3], [0, 0])
        geometry["padding"] = [[rows, rows], [columns, columns]]  # type: ignore[list-item]
        geometry["dilation"] = pair(arguments[4]) if is_max else [1, 1]
        words = f"{'max' if is_max else 'average'} pooling {_by(kernel)}" + _spaced("stride", geometry["stride"])
        return "max_pool" if is_max else "average_pool", words, geometry
    if single and (
        target is _aten._adaptive_avg_pool2d.default or (target is _aten.adaptive_max_pool2d.default and part == 0)
    ):
        is_max = target is _aten.adaptive_max_pool2d.default
        words = f"{'max' if is_max else 'average'} pooling to {_by(pair(arguments[1]))}"
        return "max_pool" if is_max else "average_pool", words, {}
    if target in REDUCTIONS and not {"dtype"} & set(core.kwargs):
        is_max = target is _aten.amax.default
        whole = source is not None and is_height_and_width(reduced_dimensions(core, source.ndim), source.ndim)
        words = ("largest" if is_max else "mean") + (" over height and width" if whole else "")
        return "max_pool" if is_max else "average_pool", words, {}
    return None


def reduced_dimensions(core: fx.Node, ndim: int) -> list[int]:
    """The dimensions that the mean, sum or maximum ``core`` runs over, of a tensor with ``ndim`` of them, in order."""
    argument: Any = core.args[1] if len(core.args) > 1 else core.kwargs.get("dim")
    if argument is None or argument == []:
        return list(range(ndim))
    return sorted(dimension % ndim for dimension in ([argument] if isinstance(argument, int) else argument))


def is_height_and_width(dimensions: list[int], ndim: int) -> bool:
    """Whether ``dimensions`` of a tensor with ``ndim`` of them are its height and width."""
    return ndim > 2 and dimensions == [ndim - 2, ndim - 1]


def is_identity(core: fx.Node, part: int | None, values: dict[fx.Node, Any], constants: dict[fx.Node, Any]) -> bool:
    """Whether the operation returns what it reads unchanged: every number stays at its index."""
    first: Any = core.args[0] if core.args else None
    if core.target not in MOVES or [read for read in core.all_input_nodes if read not in constants] != [first]:
        return False
    source, value = values[first], values[core] if part is None else values[core][part]
    if source.shape != value.shape or source.dtype != value.dtype:
        return False
    indices = source_indices(core, part, source, constants)
    return bool((indices == index_tensor(source)).all())


def index_tensor(value: Tensor) -> Tensor:
    """A tensor in the shape and memory layout of ``value`` that holds each element's flat index, row by row, as float64
    (some moves need floating point, and float64 counts exactly as far as any tensor reaches).
    """
    count = torch.arange(value.numel(), dtype=torch.float64, device=value.device).reshape(value.shape)
    return torch.empty_like(value, dtype=torch.float64).copy_(count)


def source_indices(core: fx.Node, part: int | None, source: Tensor, constants: dict[fx.Node, Any]) -> Tensor:
    """For each element of the output of the move ``core``, in the output's shape, the flat index in ``source`` that it
    is taken from, float64; −1 where it is taken from none (padding). ``part``: which output, of several.
    """
    arguments, keywords = fx.map_arg((core.args[1:], core.kwargs), lambda read: constants[read])
    if core.target is _aten.constant_pad_nd.default:
        arguments, keywords = (arguments[0], -1.0), {}
    elif core.target is _aten._to_copy.default:
        return index_tensor(source)
    # A view needs a certain layout in memory, which the source may only have had through a copy that is no step.
    move: Any = _aten.reshape.default if core.target in _VIEWS else core.target
    indices: Any = move(index_tensor(source), *arguments, **keywords)
    return indices if part is None else operator.getitem(indices, part)

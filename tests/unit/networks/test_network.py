"""Networks: how one is prepared, its layers, and what each mistake is answered with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_pictures import pictures_of
from PIL import Image
from small_network import factory
from torch import nn

from atlas.errors import ConfigError
from atlas.networks.network import Network, describe_layer, load, map_layers
from atlas.pictures.decode import open_picture
from atlas.pictures.views import crop_view, view_box


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
        maps = small.activations(inputs, "residual")
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)
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


def test_a_size_that_the_network_cannot_take_is_explained() -> None:
    with pytest.raises(
        ConfigError, match=r"small_network:stubborn failed on pictures of 32×32 pixels .* set network.size"
    ):
        load("small_network:stubborn", size=32)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [("chelsea", {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"}), ("coffee", {"espresso"})],
)
def test_a_cat_is_a_cat_and_coffee_is_espresso(
    efficientnet: Network, tmp_path: Path, picture: str, expected: set[str]
) -> None:
    from skimage import data

    Image.fromarray(getattr(data, picture)()).save(tmp_path / "picture.png")
    pixels_of_file = open_picture(tmp_path / "picture.png")
    box = view_box((pixels_of_file.shape[1], pixels_of_file.shape[0]), crops=1, scale=(1, 1), seed=0, key="x", view=0)
    pixels = crop_view(pixels_of_file, box, efficientnet.size, (0, 0, 0))
    with torch.no_grad():
        logits = efficientnet.module(efficientnet.from_bytes(torch.from_numpy(pixels[None])))
    assert efficientnet.classes[int(np.argmax(logits[0]))] in expected

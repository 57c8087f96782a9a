"""Small networks that the tests make for themselves, with what real ones trip over."""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution, batch norm and, where asked for, an in-place ReLU."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1, relu: bool = True
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(maps)))


class Residual(nn.Module):
    """Two ways that are added in place: the sum is written into the output of the first."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = ConvNorm(channels, channels, relu=False)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.second(self.first(maps))
        out += maps
        return functional.relu(out, inplace=True)


class Depthwise(nn.Module):
    """One filter a channel, widened afterwards; its input is written into once more after the layer inside."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.spread = ConvNorm(channels, channels, 1, relu=False)
        self.depthwise = ConvNorm(channels, channels, groups=channels, relu=False)
        self.widen = ConvNorm(channels, outputs, 1, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        wide = self.spread(maps)
        wide += maps
        out = self.depthwise(wide)
        out += wide
        return self.widen(out)


class Branches(nn.Module):
    """Two ways side by side, as in an inception module."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.narrow = ConvNorm(inputs, outputs // 2, 1)
        self.wide = ConvNorm(inputs, outputs // 2, 3)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.narrow(maps), self.wide(maps)], dim=1)


class SmallNetwork(nn.Module):
    """32 px and more → 5 classes; 9 batch norms.

    Maps at 32 px: stem 16×16, residual 16×16, depthwise 8×8, branches 8×8.
    """

    def __init__(self, classes: int = 5):
        super().__init__()
        self.stem = ConvNorm(3, 8, stride=2)
        self.residual = Residual(8)
        self.depthwise = Depthwise(8, 12)
        self.branches = Branches(12, 16)
        self.last = ConvNorm(16, 16)
        self.head = nn.Linear(16, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        maps = self.branches(self.depthwise(self.residual(self.stem(pictures))))
        return self.head(self.last(maps).mean((2, 3)))


def factory() -> nn.Module:
    """The network with the same weights every time, and batch norms that are not the identity."""
    generator = torch.Generator().manual_seed(0)
    network = SmallNetwork()
    with torch.no_grad():
        for name, values in [*network.named_parameters(), *network.named_buffers()]:
            if not values.is_floating_point():
                continue
            noise = torch.randn(values.shape, generator=generator)
            if "bn" not in name:
                values.copy_(noise / max(1.0, (values[0].numel() if values.ndim > 1 else 1) ** 0.5) * 1.4)
            elif name.endswith(("running_var", "weight")):
                values.copy_(0.5 + noise.abs())
            else:
                values.copy_(0.3 * noise)
    return network


class Mixed(nn.Module):
    """Operations beyond convolutions and ReLUs: gates, pooling, attention, norms that depend on the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU())
        self.gate = nn.Conv2d(8, 8, 1)
        self.pooled = nn.MaxPool2d(2)
        self.mixed = nn.GroupNorm(2, 8)
        self.head = nn.Linear(16, 5)

    def forward(self, pictures: Tensor) -> Tensor:
        maps = self.first(pictures)
        maps = maps * self.gate(maps).mean((2, 3), keepdim=True).sigmoid()
        maps = self.mixed(self.pooled(maps))
        tokens = maps.flatten(2).transpose(1, 2)
        weights = (tokens @ tokens.transpose(1, 2) / 8).softmax(-1)
        tokens = functional.gelu(weights @ tokens)
        return self.head(torch.cat([tokens.mean(1), tokens.amax(1)], dim=1))


def mixed_factory() -> nn.Module:
    torch.manual_seed(5)
    return Mixed()


class Forking(SmallNetwork):
    """Its path depends on the picture."""

    def forward(self, pictures: Tensor) -> Tensor:
        logits = super().forward(pictures)
        return logits if float(pictures.sum()) > 0 else -2 * logits


def forking_factory() -> nn.Module:
    network = Forking()
    network.load_state_dict(factory().state_dict())
    return network


def wrong_factory() -> str:
    return "not a network"


class NormActivated(nn.BatchNorm2d):
    """As timm's: a batch norm with the activation inside."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(maps)))


class OddNorms(nn.Module):
    """One norm that can be folded whole, one with its activation inside, one whose convolution feeds a skip as well."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), NormActivated(6)
        self.conv3, self.bn3 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, pictures: Tensor) -> Tensor:
        raw = self.conv3(self.bn2(self.conv2(self.bn1(self.conv1(pictures)))))
        return self.head((functional.relu(self.bn3(raw)) + raw).mean((2, 3)))


def odd_factory() -> nn.Module:
    torch.manual_seed(3)
    network = OddNorms()
    for norm in (network.bn1, network.bn2, network.bn3):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return network


def broken_factory() -> nn.Module:
    """Activations far beyond float16."""
    network = factory()
    with torch.no_grad():
        network.stem.bn.weight.mul_(1e6)
    return network


class Stubborn(SmallNetwork):
    def forward(self, pictures: Tensor) -> Tensor:
        return super().forward(pictures.reshape(-1, 3, 48, 48))


def stubborn() -> nn.Module:
    return Stubborn()

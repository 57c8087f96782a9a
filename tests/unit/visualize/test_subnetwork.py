"""The subnetwork up to a layer: the same activations and gradients as the network itself, whatever it is made of."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlas.errors import ConfigError
from atlas.networks.network import Network
from atlas.networks.program import record
from atlas.visualize import subnetwork
from atlas.visualize.objective import centre
from atlas.visualize.subnetwork import Subnetwork


def network_of(module: nn.Module, size: int = 32) -> Network:
    return Network("made", module.eval().requires_grad_(False), ("a",), size, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def plain(network: Network, layer: str) -> Callable[[Tensor], Tensor]:
    return lambda pixels: network.activations(network.normalize(pixels), layer)


def derive(network: Callable[[Tensor], Tensor], pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The maps, and the gradient of a sum in which every activation has its own weight."""
    pixels = pixels.clone().requires_grad_(True)
    maps = network(pixels)
    weights = torch.rand(maps.shape, generator=torch.Generator().manual_seed(5))
    (gradient,) = torch.autograd.grad((maps * weights).sum(), pixels)
    return maps.detach(), gradient


def assert_alike(network: Network, layer: str, *, count: int = 3, size: int = 32) -> Subnetwork:
    subnetwork = Subnetwork(network, layer, size, precision="float32")
    pixels = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))
    maps, gradient = derive(subnetwork, pixels)
    expected_maps, expected_gradient = derive(plain(network, layer), pixels)
    assert torch.allclose(maps, expected_maps, atol=1e-4 * float(expected_maps.abs().max()))
    assert torch.allclose(gradient, expected_gradient, atol=1e-4 * float(expected_gradient.abs().max()))
    return subnetwork


def recorded(subnetwork: Subnetwork) -> bool:
    return all(operations is not None for operations in subnetwork._programs.values())


def operations_of(subnetwork: Subnetwork) -> list[str]:
    """What the list calls: names of functions and of the modules that replace them."""
    (graph, *_) = [operations for operations in subnetwork._programs.values() if operations is not None]
    nodes = graph.graph.nodes  # type: ignore[union-attr]
    return [
        type(graph.get_submodule(node.target)).__name__ if node.op == "call_module" else str(node.target)
        for node in nodes
        if node.op in ("call_function", "call_module")
    ]


CONVOLUTIONS = [
    {},
    {"padding": 1},
    {"padding": (2, 0), "bias": False},
    {"kernel_size": 1},
    {"kernel_size": (1, 7), "padding": (0, 3)},
    {"padding": 2, "dilation": 2},
    {"stride": 2},
    {"stride": 2, "padding": 1},
    {"stride": 2, "kernel_size": 7, "padding": 3},
    {"stride": 2, "kernel_size": 1},
    {"stride": 3, "kernel_size": 5, "padding": 1},
    {"stride": (2, 1), "padding": 1},
    {"stride": 2, "padding": 2, "dilation": 2},
    {"padding": 3},  # more than the kernel reaches: the gradient is no plain convolution
    {"groups": 2, "padding": 1},
    {"groups": 2, "stride": 2, "padding": 1},
    {"groups": 6, "padding": 1},
    {"groups": 6, "stride": 2, "padding": 1},
    {"groups": 6, "stride": 2, "kernel_size": 5, "padding": 0},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("size", [32, 33])
def test_every_convolution_has_its_gradient(options: dict, size: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 12, **{"kernel_size": 3, **options}), nn.ReLU6()
    )
    subnetwork = assert_alike(network_of(module), "3", size=size)
    assert operations_of(subnetwork) == ["FusedConvolution", "FusedConvolution"]


@pytest.mark.parametrize("zeros", [(1, 1, 1, 1), (0, 1, 0, 1), (1, 2, 1, 2), (2, 2, 0, 0), (1, 0, 0, 0), (0, 2, 0, 2)])
@pytest.mark.parametrize("groups", [1, 6])
def test_zeros_in_front_become_padding(zeros: tuple[int, ...], groups: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ZeroPad2d(zeros), nn.Conv2d(6, 6, 3, stride=2, groups=groups), nn.ReLU()
    )
    subnetwork = assert_alike(network_of(module), "3")
    left, right, top, bottom = zeros
    merged = right - left in (0, 1) and bottom - top in (0, 1)
    assert ("aten.constant_pad_nd.default" not in operations_of(subnetwork)) == merged


class ManyOperations(nn.Module):
    """What other people's networks do: in-place functions, sums, concatenation, pooling, gates, other activations."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(16, 8, 1)
        self.norm, self.gate = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = F.relu(self.one(pixels), inplace=True)
        side = F.max_pool2d(maps, 3, 1, 1)
        maps = F.relu(self.norm(self.two(maps)) + maps, inplace=True)
        maps = maps * torch.sigmoid(self.gate(maps.mean((2, 3), keepdim=True)))
        maps = F.silu(self.three(torch.cat([maps, side], 1)))
        return F.leaky_relu(self.two(maps), 0.2)


def test_other_peoples_networks() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(ManyOperations(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module[0].norm.running_mean.uniform_(-1, 1)
    module[0].norm.running_var.uniform_(0.5, 2)
    subnetwork = assert_alike(network_of(module), "0")
    assert recorded(subnetwork)
    assert "Clip" in operations_of(subnetwork)  # the ReLU behind the sum
    assert not any(
        "view" in name or "mean" in name for name in operations_of(subnetwork)[-3:]
    )  # the list ends at the layer


class Shuffle(nn.Module):
    """Holds its batch size in a shape, as channel shuffles do."""

    def forward(self, maps: Tensor) -> Tensor:
        count, channels, height, width = maps.shape
        return maps.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(maps.shape)


def test_lists_serve_other_batch_sizes_where_they_can() -> None:
    torch.manual_seed(0)
    subnetwork = assert_alike(network_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())), "1", count=3)
    derive(subnetwork, torch.rand(5, 3, 32, 32))
    assert subnetwork._programs[5] is subnetwork._programs[3]
    network = network_of(nn.Sequential(nn.Conv2d(3, 8, 3), Shuffle(), nn.Conv2d(8, 4, 1)))
    subnetwork = assert_alike(network, "2", count=3)
    pixels = torch.rand(5, 3, 32, 32)
    assert torch.allclose(derive(subnetwork, pixels)[1], derive(plain(network, "2"), pixels)[1], atol=1e-5)
    assert recorded(subnetwork)
    assert subnetwork._programs[5] is not subnetwork._programs[3]


class Wayward(nn.Module):
    """Takes a way that depends on the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.conv(pixels) if float(pixels.mean()) < 0.1 else self.conv(-pixels)


@pytest.mark.parametrize("brightness", [0.2, 0.9])
def test_networks_that_cannot_be_recorded_are_used_as_they_are(brightness: float) -> None:
    torch.manual_seed(0)
    network = network_of(nn.Sequential(Wayward(), nn.ReLU()))
    subnetwork = Subnetwork(network, "1", 32, precision="float32")
    pixels = brightness * torch.rand(2, 3, 32, 32)
    assert torch.allclose(subnetwork(pixels), plain(network, "1")(pixels), atol=1e-6)
    assert subnetwork._programs == {2: None}


def test_threads_may_ask_one_network_for_different_layers() -> None:
    """Both where the list serves and where the network is used as it is, with hooks."""
    torch.manual_seed(0)
    network = network_of(nn.Sequential(Wayward(), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()))
    pixels = torch.rand(2, 3, 32, 32)
    expected = {layer: plain(network, layer)(pixels) for layer in ("1", "3")}

    def ask(layer: str) -> bool:
        subnetwork = Subnetwork(network, layer, 32, precision="float32")
        return all(torch.allclose(subnetwork(pixels), expected[layer], atol=1e-5) for _ in range(40))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, ["1", "3"] * 4))


def test_layer_within_a_network_that_fails_behind_it() -> None:
    class Failing(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            raise RuntimeError("never called")

    network = network_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Failing()))
    assert recorded(assert_alike(network, "1"))


# Leaks


def test_shut_relus_pass_the_share_that_is_asked_for() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU6()).requires_grad_(False)
    pixels = torch.rand(2, 3, 32, 32)

    def gradient(leak: float) -> Tensor:
        return derive(
            lambda inputs: Subnetwork(network_of(module), "3", 32, precision="float32")(inputs, leak), pixels
        )[1]

    def maps(leak: float) -> Tensor:
        return derive(
            lambda inputs: Subnetwork(network_of(module), "3", 32, precision="float32")(inputs, leak), pixels
        )[0]

    module[0].bias += 50  # every unit of the first layer open
    module[2].bias -= 5000  # and every unit of the second one at 0
    assert not gradient(0).any()
    assert gradient(0.25).any()
    assert torch.allclose(gradient(0.5), 2 * gradient(0.25))
    assert torch.equal(maps(0.5), maps(0))  # only the gradient leaks
    module[0].bias -= 100  # all at 0: a half of a half comes through
    assert torch.allclose(gradient(0.5), 4 * gradient(0.25))


# bfloat16


def test_bfloat16_is_near_and_only_where_the_layer_stays_near(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.ReLU6())
    network = network_of(module)
    pixels = torch.rand(2, 3, 32, 32)
    maps, gradient = derive(Subnetwork(network, "3", 32, precision="bfloat16"), pixels)
    expected_maps, expected_gradient = derive(plain(network, "3"), pixels)
    assert maps.dtype == gradient.dtype == torch.float32
    assert F.cosine_similarity(centre(maps), centre(expected_maps)).min() > 0.999
    assert F.cosine_similarity(gradient.flatten(1), expected_gradient.flatten(1)).min() > 0.99
    monkeypatch.setattr(subnetwork, "bfloat16_pays", lambda device: True)
    assert Subnetwork(network, "3", 32).dtype == torch.bfloat16
    # Small differences of large numbers: nothing of them is left in eight bits.
    unbearable = nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU(), nn.Conv2d(16, 16, 3)).requires_grad_(False)
    unbearable[0].bias += 1000
    unbearable[2].bias -= unbearable(network.normalize(pixels)).mean((0, 2, 3))
    assert Subnetwork(network_of(unbearable), "2", 32).dtype == torch.float32
    assert Subnetwork(network_of(unbearable), "2", 32, precision="bfloat16").dtype == torch.bfloat16
    assert Subnetwork(network, "3", 32, precision="float32").dtype == torch.float32


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 16), ((2, 1), 1)])
def test_bfloat16_is_the_same_where_the_processor_does_not_convolve_it(
    monkeypatch: pytest.MonkeyPatch, stride: int | tuple[int, int], groups: int
) -> None:
    """The convolutions then compute in float32 with numbers that are rounded to bfloat16 before and after."""
    torch.manual_seed(0)
    last = nn.Conv2d(16, 16, 3, stride, 1, groups=groups, bias=False)
    layers = nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), last, nn.ReLU6()
    network, pixels = network_of(nn.Sequential(*layers)), torch.rand(2, 3, 32, 32)
    expected_maps, expected_gradient = derive(plain(network, "3"), pixels)
    monkeypatch.setattr(record, "convolves_in", lambda dtype: dtype == torch.float32)
    subnetwork = Subnetwork(network, "3", 32, precision="bfloat16")
    maps, gradient = derive(subnetwork, pixels)
    assert subnetwork.dtype == torch.bfloat16
    assert operations_of(subnetwork) == ["FusedConvolution", "FusedConvolution"]
    assert maps.dtype == gradient.dtype == torch.float32
    assert torch.equal(maps, maps.bfloat16().float())
    assert not torch.equal(maps, expected_maps)
    assert F.cosine_similarity(centre(maps), centre(expected_maps)).min() > 0.999
    assert F.cosine_similarity(gradient.flatten(1), expected_gradient.flatten(1)).min() > 0.99


def test_real_network_is_recorded_and_agrees() -> None:
    from atlas.networks.network import load

    network = load("efficientnet_lite0", device="cpu")
    subnetwork = assert_alike(network, "_blocks.10", count=2, size=80)
    names = operations_of(subnetwork)
    assert recorded(subnetwork)
    assert names.count("FusedConvolution") == 1 + 2 + 10 * 3  # stem, a block of two, ten of three
    assert "aten.hardtanh.default" not in names


# torch.compile


def test_the_list_is_handed_to_torch_compile_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[nn.Module] = []

    def compiler(module: nn.Module, **_options: object) -> nn.Module:
        handed.append(module)
        return module

    monkeypatch.setattr(torch, "compile", compiler)
    network = network_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    pixels = torch.rand(2, 3, 32, 32)
    Subnetwork(network, "1", 32, precision="float32")(pixels)
    assert not handed
    subnetwork = Subnetwork(network, "1", 32, precision="float32", compile=True)
    assert torch.allclose(subnetwork(pixels), plain(network, "1")(pixels), atol=1e-6)
    assert handed == [subnetwork._programs[2]]


def test_failing_compiler_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(module: nn.Module, **_options: object) -> Callable[..., Tensor]:
        def fail(*_arguments: object) -> Tensor:
            raise RuntimeError("no C++ compiler\nand a long tale")

        return fail

    monkeypatch.setattr(torch, "compile", compiler)
    network = network_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(ConfigError, match=r"cannot compile made up to 1 here \(no C\+\+ compiler\)\."):
        Subnetwork(network, "1", 32, compile=True)(torch.rand(2, 3, 32, 32))

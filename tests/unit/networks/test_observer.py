"""What a layer says at a place: where places lie, and attributions beside those of autograd."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pytest
import torch
from small_network import factory, forking_factory, mixed_factory
from torch import nn

from atlas.networks.network import Layer, Network, describe_layer, load
from atlas.networks.observer import Observer
from atlas.networks.program.fused import FusedConvolution
from atlas.pictures.views import crop_view
from atlas.store.collect import positions_of, random_place

LAYERS = ("stem", "residual", "branches")


def layer_of(height: int, width: int) -> Layer:
    return Layer("x", 3, height, width, 16, 1, 1)


def test_places_lie_evenly_in_the_middle_two_thirds() -> None:
    places = np.array(
        [random_place(0, f"{key}.png", view, draw) for key in range(1000) for view in range(2) for draw in range(2)]
    )
    assert places.min() >= 1 / 6
    assert places.max() < 5 / 6
    assert places.min() < 0.17
    assert places.max() > 0.83
    counts = np.histogram2d(*places.T, bins=4, range=[[1 / 6, 5 / 6]] * 2)[0]
    assert ((counts - 250) ** 2 / 250).sum() < 37.7  # chi-squared, 15 degrees of freedom, 0.1 %
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.05
    assert len(np.unique(places, axis=0)) == len(places)


def test_a_place_depends_on_its_own_keys_only() -> None:
    here = random_place(7, "a/b.png", 3, 1)
    assert [random_place(7, f"{key}", 3, 1) for key in ("x", "a/b.png", "y")][1] == here
    others = {
        random_place(8, "a/b.png", 3, 1),
        random_place(7, "a/c.png", 3, 1),
        random_place(7, "a/b.png", 4, 1),
        random_place(7, "a/b.png", 3, 0),
    }
    assert len(others | {here}) == 5


@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 14, 28])
def test_the_position_is_the_one_that_holds_the_place(side: int) -> None:
    places = np.array([random_place(0, f"{key}", 0, 0) for key in range(500)])
    positions = positions_of(places, layer_of(side, 2 * side))
    y, x = positions.T
    assert ((y / side <= places[:, 1]) & (places[:, 1] < (y + 1) / side)).all()
    assert ((x / (2 * side) <= places[:, 0]) & (places[:, 0] < (x + 1) / (2 * side))).all()
    if side >= 6:  # edges are left out
        assert y.min() >= 1
        assert y.max() <= side - 2
    if side in (3, 5):
        assert set(y) == set(range(side))


def test_the_last_position_holds_the_end_of_the_square() -> None:
    np.testing.assert_array_equal(positions_of(np.array([[1.0, 1.0], [0.0, 0.5]]), layer_of(7, 9)), [[6, 8], [3, 0]])


def by_autograd(
    network: torch.nn.Module,
    modules: Sequence[torch.nn.Module],
    inputs: torch.Tensor,
    positions: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Logits, activations (n, draws, channels) and h · ∂logit/∂h (n, draws, classes) of each module, the plain way."""
    outputs: dict[torch.nn.Module, torch.Tensor] = {}
    values: dict[torch.nn.Module, torch.Tensor] = {}

    def keep(module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        outputs[module] = output
        values[module] = output.detach().clone()
        return output.clone()

    handles = [module.register_forward_hook(keep) for module in modules]
    logits = network(inputs.clone().requires_grad_(True))
    for handle in handles:
        handle.remove()
    activations, attributions = [], []
    for module, where in zip(modules, positions):
        rows = torch.arange(len(inputs))[:, None]
        activations.append(values[module].permute(0, 2, 3, 1)[rows, where[..., 0], where[..., 1]])
        effects = []
        for target in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, target].sum(), outputs[module], retain_graph=True)
            effects.append((gradient * values[module]).sum(1)[rows, where[..., 0], where[..., 1]])
        attributions.append(torch.stack(effects, dim=2))
    return logits.detach(), activations, attributions


@pytest.mark.parametrize(
    "layers",
    [
        ("residual",),
        ("stem", "residual", "depthwise", "branches", "last"),
        ("last", "stem"),
        # Inside a block whose sums are written in place, before and after the layer.
        ("residual.first", "residual.second"),
        ("depthwise.spread", "depthwise.depthwise", "branches.narrow", "branches.wide"),
        ("residual.second", "depthwise.depthwise"),
        ("residual.first.conv", "residual", "branches.wide.relu", "branches"),
    ],
)
@pytest.mark.parametrize("draws", [1, 3])
def test_attributions_are_those_of_autograd(layers: tuple[str, ...], draws: int) -> None:
    network = load("small_network:factory", size=32, keep=layers)
    generator = torch.Generator().manual_seed(draws)
    inputs = network.normalize(torch.rand(4, 3, 32, 32, generator=generator))
    layer_descriptions = [describe_layer(network, layer) for layer in layers]
    positions = [torch.randint(0, layer.height, (4, draws, 2), generator=generator) for layer in layer_descriptions]
    observer = Observer(network, layers)
    observation = observer.observe(inputs, dict(zip(layers, positions)), attributions=True)
    # Judged by the untouched network, norms not folded.
    plain = factory().eval()
    logits, activations, attributions = by_autograd(
        plain, [plain.get_submodule(layer) for layer in layers], inputs, positions
    )
    torch.testing.assert_close(observation.logits, logits, rtol=1e-4, atol=1e-5)
    for layer, activation, attribution in zip(layers, activations, attributions):
        torch.testing.assert_close(
            observation.activations[layer], activation, rtol=1e-4, atol=5e-5
        )  # the folding's rounding
        torch.testing.assert_close(observation.attributions[layer], attribution, rtol=1e-4, atol=1e-5)
        assert float(observation.attributions[layer].abs().max()) > 1e-3
    assert not any(module._forward_hooks for module in network.module.modules())
    with torch.no_grad():
        torch.testing.assert_close(network.module(inputs), logits, rtol=1e-4, atol=1e-5)


def test_nothing_is_computed_twice_but_tangents_behind_a_layer(small: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 9 convolutions, values take each once, and a layer's tangents those behind it, once for each draw."""
    runs, tangents = [], []
    run, tangent = FusedConvolution.run, FusedConvolution.tangent
    inputs = small.normalize(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    positions = {layer: torch.full((2, 2, 2), 3) for layer in LAYERS}
    observer = Observer(small, LAYERS)
    observer.observe(inputs, positions, attributions=True)
    monkeypatch.setattr(FusedConvolution, "run", lambda self, maps: runs.append(self) or run(self, maps))
    monkeypatch.setattr(
        FusedConvolution, "tangent", lambda self, *maps, **how: tangents.append(self) or tangent(self, *maps, **how)
    )
    observation = observer.observe(inputs, positions, attributions=True)
    torch.testing.assert_close(observation.logits, small.module(inputs).detach(), rtol=0, atol=1e-5)
    assert len(runs) == len(set(runs)) == 9
    behind = {"stem": 8, "residual": 6, "branches": 1}
    assert len(tangents) == 2 * sum(behind.values())


@pytest.mark.parametrize("layers", [("first",), ("gate", "pooled"), ("first", "mixed", "gate")])
def test_other_operations_have_torchs_own_derivatives(layers: tuple[str, ...]) -> None:
    """Gates, pooling, attention and norms that depend on the picture: nothing that the walk has a rule for."""
    network = load("small_network:mixed_factory", size=32, keep=layers)
    inputs = network.normalize(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(5)))
    layer_descriptions = [describe_layer(network, layer) for layer in layers]
    positions = [torch.full((3, 2, 2), layer.height // 2) for layer in layer_descriptions]
    observer = Observer(network, layers)
    observation = observer.observe(inputs, dict(zip(layers, positions)), attributions=True)
    assert all(observer._walks.values()), "recorded"
    plain = mixed_factory().eval()
    logits, activations, attributions = by_autograd(
        plain, [plain.get_submodule(layer) for layer in layers], inputs, positions
    )
    torch.testing.assert_close(observation.logits, logits, rtol=1e-4, atol=1e-5)
    for layer, activation, attribution in zip(layers, activations, attributions):
        torch.testing.assert_close(observation.activations[layer], activation, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(observation.attributions[layer], attribution, rtol=1e-4, atol=1e-5)
        assert float(observation.attributions[layer].abs().max()) > 1e-3


def test_a_network_whose_path_depends_on_the_picture_runs_unrecorded() -> None:
    network = load("small_network:forking_factory", size=32)
    inputs = network.normalize(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5)))
    layers, where = ("stem", "branches"), torch.tensor([[[3, 4], [2, 2]]])
    observer = Observer(network, layers)
    for sign in (1, -1):  # one for each path
        observation = observer.observe(sign * inputs, dict.fromkeys(layers, where), attributions=True)
        plain = forking_factory().eval()
        modules = [plain.get_submodule(layer) for layer in layers]
        logits, activations, attributions = by_autograd(plain, modules, sign * inputs, [where, where])
        torch.testing.assert_close(observation.logits, logits, rtol=1e-4, atol=1e-5)
        for layer, activation, attribution in zip(layers, activations, attributions):
            torch.testing.assert_close(observation.activations[layer], activation, rtol=1e-4, atol=5e-5)
            torch.testing.assert_close(observation.attributions[layer], attribution, rtol=1e-4, atol=1e-5)
    assert not any(observer._walks.values())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_agrees_and_threads_share_an_observer(
    small: Network, precision: Literal["bfloat16", "float16"]
) -> None:
    inputs = small.normalize(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    positions = {layer: torch.full((4, 1, 2), 3) for layer in LAYERS}
    exact = Observer(small, LAYERS)
    half = Observer(small, LAYERS, precision)
    with ThreadPoolExecutor(4) as pool:
        observations = list(pool.map(lambda _: exact.observe(inputs, positions, attributions=True), range(8)))
    for other in observations[1:]:
        torch.testing.assert_close(other.attributions["stem"], observations[0].attributions["stem"], rtol=0, atol=0)
    half_observation = half.observe(inputs, positions, attributions=True)
    assert all(half._walks.values())
    for layer in LAYERS:
        for kind, least in (("activations", 0.999), ("attributions", 0.9)):  # a ReLU or two close that were open
            exact_values, other = getattr(observations[0], kind)[layer], getattr(half_observation, kind)[layer]
            assert other.dtype == torch.float32
            assert not torch.equal(exact_values, other)
            assert float(torch.cosine_similarity(exact_values, other, dim=-1).min()) > least


def test_without_attributions_the_activations_are_the_same(small: Network) -> None:
    observer = Observer(small, LAYERS)
    inputs = small.normalize(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    positions = {layer: torch.randint(0, 8, (3, 2, 2), generator=torch.Generator().manual_seed(2)) for layer in LAYERS}
    plain = observer.observe(inputs, positions, attributions=False)
    dual = observer.observe(inputs, positions, attributions=True)
    assert plain.attributions == {}
    torch.testing.assert_close(plain.logits, dual.logits, rtol=0, atol=1e-6)
    for layer in LAYERS:
        torch.testing.assert_close(plain.activations[layer], dual.activations[layer], rtol=0, atol=1e-6)


def test_attributions_of_efficientnet_lite0_are_those_of_autograd(efficientnet: Network) -> None:
    from skimage import data

    pixels = crop_view(data.chelsea(), (75, 0, 375, 300), efficientnet.size, (0, 0, 0))
    inputs = efficientnet.from_bytes(torch.from_numpy(pixels[None]))
    places = [(3, 3), (6, 7), (7, 10), (10, 4), (11, 11)]
    where = {"_blocks.10": torch.tensor([places])}
    observer = Observer(efficientnet, ["_blocks.10"])
    attributions = observer.observe(inputs, where, attributions=True).attributions["_blocks.10"]
    assert all(observer._walks.values()), "recorded"
    assert attributions.shape == (1, 5, 1000)
    module = efficientnet.submodule("_blocks.10")
    outputs: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    logits = efficientnet.module(inputs.requires_grad_(True))
    handle.remove()
    differences = []
    for target in (281, 282, 0, 999):
        (gradient,) = torch.autograd.grad(logits[0, target], outputs[0], retain_graph=True)
        effects = (gradient * outputs[0]).detach().sum(1)[0]
        differences += [abs(float(attributions[0, draw, target] - effects[place])) for draw, place in enumerate(places)]
    # Rounding shuts a ReLU or opens one here and there: autograd itself is as far from what it gives in float64.
    assert max(differences) < 1e-3
    assert float(attributions.abs().max()) > 0.1


@pytest.mark.parametrize("make", [factory, forking_factory])
def test_attributions_of_one_channel_add_up_to_those_of_all(make: Callable[[], nn.Module]) -> None:
    """Also of a network that runs as it is, with dual numbers."""
    small = load(make(), size=32)
    observer = Observer(small, ["depthwise"])
    inputs = small.normalize(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    at = {"depthwise": torch.tensor([[[2, 3], [0, 7]], [[1, 1], [4, 4]], [[7, 0], [5, 2]]])}
    whole = observer.observe(inputs, at, attributions=True).attributions["depthwise"]
    total = torch.zeros_like(whole)
    for channel in range(12):
        channels = {"depthwise": torch.tensor([[channel, channel]] * 3)}
        one = observer.observe(inputs, at, attributions=True, channels=channels).attributions["depthwise"]
        assert one.abs().max() < whole.abs().max() * 3
        total += one
    torch.testing.assert_close(total, whole, rtol=1e-3, atol=1e-5)

"""Circuits: what the data say, and which sources a circuit has."""

import numpy as np
import pytest
import torch
from between_layers import SIDE, noise, stack
from scipy.stats import spearmanr
from small_network import factory, mixed_factory
from torch import Tensor, nn

from atlas.circuits.circuit import Effects, Wiring, circuit, circuit_of, effects, predicted_effects
from atlas.errors import ConfigError
from atlas.networks.network import Network, load


def tops(network: Network, layer: str, inputs: Tensor, unit: int) -> tuple[np.ndarray, Tensor]:
    """Where ``unit`` fires most in each picture, and how much."""
    maps = network.activations(inputs, layer)[:, unit]
    largest, places = maps.flatten(1).max(1)
    return np.stack([places // maps.shape[2], places % maps.shape[2]], axis=1), largest


def test_effects_of_a_linear_stack_sum_to_the_activation() -> None:
    network, inputs = stack(nn.Identity()), noise(5)
    positions, largest = tops(network, "last", inputs, 4)
    by_source = effects(network, ["first", "wide"], "last", inputs, np.full(5, 4), positions, batch=2)
    for source in ("first", "wide"):
        assert by_source[source].effect.shape == (5, 8)
        assert by_source[source].effect.sum(1) == pytest.approx(largest.numpy(), rel=1e-5)
    maps = network.activations(inputs, "first")
    assert by_source["first"].mean == pytest.approx(maps.mean((2, 3)).numpy(), abs=1e-6)


def test_effects_are_the_activation_times_the_gradient() -> None:
    network = load(factory(), size=64)
    inputs = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    positions = np.array([[4, 7], [0, 0], [9, 15]])
    reached = network.activations(inputs, "last")[range(3), :, positions[:, 0], positions[:, 1]]
    units = reached.argmax(1).numpy()  # those that fire there
    by_source = effects(network, ["stem", "depthwise"], "last", inputs, units, positions)
    maps = network.activations(inputs, "stem").detach().requires_grad_(True)
    module = network.module
    outputs = module.last(module.branches(module.depthwise(module.residual(maps.clone()))))
    total = sum(outputs[row, unit, y, x] for row, (unit, (y, x)) in enumerate(zip(units, positions)))
    (gradient,) = torch.autograd.grad(total, maps)
    expected = (maps * gradient).sum((2, 3)).detach().numpy()
    assert np.abs(expected).max(1).min() > 0
    assert by_source["stem"].effect == pytest.approx(expected, abs=1e-5)
    assert by_source["depthwise"].effect.shape == (3, 12)


def test_a_source_may_build_by_its_absence() -> None:
    """One that is always below 0 and has a negative weight excites the unit, only when it is below 0."""
    network = stack(nn.Identity())
    module = network.module
    with torch.no_grad():
        for layer in (module.first, module.wide, module.last):
            layer.weight.zero_()
        module.first.weight[0, 0, 1, 1] = 1
        module.wide.weight[5, 0, 1, 1] = -1  # always below 0
        module.wide.weight[1, 0, 1, 1] = 1  # always above 0
        module.wide.weight[6, 0, 1, 1], module.wide.weight[6, 0, 1, 0] = 1, -1  # either
        module.last.weight[2, 5, 1, 1] = -2
        module.last.weight[2, 1, 1, 1] = -0.5
        module.last.weight[2, 6, :, :] = 1
    inputs = torch.rand(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) + 0.1
    positions = np.full((6, 2), 5)  # below it the middle of the kernel is at (10, 10)
    result = circuit(network, "wide", "last", 2, inputs, positions, count=3)
    of = {source: row for row, source in enumerate(result.source)}
    middle = float(inputs[:, 0, 10, 10].mean())
    assert result.effect[of[5]] == pytest.approx(2 * middle, rel=1e-5)
    assert result.present[of[5]] == 0
    assert result.effect[of[1]] == result.present[of[1]] == pytest.approx(-0.5 * middle, rel=1e-5)
    window = network.activations(inputs, "wide")[:, 6, 9:12, 9:12].flatten(1)
    assert result.effect[of[6]] == pytest.approx(float(window.sum(1).mean()), rel=1e-4)
    assert result.present[of[6]] == pytest.approx(float(window.clamp(min=0).sum(1).mean()), rel=1e-5)
    assert result.present[of[6]] > result.effect[of[6]] + 0.1


def test_a_circuit_names_who_builds_and_who_opposes() -> None:
    network = stack(nn.ReLU())
    module = network.module
    with torch.no_grad():
        for layer in (module.wide, module.last):
            layer.weight.zero_()
        module.wide.weight[range(8), range(8), 1, 1] = 1
        module.last.weight[2, 5, 0, 1] = 2  # window, above
        module.last.weight[2, 1, 2, 1] = 1  # wheel, below
        module.last.weight[2, 6, 1, 1] = -1.5
    inputs = noise(6)
    positions, _ = tops(network, "last", inputs, 2)
    result = circuit(network, "wide", "last", 2, inputs, positions, count=4)
    assert result.nonlinearities == ("1 ReLU",)
    assert result.note is None
    assert set(result.source[:3]) == {5, 1, 6}
    assert len(result.source) == 4
    assert (np.diff(np.abs(result.effect)) <= 0).all()
    of = {source: row for row, source in enumerate(result.source)}
    assert result.effect[of[5]] > result.effect[of[1]] > 0
    assert result.effect[of[6]] < 0
    assert result.effect[3] == result.weight[3] == result.reliability[3] == 0
    assert result.linear_weight[[of[5], of[1], of[6]]] == pytest.approx([2, 1, -1.5])
    maps = network.activations(inputs, "wide")
    open_share = (maps > 0).float().mean((0, 2, 3)).numpy()
    assert result.weight[of[6]] == pytest.approx(-1.5 * open_share[6], rel=1e-5)
    assert result.kernels.shape == (4, 3, 3)
    assert tuple(np.argwhere(result.kernels[of[5]])[0]) == (0, 1)
    assert tuple(np.argwhere(result.kernels[of[1]])[0]) == (2, 1)
    assert result.kernels.sum((1, 2)) == pytest.approx(result.weight)
    assert result.reliability[of[5]] > 0.8
    single = effects(network, ["wide"], "last", inputs, np.full(6, 2), positions)["wide"]
    values = single.effect[:, 6].astype(np.float64)
    error = values.std(ddof=1) / np.sqrt(6)
    assert result.reliability[of[6]] == pytest.approx(abs(values.mean()) / (abs(values.mean()) + error), rel=1e-5)
    # What is behind the ReLU is known of each picture: the order by kernels is that of the effects, but for the zeros.
    wiring = Wiring(network, "wide", "last", inputs)
    by_kernels = predicted_effects(wiring, 2, inputs, positions).mean(0)
    expected = spearmanr(by_kernels, single.effect.mean(0)).statistic
    assert result.agreement == pytest.approx(expected, abs=1e-6)
    assert expected > 0.4
    coarse = circuit_of(wiring, 2, single)
    summed = spearmanr(wiring.weight[2] * single.mean.mean(0), single.effect.mean(0)).statistic
    assert coarse.agreement == pytest.approx(summed, abs=1e-6)


def chosen_sources(effect: list[float], weight: list[float], count: int) -> list[int]:
    network = stack(nn.Identity())
    wiring = Wiring(network, "wide", "last", noise(1))
    wiring.weight[0] = weight
    rows = np.array([effect, effect], np.float32)
    return circuit_of(wiring, 0, Effects(rows, np.ones_like(rows), rows), count).source.tolist()


def test_effects_and_weights_take_turns_and_both_signs_stay() -> None:
    effect, weight = [9, 8, 7, 6, 5, -1, -0.5, 0], [0, 0, 0, 0, 0, 0, -8, 9]
    # First the largest effect, then the largest weight, and so on; one opposing source has its place.
    assert chosen_sources(effect, weight, 4) == [0, 1, 5, 7]
    assert chosen_sources(effect, weight, 2) == [0, 7]
    assert chosen_sources([float(value) for value in range(8, 0, -1)], [0.0] * 8, 4) == [0, 1, 2, 3]
    assert chosen_sources(effect, weight, 50) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_kernels_on_the_source_s_map_are_the_effects_of_a_linear_stack() -> None:
    network, inputs = stack(nn.Identity()), noise(4)
    positions = np.array([[0, 0], [15, 3], [7, 15], [8, 8]])  # also where the kernel reaches beyond the map
    for source in ("first", "wide"):
        wiring = Wiring(network, source, "last", inputs)
        expected = effects(network, [source], "last", inputs, np.full(4, 1), positions)[source].effect
        by_kernels = predicted_effects(wiring, 1, inputs, positions, batch=3)
        if source == "wide":
            assert by_kernels == pytest.approx(expected, abs=1e-5)
        else:  # what is padded on between the layers is beyond a kernel: at the edge alone
            assert by_kernels[3] == pytest.approx(expected[3], abs=1e-5)
    without = Wiring(load(mixed_factory(), size=SIDE), "first", "mixed", inputs)
    with pytest.raises(ConfigError, match="group norm"):
        predicted_effects(without, 0, inputs, positions)


def test_far_kernels_are_cut_to_what_counts() -> None:
    network = stack(nn.Identity())
    with torch.no_grad():
        network.module.wide.weight.mul_(1e-4)
        network.module.wide.weight[:, :, 1, 1] = 1
        network.module.last.weight[:] = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0.1, 0]])
    wiring = Wiring(network, "first", "last", noise(1))
    assert wiring.kernels(0, np.array([1, 3])).shape == (2, 1, 1)  # of 5 × 5, a tenth lies beside the middle
    with torch.no_grad():
        network.module.last.weight[:, :, 2, 1] = 0.15
    wiring = Wiring(network, "first", "last", noise(1))
    assert wiring.kernels(0, np.array([1, 3])).shape == (2, 3, 3)  # too much lies beside it
    assert wiring.nonlinearities == ()


def test_a_silent_unit_has_weights_and_no_effects() -> None:
    network = load(factory(), size=SIDE)
    with torch.no_grad():
        network.module.last.conv.bias[2] = -1e6
    inputs = noise(3)
    result = circuit(network, "depthwise", "last", 2, inputs, np.zeros((3, 2), np.int64))
    assert not result.effect.any()
    assert result.linear_weight.any()
    assert result.agreement is None
    assert result.note is not None
    assert result.note.startswith("Unit 2 of last does not answer to depthwise on its patches")


def test_where_there_are_no_weights_there_are_effects() -> None:
    network = load(mixed_factory(), size=SIDE)
    inputs = noise(3)
    positions, _ = tops(network, "mixed", inputs, 3)
    result = circuit(network, "first", "mixed", 3, inputs, positions, count=5)
    assert result.note is not None
    assert "group norm" in result.note
    assert result.source.shape == (5,)
    assert np.isnan(result.weight).all()
    assert np.isnan(result.linear_weight).all()
    assert result.kernels.shape == (5, 0, 0)
    assert result.agreement is None
    assert np.isfinite(result.effect).all()
    assert result.effect.any()


def test_arrays_do_as_well_as_tensors() -> None:
    network, inputs = stack(nn.ReLU()), noise(2)
    positions = np.array([[3, 4], [8, 0]])
    expected = circuit(network, "wide", "last", 3, inputs, positions)
    result = circuit(network, "wide", "last", 3, inputs.numpy().astype(np.float64), torch.from_numpy(positions))
    assert result.source.tolist() == expected.source.tolist()
    assert result.effect == pytest.approx(expected.effect)
    assert result.effect.any()


def test_bad_questions_are_sentences() -> None:
    network, inputs = stack(nn.ReLU()), noise(2)
    middle = np.full((2, 2), 3)
    with pytest.raises(ConfigError, match="last of Stack is not reached before wide"):
        effects(network, ["last"], "wide", inputs, np.zeros(2), middle)
    with pytest.raises(ConfigError, match="No path leads from last to wide"):
        circuit(network, "last", "wide", 0, inputs, middle)
    with pytest.raises(ConfigError, match=r"Its units are 0 to 5, its positions \(0, 0\) to \(15, 15\)"):
        effects(network, ["wide"], "last", inputs, np.array([0, 6]), middle)
    with pytest.raises(ConfigError, match=r"Positions of shape \(2, 2\) were given for pictures of shape \(1, "):
        effects(network, ["wide"], "last", inputs[:1], np.zeros(2), middle)
    with pytest.raises(ConfigError, match="3 units were given for 2 pictures"):
        effects(network, ["wide"], "last", inputs, np.zeros(3), middle)
    for bad in (middle[:1], middle[0], np.zeros((2, 3), np.int64)):
        with pytest.raises(ConfigError, match=r"Positions of shape .*one for each picture"):
            circuit(network, "wide", "last", 0, inputs, bad)
    with pytest.raises(ConfigError, match=r"one at least"):
        circuit(network, "wide", "last", 0, inputs[:0], middle[:0])
    with pytest.raises(ConfigError, match=r"Pictures of torch.uint8 were given, expected normalised ones"):
        circuit(network, "wide", "last", 0, np.zeros((2, 3, 32, 32), np.uint8), middle)
    wiring = Wiring(network, "wide", "last", inputs)
    with pytest.raises(ConfigError, match=r"last has no unit 6\. Its units are 0 to 5"):
        circuit_of(wiring, 6, Effects(*np.zeros((3, 2, 8), np.float32)))
    with pytest.raises(ConfigError, match="Give one row of 8 numbers for each patch"):
        circuit_of(wiring, 1, Effects(*np.zeros((3, 2, 7), np.float32)))


def test_weights_of_the_demo_network_agree_with_its_data() -> None:
    """Between neighbouring blocks kernels and effects mostly say the same of a unit's sources."""
    from skimage import data

    network = load("efficientnet_lite0")
    squares = [data.chelsea()[20:244, 60:284], data.astronaut()[:224, 120:344], data.coffee()[100:324, 200:424]]
    inputs = network.from_bytes(torch.from_numpy(np.stack(squares)))
    wiring = Wiring(network, "_blocks.9", "_blocks.10", inputs)
    maps = network.activations(inputs, "_blocks.10").amax((0, 2, 3))
    agreements = []
    for unit in maps.topk(4).indices.tolist():
        positions, _ = tops(network, "_blocks.10", inputs, unit)
        unit_effects = effects(network, ["_blocks.9"], "_blocks.10", inputs, np.full(3, unit), positions)["_blocks.9"]
        kernels = predicted_effects(wiring, unit, inputs, positions)
        found_circuit = circuit_of(wiring, unit, unit_effects, kernel_effects=kernels)
        assert found_circuit.kernels.shape[0] == 12
        assert found_circuit.kernels.shape[1] in (1, 3, 5)
        assert np.isfinite(found_circuit.weight).all()
        assert found_circuit.agreement is not None
        agreements.append(found_circuit.agreement)
    assert np.median(agreements) > 0.2

"""Tangents beside the values of a recorded network, against finite differences and by hand."""

import pytest
import torch
from torch import Tensor, nn

from atlas.networks.program.record import record, rewrite
from atlas.networks.tangents import TangentWalk, channels_of_draw, mask, values_at

MAPS = torch.arange(24.0).reshape(2, 3, 2, 2)  # number 12 n + 4 c + 2 y + x


def test_values_are_those_at_the_positions() -> None:
    values = values_at(MAPS, torch.tensor([[[0, 1], [1, 0]], [[1, 1], [0, 0]]]))
    assert values.tolist() == [[[1, 5, 9], [2, 6, 10]], [[15, 19, 23], [12, 16, 20]]]
    assert values_at(MAPS.half(), torch.zeros(2, 1, 2, dtype=torch.int64)).dtype == torch.float32


def test_a_mask_leaves_one_position_or_one_number() -> None:
    positions = torch.tensor([[0, 1], [1, 1]])
    whole = mask(MAPS, positions)
    assert (whole != 0).sum() == 6
    assert whole[0, :, 0, 1].tolist() == [1, 5, 9]
    assert whole[1, :, 1, 1].tolist() == [15, 19, 23]
    single = mask(MAPS, positions, torch.tensor([2, 0]))
    assert single.nonzero().tolist() == [[0, 2, 0, 1], [1, 0, 1, 1]]


def test_channels_are_those_of_the_layer_and_draw() -> None:
    channels = {"a": torch.tensor([[1, 2], [3, 4]])}
    assert channels_of_draw(channels, "b", 0) is None
    channel_numbers = channels_of_draw(channels, "a", 1)
    assert channel_numbers is not None
    assert channel_numbers.tolist() == [2, 4]


class Layers(nn.Module):
    """Two layers with a skip, a product and a softmax between them and the logits: all kinds of rules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        one = self.one(inputs)
        two = torch.relu(self.two(one)) + one
        gated = two * torch.sigmoid(self.gate(two.mean((2, 3), keepdim=True)))
        return [one.clone(), two.clone(), self.head(gated.mean((2, 3))).softmax(1)]

    def behind(self, one: Tensor, two: Tensor | None = None) -> Tensor:
        """The logits from the maps of the first layer, or of the second one."""
        if two is None:
            two = torch.relu(self.two(one)) + one
        gated = two * torch.sigmoid(self.gate(two.mean((2, 3), keepdim=True)))
        return self.head(gated.mean((2, 3))).softmax(1)


@pytest.fixture(scope="module")
def walk() -> tuple[Layers, TangentWalk, Tensor]:
    module = Layers().eval().requires_grad_(False)
    inputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    recorded = record(module, inputs)
    assert recorded is not None
    return module, TangentWalk(rewrite(recorded, torch.float32, fuse=True), ["one", "two"]), inputs


POSITIONS = {"one": torch.tensor([[[1, 2], [3, 3]], [[0, 5], [4, 1]]]), "two": torch.tensor([[[2, 2]], [[5, 0]]])}


def test_attributions_are_the_derivative_along_the_activation(walk: tuple[Layers, TangentWalk, Tensor]) -> None:
    """By central differences in double precision."""
    module, tangents, inputs = walk
    observation = tangents(inputs, POSITIONS, True, {})
    exact = Layers().double().eval()
    exact.load_state_dict(module.state_dict())
    with torch.no_grad():
        one, two, logits = exact(inputs.double())
        torch.testing.assert_close(observation.logits, logits.float(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            observation.activations["one"], values_at(one, POSITIONS["one"]), rtol=1e-4, atol=1e-5
        )
        for draw in range(2):
            step = 1e-6 * mask(one, POSITIONS["one"][:, draw])
            expected = (exact.behind(one + step) - exact.behind(one - step)) / 2e-6
            torch.testing.assert_close(observation.attributions["one"][:, draw], expected.float(), rtol=1e-3, atol=1e-6)
        step = 1e-6 * mask(two, POSITIONS["two"][:, 0])
        expected = (exact.behind(one, two + step) - exact.behind(one, two - step)) / 2e-6
        torch.testing.assert_close(observation.attributions["two"][:, 0], expected.float(), rtol=1e-3, atol=1e-6)
    assert float(observation.attributions["one"].abs().max()) > 1e-4


def test_single_channels_add_up(walk: tuple[Layers, TangentWalk, Tensor]) -> None:
    _, tangents, inputs = walk
    whole = tangents(inputs, POSITIONS, True, {}).attributions["two"]
    parts = [
        tangents(inputs, POSITIONS, True, {"two": torch.full((2, 1), channel)}).attributions["two"]
        for channel in range(4)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(0), whole, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(parts[0], whole)


def test_without_attributions_none_are_computed(walk: tuple[Layers, TangentWalk, Tensor]) -> None:
    module, tangents, inputs = walk
    observation = tangents(inputs, POSITIONS, False, {})
    assert observation.attributions == {}
    one, two, logits = module(inputs)
    for value, expected in zip(tangents.plain(inputs), (one, two, logits)):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(observation.logits, logits, rtol=1e-4, atol=1e-6)

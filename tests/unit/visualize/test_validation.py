"""Arguments of drawing are checked before the work begins: each mistake is a sentence."""

import numpy as np
import pytest
from drawn_network import SIZE, drawn_directions, drawn_network
from torch import nn

from atlas.errors import ConfigError
from atlas.networks.network import Network
from atlas.visualize import draw, neuron, render


@pytest.fixture
def network() -> Network:
    return drawn_network()


@pytest.fixture
def directions() -> tuple[np.ndarray, np.ndarray]:
    return drawn_directions()


def test_bad_input_gets_a_sentence(network: Network, directions: tuple[np.ndarray, np.ndarray]) -> None:
    means, moment = directions
    nan = means.copy()
    nan[4, 2] = np.nan
    wrong = [
        ((network, "linear", means[:, :5]), {}, r"expected \(n, 16\)"),
        ((network, "linear", nan), {}, "Direction 4 holds NaN or infinity .1 of 6"),
        ((network, "linear", 0 * means), {}, "Direction 0 .* all zero"),
        ((network, "linear", np.ones((16, 3))), {}, "They seem to be transposed: give directions.T"),
        ((network.module, "linear", means), {}, r"The network is \w+. Give a module of your own through .*load"),
        ((network, "linear", means), {"recipe": "x"}, "The recipe is 'x', expected a Recipe"),
        ((network, "linear", means), {"progress": True}, "progress is True, expected a function"),
        ((network, "linear", means), {"second_moment": np.tri(16)}, "second moment is not symmetric"),
        ((network, "linear", means), {"second_moment": np.diag([-1.0] + [9.0] * 15)}, "a diagonal that is negative"),
        ((network, "liner", means), {}, "no layer 'liner'. Near names: linear"),
        ((network, "linear", means), {"size": 2}, "too small"),
        ((network, "linear", means), {"seeds": np.arange(2)}, "6 directions, but 2 seeds"),
        ((network, "linear", means), {"seeds": np.full(6, 0.5)}, "expected .6,. and whole numbers"),
        ((network, "linear", [["a"] * 16]), {}, "cannot be read as numbers"),
        ((network, "linear", [[1.0] * 16, [1.0]]), {}, "cannot be read as numbers"),
        ((network, "linear", means * 1j), {}, "cannot be read as numbers .they are of type complex64"),
        ((network, 3, means), {}, "no layer 3"),
        ((network, "linear", means), {"size": 80.5}, "size is 80.5, expected a whole number"),
        ((network, "linear", means), {"steps": 0}, "steps is 0, expected a whole number of at least 1"),
        ((network, "linear", means), {"steps": "auto"}, "steps is 'auto'"),
        ((network, "linear", means), {"batch": -1}, "batch is -1"),
        ((network, "linear", means), {"precision": "half"}, "precision is 'half', expected one of auto, float32"),
        ((network, "linear", means), {"second_moment": np.full((16, 16), np.nan)}, "second moment holds NaN"),
        (
            (network, "linear", means),
            {"second_moment": np.zeros((16, 16))},
            "a diagonal that is negative or sums to nothing",
        ),
        ((network, "linear", means), {"start": np.zeros((6, SIZE, SIZE, 3))}, "type float64, expected .* and uint8"),
        ((network, "linear", means), {"start": np.zeros((6, 8, 8, 3), np.uint8)}, "start pictures have shape"),
        ((network, "linear", means), {"second_moment": np.eye(3)}, r"second moment has shape \(3, 3\)"),
    ]
    for arguments, options, sentence in wrong:
        with pytest.raises(ConfigError, match=sentence):
            draw(*arguments, **{"second_moment": moment, "size": SIZE, **options})
    with pytest.raises(ConfigError, match="has no unit 16"):
        neuron(network, "linear", 16, size=SIZE)
    unpadded = nn.Sequential(nn.Conv2d(3, 4, 30), nn.Conv2d(4, 4, 3))
    large = Network("large", unpadded, (), 64, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ConfigError, match=r"cannot take pictures of 16×16 pixels .*: 32 will do"):
        draw(large, "1", np.ones((1, 4), np.float32), second_moment=np.eye(4), size=16)
    with pytest.raises(ConfigError, match=r"200000×200000 pixels .* do not fit into memory. Choose a smaller size"):
        render(network, "linear", means, size=200_000)

"""What is measured for the plan: of whom, and how often it counts."""

from types import SimpleNamespace
from typing import Any

import pytest

from atlas.config.reading import validate
from atlas.networks.network import Network, describe_layer
from pipelines import rates
from pipelines.rates import ROW_SECONDS, IconRate, Rates, measure_rates


def measure(network: Network, beside: int = 1, **changes: Any) -> Rates:
    values = {
        "out": "x",
        "network": {"name": "small_network:factory", "size": 32},
        "layers": ["residual", "branches"],
        "images": {"source": "p"},
        "collect": {"positions_per_image": 2},
    }
    config = validate(values | changes, "the test")
    layers = {name: describe_layer(network, name) for name in config.layers}
    return measure_rates(
        {"": network}, layers, SimpleNamespace(),  # type: ignore[arg-type]
        images=config.images, collect=config.collect, render=config.render, neurons=config.neurons, threads=1,
        beside=beside,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A view's pass takes what the list says next, the last one for ever; its decoding 0.25 s, a step 2 or 4."""
    views = [0.5]
    observer = SimpleNamespace(seconds_per_view=lambda *_, **__: views.pop(0) if len(views) > 1 else views[0])
    monkeypatch.setattr(rates, "Observer", lambda network, names: observer)
    monkeypatch.setattr(rates, "_decoding_seconds", lambda *_: 0.25)
    monkeypatch.setattr(rates, "step_seconds", lambda network, layer, *_: {"residual": 2.0, "branches": 4.0}[layer])
    monkeypatch.setattr(rates, "score_seconds", lambda *_: 1.0)
    monkeypatch.setattr(rates, "seconds_a_unit", lambda *_, **__: 3.0)
    return views


def test_a_view_is_decoded_and_stored_and_layers_have_their_own_rates(small: Network) -> None:
    outcome = measure(small, neurons={"layers": ["residual"]})
    assert outcome.view == pytest.approx(0.5 + 0.25 + 4 * ROW_SECONDS)
    assert outcome.icons == {"residual": IconRate(2, 1), "branches": IconRate(4, 1)}
    assert outcome.units == {"residual": 3}


def test_workers_beside_each_other_slow_each_other_down(small: Network, seconds: list[float]) -> None:
    """By as much as their passes show, at least not at all and at most as if they took turns."""
    seconds[:] = [0.5, 0.75]
    assert measure(small, beside=2).icons["residual"] == IconRate(3, 1.5)
    seconds[:] = [0.5, 5.0]
    assert measure(small, beside=2).icons["residual"] == IconRate(4, 2)
    seconds[:] = [0.5, 0.1]
    assert measure(small, beside=2).icons["residual"] == IconRate(2, 1)
    seconds[:] = [0.5, 0.75]
    assert measure(small, beside=1).icons["residual"] == IconRate(2, 1)

"""Precision and batch of the pictures of each layer: measured where the configuration leaves them open."""

from typing import Any

import pytest
from made_run import LAYERS

from atlas.config.reading import validate
from atlas.rundir.directory import RunDirectory
from pipelines import batch_settings
from pipelines.batch_settings import measure_drawing

SIZES = {layer: 16 * number for number, layer in enumerate(LAYERS, start=1)}


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is measured, in place of measuring it: the module and what else is asked for."""
    calls: list[tuple[Any, ...]] = []

    def precision(_network: object, *arguments: Any) -> str:
        calls.append(arguments)
        return "bfloat16"

    def batch(_network: object, *arguments: Any) -> int:
        calls.append(arguments)
        return 3 * arguments[1]

    monkeypatch.setattr(batch_settings, "fitting_precision", precision)
    monkeypatch.setattr(batch_settings, "measure_batch", batch)
    return calls


def settings_of(run: RunDirectory, **changes: Any) -> dict[str, dict[str, Any]]:
    """The settings of a run whose section render has ``changes``."""
    values = run.config().plain()
    values["render"] |= changes
    run.update_manifest(config=validate(values, "test").plain())
    return measure_drawing(run, lambda _run_network, _network, layer: SIZES[layer])


def test_what_is_open_is_measured_for_each_layer_at_its_size(
    made_copy: RunDirectory, measurements: list[tuple[Any, ...]]
) -> None:
    assert settings_of(made_copy, precision="auto", batch="auto", compile=True) == {
        layer: {"precision": "bfloat16", "batch": 3 * size} for layer, size in SIZES.items()
    }
    pairs = [[(layer, size), (layer, size, "bfloat16", True)] for layer, size in SIZES.items()]
    assert measurements == [call for pair in pairs for call in pair]


def test_a_precision_that_is_configured_is_the_one_that_the_batch_is_measured_in(
    made_copy: RunDirectory, measurements: list[tuple[Any, ...]]
) -> None:
    settings = settings_of(made_copy, precision="float32", batch="auto", compile=False)
    assert {entry["precision"] for entry in settings.values()} == {"float32"}
    assert measurements == [(layer, size, "float32", False) for layer, size in SIZES.items()]


def test_a_batch_that_is_configured_stays(made_copy: RunDirectory, measurements: list[tuple[Any, ...]]) -> None:
    assert settings_of(made_copy, precision="auto", batch=7) == {
        layer: {"precision": "bfloat16", "batch": 7} for layer in LAYERS
    }
    assert measurements == list(SIZES.items())

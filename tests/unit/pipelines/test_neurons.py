"""The stage neurons: its items and what they wait for, and what an item writes."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from made_run import LAYERS
from planned import planned

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.neurons.statistics import unit_statistics
from atlas.neurons.tables import CIRCUIT, STATISTICS, UNITS
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import read_marker
from pipelines import batch_settings, neurons
from pipelines.stage import Item, Summary, missing


def configured(run: RunDirectory, layers: tuple[str, ...] = LAYERS, **changes: object) -> Config:
    values = run.config().plain() | {"neurons": {"layers": layers, "pictures": 1, "patches": 2, **changes}}
    values["render"] |= {"steps": 1, "precision": "float32", "batch": 4}
    return validate(values, "test")


def test_units_wait_for_statistics_and_circuits_for_those_of_all_layers(made_run: RunDirectory) -> None:
    items = {item.id: item for item in planned(neurons, configured(made_run), made_run)}
    assert list(items) == [
        *(f"{layer}/statistics" for layer in LAYERS),
        *(f"{layer}/part-00000" for layer in LAYERS),
        *(f"{layer}/{work}" for layer in LAYERS for work in ("circuit", "cells")),
    ]
    assert {item.after for item in items.values()} == {()}
    after = {part.name: part.after for part in neurons.parts(configured(made_run))}
    statistics = tuple(f"neurons:{layer}/statistics" for layer in LAYERS)
    assert after["branches/statistics"] == ("collect:",)
    assert after["branches/units"] == ("neurons:branches/statistics",)
    assert after["branches/circuits"] == (*statistics, *(f"cells:{layer}" for layer in LAYERS))


def changed(before: Config, after: Config, run: RunDirectory) -> set[str]:
    """Items that are in both plans and depend on something else."""
    one, other = ({item.id: item.of for item in planned(neurons, config, run)} for config in (before, after))
    return {name for name in one.keys() & other.keys() if one[name] != other[name]}


def test_one_more_layer_or_source_changes_the_circuits_alone(made_run: RunDirectory) -> None:
    both = configured(made_run)
    assert changed(both, configured(made_run, ("branches",)), made_run) == {"branches/circuit", "branches/cells"}
    assert changed(both, configured(made_run, sources=3), made_run) == {f"{layer}/circuit" for layer in LAYERS}


def test_other_cells_change_what_builds_them(made_copy: RunDirectory) -> None:
    config = configured(made_copy)
    before = {item.id: item.of for item in planned(neurons, config, made_copy)}
    made_copy.update_manifest(stages={"cells": {**made_copy.stage_facts("cells"), "key": "0" * 64}})
    after = {item.id: item.of for item in planned(neurons, config, made_copy)}
    assert {name for name in before if before[name] != after[name]} == {f"{layer}/cells" for layer in LAYERS}


@pytest.fixture
def begun(made_copy: RunDirectory) -> RunDirectory:
    """A run whose stage neurons has just begun."""
    made_copy.update_manifest(config=configured(made_copy).plain())
    made_copy.claim("neurons", "5" * 64)
    settings = {layer: {"precision": "float32", "batch": 4} for layer in LAYERS}
    made_copy.update_manifest(stages={"neurons": {**made_copy.stage_facts("neurons"), "batch_settings": settings}})
    return made_copy


def test_an_item_writes_one_table_and_its_marker(begun: RunDirectory) -> None:
    config = begun.config()
    items = {item.id: item for item in planned(neurons, config, begun)}
    work: list[tuple[str, Summary]] = []
    for name in ("residual/statistics", "branches/statistics", "branches/part-00000", "branches/circuit"):
        work.append((name, neurons.run_item(replace(items[name], run=str(begun.path)))))
    assert [(name, summary.count) for name, summary in work if summary.count] == [("branches/part-00000", 16)]
    folder = begun.neurons("branches")
    statistics = pq.read_table(folder / "statistics.parquet")
    assert statistics.equals(unit_statistics(begun.shards("branches"), 2))
    for name, schema in (("statistics", STATISTICS), ("part-00000", UNITS), ("circuit", CIRCUIT)):
        assert pq.read_table(folder / f"{name}.parquet").schema.equals(schema)
    facts = {name: read_marker(folder / f"{name}.json", "5" * 64) for name in ("statistics", "part-00000", "circuit")}
    assert facts["statistics"] is not None
    assert facts["statistics"]["firing"] == sum(largest > 0 for largest in statistics["largest"].to_pylist())
    assert facts["part-00000"] is not None
    assert facts["part-00000"]["patches_failed"] == 0
    assert facts["circuit"] is not None
    assert facts["circuit"]["of"] == items["branches/circuit"].of
    left = {item.id for item in missing(neurons, list(items.values()), begun, config)}
    assert left == {"residual/part-00000", "residual/circuit", "residual/cells", "branches/cells"}


def test_what_the_version_does_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = neurons.engine()
    for name, value in (("NEURONS_FORMAT", 99), ("DIVERSITY", 0.5), ("UNITS_PER_PART", 8)):
        with monkeypatch.context() as patch:
            patch.setattr(neurons, name, value)
            assert neurons.engine() != before, name


def test_a_marker_lies_beside_its_table(made_run: RunDirectory) -> None:
    item = Item("branches/part-00000", "neurons")
    (marker,) = neurons.markers(item, made_run, made_run.config())
    assert marker == made_run.neurons("branches") / "part-00000.json"


def test_what_is_configured_is_not_measured(begun: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: object) -> int:
        raise AssertionError("measured, though it is configured")

    for name in ("measure_batch", "fitting_precision"):
        monkeypatch.setattr(batch_settings, name, measure)
    expected = {"precision": "float32", "batch": 4}
    assert neurons.measure_batch_settings(str(begun.path)) == dict.fromkeys(LAYERS, expected)

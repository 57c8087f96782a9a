"""The stage publish: which items a change makes anew."""

import json

import pytest
from planned import planned
from unit_run import LAYERS

from atlas.rundir.directory import RunDirectory
from pipelines import publish
from pipelines.stage import missing


@pytest.fixture
def run(unit_run: RunDirectory) -> RunDirectory:
    return unit_run


def test_only_what_depends_on_the_units_is_published_anew(run: RunDirectory) -> None:
    config = run.config()
    items = planned(publish, config, run)
    before = {item.id: item.of for item in items}
    parts = {"layer", "units-00000", "grid-004", "grid-008"}
    assert {name for name in before if name.startswith("neurons/")} == {
        f"neurons/{layer}/{part}" for layer in LAYERS for part in parts
    }
    marker = run.neurons("last") / "statistics.json"
    text = marker.read_text()
    facts = json.loads(text)
    facts["files"]["statistics.parquet"]["sha256"] = "another"
    marker.write_text(json.dumps(facts))
    try:
        after = {item.id: item.of for item in planned(publish, config, run)}
    finally:
        marker.write_text(text)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"neurons/last/{part}" for part in parts} | {"tour", "page"}
    left = {item.id for item in missing(publish, items, run, config)}
    assert left == {"tour", "page"}, "the rest of the site stands as it was"

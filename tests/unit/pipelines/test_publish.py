"""The stage publish: which items a change makes anew, and what the page says while not all is there."""

import json
import shutil
from pathlib import Path

import pytest
from planned import planned
from unit_run import LAYERS

from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import parse_marker
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


def publish_part(run: RunDirectory, part: str) -> bool:
    """Publish what is missing of a part; whether that was anything."""
    config = run.config()
    todo = missing(publish, publish.plan(part, config, run), run, config)
    for item in todo:
        publish.run_item(item)
    return bool(todo)


def grids(facts: dict, maps: str) -> dict[str, list[int]]:
    """The grids of each map that atlas.json has, or that its ``making`` tells of."""
    if maps == "layers":
        return {one["path"]: [grid["grid"] for grid in one["grids"]] for one in facts["layers"]}
    return {one["path"]: one["grids"] for one in facts["making"]["maps"]}


def test_the_page_grows_and_tells_what_is_to_come(made_copy: RunDirectory, tmp_path: Path) -> None:
    run = made_copy
    run.claim("publish", "5" * 64)
    at_once = RunDirectory(tmp_path / "at-once" / "run")
    shutil.copytree(run.path, at_once.path)
    atlas_json = run.folder("publish") / "atlas.json"
    quality = run.folder("layout") / "quality-branches.json"
    held_back = quality.read_bytes()
    quality.unlink()

    assert not publish_part(run, "page"), "there is nothing to look at"
    publish_part(run, "residual/grid-002")
    assert publish_part(run, "page")
    facts = json.loads(atlas_json.read_text())
    assert grids(facts, "layers") == {"residual": [2]}
    assert grids(facts, "making") == {"residual": [4], "branches": [2, 4]}
    assert not publish_part(run, "page"), "nothing has changed"

    for part in ("residual/grid-004", "branches/grid-002", "branches/grid-004"):
        publish_part(run, part)
        assert publish_part(run, "page")
    facts = json.loads(atlas_json.read_text())
    assert grids(facts, "layers") == {"residual": [2, 4], "branches": [2, 4]}
    assert "making" not in facts
    quality.write_bytes(held_back)
    assert publish_part(run, "page"), "what is measured late stands in the page's report"

    for part in ("residual/grid-002", "residual/grid-004", "branches/grid-002", "branches/grid-004", "page"):
        publish_part(at_once, part)
    assert atlas_json.read_bytes() == (at_once.folder("publish") / "atlas.json").read_bytes()


def test_when_the_run_is_done_is_no_part_of_the_pages_digest(made_copy: RunDirectory) -> None:
    run = made_copy
    run.claim("publish", "5" * 64)
    publish_part(run, "residual/grid-002")
    (before,) = publish.plan("page", run.config(), run)
    run.progress.write_text(json.dumps({"state": "running", "updated": 1e9, "seconds_left": 60}))
    assert publish.plan("page", run.config(), run) == [before]
    publish_part(run, "page")
    facts = json.loads((run.folder("publish") / "atlas.json").read_text())
    assert facts["making"]["expected_end"] == "2001-09-09T01:47:40+00:00"
    marker = parse_marker(run.folder("publish") / ".markers" / "page.json")
    assert marker is not None
    assert marker["of"] == before.of


def test_errors_are_published_where_labels_are_classes(labelled_copy: RunDirectory, made_copy: RunDirectory) -> None:
    run = labelled_copy
    run.claim("publish", "5" * 64)
    config = run.config()
    assert [item.id for item in publish.plan("branches/grid-004/errors", config, run)] == ["branches/grid-004/errors"]
    publish_part(run, "branches/grid-002")
    publish_part(run, "branches/grid-004")
    publish_part(run, "page")
    atlas_json = run.folder("publish") / "atlas.json"
    assert "errors" not in json.loads(atlas_json.read_text())["layers"][0]
    for grid in ("002", "004"):
        assert publish_part(run, f"branches/grid-{grid}/errors")
        assert (run.folder("publish") / "branches" / f"grid-{grid}" / "errors.json").is_file()
    assert publish_part(run, "page"), "the page says that there is something new"
    facts = json.loads(atlas_json.read_text())
    assert facts["layers"][0]["errors"] is True
    assert facts["networks"][0]["label_classes"] == [1, 3, None]
    assert facts["report"]["accuracy"][""]["pictures"] == 14
    made_copy.claim("publish", "5" * 64)
    assert publish.plan("branches/grid-004/errors", config, made_copy) == []

"""What a person sees of a run: the plan, the rate of a stage, failures, and the end."""

import io
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import LAYERS, ROWS, maps_of_run
from rich.console import Console

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.networks.network import Network, describe_layer
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker
from atlas.slices.labels import match_labels, read_mapping
from atlas.slices.tables import error_facts
from atlas.store.shards import FAILURES
from pipelines import screen
from pipelines.estimate import Estimate, Expectation, Work
from pipelines.graph import Outcome
from pipelines.progress import RunProgress
from pipelines.stage import Item, Part, Summary
from pipelines.tasks import Timed


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A wide console, and what was printed on it, spaces as one."""

    def __init__(self) -> None:
        self.console = Console(file=io.StringIO(), width=250)

    @property
    def lines(self) -> list[str]:
        return [" ".join(line.split()) for line in self.console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.fixture
def screenful() -> Screen:
    return Screen()


def a_progress(clock: Clock) -> RunProgress:
    """Of two stages: 100 views are expected at .1 s, 40 icons at 1 s; two workers."""
    parts = [Part("collect"), Part("render", "a"), Part("render", "b")]
    expectations = {"collect": Expectation(100, 0.1), "render": Expectation(40, 1.0)}
    progress = RunProgress(parts, {"collect": "views", "render": "icons"}, expectations, lambda: 2, clock)
    progress.count_workers()
    return progress


def timed(count: int, seconds: float, failures: int = 0) -> Timed:
    return Timed(Summary(count, failures), 0.0, seconds)


STAGE: Any = {name: SimpleNamespace(NAME=name) for name in ("collect", "render")}


def test_a_log_has_a_line_at_each_tenth_and_each_minute(screenful: Screen) -> None:
    clock = Clock()
    progress = a_progress(clock)
    on_screen = screen.ProgressScreen(screenful.console, progress, clock)
    items = [Item(str(number), "collect", work=10) for number in range(10)]

    def lines() -> list[str]:
        return [line.split(" ", 1)[1] for line in screenful.lines]  # without the time of day

    progress.plan_part(STAGE["collect"], items, items[2:])
    on_screen.update("collect")
    assert lines() == ["collect 20%: 20 of 100 views; about 24 s left in all"], "by the estimate"
    clock.now += 4
    progress.finish_item(STAGE["collect"], items[2], timed(10, 4.0, failures=1))
    on_screen.update("collect")
    assert lines()[1:] == ["collect 30%: 30 of 100 views, 2.5/s, 1 failed; about 29 s left in all"], "half as measured"
    clock.now += 59
    on_screen.tick()
    assert len(lines()) == 2
    clock.now += 1
    on_screen.tick()
    assert lines()[2:] == ["collect 30%: 30 of 100 views, 2.5/s, 1 failed; about 29 s left in all"]
    for item in items[3:]:
        progress.finish_item(STAGE["collect"], item, timed(10, 4.0))
    progress.finish_stage(STAGE["collect"])
    on_screen.finish("collect", Outcome(10, 8, count=80, spans=[(0.0, 32.0)]))
    assert lines()[-1] == "collect: 8 of 10 items now, 80 views in 32 s"
    on_screen.finish("collect", Outcome(10, 0))
    assert lines()[-1] == "collect: all 10 items were done before"
    icons = [Item("quick", "render"), Item("a", "render", work=8)]
    progress.plan_part(STAGE["render"], icons, icons)
    progress.finish_item(STAGE["render"], icons[0], timed(0, 16.0))
    clock.now += 60
    on_screen.tick()
    assert lines()[-1].startswith("render 0%: 0 of about 40 icons, 1 item before them; about "), "quick icons"
    progress.finish_item(STAGE["render"], Item("a", "render", work=8), timed(8, 16.0))
    on_screen.update("render")
    assert lines()[-1] == "render 20%: 8 of about 40 icons, 0.5/s; about 27 s left in all", "a part is not planned"


def test_the_last_lines_say_where_the_time_went(screenful: Screen) -> None:
    outcomes = {
        "collect": Outcome(3, 3, spans=[(0.0, 60.0), (0.0, 100.0)]),
        "layout": Outcome(3, 0),
        "render": Outcome(9, 9, spans=[(100.0, 4000.0), (90.0, 4000.0)]),
    }
    screen.show_times(outcomes, screenful.console)
    assert screenful.lines == [
        "stage at work of workers items", "collect 2 min 3 min 3", "render 65 min 2.2 h 9"
    ]  # fmt: skip


def show_plan(
    config: Config, run: RunDirectory, network: Network, monkeypatch: pytest.MonkeyPatch, screenful: Screen
) -> None:
    icon_counts: list[int] = []

    def estimate(work: Work, _networks: Any, _layers: Any, _listing: Any, **_sections: Any) -> Estimate:
        icon_counts.append(work.icon_count)
        return Estimate(3725.0, 2.34e9, {})

    monkeypatch.setattr(screen, "estimate", estimate)
    layers = {layer: describe_layer(network, layer) for layer in config.layers}
    listing = Listing.load(run.listing)
    matches = {"": match_labels(listing.label_names, network.classes, read_mapping(config.images.label_classes))}
    screen.show_plan(config, run, listing, {"": network}, layers, matches, screenful.console)
    assert f"about {icon_counts[0]:,} icons" in " ".join(screenful.lines)


def test_the_plan_tells_pictures_network_layers_and_estimate(
    made_run: RunDirectory, small: Network, monkeypatch: pytest.MonkeyPatch, screenful: Screen
) -> None:
    config = made_run.config()
    show_plan(config, made_run, small, monkeypatch, screenful)
    lines = screenful.lines
    assert lines[0] == f"pictures 15 in {config.images.source}, 4 views each: 60 views"
    assert "network small_network:factory, 32 px, 5 classes, 9 batch norms folded, on cpu" in lines
    unmatched = (
        "labels 0 of 3 are classes of the network: 0 of 15 pictures; no class: birds, cats, zebras; which class "
    )
    assert f"{unmatched}each is can be said by images.label_classes" in lines
    assert any(line.startswith("layer residual: 8 channels, 16×16 map, sees ") for line in lines)
    assert any(line.endswith(" px of 32") for line in lines)
    assert "estimate about 62 min and 2.3 GB, as this machine is now" in lines
    line_of_stages = "found collect, layout, cells, render of an earlier run; "
    assert (
        lines[-1] == f"{line_of_stages}what fits this configuration is kept and gone on with, the rest is moved aside"
    )
    assert not any(line.startswith(("map ", "neurons ", "not read ")) for line in lines)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_log_has_each_line_of_the_plan_whole(
    made_run: RunDirectory, small: Network, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    printed = Screen()
    printed.console = Console(file=io.StringIO(), width=60, force_terminal=terminal)
    monkeypatch.setattr(screen, "estimate", lambda *_, **__: Estimate(3725.0, 2.34e9, {}))
    layers = {layer: describe_layer(small, layer) for layer in made_run.config().layers}
    screen.show_plan(
        made_run.config(), made_run, Listing.load(made_run.listing), {"": small}, layers, {}, printed.console
    )
    whole = "network small_network:factory, 32 px, 5 classes, 9 batch norms folded, on cpu"
    assert (whole in printed.lines) is not terminal, "a terminal's table wraps in its columns"


def test_the_plan_tells_which_labels_are_classes(
    labelled_run: RunDirectory, small: Network, monkeypatch: pytest.MonkeyPatch, screenful: Screen
) -> None:
    show_plan(labelled_run.config(), labelled_run, small, monkeypatch, screenful)
    line = "labels 2 of 3 are classes of the network (2 by mapping): 14 of 15 pictures; no class: zebras"
    assert line in screenful.lines


def test_the_plan_tells_of_classes_units_and_what_cannot_be_read(
    made_copy: RunDirectory, small: Network, monkeypatch: pytest.MonkeyPatch, screenful: Screen
) -> None:
    values = made_copy.config().plain() | {"neurons": {"layers": ["branches"], "pictures": 2}}
    values["layout"] |= {"class_pair": [["class 1", "class 2"]], "class_layers": ["residual"]}
    listing = Listing.load(made_copy.listing)
    errors = [None] * 13 + ["the file is gone", "permission denied"]
    number = listing.table.schema.get_field_index("error")
    table = listing.table.set_column(number, listing.table.schema.field(number), pa.array(errors, pa.string()))
    Listing(table, source=listing.source, label_names=listing.label_names, kind="folder").save(made_copy.listing)
    show_plan(validate(values, "test"), made_copy, small, monkeypatch, screenful)
    assert "not read 2 of them: the file is gone, …" in screenful.lines
    assert "map residual: class 1 → class 2, grids of 8, 16" in screenful.lines
    assert "neurons 16 units of branches, 2 pictures each" in screenful.lines


def test_failures_are_told_by_the_commonest_reason(made_copy: RunDirectory, screenful: Screen) -> None:
    rows = [("a.png", None, "the file is gone"), ("b.png", 1, "too dark"), ("c.png", None, "the file is gone")]
    table = pa.Table.from_pylist([dict(zip(FAILURES.names, row)) for row in rows], FAILURES)
    pq.write_table(table, made_copy.failures)
    screen.show_failures(made_copy, screenful.console)
    (line,) = screenful.lines
    assert line == (
        "3 pictures or views gave no row. The commonest reason: the file is gone (2×, such as a.png). All of them: "
        f"{made_copy.failures}"
    )
    pq.write_table(table.slice(0, 0), made_copy.failures)
    screen.show_failures(made_copy, screenful.console)
    assert len(screenful.lines) == 1, "of no failures nothing is said"


@pytest.mark.parametrize(
    ("rows", "by", "sentence"),
    [
        (0, "predicted", "No row is predicted for tabby or lynx, and a map needs 8. Take more pictures."),
        (1, "attribution", "1 row is supported by tabby or lynx, and a map needs 8. Take more pictures."),
        (5, "predicted", "5 rows are predicted for tabby or lynx, and a map needs 8. Take more pictures."),
        (
            1_234,
            "attribution",
            "1,234 rows are supported by tabby or lynx, but no cell has 8 of them. Give coarser layout.class_grids, or "
            "take more pictures.",
        ),
    ],
)
def test_why_a_map_of_classes_is_not_there(rows: int, by: str, sentence: str) -> None:
    assert screen._too_few_rows(("tabby", "lynx"), by, 8, rows) == sentence


def show_scores(run: RunDirectory, screenful: Screen) -> None:
    min_count = run.config().cells.min_count
    maps = maps_of_run(run)
    screen.show_scores(run, maps, screenful.console, class_by="attribution", min_count=min_count, neurons=None)


def test_the_end_shows_scores_and_how_true_the_maps_are(made_run: RunDirectory, screenful: Screen) -> None:
    show_scores(made_run, screenful)
    lines = screenful.lines
    assert "layer grid icons cosine whitened robust rank 1 flagged words" in lines
    assert "branches 2 4 0.885 0.785 0.685 25% 25.0% none" in lines, "four icons of .9, .89, .88 and .87"
    (quality,) = (line for line in lines if line.startswith("branches: trustworthiness 0."))
    assert quality.endswith(f"{1 / ROWS:.1%} of the rows left off")


def test_the_end_tells_how_often_the_network_is_right(
    labelled_run: RunDirectory, made_run: RunDirectory, screenful: Screen
) -> None:
    show_scores(labelled_run, screenful)
    facts = error_facts(labelled_run, "branches")
    assert facts is not None
    (line,) = [line for line in screenful.lines if line.startswith("right on ")]
    assert line.startswith(f"right on {facts['run']['accuracy']:.1%} of 14 labelled pictures (")
    for layer in LAYERS:
        assert any(line.startswith(f"{layer}: no cell ") for line in screenful.lines), "where nothing stands out"
    other = Screen()
    show_scores(made_run, other)
    assert not any("labelled" in line or "errors" in line for line in other.lines)


def test_a_run_until_a_stage_ends_with_its_folder(made_run: RunDirectory, screenful: Screen) -> None:
    screen.show_end(made_run, "cells", "runs/made", screenful.console)
    assert screenful.lines == [f"Done until cells: {made_run.folder('cells')}"]


def test_without_icons_it_says_what_to_do_and_how_to_look(made_copy: RunDirectory, screenful: Screen) -> None:
    for layer in LAYERS:
        for part in made_copy.folder("render").glob(f"{layer}/*/part-*.parquet"):
            part.unlink()
    show_scores(made_copy, screenful)
    screen.show_end(made_copy, "publish", "my runs/demo", screenful.console)
    assert (
        "No icon was drawn: no cell has cells.min_count = 2 rows. Take more pictures or images.crops, coarser "
        in (screenful.lines[-2])
    )
    assert screenful.lines[-1].startswith("Done. Open the atlas with: ")
    assert screenful.lines[-1].endswith(" 'my runs/demo'")


def test_units_are_counted_and_missing_weights_explained(made_copy: RunDirectory, screenful: Screen) -> None:
    write_marker(
        made_copy.neurons("branches") / "circuit.json",
        key="made",
        files=[],
        notes={"residual": "A softmax is between."},
    )
    facts = {"units": 1_200, "firing": 1_100, "invariant_share": 0.25}
    none = {"units": 8, "firing": 0, "invariant_share": None}
    report = {"layers": {"residual": {"neurons": none}, "branches": {"neurons": facts}}}
    screen.show_neurons(LAYERS, report, made_copy, screenful.console)
    assert screenful.lines == [
        "residual: 8 units, 0 fire, none can be turned",
        "branches: 1,200 units, 1,100 fire, 25% of them answer alike to all angles",
        "branches: no weights from residual. A softmax is between.",
    ]

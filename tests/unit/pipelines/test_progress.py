"""How far a run is: by its estimate, then by what was measured; and the file that says so."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from atlas.errors import AtlasError
from atlas.rundir.directory import RunDirectory
from pipelines.estimate import Expectation
from pipelines.progress import Heartbeat, RunProgress, StageState
from pipelines.stage import Item, Part, Summary
from pipelines.tasks import Timed

STAGE: Any = {name: SimpleNamespace(NAME=name) for name in ("layout", "render")}


def a_progress() -> RunProgress:
    parts = [Part("layout"), Part("render", "a"), Part("render", "b")]
    expectations = {"render": Expectation(40, 1.0)}
    return RunProgress(parts, {"layout": "rows", "render": "icons"}, expectations, lambda: 4, lambda: 100.0)


def finish(progress: RunProgress, item: Item, count: int, seconds: float) -> None:
    progress.finish_item(STAGE[item.stage], item, Timed(Summary(count), 50.0, 50.0 + seconds))


def test_what_is_planned_takes_the_place_of_what_was_expected() -> None:
    progress = a_progress()
    render = progress.stages["render"]
    assert (render.total, render.share, render.worker_seconds_left) == (40, 0, 40)
    first, second = (Item(name, "render", work=30) for name in "ab")
    progress.plan_part(STAGE["render"], [first], [first])
    assert render.total == 40, "another part is to come"
    progress.plan_part(STAGE["render"], [second], [])
    assert (render.total, render.finished_work, render.share) == (60, 30, 0.5)
    finish(progress, first, 30, 15.0)
    assert (render.finished_work, render.share, render.worker_seconds_left) == (60, 1, 0)


def test_a_stage_with_parts_to_come_is_not_done() -> None:
    progress = a_progress()
    render = progress.stages["render"]
    item = Item("a", "render", work=50)
    progress.plan_part(STAGE["render"], [item], [])
    assert render.share == 0.99
    publish = StageState("parts", Expectation(seconds=8.0), 4)
    publish.items, publish.items_done, publish.parts_left = 6, 6, 3
    assert publish.share == 0.25
    assert publish.worker_seconds_left == 6.0


def test_one_small_item_does_not_say_how_long_the_rest_takes() -> None:
    """The first icons of a worker take as long as loading the network: 2 icons in 8 s are not 40 in 160 s."""
    progress = a_progress()
    item = Item("a", "render", work=2)
    progress.plan_part(STAGE["render"], [item], [item])
    finish(progress, item, 2, 8.0)
    assert progress.stages["render"].worker_seconds_left == pytest.approx((40 - 2) * (8 + 4) / (2 + 4))


def test_a_rate_is_of_the_time_at_work() -> None:
    """Not of the time that the stage waited before its first item, nor of that since its last."""
    progress = a_progress()  # its clock stands at 100 s
    first, second, quick = (Item(name, "render", work=10) for name in "abc")
    progress.plan_part(STAGE["render"], [first, second, quick], [first, second, quick])
    assert progress.rate("render") == 0
    progress.finish_item(STAGE["render"], quick, Timed(Summary(0), 10.0, 90.0))
    assert progress.rate("render") == 0, "quick icons are not counted"
    progress.finish_item(STAGE["render"], second, Timed(Summary(10), 52.0, 60.0))
    assert progress.rate("render") == 10 / 8
    progress.finish_item(STAGE["render"], first, Timed(Summary(10), 50.0, 55.0))
    assert progress.rate("render") == 20 / 10


def test_time_left_goes_by_this_starts_own_rate_and_the_workers_that_are_there() -> None:
    progress = a_progress()
    assert progress.seconds_left() == 40, "no worker was counted yet"
    progress.count_workers()
    assert progress.seconds_left() == 10
    item = Item("a", "render", work=10)
    progress.plan_part(STAGE["render"], [item], [item])
    finish(progress, item, 10, 40.0)
    assert progress.seconds_left() == pytest.approx((40 - 10) * (40 + 4) / (10 + 4) / 4)


def test_layers_that_cost_more_have_more_left() -> None:
    parts = [Part("neurons", "_blocks.1/units"), Part("neurons", "_blocks.10/units")]
    expectations = {"neurons": Expectation(60, 2.0, by_layer={"_blocks.1": 1.0, "_blocks.10": 4.0})}
    progress = RunProgress(parts, {"neurons": "units"}, expectations, lambda: 1, lambda: 100.0)
    stage: Any = SimpleNamespace(NAME="neurons")
    cheap, dear = Item("_blocks.1/a", "neurons", work=40), Item("_blocks.10/a", "neurons", work=20)
    progress.plan_part(stage, [cheap], [cheap])
    progress.plan_part(stage, [dear], [dear])
    progress.finish_item(stage, cheap, Timed(Summary(40), 50.0, 90.0))
    assert progress.stages["neurons"].share == pytest.approx(40 / 60)
    assert progress.seconds_left() == pytest.approx(80), "as expected of them: not half of what the first took"


def test_a_stage_without_counted_work_goes_by_its_items() -> None:
    progress = a_progress()
    items = [Item(name, "layout") for name in "abcd"]
    progress.plan_part(STAGE["layout"], items, items)
    finish(progress, items[0], 0, 1.0)
    assert progress.stages["layout"].share == 0.25
    assert progress.facts()["stages"]["layout"]["share"] == 0.25
    progress.finish_stage(STAGE["layout"])
    assert progress.stages["layout"].share == 1


def test_who_is_idle() -> None:
    progress = a_progress()
    items = [Item(name, "layout") for name in "abc"]
    progress.plan_part(STAGE["layout"], items, items)
    progress.count_workers()
    assert (progress.facts()["workers"], progress.facts()["idle"]) == (4, 1)
    finish(progress, items[0], 0, 1.0)
    assert progress.facts()["idle"] == 2


@pytest.mark.parametrize(
    ("error", "state", "sentence"),
    [(None, "done", ""), (AtlasError("no space"), "failed", "no space"), (KeyboardInterrupt(), "stopped", "")],
)
def test_the_file_says_how_the_run_ended(
    made_copy: RunDirectory, error: BaseException | None, state: str, sentence: str
) -> None:
    def states() -> tuple[str, str]:
        facts = json.loads(made_copy.progress.read_text())
        return facts["state"], facts["sentence"]

    try:
        with Heartbeat(made_copy, a_progress(), lambda: None):
            assert states() == ("running", "")
            if error:
                raise error
    except (AtlasError, KeyboardInterrupt):
        pass
    assert states() == (state, sentence)


def test_a_scheduler_that_does_not_answer_leaves_the_number_of_workers_as_it_was(made_copy: RunDirectory) -> None:
    answers = iter([2])

    def count() -> int:
        try:
            return next(answers)
        except StopIteration:
            raise OSError("no scheduler") from None

    progress = RunProgress([Part("layout")], {"layout": "rows"}, {}, count, lambda: 100.0)
    progress.count_workers()
    progress.count_workers()
    assert progress.facts()["workers"] == 2


def test_a_folder_that_is_gone_does_not_come_back(made_copy: RunDirectory) -> None:
    with Heartbeat(made_copy, a_progress(), lambda: None):
        made_copy.path.rename(made_copy.path.with_name("elsewhere"))
    assert not made_copy.path.exists()

"""What workers are given to do: an item's times, a user's mistake as a value, and the sentence for what failed."""

import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from distributed.scheduler import KilledWorker

from atlas.errors import AtlasError
from pipelines.stage import Item, Summary
from pipelines.tasks import Timed, measure_settings, results, work_on

ITEM = Item("part-00001", "collect")


class MadeFuture:
    """A finished future: with a result, which may be a user's mistake, or an error."""

    def __init__(self, value: Any) -> None:
        self.value = value
        failed = isinstance(value, BaseException) and not isinstance(value, AtlasError)
        self.status = "cancelled" if isinstance(value, CancelledError) else "error" if failed else "finished"

    def result(self) -> Any:
        if self.status != "finished":
            raise self.value
        return self.value


class MadeClient:
    def gather(self, futures: list[MadeFuture]) -> list[Any]:
        return [future.result() for future in futures]


def come_back(*values: Any, into: list[Any] | None = None) -> None:
    """What comes back of items with these values is put ``into`` a list, by number."""
    batch: Any = [(MadeFuture(value), number) for number, value in enumerate(values)]
    client: Any = MadeClient()
    for pair in results(client, batch, lambda number: ("render", f"part-{number}" if number < 5 else None)):
        (into if into is not None else []).append(pair)


def test_an_item_comes_back_with_its_times_and_peak() -> None:
    before = time.time()
    timed = work_on(lambda item: time.sleep(0.05) or Summary(7), ITEM)  # type: ignore[func-returns-value]
    assert isinstance(timed, Timed)
    assert (timed.summary.count, timed.summary.failures) == (7, 0)
    assert timed.summary.peak_mb > 10
    assert before <= timed.began <= timed.ended - 0.05 <= time.time()


def test_a_users_mistake_is_a_value_and_not_tried_again() -> None:
    def refuse(_: object) -> Any:
        raise AtlasError("no such picture")

    for value in (work_on(refuse, ITEM), measure_settings(refuse, "run")):
        assert isinstance(value, AtlasError)
        assert str(value) == "no such picture"


def test_what_is_finished_is_handed_on_before_the_first_mistake_is_raised() -> None:
    pairs: list[Any] = []
    with pytest.raises(AtlasError, match=r"^one$"):
        come_back(1, AtlasError("one"), 2, AtlasError("two"), into=pairs)
    assert pairs == [(0, 1), (2, 2)]


def test_an_error_names_stage_and_item_and_where_its_traceback_is() -> None:
    with pytest.raises(AtlasError) as error:
        come_back(5, OSError("no space left"))
    sentence, path = str(error.value).split("\nThe full traceback is in ")
    assert sentence == "render: item part-1 failed (OSError: no space left)."
    assert "no space left" in Path(path).read_text()


def test_an_error_while_a_stage_measures_is_raised_as_it_is() -> None:
    with pytest.raises(OSError, match="no space left"):
        come_back(0, 1, 2, 3, 4, OSError("no space left"))


def test_an_item_that_kills_its_workers_is_told_as_memory() -> None:
    killed = KilledWorker.__new__(KilledWorker)
    with pytest.raises(AtlasError, match="render: the workers that worked on part-0 died again and again"):
        come_back(killed)


def test_a_lost_scheduler_is_left_to_the_cluster() -> None:
    with pytest.raises(CancelledError):
        come_back(CancelledError())

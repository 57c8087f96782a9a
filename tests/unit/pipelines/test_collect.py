"""The stage collect: how pictures become shards, what is noted of each, and when failures stop the run."""

import json

import pyarrow.parquet as pq
import pytest
from made_run import CROPS, LAYERS, PICTURES, ROWS
from planned import planned

from atlas.config.sections import CollectConfig, ImagesConfig
from atlas.errors import AtlasError
from atlas.pictures.views import Failure
from atlas.rundir.directory import RunDirectory
from pipelines import collect
from pipelines.collect import FEWEST_SHARD_ROWS, MOST_SHARDS, failed_views, images_per_shard, watch_failures
from pipelines.stage import Item, Summary


@pytest.mark.parametrize(
    ("pictures", "crops", "places", "most", "expected"),
    [
        (10, 1, 1, 65_536, FEWEST_SHARD_ROWS),  # a small run: one shard of at most so many rows
        (1_000_000, 1, 1, 65_536, 1_000_000 // MOST_SHARDS),  # 64 shards of whole pictures
        (10_000_000, 1, 1, 65_536, 65_536),  # a large run: as many rows as are allowed
        (10_000_000, 12, 2, 65_536, 65_536 // 24),
        (10, 300, 1, 200, 1),  # a picture is never parted
        (MOST_SHARDS * FEWEST_SHARD_ROWS + 1, 1, 1, 65_536, FEWEST_SHARD_ROWS + 1),  # rounded up: not one shard more
    ],
)
def test_shards_hold_whole_pictures(pictures: int, crops: int, places: int, most: int, expected: int) -> None:
    settings = CollectConfig(rows_per_shard=most, positions_per_image=places)
    assert images_per_shard(pictures, ImagesConfig(source="p", crops=crops), settings) == expected


def test_the_failures_wait_for_all_shards(made_run: RunDirectory) -> None:
    config = made_run.config()
    *shards, last = planned(collect, config, made_run)
    assert [item.id for item in shards] == ["part-00000", "part-00001", "part-00002"]
    assert (last.id, last.after) == ("failures", tuple(item.id for item in shards))
    names = [path.relative_to(made_run.path).as_posix() for path in collect.markers(shards[1], made_run, config)]
    assert names == [f"store/{layer}/part-00001.json" for layer in LAYERS]
    assert collect.markers(last, made_run, config) == [made_run.path / "store" / "failures.json"]


def test_each_shard_says_what_it_holds_and_lacks(made_run: RunDirectory) -> None:
    rows = []
    for layer in LAYERS:
        parts = sorted(made_run.store(layer).glob("part-*.json"))
        facts = [json.loads(path.read_text()) for path in parts]
        assert [(fact["rows"], fact["views"]) for fact in facts] == [(24, 24), (24, 24), (8, 12)]
        assert [fact["failures"] for fact in facts] == [
            [], [], [{"image": "zebras/broken.png", "view": None, "error": "not a picture in a known format"}]
        ]  # fmt: skip
        rows.append(pq.read_table(made_run.shards(layer), columns=["image_id", "view"]).to_pylist())
    assert rows[0] == rows[1] == [{"image_id": n // CROPS, "view": n % CROPS} for n in range(PICTURES * CROPS)]


def test_the_same_work_gives_the_same_bytes(made_copy: RunDirectory) -> None:
    paths = [made_copy.store(layer) / "part-00001.parquet" for layer in LAYERS]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    item = Item("part-00001", "collect", run=str(made_copy.path))
    assert collect.run_item(item) == Summary(24, 0)
    assert [path.read_bytes() for path in paths] == before


def test_failures_are_gathered_and_counted_by_views(made_copy: RunDirectory) -> None:
    item = planned(collect, made_copy.config(), made_copy)[-1]
    made_copy.failures.unlink()
    collect.run_item(Item(item.id, item.stage, item.after, str(made_copy.path)))
    assert pq.read_table(made_copy.failures)["image"].to_pylist() == ["zebras/broken.png"]
    marker = json.loads(made_copy.failures.with_suffix(".json").read_text())
    assert (marker["views"], marker["failures"]) == (ROWS + CROPS, CROPS)
    assert set(marker["files"]) == {"failures.parquet", "README.md"}
    (made_copy.store(LAYERS[0]) / "part-00002.json").unlink()
    with pytest.raises(AtlasError, match=r"collect: the marker of part-00002 is gone\. Give the same command again\."):
        collect.run_item(Item(item.id, item.stage, item.after, str(made_copy.path)))


def test_views_lost_are_all_of_a_picture_that_cannot_be_read() -> None:
    failures = [Failure("a.png", None, "gone"), Failure("b.png", 3, "dark"), Failure("b.png", 5, "dark")]
    assert failed_views(failures, 12) == 14
    assert failed_views([], 12) == 0


def test_too_many_failures_stop_the_run_as_soon_as_it_is_certain(made_run: RunDirectory) -> None:
    """4 of 60 views are lost; a share of .1 allows 6 of them."""
    layers, crops = made_run.config().layers, made_run.config().images.crops
    watch = watch_failures(made_run, layers, crops=crops, max_share=0.1)
    watch(Summary(24, 2))
    with pytest.raises(AtlasError) as caught:
        watch(Summary(12, 1))
    message = str(caught.value)
    assert message.startswith("collect: 4 of 60 views failed, more than collect.max_failure_share = 0.1 allows. ")
    assert "not a picture in a known format (1×, such as zebras/broken.png)" in message
    with pytest.raises(AtlasError, match=r"max_failure_share = 0\.05 allows"):
        watch_failures(made_run, layers, crops=crops, max_share=0.05)

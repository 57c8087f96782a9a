"""Shards: what one row of the store holds, and that it does not depend on who made it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_run import LABEL_CLASSES
from numpy.typing import NDArray

from atlas.config.model import Config
from atlas.networks.network import Layer, Network, describe_layer, load
from atlas.networks.observer import Observer
from atlas.pictures.decode import open_picture
from atlas.pictures.listing import Listing
from atlas.pictures.sources import list_images
from atlas.pictures.views import Failure, View, backdrop, crop_view, crop_views
from atlas.rundir.directory import RunDirectory
from atlas.store.collect import (
    BatchSettings,
    Reader,
    collect_shard,
    observe_views,
    prefetch,
    random_place,
    shard_views,
    true_class_columns,
)
from atlas.store.shards import read_columns, read_metadata


def test_shards_cut_the_pictures_without_gap_or_overlap() -> None:
    shards = [shard_views(number, images=7, crops=3, images_per_shard=2) for number in range(4)]
    assert shards[0] == {0: [0, 1, 2], 1: [0, 1, 2]}
    assert shards[3] == {6: [0, 1, 2]}
    everything = [(image, view) for shard in shards for image, views in shard.items() for view in views]
    assert everything == [(image, view) for image in range(7) for view in range(3)]


def test_prefetching_keeps_the_order_and_goes_no_further_than_asked() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item * item

    stream = prefetch(work, range(100), threads=2, ahead=4)
    assert [next(stream) for _ in range(10)] == [number**2 for number in range(10)]
    stream.close()  # type: ignore[attr-defined]
    assert len(started) <= 10 + 4
    assert list(prefetch(work, range(5), threads=2, ahead=4)) == [0, 1, 4, 9, 16]
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda item: 1 // item, [1, 0, 1], threads=2, ahead=4))


@pytest.fixture(scope="module")
def listing(config: Config) -> Listing:
    return list_images(config.images, config.seed)


@pytest.fixture(scope="module")
def layers(small: Network) -> list[Layer]:
    return [describe_layer(small, layer) for layer in ("residual", "branches")]


def make_shard(
    folder: Path,
    network: Network,
    layers: Sequence[Layer],
    listing: Listing,
    config: Config,
    views: dict[int, list[int]],
) -> tuple[dict[str, Path], int, list[Failure]]:
    paths = {layer.name: folder / layer.name / "part-00000.parquet" for layer in layers}
    reader = Reader(Observer(network, [layer.name for layer in layers]), {layer.name: layer for layer in layers})
    metadata = {layer.name: {"layer": layer.name} for layer in layers}
    rows, failures = collect_shard(
        [reader],
        listing,
        views,
        paths,
        metadata,
        images=config.images,
        collect=config.collect,
        seed=config.seed,
        settings=BatchSettings(5),
    )
    return paths, rows, failures


ALL = ["image", "image_id", "view", "draw", "box", "place_x", "place_y", "y", "x", "label", "predicted", "confidence"]
VECTORS = ["activation", "attribution"]


@pytest.fixture(scope="module")
def shard(
    tmp_path_factory: pytest.TempPathFactory, small: Network, layers: list[Layer], listing: Listing, config: Config
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shard")
    paths, rows, failures = make_shard(
        folder, small, layers, listing, config, shard_views(0, len(listing), 3, len(listing))
    )
    assert rows == len(listing) * 3 * 2
    assert failures == []
    return paths


def test_rows_stand_in_the_order_of_the_listing(shard: dict[str, Path], listing: Listing, config: Config) -> None:
    rows = read_columns(shard["residual"], ALL)
    expected = [(image, view, draw) for image in range(len(listing)) for view in range(3) for draw in range(2)]
    assert list(zip(rows["image_id"].tolist(), rows["view"].tolist(), rows["draw"].tolist())) == expected
    assert rows["image"].tolist() == [listing.keys[image] for image, _, _ in expected]
    labels = [listing.labels[image] for image, _, _ in expected]
    assert pq.read_table(shard["residual"])["label"].to_pylist() == labels
    assert None in labels
    assert {0, 1} < set(labels)
    places = np.array([random_place(config.seed, listing.keys[image], view, draw) for image, view, draw in expected])
    np.testing.assert_allclose(np.stack([rows["place_x"], rows["place_y"]], 1), places, rtol=1e-6)


def test_row_i_of_one_layer_is_row_i_of_the_next(shard: dict[str, Path]) -> None:
    same = [name for name in ALL if name not in ("x", "y")]
    first, second = (pq.read_table(shard[layer], columns=same) for layer in ("residual", "branches"))
    assert first.equals(second)


def test_a_row_is_what_its_source_and_box_give(
    shard: dict[str, Path], small: Network, layers: list[Layer], listing: Listing, config: Config
) -> None:
    """Cut again from its source by its row alone, a view gives the very pixels, and the pixels the very vector."""
    pictures: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for image in range(len(listing)):
        views = crop_views(listing, image, [0, 1, 2], size=small.size, images=config.images, seed=config.seed)
        assert not isinstance(views, Failure)
        pictures.update({(view.image_id, view.view): view.pixels for view in views})
    for layer in layers:
        rows = read_columns(shard[layer.name], ALL + VECTORS)
        for row in range(0, len(rows["image"]), 7):
            key, view = rows["image"][row], int(rows["view"][row])
            picture = open_picture(Path(listing.source) / key)
            pixels = crop_view(picture, rows["box"][row], small.size, backdrop(config.seed, key, view))
            np.testing.assert_array_equal(pixels, pictures[int(rows["image_id"][row]), view])
            with torch.no_grad():
                inputs = small.from_bytes(torch.from_numpy(pixels[None]))
                maps, logits = small.activations(inputs, layer.name), small.module(inputs)
            y, x = int(rows["y"][row]), int(rows["x"][row])
            assert y == int(float(rows["place_y"][row]) * layer.height)
            assert x == int(float(rows["place_x"][row]) * layer.width)
            np.testing.assert_allclose(
                rows["activation"][row].astype(np.float32), maps[0, :, y, x], rtol=2e-3, atol=1e-4
            )
            assert rows["predicted"][row] == int(logits.argmax())
            assert rows["confidence"][row] == pytest.approx(float(logits.softmax(1).max()), abs=1e-5)
            assert rows["attribution"][row].shape == (5,)


def test_equal_work_gives_equal_bytes(
    shard: dict[str, Path], tmp_path: Path, small: Network, layers: list[Layer], listing: Listing, config: Config
) -> None:
    views = shard_views(0, len(listing), 3, len(listing))
    again, _, _ = make_shard(tmp_path, small, layers, listing, config, views)
    for layer, path in shard.items():
        assert path.read_bytes() == again[layer].read_bytes()


def test_rows_do_not_depend_on_the_shard_they_are_in(
    shard: dict[str, Path], tmp_path: Path, small: Network, layers: list[Layer], listing: Listing, config: Config
) -> None:
    part, rows, _ = make_shard(
        tmp_path, small, layers, listing, config, shard_views(1, len(listing), 3, images_per_shard=3)
    )
    assert rows == 18
    whole = pq.read_table(shard["branches"])
    assert pq.read_table(part["branches"], columns=ALL[:10]).equals(whole.select(ALL[:10]).slice(18, 18))
    columns = read_columns(part["branches"], VECTORS)
    for name, expected in read_columns(shard["branches"], VECTORS).items():
        np.testing.assert_allclose(columns[name].astype(float), expected[18:36].astype(float), rtol=2e-3, atol=2e-4)


def test_broken_pictures_become_failures_and_stop_nothing(
    tmp_path: Path, small: Network, layers: list[Layer], config: Config, pictures: Path
) -> None:
    images = config.images.model_copy(update={"classes": ("broken", "cats"), "shuffle": False})
    listing = list_images(images, 0)
    paths, rows, failures = make_shard(
        tmp_path, small, layers, listing, config, shard_views(0, len(listing), 3, len(listing))
    )
    assert rows == 6 * 3 * 2
    errors = {failure.image: failure.error for failure in failures}
    assert set(errors) == {"broken/cut.jpg", "broken/empty.png", "broken/float.tiff", "broken/text.jpg"}
    assert len(failures) == 4
    assert errors["broken/empty.png"] == "the file is empty"
    assert all(failure.view is None for failure in failures)
    for path in paths.values():
        assert set(read_columns(path, ["image_id"])["image_id"].tolist()) == set(range(4, 10))


def test_a_view_that_is_not_finite_leaves_all_layers(listing: Listing, config: Config) -> None:
    """Only one layer of one view overflows float16, and the whole view goes."""
    network = load("small_network:factory", size=32, device="cpu")
    layers = [describe_layer(network, layer) for layer in ("residual", "branches")]
    reader = Reader(Observer(network, ["residual", "branches"]), {layer.name: layer for layer in layers})
    cut = [crop_views(listing, image, [0], size=32, images=config.images, seed=config.seed) for image in range(3)]
    batch = [(view,) for views in cut for view in views if isinstance(view, View)]  # type: ignore[union-attr]
    # The second view's own pixels push one channel of the later layer over the edge.
    network.submodule("branches").register_forward_hook(
        lambda _module, _inputs, output: output + 7e4 * (torch.arange(len(output)) == 1).view(-1, 1, 1, 1)
    )
    rows, failures = observe_views([reader], listing, batch, collect=config.collect, seed=config.seed, padded=4)
    assert failures == [(1, Failure(listing.keys[1], 0, "an activation or attribution is not finite in float16"))]
    for layer in ("residual", "branches"):
        assert rows[layer]["image_id"].tolist() == [0, 0, 2, 2]
        assert rows[layer]["draw"].tolist() == [0, 1, 0, 1]
        assert rows[layer]["activation"].shape == (4, 8 if layer == "residual" else 16)
        assert np.isfinite(rows[layer]["activation"]).all()
        assert len(rows[layer]["image"]) == len(rows[layer]["label"]) == len(rows[layer]["y"]) == 4


def test_a_shard_whose_views_all_failed_is_an_empty_file(
    tmp_path: Path, layers: list[Layer], listing: Listing, config: Config
) -> None:
    network = load("small_network:broken_factory", size=32)
    views = shard_views(0, len(listing), 3, 2)
    paths, rows, failures = make_shard(tmp_path, network, layers, listing, config, views)
    assert rows == 0
    assert [(failure.image, failure.view) for failure in failures] == [
        (listing.keys[image], view) for image, of_image in views.items() for view in of_image
    ]
    assert pq.read_table(paths["residual"]).num_rows == 0


def test_small_runs_have_smaller_shards_and_none_is_over_the_limit() -> None:
    from atlas.config.reading import validate
    from pipelines.collect import images_per_shard

    def rows(pictures: int, crops: int = 1, **collect: int) -> int:
        values = {"out": "x", "network": {"name": "n"}, "layers": ["l"], "collect": collect}
        config = validate({**values, "images": {"source": "s", "crops": crops}}, "test")
        return images_per_shard(pictures, config.images, config.collect) * crops * config.collect.positions_per_image

    assert rows(100) == 256
    assert rows(1_000_000) == 15_625
    assert rows(100_000_000) == 65_536
    assert rows(1_000_000, rows_per_shard=1000) == 1000
    assert rows(549, crops=20) == 240
    assert rows(10, crops=3000, rows_per_shard=1000) == 3000, "a picture is not cut in two"


def test_the_true_class_has_its_rank_and_probability() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 5.0], [1.0, 0.0, 2.0], [1.0, 2.0, 3.0]])
    columns = true_class_columns(logits, [2, None, 0], [0, 2, 1, None])
    assert columns["label_rank"].tolist() == [2, 3, None, None]
    softmax = logits.softmax(1)
    assert columns["label_probability"].tolist() == [float(softmax[0, 2]), float(softmax[1, 0]), None, None]
    assert true_class_columns(logits, (), [0, 2, 1, None]) == {}


def test_shards_have_the_true_class_only_where_labels_are_classes(
    labelled_run: RunDirectory, made_run: RunDirectory
) -> None:
    names = pq.read_schema(made_run.shards("branches")[0]).names
    assert pq.read_schema(labelled_run.shards("branches")[0]).names == [*names, "label_rank", "label_probability"]
    assert read_metadata(labelled_run.shards("branches")[0])["label_classes"] == LABEL_CLASSES
    for one, other in zip(labelled_run.shards("residual"), made_run.shards("residual")):
        labelled = pq.read_table(one)
        assert labelled.select(names).equals(pq.read_table(other)), "all else is the same"
        for row in labelled.select(["label", "predicted", "label_rank"]).to_pylist():
            assert (row["label_rank"] == 1) == (LABEL_CLASSES[row["label"]] == row["predicted"])

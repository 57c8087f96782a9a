"""Views of rows of the store: as the network got them, with the position of the row."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from atlas.networks.network import Network
from atlas.neurons.views import PositionView, as_inputs, read_views
from atlas.pictures.listing import Listing
from atlas.pictures.views import Failure, crop_views
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import RowKey


def views_of(run: RunDirectory, keys: set[RowKey]) -> dict[RowKey, PositionView]:
    config = run.config()
    return read_views(
        run.shards("branches"), Listing.load(run.listing), keys, size=32, images=config.images, seed=config.seed
    )


def test_a_view_is_what_the_network_saw(made_run: RunDirectory, small: Network) -> None:
    """It gives the stored activation at its position again."""
    views = views_of(made_run, {(3, 1, 0), (3, 2, 0), (9, 0, 0), (99, 0, 0)})
    assert set(views) == {(3, 1, 0), (3, 2, 0), (9, 0, 0)}
    for row in pq.read_table(made_run.shards("branches")).to_pylist():
        view = views.get((row["image_id"], row["view"], row["draw"]))
        if view is not None:
            assert view.position == (row["y"], row["x"])
            with torch.no_grad():
                maps = small.activations(small.from_bytes(torch.from_numpy(view.pixels)[None]), "branches")
            np.testing.assert_allclose(maps[0, :, row["y"], row["x"]], row["activation"], rtol=1e-2, atol=1e-2)


def test_each_picture_is_decoded_once(made_run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, list[int]]] = []

    def spy(listing: Listing, number: int, views: list[int], **options: object) -> object:
        calls.append((number, views))
        return crop_views(listing, number, views, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("atlas.neurons.views.crop_views", spy)
    views_of(made_run, {(9, 3, 0), (3, 2, 0), (9, 0, 0)})
    assert calls == [(3, [2]), (9, [0, 3])]


def test_rows_of_a_picture_that_is_gone_are_left_out(made_run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def crop(listing: Listing, number: int, views: list[int], **options: object) -> object:
        if number == 9:
            return Failure("9.png", None, "the file is gone")
        return crop_views(listing, number, views, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("atlas.neurons.views.crop_views", crop)
    assert set(views_of(made_run, {(9, 3, 0), (3, 2, 0)})) == {(3, 2, 0)}


def test_inputs_are_normalised_and_in_order(small: Network) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    inputs, positions = as_inputs([PositionView(pixels[0], (3, 4)), PositionView(pixels[1], (7, 0))], small)
    assert torch.equal(inputs, small.from_bytes(torch.from_numpy(pixels)))
    assert positions.tolist() == [[3, 4], [7, 0]]
    inputs, positions = as_inputs([], small)
    assert (inputs.shape, positions.shape, positions.dtype) == ((0, 3, 32, 32), (0, 2), torch.int64)

"""The table of units: pictures, classes and tuning of some units of the small network."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_run import ROWS
from PIL import Image

from atlas.networks.network import Layer, Network, describe_layer
from atlas.networks.observer import Observer
from atlas.neurons.classes import class_effects
from atlas.neurons.statistics import unit_statistics
from atlas.neurons.tables import DEGREES, SCALES, UNITS
from atlas.neurons.tuning import figures
from atlas.neurons.units import UnitDrawing, firing_rows, seconds_a_unit, unit_table, usual_activations
from atlas.neurons.views import as_inputs, read_views
from atlas.pictures.decode import decode_png
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import key_of
from atlas.visualize.diverse import picture_size
from atlas.visualize.score import centre_activations


def entry(image: int, view: int, activation: float) -> dict[str, float]:
    return {"image_id": image, "view": view, "draw": 0, "activation": activation}


# Of three units, the last of which never fires.
TOPS = pa.table(
    {
        "top": [[entry(1, 0, 4.0), entry(2, 1, 2.0)], [entry(3, 0, 1.0), entry(4, 0, -1.0)], [entry(5, 0, 0.0)]],
        "mean": [1.0, 0.0, -1.0],
        "deviation": [2.0, 1.0, 0.0],
    }
)


def test_only_rows_above_zero_count_as_firing() -> None:
    assert firing_rows(TOPS, [0, 1, 2]) == [(1, 0, 0), (2, 1, 0), (3, 0, 0)]
    assert firing_rows(TOPS, [2]) == []
    assert firing_rows(TOPS, [1, 0])[0] == (3, 0, 0)


def test_a_usual_activation_is_the_mean_of_the_top_rows_that_fire() -> None:
    # For units that never fire the root mean square of the layer: of (1, 2), (0, 1), (−1, 0) √((5 + 1 + 1) / 3).
    np.testing.assert_allclose(usual_activations(TOPS), [3, 1, (7 / 3) ** 0.5], rtol=1e-6)
    silent = TOPS.slice(2).set_column(1, "mean", [[0.0]])
    assert usual_activations(silent).tolist() == [1.0], "of a layer that is silent, one"


@pytest.fixture(scope="module")
def layer(small: Network) -> Layer:
    return describe_layer(small, "branches")


@pytest.fixture(scope="module")
def statistics(made_run: RunDirectory) -> pa.Table:
    return unit_statistics(made_run.shards("branches"), 3)


ROTATED = 2
DRAWING = UnitDrawing(pictures=2, steps=2, precision="float32", batch=8, compile=False, seed=0)


def table_of(
    run: RunDirectory, network: Network, layer: Layer, statistics: pa.Table, units: list[int], observer: Observer | None
) -> pa.Table:
    config = run.config()
    keys = firing_rows(statistics, units)
    views = read_views(run.shards("branches"), Listing.load(run.listing), keys, size=32, images=config.images, seed=0)
    return unit_table(network, layer, statistics, units, views, DRAWING, observer, rotated_patches=ROTATED)


def test_a_row_has_pictures_classes_and_curves(
    made_run: RunDirectory, small: Network, layer: Layer, statistics: pa.Table
) -> None:
    assert statistics["rows"][0].as_py() == ROWS
    largest = statistics["largest"].to_numpy()
    units = [int(np.argmax(largest)), *np.flatnonzero(largest <= 0)[:1].tolist()]
    observer = Observer(small, ["branches"])
    table = table_of(made_run, small, layer, statistics, units, observer)
    assert table.schema == UNITS
    row = table.to_pylist()[0]
    assert row["unit"] == units[0]
    pictures = np.stack([decode_png(png) for png in row["pictures"]])
    assert pictures.shape == (2, *2 * (picture_size(layer, small),), 3)
    reached = centre_activations(small, "branches", pictures)[:, units[0]]
    np.testing.assert_allclose(row["picture_activations"], reached, rtol=1e-4, atol=1e-5)

    top = [entry for entry in statistics["top"][units[0]].as_py() if entry["activation"] > 0]
    config = made_run.config()
    views = read_views(
        made_run.shards("branches"),
        Listing.load(made_run.listing),
        map(key_of, top),
        size=32,
        images=config.images,
        seed=0,
    )
    inputs, positions = as_inputs([views[key_of(entry)] for entry in top], small)
    effects = class_effects(observer, "branches", inputs, positions, torch.full((len(top),), units[0])).mean(0)
    np.testing.assert_allclose(row["effects"], effects, rtol=1e-4, atol=1e-6)
    order = np.argsort(-effects, kind="stable")
    assert [entry["class"] for entry in row["supports"]] == [index for index in order.tolist() if effects[index] > 0]
    assert [entry["class"] for entry in row["opposes"]] == [
        index for index in order[::-1].tolist() if effects[index] < 0
    ]

    patches = min(len(top), ROTATED)
    assert np.shape(row["rotated"]) == np.shape(row["mirrored"]) == (patches, len(DEGREES))
    assert np.shape(row["scaled"]) == (patches, len(SCALES))
    expected = figures(np.array(row["rotated"], np.float32))
    assert row["note"] == expected.note
    assert row["invariance"] == (None if expected.invariance is None else pytest.approx(expected.invariance))
    assert [len(row[f"{name}_pictures"]) for name in ("rotated", "mirrored", "scaled")] == [24, 24, 5]
    assert Image.open(io.BytesIO(row["rotated_pictures"][0])).size == (120, 120)


def test_a_unit_that_never_fires_says_so(
    made_run: RunDirectory, small: Network, layer: Layer, statistics: pa.Table
) -> None:
    silent = [[{**entry, "activation": 0.0} for entry in top] for top in statistics["top"].to_pylist()]
    field = statistics.schema.field("top")
    changed = statistics.set_column(statistics.schema.get_field_index("top"), field, pa.array(silent, field.type))
    (row,) = table_of(made_run, small, layer, changed, [3], None).to_pylist()
    assert row["note"] == "It never fires: it is not above 0 in any row of the store."
    assert len(row["pictures"]) == 2
    for name in ("effects", "supports", "opposes", "rotated", "mirrored", "scaled", "rotated_pictures"):
        assert row[name] == [], name
    assert (row["selectivity"], row["invariance"], row["preferred"]) == (None, None, None)


def test_seconds_count_the_steps_of_all_pictures(small: Network, layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second a step: 5 pictures of 10 steps, and 2 patches in 52 poses of a third of a step each."""
    monkeypatch.setattr("atlas.neurons.units.step_seconds", lambda network, name, size, precision: 1.0)
    seconds = seconds_a_unit(small, layer, pictures=5, rotated_patches=ROTATED, steps=10, precision="float32")
    assert seconds == pytest.approx(55 + 2 * 52 / 3)

"""The projection: fewer numbers a row that keep its energy and the cosines."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from atlas.layout.neighbors import unit_rows
from atlas.layout.projection import Projection, fit_projection, project, read_moments
from atlas.store.moments import Moments
from atlas.store.shards import ShardWriter, schema


def write_shards(folder: Path, activations: NDArray[np.floating]) -> list[Path]:
    """Two shards that hold these activations; the other columns are of no interest."""
    paths = []
    for number, part in enumerate(np.array_split(activations.astype(np.float16), 2)):
        rows = len(part)
        columns = {name: np.zeros(rows) for name in ("place_x", "place_y", "confidence")}
        whole = {name: np.zeros(rows, int) for name in ("image_id", "view", "draw", "y", "x", "label", "predicted")}
        paths.append(folder / f"part-{number:05d}.parquet")
        with ShardWriter(paths[-1], schema(False, {})) as writer:
            writer.append({**columns, **whole, "image": ["a"] * rows, "box": np.zeros((rows, 4)), "activation": part})
    return paths


def test_a_wide_layer_is_projected_with_99_percent_of_its_energy_and_its_cosines(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(500, 12)) @ generator.normal(size=(12, 100)) + 0.05 * generator.normal(
        size=(500, 100)
    )
    rows[9] = 0
    shards = write_shards(tmp_path, rows)
    moments = read_moments(shards, 100)
    stored = rows.astype(np.float16).astype(np.float64)
    assert moments.count == 500
    np.testing.assert_allclose(moments.second_moment, stored.T @ stored / 500, rtol=1e-3, atol=1e-3)
    projection = fit_projection(moments)
    assert projection.components.shape[1] == 16, "the fewest that are kept"
    assert 0.99 <= projection.energy <= 1
    vectors = project(shards, projection)
    sample = np.array([0, 7, 249, 250, 251, 499])  # on both sides of where the shards meet
    # The products of few rows and of many may differ in the last bit.
    np.testing.assert_allclose(project(shards, projection, sample), vectors[sample], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.delete(vectors, 9, 0), axis=1), 1, atol=1e-5)
    assert not vectors[9].any()
    full = unit_rows(stored)
    assert np.abs(vectors @ vectors.T - full @ full.T).max() < 0.1
    energy = ((stored @ projection.components) ** 2).sum() / (stored**2).sum()
    assert energy == pytest.approx(projection.energy, abs=1e-4)
    projection.save(tmp_path / "projection.npz")
    again = Projection.load(tmp_path / "projection.npz")
    np.testing.assert_array_equal(again.components, projection.components)
    assert again.energy == projection.energy


@pytest.mark.parametrize("channels", [64, 112])
def test_a_layer_of_which_little_could_be_left_out_is_not_projected(channels: int) -> None:
    moments = Moments.empty(channels)
    rows = np.random.default_rng(0).normal(size=(400, channels))
    moments.add(rows)
    projection = fit_projection(moments)
    np.testing.assert_array_equal(projection.components, np.eye(channels))
    np.testing.assert_array_equal(projection.apply(rows), unit_rows(rows))
    assert projection.energy == 1

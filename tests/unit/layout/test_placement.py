"""New points come to lie among their like, and say how near that is."""

import numpy as np
import pytest
from made_rows import SETTINGS, clusters, quality
from numpy.typing import NDArray

import atlas
from atlas.arrays import Float32
from atlas.layout.fit import Fit, fit_layout
from atlas.layout.neighbors import build_index, unit_rows
from atlas.layout.placement import nearness_quantiles, place_rows
from atlas.rundir.directory import RunDirectory


@pytest.fixture(scope="module")
def halves() -> tuple[Float32, NDArray[np.int64], Fit]:
    """Rows of five groups, the group of each, and a map of the first half of them."""
    rows, group = clusters(2000)
    rows[10] = 0
    return rows, group, fit_layout(rows[:1000], SETTINGS, seed=0, threads=1)


def test_rows_left_out_of_the_fit_are_placed_nearly_as_well_as_fitted_ones(
    halves: tuple[Float32, NDArray[np.int64], Fit],
) -> None:
    rows, group, fit = halves
    fitted_places = fit.coordinates[fit.alive]
    points = place_rows(fit.index, fitted_places, rows[1000:], fit.nearness)
    assert np.isfinite(points.coordinates).all()
    mask = np.isfinite(fitted_places).all(1)
    apart = np.linalg.norm(points.coordinates[:, None] - fitted_places[None, mask], axis=2)
    assert (group[fit.alive][mask][apart.argmin(1)] == group[1000:]).mean() > 0.97
    trustworthiness = quality(rows[:1000], fit.coordinates)["trustworthiness"]
    both = np.concatenate([fit.coordinates, points.coordinates])
    assert quality(rows, both)["trustworthiness"] > trustworthiness - 0.03


def test_a_fitted_row_comes_back_to_its_own_place(halves: tuple[Float32, NDArray[np.int64], Fit]) -> None:
    rows, _, fit = halves
    fitted_places = fit.coordinates[fit.alive]
    points = place_rows(fit.index, fitted_places, rows[fit.alive], fit.nearness)
    mask = np.isfinite(fitted_places).all(1)
    assert (
        np.linalg.norm(points.coordinates - fitted_places, axis=1)[mask].max()
        < 0.01 * np.ptp(fitted_places[mask], axis=0).max()
    )


def test_confidence_is_the_share_of_members_that_are_less_near(halves: tuple[Float32, NDArray[np.int64], Fit]) -> None:
    rows, _, fit = halves
    fitted_places = fit.coordinates[fit.alive]
    usual = place_rows(fit.index, fitted_places, rows[1000:], fit.nearness).confidence
    assert ((usual >= 0) & (usual <= 1)).all()
    assert 0.3 < np.median(usual) < 0.7
    strange = unit_rows(np.random.default_rng(7).normal(size=(50, rows.shape[1])))
    assert place_rows(fit.index, fitted_places, strange, fit.nearness).confidence.max() < 0.05
    assert place_rows(fit.index, fitted_places, rows[fit.alive], fit.nearness).confidence.mean() > 0.5


def test_a_point_between_two_groups_lies_in_one_of_them() -> None:
    """Three of four neighbours agree: the point is with them, not between the two groups."""
    rows = unit_rows(np.array([[1, 0, 0.1], [1, 0.1, 0], [1, -0.1, 0], [0.9, 0, -0.45]]))
    fitted_places = np.array([[0, 0], [0.1, 0], [0, 0.1], [10, 10]], np.float32)
    point = unit_rows(np.array([[1, 0, -0.18]]))
    points = place_rows(
        build_index(rows, threads=1), fitted_places, point, nearness_quantiles(rows[:, 1:] @ rows[:2, 1:].T)
    )
    assert np.linalg.norm(points.coordinates[0]) < 1


def test_what_has_no_place(halves: tuple[Float32, NDArray[np.int64], Fit]) -> None:
    rows, _, fit = halves
    fitted_places = fit.coordinates[fit.alive].copy()
    nothing = place_rows(fit.index, fitted_places, np.zeros((2, rows.shape[1]), np.float32), fit.nearness)
    assert np.isnan(nothing.coordinates).all()
    assert (nothing.confidence == 0).all()
    fitted_places[:] = np.nan  # all neighbours were dropped
    assert np.isnan(place_rows(fit.index, fitted_places, rows[:3], fit.nearness).coordinates).all()
    empty = fit_layout(np.zeros((4, 3), np.float32), SETTINGS, seed=0, threads=1)
    assert np.isnan(
        place_rows(empty.index, empty.coordinates[empty.alive], rows[:3, :3], empty.nearness).coordinates
    ).all()


def test_a_layer_says_how_much_nearer_its_rows_lie_for_being_aligned(undisturbed: RunDirectory) -> None:
    report = atlas.open_run(undisturbed.path).report["layers"]
    assert report["middle"]["layout"]["alignment"] is None
    facts = report["last"]["layout"]
    assert 0 < facts["alignment"] < facts["alignment_independent"] < 1

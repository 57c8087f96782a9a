"""Several layouts: layers that line up, and the map that all of them fill."""

import numpy as np
from made_rows import SETTINGS, clusters, quality

from atlas.layout.fit import REASONS, ZERO, align, common_start, fit_layout, unit_box
from atlas.layout.neighbors import unit_rows
from atlas.layout.quality import distance_between


def test_aligned_layers_lie_nearer_than_unaligned() -> None:
    rows, _ = clusters(400)
    generator = np.random.default_rng(1)
    turn = np.linalg.qr(generator.normal(size=(20, 20)))[0]
    other = unit_rows(rows @ turn + 0.1 * generator.normal(size=rows.shape))
    common = common_start([rows, other], SETTINGS, seed=0, threads=1)
    pairs = []
    for start in (common, None):
        maps = [fit_layout(vectors, SETTINGS, seed=0, threads=1, common=start).coordinates for vectors in (rows, other)]
        pairs.append(unit_box([maps[0], align(maps[1], maps[0])]))
    near, far = (distance_between(*pair) for pair in pairs)
    assert near
    assert far
    assert near < far / 2
    # And each of them is as true to its rows as if it were alone.
    for vectors, aligned, alone in zip((rows, other), *pairs):
        assert quality(vectors, aligned)["trustworthiness"] > quality(vectors, alone)["trustworthiness"] - 0.03


def test_rows_that_one_layer_lacks_start_where_any_other_does() -> None:
    rows, _ = clusters(200)
    other = rows.copy()
    other[5], rows[[5, 6]] = 0, 0
    common = common_start([rows, other], SETTINGS, seed=0, threads=1)
    assert np.flatnonzero(~np.isfinite(common).all(1)).tolist() == [5]
    fits = [fit_layout(vectors, SETTINGS, seed=0, threads=1, common=common) for vectors in (rows, other)]
    assert [np.flatnonzero(fit.dropped == REASONS.index(ZERO)).tolist() for fit in fits] == [[5, 6], [5]]
    nothing = np.full((200, 2), np.nan, np.float32)
    coordinates = fit_layout(other, SETTINGS, seed=0, threads=1, common=nothing).coordinates
    np.testing.assert_array_equal(coordinates, fit_layout(other, SETTINGS, seed=0, threads=1).coordinates)


def test_aligning_undoes_a_turn_a_mirror_a_scale_and_a_shift() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(50, 2)).astype(np.float32)
    turn = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]]) @ np.diag([1, -1])
    moved = (3 * reference @ turn + [10, -4]).astype(np.float32)
    moved[4] = np.nan
    reference[9] = np.nan
    layout = align(moved, reference)
    both = np.setdiff1d(np.arange(50), [4, 9])
    np.testing.assert_allclose(layout[both], reference[both], atol=1e-4)
    assert np.isnan(layout[4]).all()
    assert np.isfinite(layout[9]).all()
    few = moved[:2]
    assert align(few, reference[:2]) is few


def test_layouts_share_one_map_that_they_fill() -> None:
    generator = np.random.default_rng(0)
    first = generator.uniform(-3, 5, (500, 2)).astype(np.float32)
    second = generator.uniform(1, 9, (500, 2)).astype(np.float32)
    first[4] = np.nan
    second[7] = first[7]  # the same point in both
    a, b = unit_box([first, second])
    assert a.dtype == b.dtype == np.float32
    assert np.isnan(a[4]).all()
    np.testing.assert_array_equal(a[7], b[7])
    every, moved = np.concatenate([first, second]), np.concatenate([a, b])
    for axis in range(2):
        order = np.argsort(every[:, axis])[:-1]  # the one dropped stands last
        assert (np.diff(moved[order, axis]) >= 0).all()
        assert (moved[order[0], axis], moved[order[-1], axis]) == (0, 1)
        # Where there is no empty band, it is the plain box.
        low, high = np.nanmin(every[:, axis]), np.nanmax(every[:, axis])
        np.testing.assert_allclose(moved[order, axis], (every[order, axis] - low) / (high - low), atol=0.02)
    alone = unit_box([np.full((3, 2), 5, np.float32)])[0]
    np.testing.assert_array_equal(alone, 0)


def test_empty_bands_are_narrowed() -> None:
    points = np.random.default_rng(0).uniform(0, 1, (2000, 2)).astype(np.float32)
    points[1000:, 0] += 20  # an island far to the right
    (box_coordinates,) = unit_box([points])
    left, right = box_coordinates[:1000, 0].max(), box_coordinates[1000:, 0].min()
    assert 0.1 < right - left < 0.3  # 2 % of the old width beside two islands of 1 each
    assert left > 0.35

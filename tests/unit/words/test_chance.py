"""What holds more often than chance has it: against drawn permutations, on planted cells and on shuffled ones."""

import numpy as np
import pytest

from atlas.arrays import Int64
from atlas.words import chance
from atlas.words.chance import Flags, findings, halves, replication, threshold

VIEWS = 3


def rows(pictures: int, rate: float, rng: np.random.Generator, predicates: int = 5) -> tuple[Flags, Int64]:
    """Predicates that are true of a row at ``rate``, mostly of all rows of a picture alike; and the rows' pictures."""
    picture = np.repeat(np.arange(pictures), VIEWS)
    like_picture = rng.random((pictures, predicates))[picture] < rate
    own = rng.random((len(picture), predicates)) < rate
    return np.where(rng.random((len(picture), 1)) < 0.8, like_picture, own), picture


def test_shares_count_a_picture_once() -> None:
    # Cell 0: picture 7 with three rows, all true, and picture 8 with one that is not; cell 5: picture 8 alone.
    values = np.array([[1], [1], [1], [0], [1], [0]], np.bool_)
    pictures, cells = np.array([7, 7, 7, 8, 8, 9]), np.array([0, 0, 0, 0, 5, -1])
    result = findings(values, pictures, cells, seed=0)
    assert result.cells.tolist() == [0, 5]
    assert result.counts.tolist() == [2, 1]
    assert result.shares.ravel().tolist() == [0.5, 1]
    assert result.run.tolist() == [0.5]  # pictures 1, ½ and 0
    assert not result.holds.any()
    assert result.p.ravel().tolist() == [1, 1]


def test_chance_is_that_of_pictures_that_change_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chance, "LIFT", 0)
    rng = np.random.default_rng(0)
    values, pictures = rows(150, 0.3, rng, 1)
    cells = rng.integers(0, 12, len(values))
    cells[pictures < 9] = 3  # all rows of nine pictures
    values[pictures < 7] = True
    result = findings(values, pictures, cells, seed=0, least=0)
    blocks = values[:, 0].reshape(150, VIEWS)
    drawn_at_least = np.zeros(12)
    draws = 1500
    for _ in range(draws):
        by_chance = rng.permuted(blocks[rng.permutation(150)], axis=1).ravel()[:, None]
        drawn_at_least += (findings(by_chance, pictures, cells, seed=0, least=2).shares >= result.shares - 1e-9)[:, 0]
    assert result.p[3, 0] < 0.05 < result.p.max() / 2
    np.testing.assert_allclose(result.p[:, 0], drawn_at_least / draws, atol=0.02, rtol=0.1)


def test_one_row_a_picture_is_a_binomial() -> None:
    values = np.zeros((200, 1), np.bool_)
    values[:40] = True
    cells = np.full(200, -1)
    cells[[*range(6), *range(100, 104)]] = 4  # six of ten, one in five of all
    result = findings(values, np.arange(200), cells, seed=0)
    assert result.p[0, 0] == pytest.approx(0.00636938, rel=1e-6)  # of Binomial(10, 0.2), at least six


def test_benjamini_hochberg() -> None:
    p = np.array(
        [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216, 0.222, 0.251, 0.269, 0.275, 0.34]
    )
    assert threshold(p[::-1], 0.05) == 0.001
    assert threshold(p, 0.25) == 0.074
    assert threshold(np.array([0.2, 0.9]), 0.05) == -1
    assert threshold(np.array([]), 0.05) == -1


def planted(pictures: int = 240, seed: int = 0) -> tuple[Flags, Int64, Int64]:
    """Twelve cells; predicate i is true of nearly all pictures of cell i, for i below 4, and of a tenth of others."""
    rng = np.random.default_rng(seed)
    cells = np.repeat(rng.permutation(pictures) % 12, VIEWS)
    values, picture = rows(pictures, 0.1, rng)
    for i in range(4):
        values[cells == i, i] = rng.random((cells == i).sum()) < 0.92
    return values, picture, cells


def test_what_is_planted_holds_and_nothing_else() -> None:
    values, pictures, cells = planted()
    result = findings(values, pictures, cells, seed=0)
    expected = np.zeros((12, 5), np.bool_)
    expected[np.arange(4), np.arange(4)] = True
    np.testing.assert_array_equal(result.holds, expected)
    assert (result.shares[expected] > 0.8).all()
    assert (result.p[expected] < 1e-6).all()
    count, again = replication(values, pictures, cells, seed=0)
    assert count == 2 * 4 * chance.ROUNDS
    assert again / count > 0.95


def test_of_shuffled_cells_nothing_holds() -> None:
    runs_with_words = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values, pictures = rows(400, 0.28, rng, 20)
        cells = np.repeat(rng.permutation(400) % 50, VIEWS)
        runs_with_words += findings(values, pictures, cells, seed=seed).holds.any()
    assert runs_with_words <= 3  # none in 95 % of runs


def test_what_is_no_wonder_among_many_cells_is_not_said() -> None:
    # All six pictures of one cell, by a chance of one in two thousand; asked of 1,500 cells and predicates.
    rng = np.random.default_rng(0)
    values = rng.random((300, 30)) < 0.01
    values[:, 0] = np.arange(300) % 100 < 28
    cells = np.arange(300) // 6
    alone = findings(values[:, :1], np.arange(300), np.where(cells == 0, 0, -1), seed=0)
    assert alone.holds.tolist() == [[True]]
    assert alone.p[0, 0] == pytest.approx(0.28**6)
    among = findings(values, np.arange(300), cells, seed=0)
    assert among.p[0, 0] == alone.p[0, 0]
    assert not among.holds[0, 0]


def test_rows_of_one_picture_are_no_proof() -> None:
    rng = np.random.default_rng(3)
    values, pictures = rows(100, 0.1, rng, 1)
    cells = np.repeat(rng.permutation(100) % 10, VIEWS)
    values[pictures < 2], cells[pictures < 2] = True, 77  # two pictures of six rows
    assert not findings(values, pictures, cells, seed=0).holds.any()


def test_what_holds_in_one_half_only_is_not_said() -> None:
    # Of 12 pictures of the cell it is true of 8, so that one half is often below three in five.
    values = np.zeros((300, 2), np.bool_)
    values[:8, 0], values[:12, 1] = True, True
    cells = np.full(300, -1)
    cells[:12] = 0
    result = findings(values, np.arange(300), cells, seed=0)
    assert result.shares[0].tolist() == pytest.approx([2 / 3, 1])
    assert (result.p < 1e-6).all()
    assert result.holds[0].tolist() == [False, True]


def test_what_is_frequent_everywhere_is_not_said() -> None:
    values = np.zeros((400, 1), np.bool_)
    values[:240] = True
    cells = np.full(400, -1)
    cells[:30] = 0  # all of 30, but three in five of all
    result = findings(values, np.arange(400), cells, seed=0)
    assert result.shares[0, 0] == 1
    assert not result.holds.any()


def test_a_cell_of_few_pictures_says_nothing() -> None:
    for count, holds in ((chance.FEWEST - 1, False), (chance.FEWEST, True)):
        values, cells = np.zeros((500, 1), np.bool_), np.full(500, -1)
        values[:count], cells[:count] = True, 0
        assert findings(values, np.arange(500), cells, seed=0).holds.any() == holds


def test_halves_hold_as_many_pictures_of_each_cell_and_keep_rows_together() -> None:
    rng = np.random.default_rng(0)
    pictures, cells = rng.integers(0, 60, 500), rng.integers(-1, 7, 500)
    half = halves(pictures, cells, seed=1)
    for cell in range(7):
        sides = [set(pictures[(cells == cell) & (half == side)].tolist()) for side in (0, 1)]
        assert not sides[0] & sides[1]
        assert abs(len(sides[0]) - len(sides[1])) <= 1
    assert (half != halves(pictures, cells, seed=2)).any()
    np.testing.assert_array_equal(half, halves(pictures, cells, seed=1))


def test_replication_is_low_where_cells_are_of_chance() -> None:
    values, pictures, cells = planted()
    rng = np.random.default_rng(0)
    # Every cell's predicate is true of one random half of its pictures only.
    half = halves(pictures, cells, seed=0)
    values[half == 1] = rng.random((int((half == 1).sum()), 5)) < 0.1
    one = findings(values, pictures, np.where(half == 0, cells, -1), seed=0)
    assert one.holds.sum() == 4
    count, again = replication(values, pictures, cells, seed=0)
    assert count > 0
    assert again / count < 0.5


def test_pictures_may_have_rows_of_any_number() -> None:
    rng = np.random.default_rng(0)
    pictures = np.repeat(np.arange(200), rng.integers(1, 30, 200))
    values = (rng.random((200, 1)) < 0.2)[pictures]
    cells = np.where(pictures < 10, 0, 1)
    values[pictures < 9] = True
    result = findings(values, pictures, cells, seed=0)
    assert result.holds[:, 0].tolist() == [True, False]
    assert 0 < result.p[0, 0] < 1e-4

"""Which predicates are true of a cell's pictures more often than chance has it, and of other pictures of it too.

Chance is that any picture could lie in any cell: whole pictures change places, with all their rows, so that neither how
many rows a picture has nor how alike they are counts for anything (a permutation test by blocks; Good 2005,
"Permutation, Parametric and Bootstrap Tests of Hypotheses"). How many pictures a predicate is then true of needs no
drawing: it is the sum of independent draws, whose distribution is computed. Among all cells and predicates of a level
the false discovery rate is bounded (Benjamini & Hochberg 1995).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float64, Int64, Integers

Flags = NDArray[np.bool_]

# Cells of fewer pictures say nothing: their halves would be single pictures.
FEWEST = 6
# How many times as often as of all pictures a predicate must be true of a cell's.
LIFT = 2
# Of so many random halvings of a cell's pictures ...
HALVINGS = 200
# ... what holds must hold in both halves of this share.
STEADY = 0.95
# How probable by chance the share in the other half may be at most where it bears out what one half says.
AGAIN = 0.05
# So many times all cells are halved where replication is measured.
ROUNDS = 5
# Shares of a picture's rows are counted in sixtieths: exact up to six rows, rounded up beyond, which is the safe side.
_PARTS = 60
# No probability is told more exactly than the sums of floats are.
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Findings:
    """What holds in each of ``cells``, int64 (cells,): their numbers, ascending, those of no row left out.

    ``counts``, int64 (cells,): pictures in each cell. ``shares``, float64 (cells, predicates): of the cell's pictures
    for which the predicate is true. ``run``, float64 (predicates,): the same of all pictures. ``p``, float64 (cells,
    predicates): how probable such a share is by chance; 1 where it is not asked, as the share is too small to hold.
    ``holds``, bool (cells, predicates).
    """

    cells: Int64
    counts: Int64
    shares: Float64
    run: Float64
    p: Float64
    holds: Flags


def findings(
    values: Flags, pictures: Integers, cells: Integers, *, seed: int, least: float = 0.6, rate: float = 0.05
) -> Findings:
    """Which predicates hold in which cells of one level.

    ``values``, bool (rows, predicates): whether each predicate is true of a row. ``pictures`` (rows,): whose row it is;
    ``cells`` (rows,): where it lies, −1 for nowhere. A picture counts once in a cell, as the mean of its rows there.

    A predicate holds in a cell of at least ``FEWEST`` pictures where it is true of the share ``least`` of them or more,
    ``LIFT`` times as often as of all pictures, more often than chance has it, at a false discovery rate of ``rate``
    over all cells and predicates, and where both halves of nearly all random halvings (by ``seed``) bear it out: true
    of the same share of the half, and by itself more often than chance has it.
    """
    pairs = _Pairs.of(values, pictures, cells)
    shares, large = pairs.shares(), pairs.counts >= FEWEST
    chances = _Chances(values, pictures)
    candidates = (shares >= least - 1e-9) & (shares >= LIFT * chances.run) & large[:, None]
    p = np.ones(shares.shape)
    for cell, predicate in np.argwhere(candidates):
        p[cell, predicate] = chances(int(predicate), pairs.lengths[pairs.of_cell(int(cell))], shares[cell, predicate])
    holds = candidates & (p <= threshold(p[large].ravel(), rate))
    holds &= _steady(pairs, chances, holds, least, np.random.default_rng(seed))
    return Findings(pairs.cells, pairs.counts, shares, chances.run, p, holds)


def threshold(p: Float64, rate: float) -> float:
    """The largest of the probabilities ``p`` (n,) at which the false discovery rate is at most ``rate``: Benjamini and
    Hochberg's; −1 where there is none."""
    ascending = np.sort(p)
    fits = np.flatnonzero(ascending <= rate * np.arange(1, len(p) + 1) / len(p))
    return float(ascending[fits[-1]]) if len(fits) else -1.0


def replication(
    values: Flags, pictures: Integers, cells: Integers, *, seed: int, least: float = 0.6, rate: float = 0.05
) -> tuple[int, int]:
    """How much of what holds for a random half of every cell's pictures the other half bears out.

    Returns how many (cell, predicate) hold by `findings` for one half or the other, and for how many of them the
    predicate is true of at least the share ``least`` of the cell's other half too, and more often than chance has it
    (p ≤ 0.05, asked of it alone). Parameters are those of `findings`.
    """
    count = again = 0
    for turn in range(ROUNDS):
        half = halves(pictures, cells, seed=seed + turn)
        both = [
            findings(values, pictures, np.where(half == side, cells, -1), seed=seed, least=least, rate=rate)
            for side in (0, 1)
        ]
        for one, other in (both, both[::-1]):
            _, here, there = np.intersect1d(one.cells, other.cells, return_indices=True)
            large = (one.counts[here] >= FEWEST) & (other.counts[there] >= FEWEST)
            holds = one.holds[here[large]]
            count += int(holds.sum())
            again += int((holds & (other.p[there[large]] <= AGAIN)).sum())
    return count, again


def halves(pictures: Integers, cells: Integers, *, seed: int) -> Int64:
    """Which half of its cell's pictures each row belongs to, 0 or 1, (rows,): at random, all rows of a picture that lie
    in the cell to the same one."""
    number = np.unique(pictures, return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(number.max(initial=-1) + 1)
    half = np.zeros(len(cells), np.int64)
    rows = np.lexsort((order[number], cells))
    new_cell = np.diff(cells[rows], prepend=-2) != 0
    half[rows] = np.cumsum(new_cell | (np.diff(order[number[rows]], prepend=-1) != 0)) % 2
    return half


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a cell and a picture that lies in it, ordered by cell: the ``cells``' numbers, the first pair of each
    and how many pairs it has, (cells,); how many rows each pair has, (pairs,), and for which share of them each
    predicate is true, (pairs, predicates)."""

    cells: Int64
    firsts: Int64
    counts: Int64
    lengths: Int64
    values: Float64

    @classmethod
    def of(cls, values: Flags, pictures: Integers, cells: Integers) -> _Pairs:
        """Those of rows, see `findings`."""
        rows = np.lexsort((pictures, cells))
        rows = rows[np.asarray(cells)[rows] >= 0]
        cell, picture = np.asarray(cells, np.int64)[rows], np.asarray(pictures)[rows]
        new = np.ones(len(rows), np.bool_)
        new[1:] = (np.diff(cell) != 0) | (np.diff(picture) != 0)
        starts = np.flatnonzero(new)
        lengths = np.diff(np.append(starts, len(rows)))
        numbers, firsts, counts = np.unique(cell[starts], return_index=True, return_counts=True)
        means = _sums(values[rows], starts) / lengths[:, None]
        return cls(numbers, firsts, counts, lengths, means)

    def shares(self) -> Float64:
        """The mean of each cell's pictures, (cells, predicates)."""
        return _sums(self.values, self.firsts) / self.counts[:, None]

    def of_cell(self, cell: int) -> slice:
        """The pairs of the cell at ``cell``."""
        return slice(self.firsts[cell], self.firsts[cell] + self.counts[cell])


def _sums(values: NDArray[np.generic], firsts: Int64) -> Float64:
    """The sums of stretches of ``values`` (n, m) that begin at ``firsts``."""
    if not len(firsts):
        return np.zeros((0, values.shape[1]))
    sums: Float64 = np.add.reduceat(values, firsts, axis=0, dtype=np.float64)
    return sums


class _Chances:
    """How probable the shares of cells are where any picture could lie in any cell. ``run``: the share of all
    pictures, (predicates,)."""

    def __init__(self, values: Flags, pictures: Integers) -> None:
        rows = np.argsort(pictures, kind="stable")
        firsts = np.flatnonzero(np.diff(np.asarray(pictures)[rows], prepend=-1) != 0)
        self._lengths = np.diff(np.append(firsts, len(rows)))
        self._true = np.rint(_sums(values[rows], firsts)).astype(np.int64)
        self.run: Float64 = (self._true / self._lengths[:, None]).mean(0)
        self._draw: Callable[[int, int], Float64] = cache(self._draw_of)
        self._critical: Callable[[int, int], float] = cache(self._critical_of)

    def __call__(self, predicate: int, lengths: Int64, share: float) -> float:
        """How probable it is that ``predicate`` is true of at least ``share`` of a cell's pictures, of each of which
        so many rows lie in it as ``lengths`` (pictures,) says."""
        ends = len(lengths) * _PARTS + 1
        spectrum = np.ones(ends // 2 + 1, np.complex128)
        for length, count in zip(*np.unique(lengths, return_counts=True)):
            spectrum *= np.fft.rfft(self._draw(int(predicate), int(length)), ends) ** count
        sums = np.fft.irfft(spectrum, ends)
        least = int(np.ceil(share * len(lengths) * _PARTS - 1e-6))
        return float(np.clip(sums[least:].sum(), _SMALLEST, 1))

    def critical(self, predicate: int, pictures: int) -> float:
        """The smallest share of so many ``pictures``, of each of which one row lies in a cell, that is true by chance
        at most once in twenty times; more than 1 where there is none. Pictures of more rows vary less."""
        return self._critical(predicate, pictures)

    def _critical_of(self, predicate: int, pictures: int) -> float:
        rows = np.ones(pictures, np.int64)
        shares = np.arange(pictures + 1) / pictures
        return next((share for share in shares if self(predicate, rows, share) <= AGAIN), 2.0)

    def _draw_of(self, predicate: int, length: int) -> Float64:
        """Of how many of ``length`` rows of a picture the predicate is true, in sixtieths of them, where the picture is
        any one: the probabilities, (61,). A picture of fewer rows has all of them there."""
        kinds, counts = np.unique(np.stack([self._lengths, self._true[:, predicate]], 1), axis=0, return_counts=True)
        result = np.zeros(_PARTS + 1)
        for (rows, true), count in zip(kinds, counts):
            size = min(length, int(rows))
            hits = np.arange(size + 1)
            where = np.ceil(hits * (_PARTS / size) - 1e-9).astype(np.int64)
            np.add.at(result, where, count * _hypergeometric(int(rows), int(true), size))
        return result / counts.sum()


def _hypergeometric(rows: int, true: int, size: int) -> Float64:
    """How probable it is that 0, 1, … ``size`` of ``size`` rows are true, drawn out of ``rows`` of which ``true`` are:
    (size + 1,)."""
    logarithm = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, rows + 1)))])

    def choices(of: int, counts: Int64) -> Float64:
        """Logarithms of the numbers of ways to draw ``counts``."""
        return logarithm[of] - logarithm[counts] - logarithm[of - counts]

    hits = np.arange(max(0, size - (rows - true)), min(size, true) + 1)
    ways = choices(true, hits) + choices(rows - true, size - hits) - choices(rows, np.array([size]))
    result = np.zeros(size + 1)
    result[hits] = np.exp(ways)
    return result


def _steady(pairs: _Pairs, chances: _Chances, candidates: Flags, least: float, rng: np.random.Generator) -> Flags:
    """Which of ``candidates`` (cells, predicates) either half bears out in nearly all random halvings of the cell's
    pictures: true of the share ``least`` of it, and more often than chance has it."""
    result = np.zeros_like(candidates)
    for cell in np.flatnonzero(candidates.any(1)):
        count = int(pairs.counts[cell])
        half = rng.random((HALVINGS, count)).argsort(1) < count // 2
        which = np.flatnonzero(candidates[cell])
        values = pairs.values[pairs.of_cell(int(cell))][:, which]
        agree = np.ones((HALVINGS, len(which)), np.bool_)
        for side, pictures in ((half, count // 2), (~half, count - count // 2)):
            lowest = [max(least, chances.critical(int(predicate), pictures)) for predicate in which]
            agree &= side @ values / pictures >= np.array(lowest) - 1e-9
        result[cell, which] = agree.mean(0) >= STEADY
    return result

"""What a cell's patches look like, in words: colour, brightness, pattern, each only where it holds.

A word is a predicate on what is measured of one patch. It is said of a cell where it is true of most of its pictures,
in both halves of them, and more often than chance has it (`atlas.words.chance`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from atlas.arrays import Float32, Integers, Pixels
from atlas.words.chance import Flags, findings, replication
from atlas.words.colours import COLOURS, colour_features
from atlas.words.texture import TEXTURE, disc, texture_features
from atlas.words.vocabulary import WORDS

FEATURES = (*COLOURS, *TEXTURE)
# Patches are measured so many at a time, which fit a processor's cache.
_BATCH = 128


def measure(patches: Pixels) -> Float32:
    """What is measured in the middle of each of ``patches``, uint8 (n, side, side, 3): float32 (n, features), by
    ``FEATURES``: see `colour_features` and `texture_features`. A side of 32 to 64 pixels is enough. Raises ValueError
    for patches of another shape."""
    if patches.ndim != 4 or patches.shape[1] != patches.shape[2] or patches.shape[3] != 3 or patches.shape[1] < 16:
        raise ValueError(f"Expected patches (n, side, side, 3) of a side from 16 pixels on, not {patches.shape}.")
    features = np.zeros((len(patches), len(FEATURES)), np.float32)
    weight = disc(patches.shape[1])
    for first in range(0, len(patches), _BATCH):
        batch = patches[first : first + _BATCH]
        features[first : first + _BATCH] = np.concatenate(
            [colour_features(batch, weight), texture_features(batch)], axis=1
        )
    return features


@dataclass(frozen=True)
class PatchWord:
    """A word that holds for a cell: its ``share`` of the cell's pictures and of all pictures of the ``run``, 0 to 1,
    and how probable the cell's is by chance, ``p``."""

    text: str
    share: float
    run: float
    p: float


@dataclass(frozen=True)
class PatchWords:
    """The words of a level's cells, by the cells' numbers; cells without words are left out. ``replication``: of the
    words that hold for a half of each cell's pictures, the share that holds for the other half too, by the same rules;
    None where none hold."""

    cells: dict[int, tuple[PatchWord, ...]]
    replication: float | None


def patch_words(features: Float32, pictures: Integers, cells: Integers, *, seed: int) -> PatchWords:
    """The words that hold for each cell of a level.

    ``features``: of each row's patch, float32 (rows, features), as `measure` returns them. ``pictures`` (rows,): the
    picture that it is from; a picture counts once. ``cells`` (rows,): its cell's number, −1 for none. Rows whose patch
    cannot be cropped are left out of all three. ``seed``: of the random halves of cells. Equal arguments give equal
    words.
    """
    if not len(features):
        return PatchWords({}, None)
    values = word_values(features)
    level = findings(values, pictures, cells, seed=seed)
    words: dict[int, tuple[PatchWord, ...]] = {}
    for number, shares, p, holds in zip(level.cells, level.shares, level.p, level.holds):
        if holds.any():
            words[int(number)] = tuple(
                PatchWord(WORDS[i].text, float(shares[i]), float(level.run[i]), float(p[i])) for i in _said(holds)
            )
    count, again = replication(values, pictures, cells, seed=seed)
    return PatchWords(words, again / count if count else None)


def sentence(words: Iterable[PatchWord]) -> str:
    """The words of a cell as one line: "dark blue, slanted stripes"."""
    return ", ".join(word.text for word in words)


def word_values(features: Float32) -> Flags:
    """Whether each of ``WORDS`` is true of a patch: bool (rows, words)."""
    columns = dict(zip(FEATURES, features.T))
    return np.stack([word.is_true(columns) for word in WORDS], 1)


def _said(holds: Flags) -> list[int]:
    """Which words are said of those that hold (words,): not those that another one covers."""
    covered = {text for i in np.flatnonzero(holds) for text in WORDS[i].covers}
    return [i for i, word in enumerate(WORDS) if holds[i] and word.text not in covered]

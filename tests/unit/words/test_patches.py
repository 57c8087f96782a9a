"""Words of cells: planted in patches, joined to a sentence, and none where cells are of chance."""

import numpy as np
import pytest

from atlas.arrays import Int64, Pixels
from atlas.words.patches import FEATURES, PatchWord, PatchWords, measure, patch_words, sentence, word_values
from atlas.words.vocabulary import WORDS

SIDE = 32
CELLS, PICTURES = 10, 200


def striped(angle: float, dark: tuple[int, ...], light: tuple[int, ...]) -> Pixels:
    """Stripes of two colours that run at ``angle`` degrees from horizontal; rising to the right is positive."""
    down, right = np.mgrid[:SIDE, :SIDE]
    across = right * np.sin(np.radians(angle)) + down * np.cos(np.radians(angle))
    share = (np.cos(2 * np.pi * across / 7)[..., None] + 1) / 2
    return (share * np.array(dark) + (1 - share) * np.array(light)).astype(np.uint8)


def world(seed: int = 0) -> tuple[Pixels, Int64, Int64]:
    """Two patches of each of some pictures, in cells: of plain colours at random, but for cell 3, of dark blue slanted
    stripes, and cell 6, of reds."""
    rng = np.random.default_rng(seed)
    pictures = np.repeat(np.arange(PICTURES), 2)
    cells = np.repeat(rng.permutation(PICTURES) % CELLS, 2)
    patches = np.broadcast_to(rng.integers(0, 256, (len(cells), 1, 1, 3), np.uint8), (len(cells), SIDE, SIDE, 3)).copy()
    for row in np.flatnonzero(cells == 3):
        patches[row] = striped(rng.choice([40, 50, 130]), (0, 0, 60), (10, 30, 130))
    patches[cells == 6, ..., 0], patches[cells == 6, ..., 1:] = 225, 10
    return patches, pictures, cells


def test_measure_gives_what_its_names_say() -> None:
    patches = np.concatenate([world()[0], np.full((300, SIDE, SIDE, 3), 255, np.uint8)])
    features = measure(patches)
    assert features.shape == (len(patches), len(FEATURES))
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    np.testing.assert_allclose(features[-300:, FEATURES.index("share of white")], 1, rtol=1e-5)
    # Patches are measured each by itself, whatever lies next to them.
    np.testing.assert_allclose(features[[5, 130, 399]], measure(patches[[5, 130, 399]]), rtol=1e-4, atol=1e-5)
    assert measure(patches[:0]).shape == (0, len(FEATURES))


@pytest.mark.parametrize("shape", [(2, 32, 32), (2, 32, 31, 3), (2, 32, 32, 4), (2, 8, 8, 3)])
def test_patches_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Expected patches \(n, side, side, 3\)"):
        measure(np.zeros(shape, np.uint8))


def test_planted_words_are_said_with_their_figures() -> None:
    patches, pictures, cells = world()
    words = patch_words(measure(patches), pictures, cells, seed=0)
    assert {cell: sentence(said) for cell, said in words.cells.items()} == {
        3: "dark blue, slanted stripes",
        6: "red, vivid",
    }
    blue, stripes = words.cells[3]
    assert blue == PatchWord("dark blue", 1.0, blue.run, blue.p)
    values = word_values(measure(patches))
    of_pictures = values[:, [word.text for word in WORDS].index("dark blue")].reshape(-1, 2).mean(1)
    assert blue.run == pytest.approx(of_pictures.mean())
    assert 0.1 <= stripes.run < 0.12
    assert stripes.p < 1e-8
    assert words.replication is not None
    assert words.replication > 0.9
    assert patch_words(measure(patches), pictures, cells, seed=0) == words


def test_rows_outside_of_all_cells_count_for_the_run_alone() -> None:
    patches, pictures, cells = world()
    cells[cells == 6] = -1
    words = patch_words(measure(patches), pictures, cells, seed=0)
    assert set(words.cells) == {3}
    assert 0.1 <= words.cells[3][1].run < 0.12


def test_of_shuffled_cells_nothing_is_said() -> None:
    patches, pictures, cells = world()
    features = measure(patches)
    runs_with_words = 0
    for seed in range(40):
        shuffled = np.repeat(np.random.default_rng(seed).permutation(cells[::2]), 2)
        runs_with_words += bool(patch_words(features, pictures, shuffled, seed=seed).cells)
    assert runs_with_words <= 2  # none in 95 % of runs


def test_nothing_is_said_of_nothing() -> None:
    nothing = np.zeros(0, np.int64)
    assert patch_words(measure(np.zeros((0, 32, 32, 3), np.uint8)), nothing, nothing, seed=0) == PatchWords({}, None)
    patches, pictures, cells = world()
    assert patch_words(measure(patches), pictures, np.full_like(cells, -1), seed=0) == PatchWords({}, None)


def test_a_sentence_joins_words() -> None:
    words = [PatchWord(text, 1, 0.1, 0.01) for text in ("dark blue", "slanted stripes")]
    assert sentence(words) == "dark blue, slanted stripes"
    assert sentence([]) == ""

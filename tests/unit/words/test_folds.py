"""Pictures are dealt into folds, and count alike in the mean of theirs."""

from pathlib import Path

import numpy as np

from atlas.rundir.directory import RunDirectory
from atlas.store.shards import iterate
from atlas.words.folds import FOLDS, deal, fold_means


def test_a_picture_lies_in_one_fold_of_a_cell_and_folds_are_as_large_as_can_be() -> None:
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 60, 900)
    cell = generator.integers(-1, 6, 900)
    folds = deal(cell, pictures, cells=6)
    for number in range(6):
        rows = np.flatnonzero(cell == number)
        of_picture = {picture: set(folds.fold[rows[pictures[rows] == picture]]) for picture in set(pictures[rows])}
        assert all(len(own) == 1 for own in of_picture.values())
        counts = np.bincount([own.pop() for own in of_picture.values()], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    again = deal(cell[::-1], pictures[::-1], cells=6)
    assert np.array_equal(again.fold[::-1], folds.fold), "whatever the order of the rows"
    assert not np.array_equal(deal(cell, pictures, cells=6, seed=1).fold, folds.fold)


def test_every_picture_of_a_fold_weighs_the_same() -> None:
    cell = np.zeros(12, np.int64)
    pictures = np.array([5] * 10 + [6, 7])
    folds = deal(cell, pictures, cells=1)
    assert np.allclose(folds.weight, [0.1] * 10 + [1, 1])
    many = deal(np.zeros(3 * FOLDS, np.int64), np.arange(3 * FOLDS), cells=1)
    assert np.allclose(many.weight, 1 / 3)
    assert deal(np.full(4, -1), np.arange(4), cells=2).weight.tolist() == [0, 0, 0, 0]


def test_without_cells_there_are_no_means(made_run: RunDirectory) -> None:
    nowhere = np.full(56, -1)
    assert fold_means(made_run.shards("branches"), deal(nowhere, nowhere, cells=0)).shape == (0, FOLDS, 16)


def test_means_are_those_of_the_rows(made_run: RunDirectory) -> None:
    shards: list[Path] = made_run.shards("branches")
    rows = {
        name: np.concatenate([block[name] for block in iterate(shards, ["activation", "image_id"])])
        for name in ("activation", "image_id")
    }
    count = len(rows["image_id"])
    cell = np.where(np.arange(count) % 3 == 2, -1, np.arange(count) % 3)
    folds = deal(cell, rows["image_id"], cells=3)
    means = fold_means(shards, folds)
    assert means.shape == (3, FOLDS, rows["activation"].shape[1])
    assert np.isnan(means[2]).all(), "a cell without rows"
    checked = 0
    for number in range(2):
        for fold in range(FOLDS):
            own = (cell == number) & (folds.fold == fold)
            if not own.any():
                assert np.isnan(means[number, fold]).all()
                continue
            of_pictures = [
                rows["activation"][own & (rows["image_id"] == picture)].astype(np.float32).mean(0)
                for picture in set(rows["image_id"][own])
            ]
            np.testing.assert_allclose(means[number, fold], np.mean(of_pictures, 0), rtol=1e-3, atol=1e-3)
            checked += 1
    assert checked > FOLDS

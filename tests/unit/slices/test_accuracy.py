"""Accuracy by picture, confusions, and two networks over the same rows."""

from dataclasses import replace

import numpy as np
import pytest
from made_run import LABEL_CLASSES

from atlas.rundir.directory import RunDirectory
from atlas.slices.accuracy import Verdicts, accuracy_facts, compare, confusions, read_verdicts, wilson
from atlas.store.shards import read_columns


def verdicts_of(true: list[int], predicted: list[int], images: list[int], ranks: list[int] | None = None) -> Verdicts:
    count = len(true)
    zeros = np.zeros(count, np.int64)
    rank = np.array(ranks or [1 if one == other else 2 for one, other in zip(true, predicted)])
    values = np.linspace(0.9, 0.1, count)
    return Verdicts(np.array(images), zeros, zeros, np.array(true), np.array(predicted), values, rank, values)


# Picture 0 has four rows, one of them wrong; 1 is wrong; 2 is right; 3 has no class.
ROWS = verdicts_of([0, 0, 0, 0, 1, 2, -1], [0, 0, 0, 1, 2, 2, 0], [0, 0, 0, 0, 1, 2, 3], [1, 1, 1, 6, 2, 1, -1])


def test_a_picture_counts_once() -> None:
    np.testing.assert_allclose(ROWS.picture_weights(), [0.25] * 4 + [1, 1, 0])
    facts = accuracy_facts(ROWS, {})
    assert facts["pictures"] == 3
    assert facts["accuracy"] == pytest.approx((0.75 + 0 + 1) / 3)
    assert facts["near_accuracy"] == pytest.approx((0.75 + 1 + 1) / 3)
    assert facts["mean_rank"] == pytest.approx((9 / 4 + 2 + 1) / 3)
    assert facts["confusions"] == [
        {"true_class": 1, "predicted": 2, "pictures": 1.0},
        {"true_class": 0, "predicted": 1, "pictures": 0.25},
    ]
    assert facts["low"] < facts["accuracy"] < facts["high"]


def test_the_interval_is_wilsons() -> None:
    low, high = wilson(8, 10)
    z, share = 1.959964, 0.8
    middle, half = share + z**2 / 20, z * (share * 0.2 / 10 + z**2 / 400) ** 0.5
    assert (low, high) == pytest.approx(((middle - half) / (1 + z**2 / 10), (middle + half) / (1 + z**2 / 10)))
    assert wilson(0, 0) == (None, None)


def test_the_commonest_confusions_come_first() -> None:
    rows = verdicts_of([0, 0, 1, 1, 1], [1, 2, 0, 0, 2], [0, 1, 2, 3, 4])
    names = [
        (one["true_class"], one["predicted"], one["pictures"])
        for one in confusions(rows, rows.picture_weights(), np.arange(5), 3)
    ]
    assert names == [(1, 0, 2.0), (0, 1, 1.0), (0, 2, 1.0)]
    assert confusions(rows, rows.picture_weights(), np.zeros(0, int), 3) == []


def test_networks_are_compared_on_what_is_labelled_in_both() -> None:
    here = verdicts_of([0] * 12, [1] * 9 + [0] * 3, list(range(12)))
    there = replace(here, predicted=np.array([0] * 8 + [1] * 3 + [0]), true_class=np.array([0] * 11 + [-1]))
    assert compare(here, there) == {
        "pictures": 11, "only_here": 8.0, "only_there": 2.0, "both": 1.0, "p": pytest.approx(112 / 1024)
    }  # fmt: skip
    assert compare(here, here)["p"] == 1.0


def test_verdicts_are_read_from_a_store_whose_labels_are_classes(
    labelled_run: RunDirectory, made_run: RunDirectory
) -> None:
    verdicts = read_verdicts(labelled_run.shards("branches"))
    assert verdicts is not None
    blocks = [read_columns(path, ["label", "predicted", "image_id"]) for path in labelled_run.shards("branches")]
    label, predicted = (np.concatenate([block[name] for block in blocks]) for name in ("label", "predicted"))
    assert verdicts.true_class.tolist() == [LABEL_CLASSES[one] for one in label.tolist()]
    assert (verdicts.wrong == (verdicts.true_class != predicted)).all()
    assert ((verdicts.rank == 1) == ~verdicts.wrong).all()
    right = ~verdicts.wrong
    np.testing.assert_allclose(verdicts.probability[right], verdicts.confidence[right], rtol=1e-6)
    assert (verdicts.probability <= verdicts.confidence + 1e-6).all()
    assert read_verdicts(made_run.shards("branches")) is None

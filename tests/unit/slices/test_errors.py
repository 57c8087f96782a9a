"""Cells with their errors: the planted slice is found first, with its confusion and its surest errors."""

from dataclasses import replace

import numpy as np
import pytest
from made_verdicts import made_verdicts

from atlas.slices.errors import CELL_WRONG, find_errors
from atlas.slices.tables import ERRORS_SCHEMA

SETTINGS = {"grids": (5, 10), "min_count": 8, "seed": 3}


def test_the_planted_slice_is_found_first() -> None:
    verdicts, u, v = made_verdicts(plant=30)
    table, facts = find_errors(verdicts, {}, u, v, **SETTINGS)
    assert table.schema == ERRORS_SCHEMA
    first = facts["slices"][0]
    # All pictures of the corner, on whichever level.
    assert (first["row"] + 1, first["col"] + 1) == (first["grid"], first["grid"])
    assert first["accuracy"] < 0.2 < 0.6 < first["expected"]
    assert first["q"] <= 0.05
    assert (first["confusions"][0]["true_class"], first["confusions"][0]["predicted"]) == (0, 1)
    assert len(facts["slices"]) == 1, "the same pictures on the other level are not listed again"
    assert all(grid["slices"] == 1 for grid in facts["grids"].values())


def test_a_cells_figures_are_those_of_its_rows() -> None:
    verdicts, u, v = made_verdicts(pictures=400)
    u[5] = v[5] = np.nan
    table, facts = find_errors(verdicts, {}, u, v, **SETTINGS)
    cells = table.to_pylist()
    assert facts["slices"] == []
    for cell in cells[:: len(cells) // 9]:
        inside = (np.floor(v * cell["grid"]) == cell["row"]) & (np.floor(u * cell["grid"]) == cell["col"])
        pictures = np.unique(verdicts.image_id[inside])
        assert cell["pictures"] == len(pictures)
        wrong = [verdicts.wrong[inside & (verdicts.image_id == one)].mean() for one in pictures]
        assert cell["accuracy"] == pytest.approx(1 - np.mean(wrong), abs=1e-6)
        ranks = [verdicts.rank[inside & (verdicts.image_id == one)].mean() for one in pictures]
        assert cell["mean_rank"] == pytest.approx(np.mean(ranks))
        confidences = [row["confidence"] for row in cell["wrong"]]
        assert confidences == sorted(confidences, reverse=True)
        assert len({row["image_id"] for row in cell["wrong"]}) == len(confidences)
        assert len(confidences) == min(CELL_WRONG, sum(share > 0 for share in wrong))
        assert all(row["predicted"] != row["true_class"] for row in cell["wrong"])
        tested = len(pictures) >= 5 and inside.sum() >= 8
        assert tested or cell["q"] is None


def test_pictures_without_a_class_count_nowhere() -> None:
    verdicts, u, v = made_verdicts(pictures=400)
    unlabelled = verdicts.image_id >= 200
    halved = replace(verdicts, true_class=np.where(unlabelled, -1, verdicts.true_class))
    _, facts = find_errors(halved, {}, u, v, **SETTINGS)
    table, whole = find_errors(verdicts, {}, u, v, **SETTINGS)
    assert facts["run"]["pictures"] == 200
    assert whole["run"]["pictures"] == 400
    none = replace(verdicts, true_class=np.full_like(verdicts.true_class, -1))
    empty, facts = find_errors(none, {}, u, v, **SETTINGS)
    assert empty.num_rows == 0
    assert empty.schema == table.schema
    assert facts["run"]["accuracy"] is None
    assert facts["grids"] == {"5": {"tested": 0, "slices": 0}, "10": {"tested": 0, "slices": 0}}


def test_another_network_over_the_same_rows_is_held_against_it() -> None:
    verdicts, u, v = made_verdicts(plant=30)
    right = replace(verdicts, predicted=verdicts.true_class)
    table, facts = find_errors(verdicts, {"right": right}, u, v, **SETTINGS)
    pictures = 1500 * (1 - facts["run"]["accuracy"])
    other = facts["run"]["others"]["right"]
    assert other["only_here"] == pytest.approx(pictures, abs=0.01)
    assert (other["only_there"], other["both"]) == (0, 0)
    assert other["p"] < 1e-6
    for cell in table.to_pylist():
        (beside,) = cell["others"]
        assert beside["network"] == "right"
        assert beside["only_here"] == pytest.approx(cell["pictures"] * (1 - cell["accuracy"]), abs=1e-4)
        assert beside["only_there"] == 0
        assert all(row["right_in"] == ["right"] for row in cell["wrong"])

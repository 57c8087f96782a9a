"""report.json: its figures, counted anew from the files."""

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_neurons import NEVER, write_neurons
from made_run import GRIDS, LAYERS, ROWS

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.report import INVARIANT, build_report
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of
from atlas.slices.tables import error_facts


def report_of(run: RunDirectory, config: Config | None = None) -> dict[str, Any]:
    """The report of the run, by default of its own configuration."""
    config = config or run.config()
    maps = maps_of(config.layers, config.layout, config.cells)
    return build_report(run, maps, min_count=config.cells.min_count, neurons=config.neurons)


def test_views_and_failures_are_those_of_the_stage(made_copy: RunDirectory) -> None:
    config = made_copy.config()
    assert report_of(made_copy, config)["collect"] == {
        "views": ROWS + 4, "failures": 4, "views_per_second": None
    }  # fmt: skip
    made_copy.update_manifest(stages={"collect": {**made_copy.stage_facts("collect"), "views_per_second": 12.5}})
    assert report_of(made_copy, config)["collect"]["views_per_second"] == 12.5


def test_each_map_has_its_layout_cells_and_icons(made_run: RunDirectory) -> None:
    report = report_of(made_run)["layers"]
    assert list(report) == list(LAYERS)
    for layer in LAYERS:
        marker = json.loads((made_run.folder("layout") / f"quality-{layer}.json").read_text())
        assert report[layer]["layout"] == marker["facts"]
        assert report[layer]["layout"]["dropped"] == {"outlier": 1}
        for grid in GRIDS:
            cells = pq.read_table(made_run.cells(layer), filters=[("grid", "=", grid)]).to_pylist()
            drawn_cells = [cell for cell in cells if cell["count"] >= 2]
            assert report[layer]["cells"][str(grid)] == {
                "n": len(cells),
                "drawn_share": pytest.approx(len(drawn_cells) / len(cells)),
                "mean_cosine": pytest.approx(np.median([cell["mean_cosine"] for cell in drawn_cells])),
            }


def test_icons_are_held_against_the_best_patch_of_their_cell(made_run: RunDirectory) -> None:
    """The made cosines fall from .9 by .01, the ranks count up from 1, and the second one is flagged."""
    figures = report_of(made_run)["layers"]["branches"]["icons"]["4"]
    cells = pq.read_table(made_run.cells("branches"), filters=[("grid", "=", 4)]).to_pylist()
    best = {(cell["row"], cell["col"]): max(one["cosine"] for one in cell["exemplars"]) for cell in cells}
    icons = pq.read_table(made_run.icons("branches", 4) / "part-00000.parquet", columns=["row", "col"]).to_pylist()
    patches = [best[icon["row"], icon["col"]] for icon in icons]
    count = len(icons)
    assert count > 5
    cosines = 0.9 - 0.01 * np.arange(count)
    assert figures == {
        "n": count,
        "median_cosine": pytest.approx(np.median(cosines)),
        "median_cosine_whitened": pytest.approx(np.median(cosines) - 0.1),
        "median_cosine_robust": pytest.approx(np.median(cosines) - 0.2),
        "rank1_share": pytest.approx(1 / count),
        "near_rank_share": pytest.approx(3 / count),
        "flagged_share": pytest.approx(1 / count),
        "median_patch_cosine": pytest.approx(np.median(patches)),
        "above_patch_share": pytest.approx(np.mean(cosines.astype(np.float32) > patches)),
    }


def test_a_grid_without_icons_has_no_figures(made_copy: RunDirectory) -> None:
    (made_copy.icons("branches", 4) / "part-00000.parquet").unlink()
    figures = report_of(made_copy)["layers"]["branches"]["icons"]["4"]
    assert figures["n"] == 0
    assert set(figures.values()) == {0, None}
    assert len(figures) == 9


def test_units_are_counted_once_all_their_tables_are_there(made_copy: RunDirectory) -> None:
    values = made_copy.config().plain() | {"neurons": {"layers": list(LAYERS), "patches": 3}}
    config = validate(values, "test")
    assert "neurons" not in report_of(made_copy, config)["layers"]["branches"]
    write_neurons(made_copy, list(LAYERS))
    made_copy.update_manifest(stages={"neurons": {"key": "made"}})
    figures = report_of(made_copy, config)["layers"]["branches"]["neurons"]
    # Of unit u the answer to a turn is 3 ± |u − 4| / 4, so its invariance is 3 / (3 + |u − 4| / 4).
    invariances = [3 / (3 + abs(unit - 4) / 4) for unit in range(16) if unit != NEVER]
    assert figures == {
        "units": 16,
        "firing": 15,
        "invariant_share": pytest.approx(np.mean(np.array(invariances) >= INVARIANT)),
        "median_invariance": pytest.approx(np.median(invariances)),
        "median_selectivity": pytest.approx(0.125),
        "circuit_agreement": {"residual": pytest.approx(0.8)},
    }
    (made_copy.neurons("branches") / "cells.json").unlink()
    assert "neurons" not in report_of(made_copy, config)["layers"]["branches"], "they are not whole"


def test_accuracy_and_slices_stand_where_labels_are_classes(labelled_run: RunDirectory, made_run: RunDirectory) -> None:
    report = report_of(labelled_run)
    facts = error_facts(labelled_run, "branches")
    assert facts is not None
    assert report["accuracy"] == {"": facts["run"]}
    assert report["layers"]["branches"]["errors"] == {"grids": facts["grids"], "slices": facts["slices"]}
    assert "accuracy" not in report_of(made_run)
    assert "errors" not in report_of(made_run)["layers"]["branches"]

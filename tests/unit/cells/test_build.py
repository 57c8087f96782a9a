"""Cells: every kept row in exactly one of each level, and their facts equal to brute force."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from atlas.cells.build import CELLS_SCHEMA, build_cells
from atlas.layout.neighbors import unit_rows
from atlas.store.shards import ShardWriter, schema

ROWS, CHANNELS, CLASSES = 700, 6, 4
GRIDS = (2, 4, 8)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Rows in two shards with a layout, and the cells made from them."""
    generator = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "image": [f"{row // 3}.png" for row in range(ROWS)],
        "image_id": np.arange(ROWS) // 3,
        "view": np.arange(ROWS) % 3,
        "draw": np.zeros(ROWS, int),
        "box": np.zeros((ROWS, 4)),
        "place_x": np.zeros(ROWS),
        "place_y": np.zeros(ROWS),
        "y": np.zeros(ROWS, int),
        "x": np.zeros(ROWS, int),
        "label": [None if row % 5 == 0 else row % 13 for row in range(ROWS)],
        "predicted": generator.integers(0, 30, ROWS),
        "confidence": np.ones(ROWS),
        "activation": (generator.normal(size=(ROWS, CHANNELS)) + 0.5).astype(np.float16),
        "attribution": generator.normal(size=(ROWS, CLASSES)).astype(np.float16),
    }
    columns["activation"][11] = columns["activation"][12]  # a tie
    u, v = generator.beta(0.6, 0.6, (2, ROWS))
    u[:3], v[:3] = (1.0, 0.5, 0.25), (1.0, 0.5, 0.75)
    u[11:13], v[11:13] = 0.3, 0.3
    dropped = generator.choice(np.arange(20, ROWS), 40, replace=False)
    u[dropped] = v[dropped] = np.nan
    folder: Path = tmp_path_factory.mktemp("grid")
    shards = []
    for number, part in enumerate((slice(0, 450), slice(450, ROWS))):
        shards.append(folder / f"part-{number:05d}.parquet")
        with ShardWriter(shards[-1], schema(True, {})) as writer:
            writer.append({name: values[part] for name, values in columns.items()})
    table = build_cells(shards, u, v, grids=GRIDS, exemplars=3, attributions=True, diverse=2)
    return {"columns": columns, "u": u, "v": v, "table": table, "shards": shards}


def cells_of(example: dict[str, Any]) -> list[tuple[dict[str, Any], NDArray[np.int64]]]:
    """Each cell with its members found the plain way."""
    pairs = []
    for cell in example["table"].to_pylist():
        grid = cell["grid"]
        col = np.minimum(np.floor(example["u"] * grid), grid - 1)
        row = np.minimum(np.floor(example["v"] * grid), grid - 1)
        pairs.append((cell, np.flatnonzero((col == cell["col"]) & (row == cell["row"]))))
    return pairs


def test_the_table_has_its_schema_and_order(example: dict[str, Any]) -> None:
    table: pa.Table = example["table"]
    assert table.schema == CELLS_SCHEMA
    keys = list(zip(*(table[name].to_pylist() for name in ("grid", "row", "col"))))
    assert keys == sorted(set(keys))
    assert {grid for grid, _, _ in keys} == set(GRIDS)


def test_every_kept_row_is_in_exactly_one_cell_of_each_level(example: dict[str, Any]) -> None:
    counters: dict[int, Counter[int]] = {grid: Counter() for grid in GRIDS}
    for cell, members in cells_of(example):
        assert cell["count"] == len(members) > 0
        counters[cell["grid"]].update(members.tolist())
    placed_rows = np.flatnonzero(np.isfinite(example["u"])).tolist()
    assert len(placed_rows) == ROWS - 40
    for counter in counters.values():
        assert sorted(counter) == placed_rows
        assert set(counter.values()) == {1}


def test_facts_equal_brute_force(example: dict[str, Any]) -> None:
    activation = example["columns"]["activation"].astype(np.float64)
    attribution = example["columns"]["attribution"].astype(np.float64)
    for cell, members in cells_of(example):
        mean = activation[members].mean(0)
        np.testing.assert_allclose(cell["mean"], mean, rtol=1e-5, atol=1e-6)
        cosines = unit_rows(activation[members]) @ unit_rows(mean[None])[0]
        assert cell["mean_cosine"] == pytest.approx(float(cosines.mean()), abs=1e-5)
        np.testing.assert_allclose(cell["attribution"], attribution[members].mean(0), rtol=1e-5, atol=1e-6)
        assert cell["norm"] == pytest.approx(float(np.median(np.linalg.norm(activation[members], axis=1))), rel=1e-5)
        np.testing.assert_allclose(cell["cosines"], np.quantile(cosines, np.linspace(0, 1, 101)), atol=1e-5)
        assert (np.diff(cell["cosines"]) >= -1e-6).all()


def test_classes_are_the_commonest_with_their_counts(example: dict[str, Any]) -> None:
    predicted, labels = example["columns"]["predicted"], example["columns"]["label"]
    for cell, members in cells_of(example):
        for name, values in (
            ("predicted", [int(predicted[member]) for member in members]),
            ("labels", [labels[member] for member in members if labels[member] is not None]),
        ):
            expected = sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0]))[:10]
            assert [(entry["class"], entry["count"]) for entry in cell[name]] == expected


def test_coarser_cells_are_the_sums_of_finer(example: dict[str, Any]) -> None:
    by_key = {(cell["grid"], cell["row"], cell["col"]): cell for cell in example["table"].to_pylist()}
    for (grid, row, col), cell in by_key.items():
        if grid == GRIDS[-1]:
            continue
        children = [
            by_key[key]
            for key in ((2 * grid, 2 * row + down, 2 * col + right) for down in (0, 1) for right in (0, 1))
            if key in by_key
        ]
        assert cell["count"] == sum(child["count"] for child in children)
        for name in ("mean", "attribution"):
            total = sum(np.array(child[name]) * child["count"] for child in children)
            np.testing.assert_allclose(np.array(cell[name]) * cell["count"], total, rtol=1e-4, atol=1e-4)


def test_exemplars_are_the_nearest_one_an_image(example: dict[str, Any]) -> None:
    activation = unit_rows(example["columns"]["activation"])
    for cell, members in cells_of(example):
        cosines = activation[members] @ unit_rows(np.array([cell["mean"]]))[0]
        best: dict[int, tuple[float, int]] = {}
        for member, cosine in zip(members.tolist(), cosines.tolist()):
            image = member // 3
            if image not in best or cosine > best[image][0] + 1e-6:
                best[image] = (cosine, member)
        expected = sorted(best.values(), key=lambda entry: -entry[0])[:3]
        entries = cell["exemplars"]
        assert len(entries) == min(3, len(best))
        assert len({exemplar["image_id"] for exemplar in entries}) == len(entries)
        np.testing.assert_allclose(
            [exemplar["cosine"] for exemplar in entries], [cosine for cosine, _ in expected], atol=1e-5
        )
        for exemplar in entries:
            member = 3 * exemplar["image_id"] + exemplar["view"]
            assert member in members
            np.testing.assert_allclose(exemplar["cosine"], cosines[members.tolist().index(member)], atol=1e-5)


def test_diverse_exemplars_lie_far_apart_and_show_no_picture_twice(example: dict[str, Any]) -> None:
    """Each is the member that lies farthest from all that are shown before it, of a picture that is not shown yet."""
    places = np.stack([example["u"], example["v"]], 1).astype(np.float32)
    full = 0
    for cell, members in cells_of(example):
        nearest, others = cell["exemplars"], cell["diverse_exemplars"]
        members_on_sheet = [3 * exemplar["image_id"] + exemplar["view"] for exemplar in nearest + others]
        assert len({member // 3 for member in members_on_sheet}) == len(members_on_sheet)
        assert len(others) == min(2, len({member // 3 for member in members.tolist()}) - len(nearest))
        exemplars, hidden = [members_on_sheet[0]], {member // 3 for member in members_on_sheet[: len(nearest)]}
        for member in members_on_sheet[len(nearest) :]:
            rest = [one for one in members.tolist() if one // 3 not in hidden]
            apart = {one: min(np.linalg.norm(places[one] - places[other]) for other in exemplars) for one in rest}
            assert member in members
            assert apart[member] == pytest.approx(max(apart.values()))
            exemplars.append(member)
            hidden.add(member // 3)
        full += len(others) == 2
    assert full > 10


def test_the_same_rows_give_the_same_table(example: dict[str, Any]) -> None:
    again = build_cells(
        example["shards"], example["u"], example["v"], grids=GRIDS, exemplars=3, attributions=True, diverse=2
    )
    assert again.equals(example["table"])


def test_without_attributions_the_column_is_null(example: dict[str, Any]) -> None:
    table = build_cells(example["shards"], example["u"], example["v"], grids=(4,), exemplars=1, attributions=False)
    assert table["attribution"].null_count == len(table)
    expected = [cell["mean"] for cell in example["table"].to_pylist() if cell["grid"] == 4]
    np.testing.assert_allclose(table["mean"].to_pylist(), expected, rtol=1e-6)


def test_a_layout_without_any_row_gives_no_cells(example: dict[str, Any]) -> None:
    nothing = np.full(ROWS, np.nan)
    assert build_cells(example["shards"], nothing, nothing, grids=(2, 4), exemplars=1, attributions=True).num_rows == 0

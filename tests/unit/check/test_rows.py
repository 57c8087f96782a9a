"""Rows of the store: those of all layers agree with each other, with the listing, and with the layouts."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import LAYERS, ROWS

from atlas.check.rows import LAYOUT_KEYS
from atlas.check.verify import verify
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker


def forge(path: Path, table: pa.Table) -> None:
    """Write another shard, and a marker that vouches for it."""
    pq.write_table(table, path)
    marker = json.loads(path.with_suffix(".json").read_text())
    del marker["files"]
    write_marker(path.with_suffix(".json"), files=[path], **marker)


def change(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    values = table[name].to_pylist()
    values[row] = value
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


def first_problem(run: RunDirectory) -> tuple[str, str]:
    problem = verify(run).problems[0]
    return problem.where, problem.what


SHARD = "part-00001"


@pytest.mark.parametrize(
    ("layers", "harm", "where", "what"),
    [
        (
            ("branches",),
            lambda table: change(table, "view", 5, 99),
            "branches",
            "row 5: view is not that of layer residual, so the layers are not aligned",
        ),
        (
            ("branches",),
            lambda table: change(table, "predicted", 2, 99),
            "branches",
            "row 2: predicted is not that of layer residual, so the layers are not aligned",
        ),
        (
            LAYERS,
            lambda table: change(table, "image", 7, "other.png"),
            "residual",
            "row 7: image is not that of listing.parquet",
        ),
        (LAYERS, lambda table: change(table, "label", 3, 7), "residual", "row 3: label is not that of listing.parquet"),
        (
            LAYERS,
            lambda table: change(table, "image_id", 0, 99),
            "residual",
            "has an image_id that is not in listing.parquet",
        ),
        (
            LAYERS,
            lambda table: change(table, "image_id", 0, -1),
            "residual",
            "has an image_id that is not in listing.parquet",
        ),
        (
            ("residual",),
            lambda table: table.slice(4),
            "residual",
            "has 20 rows, its marker says 24, and its views give 24",
        ),
    ],
)
def test_a_row_that_does_not_agree_is_named(
    made_copy: RunDirectory, layers: tuple[str, ...], harm: Callable[[pa.Table], pa.Table], where: str, what: str
) -> None:
    for layer in layers:
        path = made_copy.store(layer) / f"{SHARD}.parquet"
        forge(path, harm(pq.read_table(path)))
    assert first_problem(made_copy) == (f"store/{where}/{SHARD}.parquet", what)


def test_a_layout_has_the_rows_of_its_store(made_copy: RunDirectory) -> None:
    path = made_copy.layout("branches")
    table = pq.read_table(path)
    for wrong, what in (
        (table.take([1, 0, *range(2, ROWS)]), "rows are not those of store/branches/part-00000"),
        (table.slice(0, ROWS - 1), "has fewer rows than the store"),
        (pa.concat_tables([table, table.slice(0, 1)]), "has more rows than the store"),
    ):
        pq.write_table(wrong, path, row_group_size=10)  # row groups end where shards do not
        box = made_copy.folder("layout") / "box.json"
        write_marker(box, key=made_copy.stage_key("layout"), files=[made_copy.layout(layer) for layer in LAYERS])
        assert first_problem(made_copy) == ("layout/branches.parquet", what)
    assert set(LAYOUT_KEYS) < set(table.column_names)


def test_the_failures_are_those_of_the_shards(made_copy: RunDirectory) -> None:
    marker = made_copy.failures.with_suffix(".json")
    facts = json.loads(marker.read_text())
    facts["views"] += 1
    marker.write_text(json.dumps(facts))
    where, what = first_problem(made_copy)
    assert where == "store/failures.json"
    assert what == f"says {ROWS + 5} views, the shards have {ROWS + 4}, and the listing gives {ROWS + 4}"
    table = pq.read_table(made_copy.failures)
    pq.write_table(pa.concat_tables([table, table]), made_copy.failures)
    write_marker(marker, key=made_copy.stage_key("collect"), files=[made_copy.failures], views=ROWS + 4, failures=4)
    assert first_problem(made_copy) == ("store/failures.parquet", "has 2 failures, the shards' markers list 1")


def test_missing_markers_and_listings_are_told(made_copy: RunDirectory) -> None:
    (made_copy.store("branches") / f"{SHARD}.json").unlink()
    assert first_problem(made_copy) == (
        f"store/branches/{SHARD}.json",
        "the marker is missing, though the stage was finished",
    )
    made_copy.failures.with_suffix(".json").unlink()
    assert first_problem(made_copy) == ("store/failures.json", "the marker is missing, though later stages have run")
    made_copy.listing.unlink()
    assert first_problem(made_copy) == ("listing.parquet", "missing")
    made_copy.listing.write_text("no table")
    where, what = first_problem(made_copy)
    assert where == "listing.parquet"
    assert what.startswith("cannot be read (")

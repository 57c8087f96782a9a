"""A run opened for analysis: what comes is what the files hold, and only what was asked for is read."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_run import GRIDS, leave_off

import atlas
from atlas.errors import AtlasError, ConfigError
from atlas.layout.lattice import cell_of
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import ROW_GROUP, SCHEMA_VERSION, ShardWriter, schema
from atlas.store.store import Store

LAYER, ROWS = "last", 288
FILE_DTYPES = {
    "image_id": np.int64, "view": np.int32, "draw": np.int16, "box": np.float32, "place_x": np.float32,
    "place_y": np.float32, "y": np.int16, "x": np.int16, "label": np.int32, "predicted": np.int32,
    "confidence": np.float32, "activation": np.float16, "attribution": np.float16,
}  # fmt: skip


@pytest.fixture(scope="module")
def copied(undisturbed: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The run with a few rows off the map. Not to be changed."""
    run = RunDirectory(tmp_path_factory.mktemp("analysis") / "tiny")
    shutil.copytree(undisturbed.path, run.path, ignore=shutil.ignore_patterns("site"))
    leave_off(run, LAYER, [3, 70])
    return run


@pytest.fixture
def broken(copied: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy that a test may break."""
    shutil.copytree(copied.path, tmp_path / "tiny")
    return RunDirectory(tmp_path / "tiny")


@pytest.fixture(scope="module")
def table(copied: RunDirectory) -> pa.Table:
    return pq.read_table(copied.shards(LAYER))


@pytest.fixture
def large(tmp_path: Path) -> Store:
    """A store of 22,000 rows in two shards, four row groups; activation (n, 3) counts the rows."""
    paths, counts = [tmp_path / "part-00000.parquet", tmp_path / "part-00001.parquet"], [2 * ROW_GROUP + 100, 5516]
    start = 0
    for path, count in zip(paths, counts):
        numbers = np.arange(start, start + count)
        columns: dict[str, Any] = {name: np.zeros(count) for name in ("view", "draw", "place_x", "place_y", "y", "x")}
        columns |= {"image": [f"{number}.png" for number in numbers], "image_id": numbers, "box": np.zeros((count, 4))}
        columns |= {"label": [None] * count, "predicted": numbers % 7, "confidence": numbers / 22_000}
        columns["activation"] = np.stack([numbers // 1000, numbers % 1000, numbers % 7], axis=1)
        columns["attribution"] = np.random.default_rng(start).normal(size=(count, 50))
        facts = {"format": SCHEMA_VERSION, "classes": ["a"] * 50, "labels": [], "channels": 3}
        with ShardWriter(path, schema(True, facts)) as writer:
            writer.append(columns)
        start += count
    return Store("large", paths, counts, facts, lambda grid: {})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each reading of Parquet files takes, as they are taken."""
    sizes: list[int] = []

    class Counting(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            data = super().read(size)
            sizes.append(len(data))
            return data

    real = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda path, **options: real(pa.PythonFile(Counting(path)), **options))
    return sizes


def test_importing_atlas_is_quick() -> None:
    code = "import sys, atlas; print(*sorted({'numpy', 'pyarrow', 'torch', 'pydantic', 'faiss'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
    code = "import sys, atlas.analysis; print(*({'torch', 'dask', 'faiss'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_a_store_tells_what_it_is(copied: RunDirectory, table: pa.Table) -> None:
    run = atlas.open_run(copied.path)
    assert run.layers == ("middle", "last")
    assert run.config == copied.config()
    assert run.report == json.loads(copied.report.read_text())
    store = run.store(LAYER)
    assert len(store) == ROWS
    assert list(store.columns) == table.column_names
    assert store.schema.equals(table.schema)
    assert store.channels == 20
    assert store.classes == [f"class {number}" for number in range(7)]
    assert store.labels == ["discs", "stripes"]
    assert store.metadata["layer"] == LAYER
    assert "288 rows" in repr(store)
    assert store.paths == copied.shards(LAYER)


@pytest.mark.parametrize("size", [1, 50, 57, 1000])
def test_batches_hold_every_row_in_order_without_objects(copied: RunDirectory, table: pa.Table, size: int) -> None:
    batches = list(atlas.open_run(copied.path).store(LAYER).batches(size=size))
    assert [len(batch["image"]) for batch in batches] == [size] * (ROWS // size) + [ROWS % size] * (ROWS % size > 0)
    for name in table.column_names:
        values = np.concatenate([batch[name] for batch in batches])
        values_of_column = table[name].to_pylist()
        if name == "image":
            assert values.dtype.kind == "U"
        else:
            assert values.dtype == FILE_DTYPES[name]
        assert values.tolist() == values_of_column, name
    assert batches[0]["activation"].shape == (min(size, ROWS), 20)
    assert batches[0]["attribution"].shape == (min(size, ROWS), 7)


def test_a_label_that_is_not_there_is_minus_one(large: Store) -> None:
    batch = next(large.batches(["label"]))
    assert batch["label"].dtype == np.int32
    assert set(batch["label"].tolist()) == {-1}


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 10), (100, 20_000), (ROW_GROUP, ROW_GROUP + 1), (21_990, None), (5, 5)]
)
def test_a_range_of_rows(large: Store, start: int, stop: int | None) -> None:
    batches = list(large.batches(["image_id", "activation"], size=3000, start=start, stop=stop))
    numbers = [number for batch in batches for number in batch["image_id"].tolist()]
    assert numbers == list(range(22_000))[start:stop]
    assert [row for batch in batches for row in batch["activation"].tolist()] == [
        [number // 1000, number % 1000, number % 7] for number in numbers
    ]
    assert all(list(batch) == ["image_id", "activation"] for batch in batches)


def test_only_the_columns_that_are_asked_for_are_read(large: Store, read: list[int]) -> None:
    sizes = {}
    for columns in (["activation"], ["attribution"], ["activation", "attribution"]):
        read.clear()
        for _ in large.batches(columns):
            pass
        sizes[len(read), tuple(columns)] = sum(read)
    activation, attribution, both = sizes.values()
    assert activation < attribution / 5, "50 classes weigh more than 3 channels"
    assert both > attribution
    stored = sum(
        pq.read_metadata(path).row_group(group).column(number).total_compressed_size
        for path in large.paths
        for group in range(pq.read_metadata(path).num_row_groups)
        for number in range(14)
        if pq.read_metadata(path).row_group(group).column(number).path_in_schema.startswith("activation")
    )
    assert activation == stored, "not a byte more"


def test_memory_holds_one_row_group(large: Store, read: list[int]) -> None:
    batches = large.batches(["attribution"], size=100)
    next(batches)
    first = sum(read)
    for _ in range(ROW_GROUP // 100 - 1):
        next(batches)
    assert sum(read) == first, "nothing is read ahead"
    for _ in batches:
        pass
    assert sum(read) > 2 * first


def test_take_gives_rows_in_the_order_asked_for_and_reads_only_their_row_groups(large: Store, read: list[int]) -> None:
    rows = [21_999, 5, 5, ROW_GROUP, 0]
    result = large.take(rows, ["image", "image_id", "activation"])
    assert result["image"].tolist() == [f"{row}.png" for row in rows]
    assert result["image_id"].tolist() == rows
    assert result["activation"].tolist() == [[row // 1000, row % 1000, row % 7] for row in rows]
    read.clear()
    large.take([1, 2], ["attribution"])
    one = sum(read)
    read.clear()
    large.take(range(22_000), ["attribution"])
    assert one < sum(read) / 2
    assert large.take([], ["activation"])["activation"].shape == (0, 3)


def test_a_sample_is_the_same_for_a_seed_and_without_repetition(large: Store) -> None:
    sample = large.sample(500, seed=3, columns=["image_id"])
    assert sample["number"].tolist() == sample["image_id"].tolist() == sorted(set(sample["number"].tolist()))
    assert len(sample["number"]) == 500
    assert large.sample(500, seed=3, columns=["view"])["number"].tolist() == sample["number"].tolist()
    assert large.sample(500, seed=4, columns=["view"])["number"].tolist() != sample["number"].tolist()
    assert large.sample(22_000, columns=["view"])["number"].tolist() == list(range(22_000))


@pytest.mark.parametrize("groups", [2, 64])
def test_a_sample_is_fair(copied: RunDirectory, monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    """Each row is as likely as any other, also where only some row groups are read and the last one is smaller."""
    store = atlas.open_run(copied.path).store(LAYER)
    monkeypatch.setattr(store, "take", lambda rows, columns: {})
    counts, seeds = np.zeros(ROWS), 3000
    for seed in range(seeds):
        rows = store.sample(12, seed=seed, groups=groups)["number"]
        assert len(set(rows.tolist())) == 12
        counts[rows] += 1
    expected = seeds * 12 / ROWS
    assert abs(counts / expected - 1).max() < 0.4  # four deviations
    for start in range(0, ROWS, 48):
        assert abs(counts[start : start + 48].mean() / expected - 1) < 0.12


def test_a_sample_reads_few_row_groups(large: Store, read: list[int]) -> None:
    for _ in large.batches(["attribution"]):
        pass
    whole = sum(read)
    read.clear()
    assert len(large.sample(100, seed=1, columns=["attribution"], groups=1)["attribution"]) == 100
    assert sum(read) < whole / 2


def test_join_gives_each_row_its_place_and_cell(copied: RunDirectory) -> None:
    run = atlas.open_run(copied.path)
    store = run.store(LAYER).join(grid=GRIDS[1])
    assert store.columns[-5:] == ("u", "v", "dropped", "row", "col")
    layout = pq.read_table(copied.layout(LAYER))
    batches = list(store.batches(["col", "image_id", "u", "v", "dropped", "row"], size=100))
    assert list(batches[0]) == ["col", "image_id", "u", "v", "dropped", "row"]
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert columns["image_id"].tolist() == layout["image_id"].to_pylist()
    u, v = (np.array(layout[name].to_pylist(), np.float32) for name in ("u", "v"))
    np.testing.assert_array_equal(columns["u"], u)
    np.testing.assert_array_equal(columns["v"], v)
    assert np.flatnonzero(columns["dropped"] != "").tolist() == [3, 70]
    assert columns["dropped"][3] == "outlier"
    cell = cell_of(u, v, GRIDS[1])
    np.testing.assert_array_equal(columns["row"], np.where(cell < 0, -1, cell // GRIDS[1]))
    np.testing.assert_array_equal(columns["col"], np.where(cell < 0, -1, cell % GRIDS[1]))
    assert columns["row"][3] == columns["col"][3] == -1
    # Counted by row and col, the rows are the cells'.
    cells = run.cells("middle", GRIDS[1]).to_pylist()
    other = run.store("middle").join(grid=GRIDS[1]).to_arrow(["row", "col"]).to_pylist()
    for cell in cells:
        assert sum(row["row"] == cell["row"] and row["col"] == cell["col"] for row in other) == cell["count"]
    rows = store.take([70, 1], ["row", "image"])
    assert rows["row"].tolist() == [-1, columns["row"][1]]
    assert store.sample(20, columns=["u"])["u"].dtype == np.float32
    assert "u" not in run.store(LAYER).columns


def test_arrow_tables_and_data_sets(copied: RunDirectory, table: pa.Table) -> None:
    store = atlas.open_run(copied.path).store(LAYER)
    assert store.to_arrow().equals(table.replace_schema_metadata(None))
    store_and_map = store.join().to_arrow(["u", "image"])
    assert store_and_map.column_names == ["u", "image"]
    assert store_and_map["image"].to_pylist() == table["image"].to_pylist()
    only = store.dataset().to_table(columns=["image"], filter=pa.dataset.field("label") == 1)
    assert only["image"].to_pylist() == [name for name in table["image"].to_pylist() if name.startswith("stripes/")]


def test_layout_cells_icons_and_mosaic(copied: RunDirectory) -> None:
    run = atlas.open_run(str(copied.path))
    assert run.layout(LAYER).equals(pq.read_table(copied.layout(LAYER)))
    assert run.cells(LAYER).equals(pq.read_table(copied.cells(LAYER)))
    assert set(run.cells(LAYER, GRIDS[0])["grid"].to_pylist()) == {GRIDS[0]}
    icons = run.icons(LAYER, GRIDS[1])
    level = [cell for cell in run.cells(LAYER, GRIDS[1]).to_pylist() if cell["count"] >= 2]
    assert {(icon["row"], icon["col"]) for icon in icons.to_pylist()} == {(cell["row"], cell["col"]) for cell in level}
    picture = run.mosaic(LAYER, GRIDS[1])
    rows, cols = (sorted({cell[name] for cell in level}) for name in ("row", "col"))
    assert picture.size == ((cols[-1] - cols[0] + 1) * 32, (rows[-1] - rows[0] + 1) * 32)


def test_placing_a_row_of_the_map_gives_its_own_place_and_cells(copied: RunDirectory) -> None:
    run = atlas.open_run(copied.path)
    layout, activations = run.layout(LAYER), run.store(LAYER).take(range(60), ["activation"])["activation"]
    placement = run.place(LAYER, activations)
    u, v = (np.array(layout[name].to_pylist()[:60], np.float32) for name in ("u", "v"))
    mask = np.isfinite(u)  # one of them was left off
    assert np.abs(placement.u - u)[mask].max() < 0.02
    assert np.abs(placement.v - v)[mask].max() < 0.02
    assert placement.confidence.shape == (60,)
    for grid in GRIDS:
        number = cell_of(placement.u, placement.v, grid)
        np.testing.assert_array_equal(placement.cells[grid], np.stack([number // grid, number % grid], axis=1))
    nothing = run.place(LAYER, np.zeros((1, activations.shape[1])))
    assert np.isnan(nothing.u[0])
    assert nothing.cells[GRIDS[0]].tolist() == [[-1, -1]]
    assert nothing.confidence[0] == 0


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda run: run.place(LAYER, np.zeros(20)), "have shape (20,), expected numbers of shape (n, 20)"),
        (lambda run: run.place(LAYER, np.zeros((2, 3))), "have shape (2, 3), expected numbers of shape (n, 20)"),
        (lambda run: run.place("lst", np.zeros((1, 20))), "has no layer 'lst'"),
        (lambda run: run.store("lst"), "has no layer 'lst'; it has middle, last. Did you mean last?"),
        (lambda run: run.layout("nothing"), "has no layer 'nothing'; it has middle, last."),
        (lambda run: run.icons(LAYER, 5), "has no grid of 5; it has 4, 8."),
        (lambda run: run.store(LAYER).join(grid=16), "has no grid of 16"),
        (lambda run: run.store(LAYER).batches(["activatoin"]), "no column 'activatoin': did you mean activation?"),
        (lambda run: run.store(LAYER).take([0], ["u"]), "no column 'u': it comes with join()."),
        (lambda run: run.store(LAYER).join().sample(3, columns=["row"]), r"'row': it comes with join(grid=…)."),
        (lambda run: run.store(LAYER).take([0, 288]), "last has no row 288: it has rows 0 to 287."),
        (lambda run: run.store(LAYER).sample(289), "A sample of 289 rows was asked for; last has 288."),
        (lambda run: run.store(LAYER).batches(size=0), "size is 0, expected at least 1 row"),
    ],
)
def test_mistakes_are_sentences(copied: RunDirectory, ask: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(atlas.open_run(copied.path))
    assert sentence in str(caught.value)


def test_a_folder_that_is_no_run_is_answered_with_near_names(copied: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"There is no run at .*tinny: expected .* Did you mean tiny\?"):
        atlas.open_run(copied.path.with_name("tinny"))
    with pytest.raises(ConfigError, match="There is no run at"):
        atlas.open_run(copied.folder("collect"))


def _forget(*keys: str) -> Any:
    def change(run: RunDirectory) -> None:
        manifest = run.read_manifest()
        manifest["stages"] = {name: facts for name, facts in manifest["stages"].items() if name not in keys}
        run.manifest.write_text(json.dumps(manifest))

    return change


def _edit(part: str, **values: Any) -> Any:
    def change(run: RunDirectory) -> None:
        path = run.path / part
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def _lose(name: str, leaving: bytes | None = None) -> Any:
    def change(run: RunDirectory) -> None:
        path = run.store(LAYER) / name
        path.unlink()
        if leaving is not None:
            path.write_bytes(leaving)

    return change


def _redo_collect(run: RunDirectory) -> None:
    """As another run until collect leaves it: a new key, and the layout claimed under the old one."""
    manifest = run.read_manifest()
    manifest["stages"]["layout"]["above"] = "of an earlier store"
    run.manifest.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("harm", "ask", "sentence"),
    [
        (_forget("layout", "cells"), lambda run: run.layout(LAYER), "the stage layout has not been run"),
        (lambda run: (run.path / "layout/box.json").unlink(), lambda run: run.store(LAYER).join(), "layout is not fin"),
        (_redo_collect, lambda run: run.cells(LAYER), "the stage collect was made anew after layout"),
        (lambda run: run.report.unlink(), lambda run: run.report, "the stage render is not finished"),
        (_lose("part-00001.json"), lambda run: run.store(LAYER), "part-00001.parquet does not"),
        (_lose("part-00001.parquet"), lambda run: run.store(LAYER), "part-00001.parquet does not"),
        (_edit(f"store/{LAYER}/part-00002.json", key="other"), lambda run: run.store(LAYER), "part-00002.parquet"),
        (_edit(f"store/{LAYER}/part-00002.json", rows=7), lambda run: run.store(LAYER), "but its marker says 7"),
        (_edit(f"store/{LAYER}/part-00002.json", views=7), lambda run: run.store(LAYER), "of 300 views"),
        (_lose("part-00000.parquet", leaving=b"cut"), lambda run: run.store(LAYER), "cut off"),
        (_lose("../failures.json"), lambda run: run.store(LAYER), "collect is not finished"),
        (
            lambda run: next(run.icons(LAYER, GRIDS[1]).glob("*.parquet")).unlink(),
            lambda run: run.icons(LAYER, GRIDS[1]),
            "the stage render is not finished",
        ),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_not_handed_out(broken: RunDirectory, harm: Any, ask: Any, sentence: str) -> None:
    run = atlas.open_run(broken.path)
    ask(run)
    run = atlas.open_run(broken.path)
    harm(broken)
    with pytest.raises(AtlasError) as caught:
        ask(run)
    assert sentence in str(caught.value)
    assert "again" in str(caught.value)


def test_a_run_of_another_version_is_refused(broken: RunDirectory) -> None:
    manifest = broken.read_manifest()
    manifest["config"]["colour"] = "red"
    broken.manifest.write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"written by another version of activation-atlas: 1 of its keys"):
        atlas.open_run(broken.path)

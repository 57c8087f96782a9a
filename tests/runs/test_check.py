"""``atlas.check``: each kind of damage is one line with a cure, and the cure, applied as it is told, cures."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_run import contents, tiny_values

from atlas.check.__main__ import main
from atlas.check.verify import verify
from atlas.config.reading import validate
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker
from pipelines.pipeline import run


@pytest.fixture
def copy(undisturbed: RunDirectory, tmp_path: Path) -> RunDirectory:
    """The finished run, to be damaged."""
    shutil.copytree(undisturbed.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def resume(workshop: Path, scheduler: str, directory: RunDirectory, until: str = "publish", **changes: dict) -> None:
    values = {**tiny_values(workshop), "out": str(directory.path)}
    for section, keys in changes.items():
        values[section] = {**values[section], **keys}
    values["cluster"] = {"kind": "address", "address": scheduler}
    run(validate(values, "test"), until=until)


def flip(path: Path) -> None:
    """Another byte in the middle: the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def forge(marker: Path, file: Path, table: pa.Table, **facts: object) -> None:
    """Write another table and a marker that vouches for it, as if a run had made it."""
    pq.write_table(table, file)
    marker_facts = json.loads(marker.read_text())
    files = [marker.parent / name for name in marker_facts.pop("files")]
    write_marker(marker, key=marker_facts.pop("key"), files=files, **{**marker_facts, **facts})


def swap_rows(table: pa.Table) -> pa.Table:
    return table.take([1, 0, *range(2, len(table))])


def swap_in_store(run: RunDirectory) -> None:
    path = run.store("last") / "part-00002.parquet"
    forge(path.with_suffix(".json"), path, swap_rows(pq.read_table(path)))


def shorten_store(run: RunDirectory) -> None:
    path = run.store("last") / "part-00002.parquet"
    forge(path.with_suffix(".json"), path, pq.read_table(path).slice(3))


def rename_in_store(run: RunDirectory) -> None:
    for layer in ("middle", "last"):
        path = run.store(layer) / "part-00000.parquet"
        table = pq.read_table(path)
        names = pa.array(["other.png", *table["image"].to_pylist()[1:]])
        forge(path.with_suffix(".json"), path, table.set_column(0, table.schema.field(0), names))


def swap_in_layout(run: RunDirectory) -> None:
    table = pq.read_table(run.layout("last"))
    forge(run.folder("layout") / "box.json", run.layout("last"), swap_rows(table))


def miscount(run: RunDirectory) -> None:
    table = pq.read_table(run.cells("last"))
    counts = table["count"].to_pylist()
    counts[0] += 5
    column = table.schema.get_field_index("count")
    table = table.set_column(column, table.schema.field(column), pa.array(counts))
    forge(run.folder("cells") / "last.json", run.cells("last"), table)


def drop_an_icon(run: RunDirectory) -> None:
    path = run.icons("middle", 4) / "part-00000.parquet"
    table = pq.read_table(path).slice(1)
    forge(path.with_suffix(".json"), path, table, rows=len(table))


def doctor_the_report(run: RunDirectory) -> None:
    report = json.loads(run.report.read_text())
    report["layers"]["last"]["icons"]["8"]["rank1_share"] += 0.25
    run.report.write_text(json.dumps(report))


def rekey(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": "f" * 64}))


Damage = Callable[[RunDirectory], object]
DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "a byte of a shard": (
        lambda run: flip(run.store("last") / "part-00001.parquet"), "store/last/part-00001.parquet", "sha256"),
    "half a shard": (
        lambda run: cut(run.store("last") / "part-00001.parquet"), "store/last/part-00001.parquet", "bytes long"),
    "a lost shard": (
        lambda run: (run.store("middle") / "part-00003.parquet").unlink(), "store/middle/part-00003.parquet",
        "missing, though its marker stands"),
    "half a marker": (
        lambda run: cut(run.store("middle") / "part-00003.json"), "store/middle/part-00003.json", "cut off"),
    "zeros for a marker": (
        lambda run: (run.store("last") / "part-00000.json").write_bytes(b"\0\xff" * 90), "store/last/part-00000.json",
        "cut off"),
    "a foreign marker": (
        lambda run: rekey(run.store("last") / "part-00000.json"), "store/last/part-00000.json", "key ffffffff"),
    "a lost marker": (
        lambda run: (run.store("last") / "part-00004.json").unlink(), "store/last/part-00004.json", "missing"),
    "the failures": (lambda run: flip(run.failures), "store/failures.parquet", "sha256"),
    "the failures' marker": (
        lambda run: run.failures.with_suffix(".json").unlink(), "store/failures.json", "later stages have run"),
    "rows of a layer": (swap_in_store, "store/last/part-00002.parquet", "row 0: view is not that of layer middle"),
    "too few rows": (shorten_store, "store/last/part-00002.parquet", "has 57 rows, its marker says 60"),
    "names": (rename_in_store, "store/middle/part-00000.parquet", "row 0: image is not that of listing"),
    "the listing": (lambda run: cut(run.listing), "listing.parquet", "cannot be read"),
    "run.json": (lambda run: cut(run.manifest), "run.json", "cut off"),
    "no run.json": (lambda run: run.manifest.unlink(), "run.json", "missing"),
    "a layout's table": (lambda run: flip(run.layout("last")), "layout/last.parquet", "sha256"),
    "rows of a layout": (swap_in_layout, "layout/last.parquet", "rows are not those of store/last/part-00000"),
    "an index": (lambda run: flip(run.index("middle")), "layout/middle.faiss", "sha256"),
    "a fit": (
        lambda run: (run.folder("layout") / "fit-last.json").unlink(), "layout/fit-last.json", "later work was done"),
    "counts of cells": (miscount, "cells/last.parquet", r"1 cells of grid 4 do not hold .* 5 rows|such as row 0"),
    "a marker of cells": (lambda run: (run.folder("cells") / "last.json").unlink(), "cells/last.json", "icons were"),
    "an icon": (drop_an_icon, "icons/middle/grid-004", "icons, but"),
    "icons": (lambda run: flip(run.icons("last", 8) / "part-00001.parquet"), "icons/last/grid-008/part-00001.parquet",
        "sha256"),
    "a tile": (
        lambda run: (run.site_grid("last", 4) / "icons_files/7/0_0.webp").unlink(),
        "site/last/grid-004/icons_files/7/0_0.webp", "missing"),
    "a part of the site": (
        lambda run: (run.folder("publish") / ".markers/last-atlas.json").unlink(), "site/.markers/last-atlas.json",
        "the site was finished"),
    "the report": (lambda run: cut(run.report), "report.json", "cut off"),
    "figures of the report": (doctor_the_report, "report.json", r"says layers.last.icons.8.rank1_share = "),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_its_cure_cures(
    name: str,
    copy: RunDirectory,
    undisturbed: RunDirectory,
    workshop: Path,
    scheduler: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage, where, what = DAMAGES[name]
    before = contents(undisturbed)
    damage(copy)
    assert main([str(copy.path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = [line for line in lines if line.startswith("  WRONG")]
    assert [line.split(": ")[0].removeprefix("  WRONG    ") for line in wrong][:1] == [where], lines
    assert re.search(what, wrong[0]), wrong
    assert lines[-1].startswith(f"{len(wrong)} thing")
    # The cure, done as the line says it.
    for line in wrong:
        cure = line.split("Cure: ")[1]
        assert cure.endswith("give the run's command again.")
        if cure.startswith("delete "):
            for path in cure.removeprefix("delete ").split(" and give")[0].split():
                (copy.path / path).unlink()
    resume(workshop, scheduler, copy)
    findings = verify(copy)
    assert findings.problems == []
    assert all(stage.startswith("finished") for stage in findings.stages.values()), findings.stages
    assert contents(copy) == before
    assert contents(undisturbed) == before

"""scripts/scaling.py: the slopes, the figures of a run, and what is kept over several starts."""

import importlib
import os
import threading
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from checkout import CHECKOUT
from tiny_run import brake

from atlas.rundir.atomic import write_json
from atlas.rundir.directory import RunDirectory

SCRIPTS = CHECKOUT / "scripts"


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("scaling")


def run_facts(scaling: ModuleType, views: int) -> dict:
    stages = {
        stage: {"seconds": 2 * views**power, "megabytes": 0.001 * views, "worker_peak_mb": 900}
        for stage, power in zip(scaling.DRAWN_STAGES, (1, 1.2, 0.5, 0.1, 0.2))
    }
    memory = {"client_mb_at_10": 210, "client_mb_at_50": 215, "client_mb_at_90": 216}
    return {
        "views": views,
        **stages,
        **memory,
        "peak_mb_of_a_process": 1900,
        "peak_mb_of_all": 4000,
        "seconds_of_starts": 40_123,
        "starts": 1,
    }


def test_slopes_are_the_exponents(scaling: ModuleType) -> None:
    rows = [run_facts(scaling, views) for views in (10_000, 30_000, 100_000)]
    slopes = [scaling.slope(rows, stage, "seconds") for stage in scaling.DRAWN_STAGES]
    np.testing.assert_allclose(slopes, (1, 1.2, 0.5, 0.1, 0.2), atol=1e-6)
    assert scaling.slope(rows[:1], "collect", "seconds") is None
    assert scaling.draw_figure(rows).size[0] > 1000


def test_the_table_has_a_line_for_each_size(scaling: ModuleType) -> None:
    lines = scaling.table([run_facts(scaling, 10_000), run_facts(scaling, 30_000)]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| 10,000 | 20,000 (10) |")
    assert lines[3].endswith("| 40,123 (0.15) | 1,900 MB | 210, 215, 216 MB |")


WATCHED = {
    "client_mb_at_10": 1, "peak_mb_of_a_process": 5, "peak_mb_of_all": 9, "seconds_of_starts": 70, "starts": 1,
    "lost": {"collect": 70.0},
}  # fmt: skip


def test_a_run_tells_its_seconds_and_bytes(scaling: ModuleType, undisturbed: RunDirectory) -> None:
    row = scaling.row_of_run(undisturbed, 288, WATCHED)
    store = sum(path.stat().st_size for path in (undisturbed.path / "store").rglob("*") if path.is_file())
    assert row["collect"]["megabytes"] == pytest.approx(store / 1e6, abs=0.1)
    stages = undisturbed.read_manifest()["stages"]
    assert row["render"]["seconds"] == stages["render"]["seconds"]
    assert row["collect"]["seconds"] == pytest.approx(stages["collect"]["seconds"] + 70, abs=0.06), "with what was lost"
    icons = [pq.read_metadata(path).num_rows for path in (undisturbed.path / "icons").rglob("*.parquet")]
    assert row["icons"] == sum(icons)
    assert row["peak_mb_of_all"] == 9


def test_several_starts_are_told_as_one(scaling: ModuleType) -> None:
    short = {
        "client_mb_at_10": 2, "peak_mb_of_a_process": 7, "peak_mb_of_all": 8, "seconds_of_starts": 30, "starts": 1,
        "lost": {"collect": 10.0, "render": 20.0},
    }  # fmt: skip
    assert scaling.merged(None, WATCHED) == WATCHED
    assert scaling.merged(WATCHED, short) == {
        "client_mb_at_10": 1, "peak_mb_of_a_process": 7, "peak_mb_of_all": 9, "seconds_of_starts": 100, "starts": 2,
        "lost": {"collect": 80.0, "render": 20.0},
    }  # fmt: skip


def test_a_run_is_watched_killed_and_gone_on_with(
    scaling: ModuleType, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command for a size, over the tiny run: stopped in collect, it goes on; finished, it is not run again."""
    values = yaml.safe_load((workshop / "tiny.yaml").read_text())
    values["images"]["crops"] = scaling.CROPS
    (workshop / "growing.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(scaling, "CONFIG_NAME", str(workshop / "growing.yaml"))
    monkeypatch.setattr(scaling, "WATCHED_SECONDS", 0.05)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tmp_path, CHECKOUT, workshop))))
    brake(tmp_path, tmp_path / "views-300/store")
    killed = threading.Thread(target=kill_in_collect, args=(tmp_path / "views-300",))
    killed.start()
    with pytest.raises(SystemExit, match=r"The run of 300 views stopped; give the same command again"):
        scaling.measured_run(300, tmp_path)
    killed.join()
    (tmp_path / "sitecustomize.py").unlink()
    row = scaling.measured_run(300, tmp_path)
    assert row["starts"] == 2
    assert list(row["lost"]) == ["collect"]
    assert 0 < row["lost"]["collect"] < row["collect"]["seconds"] < row["seconds_of_starts"]
    assert row["peak_mb_of_all"] > row["peak_mb_of_a_process"] > 50
    assert row["icons"] > 0
    monkeypatch.setattr(scaling.psutil, "Popen", None)
    assert scaling.measured_run(300, tmp_path) == row, "nothing runs, and nothing is added"
    (tmp_path / "views-300.json").unlink()
    with pytest.raises(SystemExit, match=r"is finished, and was not watched"):
        scaling.measured_run(300, tmp_path)


def kill_in_collect(folder: Path) -> None:
    patience = time.monotonic() + 120
    while not any(folder.glob("store/*/part-*.json")):
        assert time.monotonic() < patience
        time.sleep(0.01)
    (process,) = [child for child in psutil.Process().children() if "atlas.run" in child.cmdline()]
    process.kill()


def test_the_stage_under_way_is_the_first_that_is_not_finished(scaling: ModuleType, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert scaling.under_way(run) == "collect"
    write_json(run.manifest, {"stages": {"collect": {"key": "a", "seconds": 3}, "layout": {"key": "b"}}})
    assert scaling.under_way(run) == "layout"
    write_json(run.manifest, {"stages": {stage: {"seconds": 3} for stage in scaling.DRAWN_STAGES}})
    assert scaling.under_way(run) is None


def test_odd_numbers_of_views_are_refused(scaling: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["scaling.py", "--views", "1010"])
    with pytest.raises(SystemExit, match=r"--views 1010: a picture gives 25 views"):
        scaling.main()

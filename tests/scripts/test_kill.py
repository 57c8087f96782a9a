"""scripts/kill.py: when it kills, what it holds against what, and a run that is really killed."""

import importlib
import json
import random
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from checkout import CHECKOUT


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))
    return importlib.import_module("kill")


def write_run(folder: Path, **run_facts: Any) -> None:
    (folder / "store").mkdir(parents=True)
    (folder / "site" / ".markers").mkdir(parents=True)
    (folder / "store" / "part-00000.parquet").write_bytes(b"rows")
    (folder / "store" / "part-00000.json").write_text(json.dumps({"key": "a", "files": {}, "seconds": 3}))
    (folder / "run.json").write_text(json.dumps({"stages": {"collect": {"key": "a", **run_facts}}}))
    (folder / "site" / "atlas.json").write_text(json.dumps({"views_per_second": run_facts.get("seconds", 0)}))
    (folder / "progress.json").write_text(json.dumps(run_facts))


def test_the_first_kills_are_spread_over_the_run(kill: ModuleType) -> None:
    shares = kill.spread(20, random.Random(3))
    assert sorted(int(share * 20) for share in shares) == list(range(20)), "one in every twentieth"
    assert shares != sorted(shares)
    assert shares == kill.spread(20, random.Random(3))


def test_all_counts_but_times(kill: ModuleType, tmp_path: Path) -> None:
    write_run(tmp_path / "one", seconds=1, units=288, worker_peak_mb=400)
    write_run(tmp_path / "other", seconds=2, units=100, worker_peak_mb=401)
    expected, other = kill.contents(tmp_path / "one"), kill.contents(tmp_path / "other")
    assert expected.keys() == {"run.json", "store/part-00000.parquet", "store/part-00000.json", "site/atlas.json"}
    assert kill.differences(expected, other) == []
    marker = tmp_path / "other/store/part-00000.json"
    marker.write_text(marker.read_text().replace("3", "4"))
    run_json = tmp_path / "other/run.json"
    run_json.write_text(run_json.read_text().replace('"a"', '"b"'))
    (tmp_path / "other/store/.part-00001.tmp").touch()
    (tmp_path / "other/store/part-00000.parquet").unlink()
    assert kill.differences(expected, kill.contents(tmp_path / "other")) == [
        "run.json", "store/.part-00001.tmp", "store/part-00000.json", "store/part-00000.parquet"
    ]  # fmt: skip


def test_a_run_that_ends_otherwise_is_named_and_stays(
    kill: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where a run ended before it was to be killed, the next is taken to be as quick."""
    lasts: list[float] = []

    def undisturbed(command: Any) -> tuple[float, float]:
        write_run(command.run)
        return 1, 9

    def kill_round(command: Any, share: float, first: float, last: float, _: Any) -> list[Any]:
        lasts.append(last)
        if len(lasts) > 1:
            shutil.rmtree(command.run, ignore_errors=True)
            write_run(command.run)
            (command.run / "store/part-00000.parquet").write_bytes(b"other rows" if len(lasts) == 3 else b"rows")
        return [kill.Kill(share, "store", 1)] if len(lasts) > 1 else []

    monkeypatch.setattr(kill, "undisturbed", undisturbed)
    monkeypatch.setattr(kill, "kill_round", kill_round)
    command = kill.Command((), tmp_path / "run", tmp_path / "log")
    assert not kill.kill_rounds(command, 2, 0)
    assert lasts[0] == 9
    assert lasts[1] == lasts[2] < 1
    assert (tmp_path / "differs-2/store/part-00000.parquet").read_bytes() == b"other rows"
    out = capsys.readouterr().out
    assert "Round 2: 1 kills, 1 files differ: store/part-00000.parquet" in out
    assert "2 rounds, 2 kills: 1 ended with equal bytes in all 4 files." in out


def test_a_folder_of_something_else_is_left_alone(
    kill: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.txt").touch()
    monkeypatch.setattr(sys, "argv", ["kill.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds something else than runs that were killed"):
        kill.main()
    assert (tmp_path / "thesis.txt").exists()


def test_a_run_is_killed_and_ends_with_equal_bytes(
    kill: ModuleType,
    workshop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workshop)
    arguments = ["kill.py", "tiny.yaml", "--set", "images.crops=6", "--rounds", "1", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert kill.main() == 0
    out = capsys.readouterr().out
    files = int(re.findall(r"the first file after \d+ s, (\d+) files", out)[0])
    assert files == sum(path.is_file() for path in (tmp_path / "runs/undisturbed").rglob("*")) - len(kill.PASSING)
    assert re.search(rf"1 rounds, [12] kills: 1 ended with equal bytes in all {files} files\.", out)
    assert kill.contents(tmp_path / "runs/run") == kill.contents(tmp_path / "runs/undisturbed")
    assert (tmp_path / "runs/kill.log").read_text().count("reading the pictures' names") >= 3, "one whole, one killed"

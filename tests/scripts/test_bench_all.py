"""scripts/bench.py all: every bench as it is published, one after another."""

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
from documents import measurements
from loaded_bench import CHECKOUT

from atlas.errors import ConfigError
from atlas.rundir.directory import RunDirectory

BENCHES = ["collect", "layout", "render", "tiles", "viewer", "explain", "decode", "schedule"]


@pytest.fixture
def calls(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    """What each bench was asked, by its name and in order; stand-ins write a row in place of measuring."""
    calls: dict[str, dict] = {}

    def stand_in(name: str) -> Callable[..., None]:
        def command(options: Any) -> None:
            calls[name] = vars(options)
            options.json.write_text(json.dumps([{"bench": name, "system": "ours"}]))

        return command

    for name in BENCHES:
        monkeypatch.setattr(bench, f"{name}_command", stand_in(name))
    return calls


def arguments_of_all(tiny: RunDirectory, *more: str) -> list[str]:
    return ["all", "--run", str(tiny.path), "--layer", "last", *more]


def benches_in(file: Path) -> list[str]:
    return [row["bench"] for row in json.loads(file.read_text())]


def test_all_benches_one_after_another(
    bench: ModuleType, tiny: RunDirectory, tmp_path: Path, calls: dict[str, dict]
) -> None:
    out = tmp_path / "all.json"
    words = ["--repeat", "5", "--threads", "1", "--seed", "4", "--json", str(out)]
    assert bench.main(arguments_of_all(tiny, *words)) == 0
    assert list(calls) == benches_in(out) == BENCHES
    assert {name: options["repeat"] for name, options in calls.items() if "repeat" in options} == {
        "collect": 5,
        "render": 5,
        "tiles": 5,
        "viewer": 5,
        "explain": 5,
        "decode": 7,
    }, "at least as often as asked, and as published"
    assert {name: options["threads"] for name, options in calls.items() if "threads" in options} == {
        "layout": 1,
        "render": 1,
        "tiles": 1,
    }
    assert {name: options["seed"] for name, options in calls.items() if "seed" in options} == {
        "collect": 4,
        "render": 4,
        "tiles": 4,
    }
    for name in ("layout", "render", "tiles", "explain"):
        assert (calls[name]["run"], calls[name]["layer"]) == (tiny.path, "last")
    assert calls["layout"]["rows"] == [288], "as many as the run has: 24 pictures that can be read, 12 views each"


def test_the_large_run_is_the_one_that_is_laid_out(
    bench: ModuleType, tiny: RunDirectory, tmp_path: Path, calls: dict[str, dict]
) -> None:
    large = tmp_path / "large"
    shutil.copytree(tiny.path, large, ignore=shutil.ignore_patterns("icons", "site", "cells"))
    for shard in RunDirectory(large).shards("last")[1:]:
        shard.unlink()
    rows = sum(pq.read_metadata(shard).num_rows for shard in RunDirectory(large).shards("last"))
    assert 0 < rows < 288
    assert bench.main(arguments_of_all(tiny, "--large", str(large))) == 0
    assert (calls["layout"]["run"], calls["layout"]["rows"]) == (large, [rows])
    assert {calls[name]["run"] for name in ("render", "tiles", "explain")} == {tiny.path}


def test_all_takes_the_commands_that_the_figures_name(
    bench: ModuleType, tiny: RunDirectory, calls: dict[str, dict]
) -> None:
    """The first command of each bench in its section, with this run in place of its own."""
    text = measurements()
    commands: dict[str, list[str]] = {}
    for match in re.finditer(r"^Command: `scripts/bench\.py (\w+)( [^`]*)?`", text, re.MULTILINE):
        commands.setdefault(match[1], (match[2] or "").split())
    assert sorted(commands) == sorted([*BENCHES, "first", "slices"]), "whole runs are left out of all"
    here = {"runs/demo": str(tiny.path), "runs/million": str(tiny.path), "1000000": "288"}
    assert bench.main(arguments_of_all(tiny)) == 0
    for name, options in calls.items():
        words = [here.get(word, word).replace(bench.PUBLISHED_LAYER, "last") for word in commands[name]]
        settings = vars(bench.make_parser().parse_args([name, *words]))
        assert {**settings, "json": None} == {**options, "json": None}, name


def test_a_bench_that_fails_is_told_of_and_the_others_go_on(
    bench: ModuleType,
    tiny: RunDirectory,
    tmp_path: Path,
    calls: dict[str, dict],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A module that is missing, whatever a library raises, and a sentence of ours."""

    def missing(options: Any) -> None:
        from playwright.sync_api import sync_playwright  # noqa: F401

    def raises(error: Exception) -> Callable[..., None]:
        def command(options: Any) -> None:
            options.json.write_text(json.dumps([{"bench": "half of it"}]))
            raise error

        return command

    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    monkeypatch.setattr(bench, "viewer_command", missing)
    monkeypatch.setattr(bench, "collect_command", raises(RuntimeError("out of\nmemory")))
    monkeypatch.setattr(bench, "decode_command", raises(ConfigError("no JPEGs here")))
    out = tmp_path / "all.json"
    assert bench.main(arguments_of_all(tiny, "--json", str(out))) == 2
    collect, viewer, decode, last = capsys.readouterr().err.splitlines()
    assert collect == "collect: RuntimeError: out of memory"
    assert viewer.startswith("viewer: ModuleNotFoundError: ")
    assert "playwright" in viewer
    assert decode == "decode: ConfigError: no JPEGs here"
    assert last == "3 of 8 benches failed: collect, viewer, decode."
    assert benches_in(out) == ["half of it", "layout", "render", "tiles", "explain", "half of it", "schedule"]


def test_stopping_ends_all(
    bench: ModuleType,
    tiny: RunDirectory,
    tmp_path: Path,
    calls: dict[str, dict],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(options: Any) -> None:
        options.json.write_text(json.dumps([{"bench": "half of it"}]))
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "render_command", stopped)
    out = tmp_path / "all.json"
    assert bench.main(arguments_of_all(tiny, "--json", str(out))) == 3
    assert list(calls) == ["collect", "layout"]
    assert benches_in(out) == ["collect", "layout", "half of it"], "rows that were done are in the file"
    assert "Stopped." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--run", "{folder}/nothing"], "nothing is no run directory"),
        (["--run", "{folder}/begun"], "begun has no site yet"),
        (["--large", "{folder}/nothing"], "nothing is no run directory"),
        (["--large", "{folder}/begun"], "begun has no rows yet. Finish its stage collect first"),
        (["--layer", "first"], "has no layer first. Its layers: middle, last."),
        (["--large", "{folder}/other"], "other has no layer last. Its layers: middle."),
    ],
)
def test_wrong_runs_are_told_before_anything_is_measured(
    bench: ModuleType,
    tiny: RunDirectory,
    tmp_path: Path,
    calls: dict[str, dict],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    manifest = tiny.read_manifest()
    for name, layers in (("begun", ["middle", "last"]), ("other", ["middle"])):
        (tmp_path / name).mkdir()
        other = {**manifest, "config": {**manifest["config"], "layers": layers}}
        RunDirectory(tmp_path / name).manifest.write_text(json.dumps(other))
    words = [word.format(folder=tmp_path) for word in arguments]
    assert bench.main(arguments_of_all(tiny, *words)) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not calls


def test_what_all_does_not_hold_is_told(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["all", "--help"])
    output = capsys.readouterr().out
    (line,) = (
        paragraph for paragraph in measurements().split("\n\n") if paragraph.startswith("`scripts/bench.py all ")
    )
    for left_out in ("demo", "scaling", "ablation", "placed", "deterministic"):
        assert left_out in output
        assert left_out in line


def test_every_bench_has_a_line_and_what_it_imports(bench: ModuleType) -> None:
    assert bench.__doc__
    for name in [*BENCHES, "all"]:
        assert f"\n    scripts/bench.py {name} " in bench.__doc__
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    for package in ("activation-atlas[demo]", "torch-lucent", "Horama", "pyvips", "playwright"):
        assert any(requirement.startswith(package) for requirement in extras["bench"]), package
    assert any("bench" in requirement for requirement in extras["dev"] if requirement.startswith("activation-atlas["))

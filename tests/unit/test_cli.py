"""The console script: its commands, their help and their exit codes; and the same of the modules'."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from checkout import CHECKOUT
from console_script import write_console_script

from atlas.cli import COMMANDS, main
from atlas.rundir.versions import VERSION

# 24 lines of 80 columns.
LINES, COLUMNS = 24, 80


def answer(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The exit code of the console script, and what it prints on both streams."""
    try:
        code = main(arguments)
    except SystemExit as end:  # of argparse
        code = int(str(end.code))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_version_and_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer([command, "--version"], capsys) == (0, f"activation-atlas {VERSION}\n", "")
    code, text, _ = answer([command, "--help"], capsys)
    assert code == 0
    assert text.startswith(f"usage: atlas {command} ")


@pytest.mark.parametrize("module", [["atlas.cli", "run"], ["atlas.run"]], ids=["atlas run", "python -m atlas.run"])
def test_the_help_of_a_run_fits_a_screen(module: list[str]) -> None:
    process = subprocess.run(
        [sys.executable, "-c", f"import sys; from {module[0]} import main; main(sys.argv[1:])", *module[1:], "--help"],
        cwd=CHECKOUT, env={**os.environ, "COLUMNS": str(COLUMNS)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = process.stdout.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    for word in (
        "CONFIG",
        "--set KEY=VALUE",
        "--until STAGE",
        "--dry-run",
        "--version",
        "demo --dry-run",
        "exit codes",
    ):
        assert word in process.stdout
    for stage in ("collect", "layout", "cells", "render", "neurons"):
        assert stage in process.stdout


def test_without_a_command_it_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = answer([], capsys)
    assert code == 2
    for command in COMMANDS:
        assert f"\n  {command} " in text
    assert answer(["--help"], capsys) == (0, text, "")
    assert answer(["help"], capsys) == (0, text, "")
    assert answer(["--version"], capsys) == (0, f"activation-atlas {VERSION}\n", "")


def test_another_word_is_answered_with_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, text = answer(["paint"], capsys)
    assert code == 2
    assert "invalid choice: 'paint' (choose from 'run', 'status', 'serve', 'check', 'explain')" in text


def test_an_option_before_the_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, text = answer(["--foo", "run", "demo"], capsys)
    assert code == 2
    assert "--foo is no option of atlas itself; first comes a command: run, status, serve, check, explain" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nothing"], "There is no configuration nothing."),
        (["serve", "nowhere"], "There is no run folder nowhere"),
        (["check", "nowhere"], "There is no folder nowhere."),
        (["status", "nowhere"], "There is no folder nowhere."),
        (["explain", "nowhere", "photo.jpg", "--out", "told"], "There is no file photo.jpg."),
    ],
)
def test_what_is_given_wrongly_is_a_sentence_and_code_2(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, text = answer(arguments, capsys)
    assert code == 2
    assert sentence in text


def test_the_console_script_is_declared_and_works(tmp_path: Path) -> None:
    script = write_console_script(tmp_path)
    assert script.name == "atlas"
    assert EntryPoint("atlas", "atlas.cli:main", "console_scripts").load() is main
    process = subprocess.run(
        [str(script), "run", "nothing"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 2
    assert process.stderr.startswith("There is no configuration nothing.")

"""What the commands have in common: exit codes, sentences for errors, and where modules are looked for."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import CHECKOUT

from atlas.command import GOES_ON, carry_out, duration, look_here_last, pace, write_traceback
from atlas.errors import AtlasError, ConfigError


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "sentences"),
    [
        (ConfigError("colour: unknown key."), 2, "colour: unknown key.\n"),
        (AtlasError("The disk is gone."), 3, f"The disk is gone.\n{GOES_ON}\n"),
        (OSError(28, "No space left"), 3, f"[Errno 28] No space left. {GOES_ON}\n"),
        (OSError(28, "No space left", "runs/demo"), 3, f"runs/demo: No space left. {GOES_ON}\n"),
        (KeyboardInterrupt(), 3, "\nStopped. Begin anew.\n"),
    ],
)
def test_errors_are_sentences_and_exit_codes(
    error: BaseException, code: int, sentences: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert carry_out(raising(error), failed=GOES_ON, stopped="Begin anew.") == code
    assert capsys.readouterr().err == sentences


def test_without_an_error_the_code_is_that_of_the_work() -> None:
    assert carry_out(lambda: 1) == 1


def test_what_nobody_foresaw_is_a_sentence_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert carry_out(raising(ValueError("seven is odd")), failed=GOES_ON) == 4
    first, second, third = capsys.readouterr().err.splitlines()
    (log,) = tmp_path.iterdir()
    assert first.startswith(f"Something unforeseen went wrong in {__file__}, line ")
    assert first.endswith("(ValueError: seven is odd).")
    assert second == f"The full traceback is in {log}"
    assert third == GOES_ON
    assert log.read_text().startswith("Traceback (most recent call last):\n")
    assert log.read_text().endswith("raise error\nValueError: seven is odd\n")


def test_a_traceback_tells_its_causes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    error = AtlasError("No.")
    error.__cause__ = ValueError("inside")
    text = write_traceback(error).read_text()
    assert text.index("ValueError: inside") < text.index("AtlasError: No.")


def test_the_current_folder_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "/library", str(CHECKOUT)])
    look_here_last()
    assert sys.path == ["/library", str(CHECKOUT), "", str(tmp_path)]


def test_in_the_checkout_the_order_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr(sys, "path", [str(CHECKOUT), "/library"])
    look_here_last()
    assert sys.path == [str(CHECKOUT), "/library"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_seconds_are_said_as_a_person_does(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("per_second", "words"), [(1234.56, "1,234.6/s"), (0.5, "0.5/s"), (0.02, "1.2/min")])
def test_a_slow_pace_is_told_by_the_minute(per_second: float, words: str) -> None:
    assert pace(per_second) == words

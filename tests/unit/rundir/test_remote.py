"""Attempts that are made again, and errors in a few words."""

import pytest

from atlas.rundir import remote
from atlas.rundir.remote import error_reason, with_retries


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waited.append)
    return waited


def failing(errors: list[Exception]) -> str:
    if errors:
        raise errors.pop(0)
    return "done"


def test_what_the_network_does_wrong_is_tried_again(pauses: list[float]) -> None:
    errors: list[Exception] = [TimeoutError(), ConnectionError(), OSError()]
    assert with_retries(lambda: failing(errors)) == "done"
    assert pauses == [0.5, 2.0, 8.0]


def test_the_last_error_is_raised(pauses: list[float]) -> None:
    errors: list[Exception] = [TimeoutError(), TimeoutError(), TimeoutError(), ConnectionError("the last")]
    with pytest.raises(ConnectionError, match="the last"):
        with_retries(lambda: failing(errors))
    assert len(pauses) == 3


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError()])
def test_what_the_file_is_to_blame_for_is_not_tried_again(error: Exception, pauses: list[float]) -> None:
    with pytest.raises(type(error)):
        with_retries(lambda: failing([error]))
    assert pauses == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "No such file"), "the file is gone"),
        (PermissionError(13, "x"), "permission denied"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (ValueError("odd"), "odd"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_in_a_few_words(error: Exception, reason: str) -> None:
    assert error_reason(error) == reason

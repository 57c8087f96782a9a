"""What is loaded when it is first needed: once, and again after a failure."""

import threading

import pytest

from atlas.serve.lazy import Lazy


def test_threads_wait_for_one_load() -> None:
    loads: list[int] = []
    begun, may_end = threading.Event(), threading.Event()

    def load() -> str:
        loads.append(1)
        begun.set()
        may_end.wait(30)
        return "value"

    lazy, values = Lazy(load), []
    assert not lazy.loaded
    threads = [threading.Thread(target=lambda: values.append(lazy.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    assert (lazy.loading, lazy.loaded) == (True, False)
    may_end.set()
    for thread in threads:
        thread.join()
    assert (values, len(loads)) == (["value"] * 4, 1)
    assert (lazy.loading, lazy.loaded) == (False, True)


def test_a_failed_load_is_tried_again() -> None:
    outcomes = iter([OSError("once"), "value"])

    def load() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    lazy = Lazy(load)
    with pytest.raises(OSError, match="once"):
        lazy.get()
    assert not lazy.loaded
    assert lazy.get() == "value"

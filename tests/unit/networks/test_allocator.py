"""malloc's settings: the same three in a process and in the environment of one that is yet to start."""

import ctypes
import sys
from types import SimpleNamespace

import pytest

from atlas.networks.allocator import ENVIRONMENT, keep_memory


def test_memory_is_kept_by_three_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[int, int] = {}

    def mallopt(key: int, value: int) -> int:
        calls[key] = value
        return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert keep_memory()
    # M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX of malloc.h
    assert calls == {-1: 2**31 - 1, -4: 0, -8: 1}
    assert ENVIRONMENT == {"MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_MMAP_MAX_": "0", "MALLOC_ARENA_MAX": "1"}


def test_a_refusal_and_other_c_libraries_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda key, value: int(key != -8)))
    assert not keep_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not keep_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_memory()

"""What is loaded when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Lazy(Generic[Value]):
    """A value that ``load`` gives when it is first needed, once for all threads."""

    def __init__(self, load: Callable[[], Value]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._value: Value | None = None

    @property
    def loaded(self) -> bool:
        """Whether the value is there."""
        return self._value is not None

    @property
    def loading(self) -> bool:
        """Whether a thread is loading it."""
        return self._lock.locked()

    def get(self) -> Value:
        """The value. Blocks while it is loaded; raises what loading raises, and tries again at the next call."""
        with self._lock:
            if self._value is None:
                self._value = self._load()
            return self._value

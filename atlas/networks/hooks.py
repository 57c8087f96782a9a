"""Forward hooks, set for the time of a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def hooked(module: nn.Module, see: Callable[[Any], Any]) -> Iterator[None]:
    """While it lasts, ``see`` is shown each output of ``module`` in passes of this thread, and may give another in its
    place (None: as it is)."""
    caller = threading.get_ident()

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return see(output) if threading.get_ident() == caller else None

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()

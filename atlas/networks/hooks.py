"""A forward hook for the time of a ``with`` block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def hooked(module: nn.Module, on_output: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block, ``on_output`` is called with each output of ``module`` in passes of this thread; what it
    returns replaces the output (None: the output stays)."""
    caller = threading.get_ident()

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return on_output(output) if threading.get_ident() == caller else None

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()

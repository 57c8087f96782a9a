"""scripts/bench.py as a module, for the tests of it."""

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from checkout import CHECKOUT


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """scripts/bench.py as a module, which finds what lies beside it."""
    spec = importlib.util.spec_from_file_location("bench", CHECKOUT / "scripts" / "bench.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module  # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CHECKOUT / "scripts"))
        spec.loader.exec_module(module)
        yield module

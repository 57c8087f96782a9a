"""scripts/house.py, which knows the rooms and finds circles, as a module."""

import importlib.util
import sys
from types import ModuleType

import pytest
from checkout import CHECKOUT


@pytest.fixture(scope="session")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", CHECKOUT / "scripts" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module

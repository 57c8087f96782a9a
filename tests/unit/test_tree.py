"""The unit tests mirror the rooms: each module has tests under its own name, in the folder of its room."""

import ast
from collections.abc import Iterable
from pathlib import PurePosixPath

import pytest
from checkout import CHECKOUT

UNIT = CHECKOUT / "tests" / "unit"
# Of the whole tree, not of a module.
OF_THE_TREE = {"test_names.py", "test_page_rooms.py", "test_rooms.py", "test_tree.py"}
COMMAND = "a command: tests/unit/test_cli.py asks each for its help and its mistakes"
# Modules without tests of their own name, each with the reason.
UNTESTED = {
    "atlas/explain/__main__.py": COMMAND,
    "atlas/check/__main__.py": COMMAND,
    "atlas/serve/__main__.py": COMMAND,
    "atlas/run.py": COMMAND,
    "atlas/arrays.py": "names of types, which mypy checks",
    "atlas/visualize/__init__.py": "names of its modules, which their tests import from here",
}


def modules() -> list[str]:
    """Every module of the library and of the pipelines, by its path."""
    paths = [*(CHECKOUT / "atlas").rglob("*.py"), *(CHECKOUT / "pipelines").rglob("*.py")]
    names = [path.relative_to(CHECKOUT) for path in sorted(paths)]
    return [path.as_posix() for path in names if "node_modules" not in path.parts]


def is_bare(path: str) -> bool:
    """Whether a module holds nothing but its description, as those of packages do."""
    return all(isinstance(node, ast.Expr) for node in ast.parse((CHECKOUT / path).read_text()).body)


def own_test(module: str) -> str:
    """Where the tests of a module lie below tests/unit."""
    path = PurePosixPath(module.removeprefix("atlas/"))
    name = "public" if module == "atlas/__init__.py" else path.stem
    return (path.parent / f"test_{name}.py").as_posix()


def unit_tests() -> list[str]:
    """Every unit test, by its path below tests/unit."""
    return [path.relative_to(UNIT).as_posix() for path in sorted(UNIT.rglob("test_*.py"))]


def misplaced(test: str, modules: Iterable[str]) -> bool:
    """Whether a test has no module of its name, or of the beginning of its name, in the room that its folder says."""
    path = PurePosixPath(test)
    stems = {
        PurePosixPath(module).stem for module in map(own_test, modules) if PurePosixPath(module).parent == path.parent
    }
    return test not in OF_THE_TREE and not any(path.stem == stem or path.stem.startswith(f"{stem}_") for stem in stems)


def test_every_module_has_tests_of_its_name_or_a_reason() -> None:
    bare = {module for module in modules() if is_bare(module)}
    without = {module for module in modules() if not (UNIT / own_test(module)).is_file()} - bare
    assert without == set(UNTESTED)


def test_every_unit_test_is_named_after_a_module_of_its_room() -> None:
    assert [test for test in unit_tests() if misplaced(test, modules())] == []


def test_there_is_something_to_read() -> None:
    assert len(modules()) > 140
    assert len(unit_tests()) > 120


@pytest.mark.parametrize(
    ("module", "test"),
    [
        ("atlas/analysis.py", "test_analysis.py"),
        ("atlas/store/shards.py", "store/test_shards.py"),
        ("atlas/networks/program/fused.py", "networks/program/test_fused.py"),
        ("pipelines/cluster.py", "pipelines/test_cluster.py"),
        ("atlas/visualize/__init__.py", "visualize/test___init__.py"),
        ("atlas/__init__.py", "test_public.py"),
    ],
)
def test_where_the_tests_of_a_module_lie(module: str, test: str) -> None:
    assert own_test(module) == test


def test_a_test_in_the_wrong_place_is_seen() -> None:
    modules = ["atlas/networks/program/fused.py", "atlas/networks/network.py", "pipelines/layout.py"]
    assert not misplaced("networks/program/test_fused.py", modules)
    assert not misplaced("networks/test_network_layers.py", modules)
    assert misplaced("networks/test_fused.py", modules)
    assert misplaced("program/test_fused.py", modules)
    assert misplaced("layout/test_layout.py", modules)
    assert misplaced("networks/test_networks.py", modules)

"""The rooms keep to their order and their size, read from the source itself: who may import whom, who computes, how
long a module may be; and what is loaded with each."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from checkout import CHECKOUT

ATLAS = sorted((CHECKOUT / "atlas").rglob("*.py"))
PIPELINES = sorted((CHECKOUT / "pipelines").glob("*.py"))
# Imports inside functions, each with what it would otherwise cost or need.
TORCH = "torch, which a reader of tables or a waiting server does without"
COMMAND = "a command loads its own module alone"
OWN_PROCESS = "each system is measured in a process of its own, whose memory holds what it needs itself"
LATE = {
    ("atlas/analysis.py", "atlas/networks/network.py"): TORCH,
    ("atlas/analysis.py", "atlas/layout/placement.py"): "faiss",
    ("atlas/analysis.py", "atlas/cells/exemplars.py"): TORCH,
    ("atlas/analysis.py", "atlas/neurons/views.py"): TORCH,
    ("atlas/cli.py", "atlas/check/__main__.py"): COMMAND,
    ("atlas/cli.py", "atlas/check/status.py"): COMMAND,
    ("atlas/cli.py", "atlas/explain/__main__.py"): COMMAND,
    ("atlas/cli.py", "atlas/run.py"): COMMAND,
    ("atlas/cli.py", "atlas/serve/__main__.py"): COMMAND,
    ("atlas/explain/__main__.py", "atlas/explain/command.py"): "torch, not before the arguments are right",
    ("atlas/layout/fit.py", "atlas/layout/umap_optimizer.py"): "numba, which compiles",
    ("atlas/layout/gpu.py", "atlas/networks/network.py"): TORCH,
    ("atlas/run.py", "atlas/serve/server.py"): "a server, not before the configuration is right",
    ("atlas/run.py", "pipelines/pipeline.py"): "torch and dask, not before the configuration is right",
    ("atlas/serve/explain_api.py", "atlas/serve/cached_explainer.py"): TORCH,
    ("atlas/serve/explain_api.py", "atlas/serve/samples.py"): "Arrow and the decoders of pictures",
    ("scripts/bench_layout.py", "atlas/layout/fit.py"): OWN_PROCESS,
    ("scripts/bench_layout.py", "atlas/layout/neighbors.py"): OWN_PROCESS,
    ("scripts/bench_layout.py", "atlas/layout/placement.py"): OWN_PROCESS,
    ("scripts/bench_layout.py", "atlas/layout/projection.py"): OWN_PROCESS,
    ("scripts/bench_layout.py", "atlas/store/moments.py"): OWN_PROCESS,
}


@pytest.fixture(scope="module")
def house() -> ModuleType:
    sys.path.insert(0, str(CHECKOUT / "scripts"))
    try:
        return importlib.import_module("house")
    finally:
        sys.path.remove(str(CHECKOUT / "scripts"))


@pytest.fixture(scope="module")
def entries(house: ModuleType) -> list[Any]:
    """All imports of the product."""
    return house.imports(CHECKOUT)


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def test_every_room_has_its_place_in_the_list(house: ModuleType) -> None:
    rooms = {house.room(path) for path in house.modules(CHECKOUT).values()} | {"atlas/viewer"}
    assert sorted(house.ROOMS) == sorted(rooms)
    assert len(house.ROOMS) <= 27


def test_a_room_imports_only_rooms_above_it(house: ModuleType, entries: list[Any]) -> None:
    upward = [f"{entry.source}:{entry.line} imports {entry.target}" for entry in house.upward(entries)]
    assert upward == []


@pytest.mark.parametrize("group", ["file", "package"])
def test_neither_files_nor_packages_import_each_other_in_a_circle(
    house: ModuleType, entries: list[Any], group: str
) -> None:
    assert house.circles(house.links(entries, house.package if group == "package" else str)) == []


def test_the_house_has_at_most_twelve_floors(house: ModuleType, entries: list[Any]) -> None:
    edges = house.graph(house.arrows(entries), set(house.ROOMS))
    assert max(house.floors(edges).values()) <= 12


def test_imports_inside_functions_have_their_reason(house: ModuleType, entries: list[Any]) -> None:
    assert {(entry.source, entry.target) for entry in entries if entry.late} == set(LATE)


def test_the_reader_of_imports_sees_all_of_them(house: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "atlas" / "low").mkdir(parents=True)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "atlas" / "low" / "__init__.py").write_text("")
    (tmp_path / "atlas" / "low" / "one.py").write_text("from atlas.high import thing\n")
    (tmp_path / "atlas" / "high.py").write_text(
        "def late():\n    from atlas.low import one\n    import atlas.low.one\n"
    )
    (tmp_path / "pipelines" / "work.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from atlas.high import thing\n"
    )
    entries = house.imports(tmp_path)
    assert [(entry.source, entry.target, entry.late, entry.types) for entry in entries] == [
        ("atlas/high.py", "atlas/low/one.py", True, False),
        ("atlas/high.py", "atlas/low/one.py", True, False),
        ("atlas/low/one.py", "atlas/high.py", False, False),
        ("pipelines/work.py", "atlas/high.py", False, True),
    ]
    edges = house.graph(house.arrows(entries), {"atlas/low", "atlas/high.py", "pipelines"})
    assert edges == {"atlas/low": {"atlas/high.py"}, "atlas/high.py": {"atlas/low"}, "pipelines": {"atlas/high.py"}}
    assert house.circles(edges) == [{"atlas/low", "atlas/high.py"}]
    assert house.circles(house.links(entries, house.package)) == [{"atlas/low", "atlas/high.py"}]
    assert house.circles(house.links(entries, str)) == [{"atlas/low/one.py", "atlas/high.py"}]
    arrow_up = house.Import("atlas/errors.py", "atlas/serve/app.py", 1, False, False)
    arrow_down = house.Import("atlas/serve/app.py", "atlas/errors.py", 1, False, False)
    assert house.upward([arrow_up, arrow_down]) == [arrow_up]
    assert house.floors(edges) == {"atlas/low": 1, "atlas/high.py": 1, "pipelines": 2}
    assert house.package("atlas/low/inside/deep.py") == "atlas/low/inside"
    assert house.package("atlas/low/one.py") == house.package("atlas/low/__init__.py") == "atlas/low"
    assert house.package("atlas/high.py") == "atlas/high.py"


def imports(source: str) -> set[str]:
    """Every module that a source imports anywhere; ``from a import b`` gives a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def belongs(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def tensor_maths(source: str) -> list[str]:
    """What a source does with tensors or linear algebra, but for setting torch's threads."""
    operations = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            operations.append(f"line {node.lineno}: @")
        if not isinstance(node, ast.Attribute):
            continue
        dotted = ast.unparse(node)
        if dotted.startswith("torch.") and dotted != "torch.set_num_threads":
            operations.append(f"line {node.lineno}: {dotted}")
        if dotted.startswith("np.linalg") or node.attr in ("einsum", "dot", "matmul", "backward", "softmax"):
            operations.append(f"line {node.lineno}: {dotted}")
    return operations


def test_no_module_has_more_than_400_lines() -> None:
    others = [*(CHECKOUT / "scripts").glob("*.py"), *(CHECKOUT / "tests").rglob("*.py")]
    page = [path for kind in ("*.ts", "*.svelte") for path in (CHECKOUT / "atlas" / "viewer" / "src").rglob(kind)]
    assert others
    assert page
    modules = [*ATLAS, *PIPELINES, *others, *page]
    assert [name_of(path) for path in modules if len(path.read_text().splitlines()) > 400] == []


def test_there_is_something_to_read() -> None:
    assert len(ATLAS) > 15
    assert len(PIPELINES) > 7


@pytest.mark.parametrize("path", ATLAS, ids=name_of)
def test_atlas_imports_neither_dask_nor_pipelines(path: Path) -> None:
    allowed = {"pipelines"} if name_of(path) == "atlas/run.py" else set()  # a command starts them
    forbidden = {"dask", "distributed", "pipelines"} - allowed
    assert not {name for name in imports(path.read_text()) for package in forbidden if belongs(name, package)}


@pytest.mark.parametrize("path", PIPELINES, ids=name_of)
def test_pipelines_hold_no_tensor_maths(path: Path) -> None:
    assert tensor_maths(path.read_text()) == []


def test_the_readers_see_what_they_look_for() -> None:
    source = "def f():\n    from atlas import run\n    import dask.distributed as d\n"
    assert imports(source) == {"atlas", "atlas.run", "dask.distributed"}
    assert belongs("dask.distributed", "dask")
    assert not belongs("dasksomething", "dask")
    code = "torch.set_num_threads(1)\na = torch.zeros(3)\nb = a @ c\nnp.linalg.norm(a)\n"
    assert tensor_maths(code) == ["line 3: @", "line 2: torch.zeros", "line 4: np.linalg.norm", "line 4: np.linalg"]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("atlas", ("torch", "numpy", "pyarrow", "pydantic", "starlette")),
        ("atlas.serve.__main__", ("torch", "dask", "distributed", "umap", "faiss")),
        ("atlas.cli", ("torch", "numpy", "pyarrow", "pydantic", "starlette")),
        ("atlas.run", ("torch", "dask", "distributed", "umap", "faiss")),
        ("atlas.config.reading", ("torch", "numpy", "pyarrow")),
        ("atlas.store.shards", ("torch", "dask", "faiss")),
        ("atlas.layout.fit", ("torch", "dask", "distributed")),
        ("atlas.analysis", ("torch", "faiss", "umap")),
    ],
)
def test_a_module_loads_only_what_it_needs(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(set({unwanted!r}) & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert process.stdout.split() == []

"""The rooms keep to their doors and their size, read from the source itself: who may import whom, who computes, how
long a module may be; and what is loaded with each."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from checkout import CHECKOUT as ROOT

ATLAS = sorted((ROOT / "atlas").rglob("*.py"))
PIPELINES = sorted((ROOT / "pipelines").glob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*ATLAS, *PIPELINES]
}
DOORS = {"atlas.run", "atlas.serve", "atlas.check", "atlas.explain.__main__"}
# All that a module of the ground floor may stand on.
GROUND = {f"atlas.{name}" for name in ("config", "errors", "faults", "neighbors", "rundir", "sections", "store")}


def imports(source: str) -> Iterator[str]:
    """Every module that a source imports anywhere, also inside functions; ``from a import b`` gives a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def needed(name: str) -> set[str]:
    """The modules of this project that a module imports when it is loaded itself; not what its functions import."""
    found = set()
    for node in ast.parse(MODULES[name].read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            told = [each for each in imports(ast.unparse(node)) if each in MODULES]
            # of ``from a import b`` the package a counts where b is no module of its own
            found |= {each for each in told if not any(other.startswith(f"{each}.") for other in told)}
    return found


def belongs(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def tensor_maths(source: str) -> list[str]:
    """What a source does with tensors or linear algebra, but for setting torch's threads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            found.append(f"line {node.lineno}: @")
        if not isinstance(node, ast.Attribute):
            continue
        dotted = ast.unparse(node)
        if dotted.startswith("torch.") and dotted != "torch.set_num_threads":
            found.append(f"line {node.lineno}: {dotted}")
        if dotted.startswith("np.linalg") or node.attr in ("einsum", "dot", "matmul", "backward", "softmax"):
            found.append(f"line {node.lineno}: {dotted}")
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_module_has_more_than_400_lines() -> None:
    others = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "tests").rglob("*.py")]
    page = [path for kind in ("*.ts", "*.svelte") for path in (ROOT / "atlas" / "viewer" / "src").rglob(kind)]
    assert others
    assert page
    modules = [*ATLAS, *PIPELINES, *others, *page]
    assert [name_of(path) for path in modules if len(path.read_text().splitlines()) > 400] == []


def test_there_is_something_to_read() -> None:
    assert len(ATLAS) > 15
    assert len(PIPELINES) > 7


@pytest.mark.parametrize("path", ATLAS, ids=name_of)
def test_atlas_imports_neither_dask_nor_pipelines(path: Path) -> None:
    allowed = {"pipelines"} if name_of(path) == "atlas/run.py" else set()  # a door starts them
    forbidden = {"dask", "distributed", "pipelines"} - allowed
    wrong = {name for name in imports(path.read_text()) for package in forbidden if belongs(name, package)}
    assert not wrong


@pytest.mark.parametrize("path", [*ATLAS, *PIPELINES], ids=name_of)
def test_nothing_imports_a_door(path: Path) -> None:
    assert not {name for name in imports(path.read_text()) for door in DOORS if belongs(name, door)}


def test_no_modules_import_each_other_in_a_circle() -> None:
    order = list(TopologicalSorter({name: needed(name) for name in MODULES}).static_order())  # or CycleError
    assert order.index("atlas.errors") < order.index("atlas.store.shards") < order.index("pipelines.pipeline")


@pytest.mark.parametrize("name", ["atlas.store.shards", "atlas.config.model", "atlas.layout.neighbors"])
def test_the_ground_floor_stands_on_nothing_else(name: str) -> None:
    reached, coming = set[str](), {name}
    while coming:
        reached |= coming
        coming = {below for each in coming for below in needed(each)} - reached
    assert reached <= GROUND


@pytest.mark.parametrize("path", PIPELINES, ids=name_of)
def test_pipelines_hold_no_tensor_maths(path: Path) -> None:
    assert tensor_maths(path.read_text()) == []


def test_the_readers_see_what_they_look_for() -> None:
    source = "def f():\n    from atlas import run\n    import dask.distributed as d\n"
    assert set(imports(source)) == {"atlas", "atlas.run", "dask.distributed"}
    assert belongs("dask.distributed", "dask")
    assert not belongs("dasksomething", "dask")
    code = "torch.set_num_threads(1)\na = torch.zeros(3)\nb = a @ c\nnp.linalg.norm(a)\n"
    assert tensor_maths(code) == ["line 3: @", "line 2: torch.zeros", "line 4: np.linalg.norm", "line 4: np.linalg"]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("atlas.serve", ("torch", "dask", "distributed", "umap", "faiss")),
        ("atlas.run", ("torch", "dask", "distributed", "umap", "faiss")),
        ("atlas.config.model", ("torch", "numpy", "pyarrow")),
        ("atlas.store.shards", ("torch", "dask", "faiss")),
        ("atlas.layout.fit", ("torch", "dask", "distributed")),
    ],
)
def test_a_module_loads_only_what_it_needs(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(set({unwanted!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

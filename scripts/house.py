"""The rooms of the house and the imports between them, read from the source.

A room is a package or a single module of ``atlas/``, and ``pipelines/``, ``scripts/`` and the page as one each. An
arrow leads from a room to one that it imports, also inside a function. A floor stands above all floors that it imports.

    scripts/house.py                 # this checkout
    scripts/house.py --tree FOLDER   # another one, to compare with
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parent.parent
# A room imports only rooms above it in this list, inside functions too.
ROOMS = (
    "atlas/errors.py",
    "atlas/arrays.py",
    "atlas/config",
    "atlas/rundir",
    "atlas/command.py",
    "atlas/networks",
    "atlas/circuits",
    "atlas/forward",
    "atlas/pictures",
    "atlas/store",
    "atlas/layout",
    "atlas/visualize",
    "atlas/words",
    "atlas/cells",
    "atlas/slices",
    "atlas/neurons",
    "atlas/site",
    "atlas/report.py",
    "atlas/analysis.py",
    "atlas/explain",
    "atlas/check",
    "atlas/serve",
    "atlas/viewer",
    "atlas/__init__.py",
    "pipelines",
    "atlas/run.py",
    "atlas/cli.py",
    "scripts",
)
# Together one room each, whatever lies in them.
WHOLE = ("pipelines", "scripts", "atlas/viewer")


@dataclass(frozen=True)
class Import:
    """A module imports another: their paths below the tree; ``late``: inside a function; ``types``: for types only."""

    source: str
    target: str
    line: int
    late: bool
    types: bool


def modules(tree: Path) -> dict[str, str]:
    """Every module of the product by its dotted name, with its path below ``tree``."""
    paths = [path for folder in ("atlas", "pipelines", "scripts") for path in sorted((tree / folder).rglob("*.py"))]
    path_names = {path: path.relative_to(tree).as_posix() for path in paths if "node_modules" not in path.parts}
    return {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in path_names.values()}


def imports(tree: Path) -> list[Import]:
    """All imports between the product's modules."""
    paths = modules(tree)
    return [
        Import(path, paths[target], line, late, types)
        for path in paths.values()
        for target, line, late, types in _imports_of(ast.parse((tree / path).read_text()), paths)
        if paths[target] != path
    ]


def _imports_of(source: ast.Module, paths: Mapping[str, str]) -> Iterator[tuple[str, int, bool, bool]]:
    pending: list[tuple[ast.AST, bool, bool]] = [(source, False, False)]
    while pending:
        node, late, types = pending.pop(0)
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        types = types or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        # imports are statements: expressions need not be entered
        pending += [(child, late, types) for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # ``from package import module`` needs the module, ``from module import name`` the module itself
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = list(dict.fromkeys(name if name in paths else node.module for name in names))
        for name in names:
            if name in paths:
                yield name, node.lineno, late, types


def room(path: str) -> str:
    """The room that a module lies in."""
    for whole in WHOLE:
        if path.startswith(f"{whole}/"):
            return whole
    parts = path.split("/")
    return "/".join(parts[:2])


def arrows(entries: list[Import]) -> dict[tuple[str, str], list[Import]]:
    """The imports that lead from one room to another, by the pair of rooms."""
    pairs: dict[tuple[str, str], list[Import]] = {}
    for entry in entries:
        if room(entry.source) != room(entry.target):
            pairs.setdefault((room(entry.source), room(entry.target)), []).append(entry)
    return pairs


def upward(entries: list[Import]) -> list[Import]:
    """The imports that lead to a room below their own in the list of rooms; of rooms that it does not name, none."""
    order = {name: number for number, name in enumerate(ROOMS)}
    return [entry for entry in entries if order.get(room(entry.source), len(ROOMS)) < order.get(room(entry.target), -1)]


def package(path: str) -> str:
    """The package that a module lies in: its room, or a package inside of it."""
    parts = path.split("/")
    return "/".join(parts[:-1]) if len(parts) > 3 else room(path)


def links(entries: list[Import], group: Callable[[str], str]) -> dict[str, set[str]]:
    """For each group of modules, such as their `package`, the other groups that it imports."""
    edges: dict[str, set[str]] = {}
    for entry in entries:
        if group(entry.source) != group(entry.target):
            edges.setdefault(group(entry.source), set()).add(group(entry.target))
    return edges


def circles(edges: Mapping[str, set[str]]) -> list[set[str]]:
    """Groups of names that reach each other (strongly connected components of more than one)."""
    names = sorted({*edges, *(target for targets in edges.values() for target in targets)})
    numbers = {name: number for number, name in enumerate(names)}
    pairs = [(numbers[name], numbers[target]) for name, targets in edges.items() for target in targets]
    sources, targets = zip(*pairs) if pairs else ((), ())
    matrix = coo_array((np.ones(len(pairs), np.int8), (sources, targets)), shape=(len(names), len(names)))
    count, groups = connected_components(matrix, connection="strong") if names else (0, np.zeros(0, int))
    rings = [{names[number] for number in np.flatnonzero(groups == group)} for group in range(count)]
    return [ring for ring in rings if len(ring) > 1]


def floors(edges: Mapping[str, set[str]]) -> dict[str, int]:
    """The floor of each room: 1 for one that imports none, else one above the highest that it imports. Rooms that
    import each other in a circle stand on one floor."""
    group = {name: frozenset(circle) for circle in circles(edges) for name in circle}
    heights: dict[frozenset[str], int] = {}

    def floor(members: frozenset[str]) -> int:
        if members not in heights:
            below = {group.get(target, frozenset({target})) for name in members for target in edges.get(name, ())}
            heights[members] = 1 + max((floor(other) for other in below - {members}), default=0)
        return heights[members]

    return {name: floor(group.get(name, frozenset({name}))) for name in edges}


def graph(pairs: Mapping[tuple[str, str], list[Import]], rooms: set[str]) -> dict[str, set[str]]:
    """For each room the rooms that it imports."""
    return {name: {target for source, target in pairs if source == name} for name in rooms}


def main() -> None:
    """Print the figures of a tree."""
    parser = argparse.ArgumentParser(description="Rooms, floors, arrows and circles of the source.")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to read (default: this one)")
    tree = parser.parse_args().tree
    entries = imports(tree)
    pairs = arrows(entries)
    rooms = {room(path) for path in modules(tree).values()} | {"atlas/viewer"}
    edges = graph(pairs, rooms)
    height = floors(edges)
    rings = circles(edges)
    for level in sorted(set(height.values()), reverse=True):
        print(f"floor {level:2}  {', '.join(sorted(name for name in rooms if height[name] == level))}")
    inside = [pair for pair in pairs for ring in rings if set(pair) <= ring]
    print(
        f"{len(rooms)} rooms on {max(height.values())} floors, {len(pairs)} arrows, {len(inside)} of them in circles, "
        f"{len({(room(entry.source), room(entry.target)) for entry in upward(entries)})} upward"
    )
    for ring in rings:
        print(f"circle of rooms: {', '.join(sorted(ring))}")
        for pair in sorted(pair for pair in pairs if set(pair) <= ring):
            print(f"  {pair[0]} -> {pair[1]}: {', '.join(sorted({f'{e.source}:{e.line}' for e in pairs[pair]}))}")
    for what, group in (("packages", package), ("files", str)):
        for ring in circles(links(entries, group)):
            print(f"circle of {what}: {', '.join(sorted(ring))}")


if __name__ == "__main__":
    main()

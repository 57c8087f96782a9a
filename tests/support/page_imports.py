"""Which files of the page import which: read from the import statements of its TypeScript and Svelte sources."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

MODULES = (".ts", ".svelte")
# Longer comments and whole lines only: "//" also stands in addresses.
_COMMENT = re.compile(r"/\*.*?\*/|<!--.*?-->|^\s*//[^\n]*", re.DOTALL | re.MULTILINE)
_STATEMENT = re.compile(r"""^\s*(?:import|export)\b(?:[^'"`;]*?\bfrom)?\s*(['"])(?P<name>[^'"]+)\1""", re.MULTILINE)
_CALL = re.compile(r"""\bimport\s*\(\s*(?:(['"])(?P<name>[^'"]+)\1)?""")


def imported_names(source: str) -> list[str]:
    """What a source imports: by statements (of types too), by `export … from`, and by calls of `import()`.

    Raises ValueError for a call whose name is not a plain string, since nobody can follow it.
    """
    text = _COMMENT.sub("", source)
    calls = [match["name"] for match in _CALL.finditer(text)]
    if None in calls:
        raise ValueError("An import() has no plain string as its name.")
    return [match["name"] for match in _STATEMENT.finditer(text)] + calls


def import_graph(folder: Path) -> dict[str, set[str]]:
    """Each module of a folder with the modules of it that it imports, as posix paths relative to the folder.

    Libraries and files that are no modules are left out, and so is a component that contains itself.
    Raises ValueError where an imported file does not exist.
    """
    modules = sorted(path for path in folder.rglob("*") if path.name.endswith(MODULES))
    return {_name(path, folder): set(_targets(path, folder)) - {_name(path, folder)} for path in modules}


def _targets(module: Path, folder: Path) -> Iterator[str]:
    for name in imported_names(module.read_text(encoding="utf-8")):
        if not name.startswith("."):
            continue
        target = Path(os.path.normpath(module.parent / name))
        file = next((path for path in (target, target.with_name(f"{target.name}.ts")) if path.is_file()), None)
        if file is None:
            raise ValueError(f"{_name(module, folder)} imports {name}, which does not exist.")
        if file.name.endswith(MODULES):
            yield _name(file, folder)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def folder_of(module: str) -> str:
    """The folder of a module; an empty string for those at the top."""
    return module.rpartition("/")[0]


def arrows_up(graph: Mapping[str, set[str]], folders: list[str]) -> list[str]:
    """Imports of a folder that comes later in the list, as `importer -> imported`."""
    order = {folder: index for index, folder in enumerate(folders)}
    return sorted(
        f"{module} -> {target}"
        for module, targets in graph.items()
        for target in targets
        if order[folder_of(target)] > order[folder_of(module)]
    )

"""The console script ``atlas``, written as an installer writes it."""

import sys
import tomllib
from pathlib import Path

from checkout import CHECKOUT


def write_console_script(folder: Path, python: str = sys.executable) -> Path:
    """The script that pyproject.toml declares, run by ``python``, in a new folder ``bin`` of ``folder``."""
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        ((name, entry),) = tomllib.load(file)["project"]["scripts"].items()
    module, function = entry.split(":")
    path = folder / "bin" / name
    path.parent.mkdir()
    path.write_text(
        f"#!{python}\nimport sys\n\nfrom {module} import {function}\n\n"
        f'if __name__ == "__main__":\n    sys.exit({function}())\n'
    )
    path.chmod(0o755)
    return path

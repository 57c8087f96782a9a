"""Markers: a JSON file, written last, that lists the files it vouches for.

An item of work is done when its marker stands with the key of the present configuration.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from atlas.rundir.atomic import write_json
from atlas.rundir.faults import explain_write_errors


def digest_file(path: Path) -> str:
    """sha256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_values(*values: Any) -> str:
    """sha256 of JSON-ready ``values`` with sorted keys, as hex: the key of a configuration."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_marker(path: Path, *, key: str, files: list[Path], **facts: Any) -> None:
    """Vouch for ``files`` (as paths from the marker's folder): bytes and sha256 of each, and ``facts``."""
    entries = {}
    for file in files:
        with explain_write_errors(file):
            entries[os.path.relpath(file, path.parent)] = {
                "bytes": file.stat().st_size,
                "sha256": digest_file(file),
            }
    write_json(path, {"key": key, "files": entries, **facts})


def parse_marker(path: Path) -> dict[str, Any] | None:
    """The marker at ``path``, or None where it is not there, cut off, or no marker."""
    try:
        return as_marker(path.read_bytes())
    except FileNotFoundError:
        return None


def as_marker(data: bytes) -> dict[str, Any] | None:
    """The marker in the bytes of a file; None where it is cut off, or no marker."""
    try:
        marker = json.loads(data)
    except ValueError:  # a reboot may leave zeros, which are neither JSON nor always UTF-8
        return None
    whole = isinstance(marker, dict) and isinstance(marker.get("key"), str) and isinstance(marker.get("files"), dict)
    return marker if whole else None


def marked_key(folder: Path) -> str | None:
    """The key that the markers of a stage's folder were written with; None without markers."""
    markers = (parse_marker(path) for path in folder.rglob("*.json"))
    return next((marker["key"] for marker in markers if marker), None)


def read_marker(path: Path, key: str) -> dict[str, Any] | None:
    """The marker at ``path``, or None unless it stands with ``key`` and each of its files is there at its size.

    Contents are not read: that is what `atlas check` is for.
    """
    marker = parse_marker(path)
    if marker is None or marker["key"] != key:
        return None
    for name, facts in marker["files"].items():
        file = path.parent / name
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            return None
    return marker

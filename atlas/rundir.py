"""The run directory: where everything lies, how it is written, and how a finished piece of work is known.

A file is written under a temporary name in its own folder, synced, then renamed, so that a crash leaves nothing that
looks finished. A marker (JSON) is written last and lists the files it vouches for; an item of work is done when its
marker stands with the key of the present configuration.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.config import Config
from atlas.errors import AtlasError

STAGES = ("collect", "layout", "cells", "render", "publish")
# The folder that each stage fills.
FOLDERS = {"collect": "store", "layout": "layout", "cells": "cells", "render": "icons", "publish": "site"}


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run. Nothing is created until something is written."""

    path: Path

    def folder(self, stage: str) -> Path:
        return self.path / FOLDERS[stage]

    @property
    def manifest(self) -> Path:
        return self.path / "run.json"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def listing(self) -> Path:
        return self.path / "listing.parquet"

    @property
    def failures(self) -> Path:
        return self.path / "store" / "failures.parquet"

    def store(self, layer: str) -> Path:
        return self.path / "store" / layer

    def shards(self, layer: str) -> list[Path]:
        """The finished shards of a layer, in order: those with a marker."""
        return sorted(path for path in self.store(layer).glob("part-*.parquet") if path.with_suffix(".json").exists())

    def layout(self, layer: str) -> Path:
        return self.path / "layout" / f"{layer}.parquet"

    def moments(self, layer: str) -> Path:
        return self.path / "layout" / f"{layer}.moments.npz"

    def projection(self, layer: str) -> Path:
        return self.path / "layout" / f"{layer}.projection.npz"

    def index(self, layer: str) -> Path:
        return self.path / "layout" / f"{layer}.faiss"

    def cells(self, layer: str) -> Path:
        return self.path / "cells" / f"{layer}.parquet"

    def icons(self, layer: str, grid: int) -> Path:
        return self.path / "icons" / layer / f"grid-{grid:03d}"

    def site_grid(self, layer: str, grid: int) -> Path:
        return self.path / "site" / layer / f"grid-{grid:03d}"

    def read_manifest(self) -> dict[str, Any]:
        """run.json, or an empty dict before the first run."""
        if not self.manifest.exists():
            return {}
        return json.loads(self.manifest.read_text(encoding="utf-8"))

    def update_manifest(self, **values: Any) -> None:
        """Set top-level keys of run.json; dicts are merged one level deep."""
        manifest = self.read_manifest()
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(manifest.get(key), dict):
                manifest[key] = {**manifest[key], **value}
            else:
                manifest[key] = value
        write_json(self.manifest, manifest)

    def config(self) -> Config:
        """The configuration kept in run.json. Raises AtlasError when there is none."""
        manifest = self.read_manifest()
        if "config" not in manifest:
            raise AtlasError(
                f"{self.path} is no run directory: it has no run.json. Expected the folder that atlas.run wrote."
            )
        return Config.from_plain(manifest["config"])

    def stage_key(self, stage: str) -> str:
        return self.read_manifest()["stages"][stage]["key"]

    def claim(self, stage: str, key: str) -> None:
        """Make the folder of ``stage`` belong to ``key``.

        A folder of another key is moved aside (``store.KEY8``), and one that was moved aside under this key comes back.
        Nothing is deleted.
        """
        folder = self.folder(stage)
        for leftover in sorted(folder.rglob(".*.tmp")):  # of a process that was killed while it wrote
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        known = self.read_manifest().get("stages", {}).get(stage, {}).get("key")
        if folder.exists() and known != key:
            aside = folder.with_name(f"{folder.name}.{(known or 'unknown')[:8]}")
            count = 1
            while aside.exists():
                count += 1
                aside = folder.with_name(f"{folder.name}.{(known or 'unknown')[:8]}-{count}")
            folder.rename(aside)
        if known != key:
            stages = {**self.read_manifest().get("stages", {}), stage: {"key": key}}
            self.update_manifest(stages=stages)
        # After run.json: a crash in between leaves no folder, and the next start comes by here again.
        returning = folder.with_name(f"{folder.name}.{key[:8]}")
        if returning.exists() and not folder.exists():
            returning.rename(folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process. Raises AtlasError when another one is at work in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AtlasError(
                    f"Another process is at work in {self.path}. Wait for it, or give another folder with --set "
                    f"out=FOLDER."
                ) from None
            yield


def digest_file(path: Path) -> str:
    """sha256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_values(*values: Any) -> str:
    """sha256 of JSON-ready values with sorted keys, as hex: the key of a configuration."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed to ``path``, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # machines share folders and process ids
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


def write_json(path: Path, value: Any) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_marker(path: Path, *, key: str, files: list[Path], **facts: Any) -> None:
    """Vouch for ``files`` (as paths from the marker's folder): bytes and sha256 of each, and ``facts``."""
    listed = {
        os.path.relpath(file, path.parent): {"bytes": file.stat().st_size, "sha256": digest_file(file)}
        for file in files
    }
    write_json(path, {"key": key, "files": listed, **facts})


def read_marker(path: Path, key: str) -> dict[str, Any] | None:
    """The marker at ``path``, or None unless it stands with ``key`` and each of its files is there at its size."""
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if marker.get("key") != key:
        return None
    for name, facts in marker["files"].items():
        file = path.parent / name
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            return None
    return marker

"""The files below an address, one by one: listed, read, written, copied and deleted through fsspec.

fsspec's own ``generic.rsync`` copies whole folders in an order of its own; here every file is asked for by name, since
a marker must arrive after the files that it vouches for.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from atlas.errors import AtlasError
from atlas.rundir.atomic import atomic
from atlas.rundir.remote import Result, error_reason, open_system, with_retries

# Files on their way at a time.
_TRANSFERS = 16
# Storage that knows names only. Making a folder there would make a bucket of a name that was typed wrong.
_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"}
# What a bucket should say of files that Python knows nothing of, where it serves a site.
for _suffix, _kind in {".webp": "image/webp", ".dzi": "application/xml", ".bin": "application/octet-stream"}.items():
    mimetypes.add_type(_kind, _suffix)

Argument = TypeVar("Argument")


class RemoteStore:
    """The files below ``url``, by their names from there on ("store/last/part-00000.json"); ``options`` go to fsspec.

    Raises ConfigError when the URL cannot be used at all. Every method tries again where the network is to blame, and
    raises AtlasError when the place cannot be reached or written; the sentence names ``working_copy``, the folder of
    this machine from which nothing is lost. Methods may be called from several threads.
    """

    def __init__(self, url: str, options: dict[str, Any], working_copy: Path) -> None:
        self.url, self._working_copy = url, working_copy
        self._system, self._root = open_system(url, options, "out")
        protocols = {self._system.protocol} if isinstance(self._system.protocol, str) else set(self._system.protocol)
        self._has_folders = not protocols & _WITHOUT_FOLDERS
        self._transfers = ThreadPoolExecutor(_TRANSFERS)

    def close(self) -> None:
        """Cancel what ``map`` has not begun, and wait for what it has."""
        self._transfers.shutdown(cancel_futures=True)

    def map(self, work: Callable[[Argument], Result], arguments: Iterable[Argument]) -> list[Result]:
        """``work`` on all ``arguments``, several at a time. Raises the first error."""
        return list(self._transfers.map(work, arguments))

    def sizes(self, folder: str) -> dict[str, int]:
        """The names of all files below ``folder``, with their sizes in bytes; empty where there is no such folder."""
        self._system.invalidate_cache()
        try:
            files = self._attempt(lambda: self._system.find(self._path(folder), detail=True))
        except FileNotFoundError:
            return {}
        start = len(self._root) + 1
        return {path[start:]: facts["size"] for path, facts in files.items() if facts["type"] == "file"}

    def read(self, name: str) -> bytes:
        """A whole file. Raises FileNotFoundError where there is none."""
        data: bytes = self._attempt(lambda: self._system.cat_file(self._path(name)))
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file."""
        self._write(name, lambda target: self._system.pipe_file(target, data))

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to ``path`` on this machine, whole or not at all. Raises FileNotFoundError as ``read`` does."""
        with atomic(path) as temporary:
            self._attempt(lambda: self._system.get_file(self._path(name), str(temporary)))

    def send(self, path: Path, name: str) -> None:
        """Copy the file at ``path`` on this machine there."""
        self._write(name, lambda target: self._system.put_file(str(path), target))

    def delete(self, name: str) -> None:
        """Delete a file. Raises FileNotFoundError where there is none."""
        self._attempt(lambda: self._system.rm_file(self._path(name)))

    def move_folder(self, old: str, new: str) -> None:
        """Move all files below ``old``; a move that was interrupted before is completed."""
        names = list(self.sizes(old))

        def copy(name: str) -> None:
            self._write(new + name.removeprefix(old), lambda target: self._system.cp_file(self._path(name), target))

        self.map(copy, names)
        self.map(self.delete, names)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _write(self, name: str, write: Callable[[str], object]) -> None:
        target = self._path(name)

        def attempt() -> None:
            if self._has_folders:
                self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
            write(target)

        try:
            self._attempt(attempt)
        except FileNotFoundError as error:
            raise self._unreachable(error) from error

    def _attempt(self, attempt: Callable[[], Result]) -> Result:
        try:
            return with_retries(attempt)
        except (FileNotFoundError, AtlasError):
            raise
        except Exception as error:  # each storage has its own
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> AtlasError:
        why = "there is no such place" if isinstance(error, FileNotFoundError) else error_reason(error)
        return AtlasError(
            f"out: {self.url} cannot be read or written ({why}). Check the address, your credentials and out_options. "
            f"What is finished lies in {self._working_copy}; the same command goes on."
        )

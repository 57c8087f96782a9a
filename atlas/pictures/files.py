"""Files of this machine or behind an address: listed by path, folder or glob, and read whole, in part or as a stream.

Local files are read with the system's own calls; ``s3://``, ``gs://``, ``https://`` and the like through fsspec.
"""

from __future__ import annotations

import heapq
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from fsspec import AbstractFileSystem
from fsspec.utils import glob_translate

from atlas.errors import AtlasError, ConfigError
from atlas.pictures.decode import PictureError
from atlas.rundir.remote import Result, error_reason, is_remote, open_system, with_retries

# No picture is this large, and several of them would not fit into a worker's memory.
LARGEST = 2**30
# Read at a time from a remote file that is read from front to back.
_BLOCK = 8 * 2**20


@dataclass(frozen=True, slots=True)
class File:
    """A file below a base: its relative name, size in bytes where known, and why it cannot be read, if so."""

    name: str
    size: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class SourceFiles:
    """The files of one source, by their relative name below ``base``, a folder or its URL."""

    base: str
    files: list[File]


class Files(Protocol):
    """Reads files below one folder or URL. All methods may be called from several threads."""

    threads: int  # that keep such a place busy

    def read(self, name: str, size: int | None) -> bytes:
        """A whole file. Raises PictureError when it is gone, cannot be read or has not ``size`` bytes."""

    def read_part(self, name: str, offset: int, length: int, size: int | None) -> bytes:
        """``length`` bytes at ``offset`` of a file of ``size`` bytes. Raises PictureError as ``read`` does."""

    def open(self, name: str) -> BinaryIO:
        """A seekable stream. Raises OSError."""

    def check(self, name: str) -> None:
        """Raises AtlasError when the place cannot be reached: then a file that cannot be read is not to blame."""


def resolve(source: str) -> str:
    """A URL as it is, a path made absolute: workers may stand in another folder."""
    if is_remote(source):
        return source.rstrip("/")
    return os.path.abspath(os.path.expanduser(source))  # noqa: PTH100, PTH111 - names need not be UTF-8


def suffix_of(name: str) -> str:
    """The suffix in small letters; that of a URL ends before its query."""
    if is_remote(name):
        name = re.split(r"[?#]", name, maxsplit=1)[0]
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a million Paths are slow


def open_files(base: str, options: dict[str, Any]) -> Files:
    """The files below ``base``; ``options`` go to fsspec."""
    return RemoteFiles(base, options) if is_remote(base) else LocalFiles(base)


def find(source: str, suffixes: frozenset[str], options: dict[str, Any]) -> SourceFiles:
    """The files of a resolved ``source``: one file, a folder searched recursively, or a glob; those in folders and
    globs by their suffix. Hidden files are left out. Raises ConfigError when there is nothing or it cannot be listed.
    """
    if not is_remote(source):
        return _find_local(source, suffixes)
    try:
        return _find_remote(source, suffixes, options)
    except AtlasError:
        raise
    except Exception as error:  # each storage has its own
        raise ConfigError(
            f"images.source: {source} cannot be listed ({error_reason(error)}). Check the address, your credentials "
            "and images.storage_options."
        ) from error


# Local


def _find_local(source: str, suffixes: frozenset[str]) -> SourceFiles:
    path = Path(source)
    if path.is_dir():
        return SourceFiles(source, list(_walk(source, suffixes)))
    if path.exists():
        return SourceFiles(str(path.parent), [File(path.name, path.stat().st_size)])
    if not re.search(r"[*?\[]", source):
        raise ConfigError(
            f"images.source: there is no folder {source}, nor a file of that name. Point it at your pictures with "
            "--set images.source=FOLDER."
        )
    base = Path(*path.parts[: next(number for number, part in enumerate(path.parts) if re.search(r"[*?\[]", part))])
    if not base.is_dir():
        raise ConfigError(f"images.source: there is no folder {base}, where {source} would begin.")
    matches = re.compile(glob_translate(path.relative_to(base).as_posix())).match
    return SourceFiles(str(base), [file for file in _walk(str(base), suffixes) if matches(file.name)])


def _walk(folder: str, suffixes: frozenset[str]) -> Iterator[File]:
    """All files below ``folder``, links to folders followed. Each folder is entered once, by its own name rather than
    by a link, so links in circles end."""
    entered: set[tuple[int, int]] = set()
    pending, links = [""], list[str]()
    while pending or links:
        inside = pending.pop() if pending else heapq.heappop(links)
        path = os.path.join(folder, inside)  # noqa: PTH118
        try:
            status = os.stat(path)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    name = f"{inside}/{entry.name}" if inside else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(name)
                    elif entry.is_symlink() and _leads_to_folder(entry):
                        heapq.heappush(links, name)
                    elif suffix_of(entry.name) in suffixes and not entry.name.startswith("."):
                        yield _file_of(name, entry)
        except OSError as error:
            if not inside:
                raise ConfigError(f"images.source: {folder} cannot be read: {error_reason(error)}.") from error
            yield File(inside, None, f"the folder cannot be read: {error_reason(error)}")


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _file_of(name: str, entry: os.DirEntry[str]) -> File:
    try:
        if entry.is_file():
            return File(name, entry.stat().st_size)
        error = "not a file, but a pipe, socket or device"
        return File(name, None, "a link to nowhere" if entry.is_symlink() else error)
    except OSError as failure:
        return File(name, None, error_reason(failure))


class LocalFiles:
    """Files below a folder."""

    threads = 2

    def __init__(self, base: str) -> None:
        self.base = base

    def read(self, name: str, size: int | None) -> bytes:
        """A whole file. Raises PictureError when it cannot be had, is no plain file or has not ``size`` bytes."""
        return self._read(name, 0, None, size)

    def read_part(self, name: str, offset: int, length: int, size: int | None) -> bytes:
        """``length`` bytes at ``offset`` of a file of ``size`` bytes. Raises PictureError as ``read`` does."""
        return self._read(name, offset, length, size)

    def open(self, name: str) -> BinaryIO:
        """A stream of the file's bytes. Raises OSError."""
        return open(os.path.join(self.base, name), "rb")  # noqa: PTH118, PTH123

    def check(self, name: str) -> None:
        """This machine's own files are always within reach."""

    def _read(self, name: str, offset: int, length: int | None, size: int | None) -> bytes:
        try:
            # Not blocking: what was a file may have become a pipe, which would wait for a writer.
            number = os.open(os.path.join(self.base, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # noqa: PTH118
            try:
                status = os.fstat(number)
                if not stat.S_ISREG(status.st_mode):
                    raise PictureError("not a file")
                _expect_size(size, status.st_size)
                return _whole(os.pread(number, _bounded(status.st_size if length is None else length), offset), length)
            finally:
                os.close(number)
        except OSError as error:
            raise PictureError(error_reason(error)) from error


# Remote


def _find_remote(source: str, suffixes: frozenset[str], options: dict[str, Any]) -> SourceFiles:
    system, path = open_system(source, options)
    if source.startswith(("http://", "https://")):  # a web server lists no folders
        if suffix_of(source) not in suffixes:
            raise ConfigError(
                f"images.source: {source} does not name a picture, a .tar or a .parquet file. A web server has no "
                "folders: give the files themselves, several as a list."
            )
        base, _, name = source.rpartition("/")
        return SourceFiles(base, [File(name, system.info(path).get("size"))])
    system.invalidate_cache()
    if re.search(r"[*?\[]", path):
        base = path[: re.search(r"[*?\[]", path).start()].rpartition("/")[0]  # type: ignore[union-attr]
        entries = system.glob(path, detail=True)
    elif system.isfile(path):
        base, entries = path.rpartition("/")[0], {path: system.info(path)}
    else:
        base, entries = path.rstrip("/"), system.find(path, detail=True)
    files = [
        File(name[len(base) + 1 :], info.get("size"))
        for name, info in entries.items()
        if info["type"] == "file" and suffix_of(name) in suffixes and not name.rpartition("/")[2].startswith(".")
    ]
    if not entries:
        raise ConfigError(f"images.source: there is nothing at {source}. Check the address and what it should hold.")
    return SourceFiles(system.unstrip_protocol(base), files)


class RemoteFiles:
    """Files below a URL, through fsspec. What the network does wrong is tried again, and is never a picture's fault."""

    threads = 16

    def __init__(self, base: str, options: dict[str, Any]) -> None:
        self.base = base
        self._options = options
        self._lock = threading.Lock()
        self._file_system: AbstractFileSystem | None = None

    def read(self, name: str, size: int | None) -> bytes:
        """A whole file. Raises PictureError when it is gone, refused or has not ``size`` bytes, AtlasError when the
        place does not answer."""
        if size is not None:
            _bounded(size)
        data = self._attempt(lambda: self._files.cat_file(self._path(name)))
        _expect_size(size, len(data))
        return data

    def read_part(self, name: str, offset: int, length: int, size: int | None) -> bytes:
        """``length`` bytes at ``offset``; ``size`` is not looked at. Raises as ``read`` does."""
        end = offset + _bounded(length)
        return _whole(self._attempt(lambda: self._files.cat_file(self._path(name), start=offset, end=end)), length)

    def open(self, name: str) -> BinaryIO:
        """A stream that reads ahead, a block at a time. Raises OSError, or an error of the storage's own."""
        return self._files.open(self._path(name), "rb", block_size=_BLOCK, cache_type="readahead")

    def check(self, name: str) -> None:
        """Ask for the file's first byte. Raises PictureError where the file is to blame, AtlasError where the place is
        out of reach."""
        self._attempt(lambda: self._files.cat_file(self._path(name), start=0, end=1))

    @property
    def _files(self) -> AbstractFileSystem:
        with self._lock:
            if self._file_system is None:
                self._file_system = open_system(self.base, self._options)[0]
            return self._file_system

    def _path(self, name: str) -> str:
        return f"{self._files._strip_protocol(self.base)}/{name}"

    def _attempt(self, read: Callable[[], Result]) -> Result:
        """Raises PictureError where this file is to blame, AtlasError where the network is, after some attempts."""
        try:
            return with_retries(read)
        except (FileNotFoundError, PermissionError) as error:
            raise PictureError(error_reason(error)) from error
        except AtlasError:
            raise
        except Exception as error:  # each storage has its own
            raise AtlasError(
                f"images.source: {self.base} cannot be read ({error_reason(error)}). Give the same command again "
                "when it can be reached."
            ) from error


# Local and remote


def _bounded(length: int) -> int:
    if length > LARGEST:
        raise PictureError(f"a file of {length:,} bytes; expected at most {LARGEST:,}")
    return length


def _expect_size(listed_size: int | None, actual: int) -> None:
    if listed_size is not None and listed_size != actual:
        raise PictureError(f"has changed since it was listed: {actual:,} bytes in place of {listed_size:,}")


def _whole(data: bytes, length: int | None) -> bytes:
    if length is not None and len(data) != length:
        raise PictureError(f"the file around it ends too early: {len(data):,} of {length:,} bytes are there")
    return data

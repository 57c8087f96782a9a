"""The other home of a run whose ``out`` is a URL: what is finished is copied there, markers after what they vouch for.

The run itself works in a folder of this machine, its working copy. Whatever is finished at the URL and missing in the
folder is fetched when the run begins, so that the same command goes on elsewhere. What another configuration made there
is moved aside there, as it is here: nothing is deleted. While a run is at work, ``owner.json`` there says so.
"""

from __future__ import annotations

import json
import mimetypes
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from atlas.errors import AtlasError
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import as_marker, parse_marker, read_marker
from atlas.rundir.remote import Result, open_system, patiently, reason
from atlas.rundir.stages import FOLDERS

# Files on their way at a time.
_LANES = 16
# Storage that knows names only. Making a folder there would make a bucket of a name that was typed wrong.
_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"}
# Says who is at work there; how often he says so, and after how long a silence he is taken for gone.
_OWNER, _BEAT_SECONDS, _SILENT_SECONDS = "owner.json", 20, 120
# What a bucket should say of files that Python knows nothing of, where it serves a site.
for _suffix, _kind in {".webp": "image/webp", ".dzi": "application/xml", ".bin": "application/octet-stream"}.items():
    mimetypes.add_type(_kind, _suffix)


class Mirror:
    """Keeps ``run``, the working copy, and the files below ``url`` alike; ``options`` go to fsspec.

    To be used with ``with``: at the end of the block all that was sent has arrived. Raises ConfigError when the URL
    cannot be used at all; every method raises AtlasError when it cannot be reached or written.
    """

    def __init__(self, url: str, options: dict[str, Any], run: RunDirectory) -> None:
        self.url, self._run = url, run
        self._system, self._root = open_system(url, options, "out")
        protocols = {self._system.protocol} if isinstance(self._system.protocol, str) else set(self._system.protocol)
        self._has_folders = not protocols & _WITHOUT_FOLDERS
        self._lanes = ThreadPoolExecutor(_LANES)
        self._queue = ThreadPoolExecutor(1)
        self._sending: list[Future[None]] = []
        self._me = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "process": os.getpid()}
        self._ended, self._beating = threading.Event(), threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        try:
            if kind is None:
                self.wait()
            elif issubclass(kind, Exception):  # what was finished before it is sent all the same; not after Ctrl-C
                with suppress(AtlasError):
                    self.wait()
        finally:
            self._queue.shutdown(cancel_futures=True)
            self._lanes.shutdown(cancel_futures=True)
            self._leave()

    def begin(self) -> None:
        """Take hold of the URL, and fetch what says how far the run is. Raises AtlasError when another process is at
        work there, or the folder is no working copy of this URL."""
        here = self._run.read_manifest()
        if here and here.get("config", {}).get("out") != self.url:
            raise AtlasError(
                f"out: {self._run.path} would be the working copy of {self.url}, but another run lies there. Move it "
                "away, or give a URL that ends in another name."
            )
        self._enter()
        if not here and self._state_there():
            for name in ("listing.parquet", "report.json", "run.json"):
                with suppress(FileNotFoundError):
                    self._fetch_file(name)

    def claim(self, stage: str, key: str) -> None:
        """RunDirectory.claim, here and there; then both have all that is finished of the stage."""
        folder = FOLDERS[stage]
        known = self._state_there().get("stages", {}).get(stage, {}).get("key")
        if known != key:
            self._move(folder, self._free(f"{folder}.{(known or 'unknown')[:8]}"))
            self._move(f"{folder}.{key[:8]}", folder)
        self._run.claim(stage, key)
        self.send_state()
        self._fetch(folder, key)
        self._update(folder, key)

    def send_state(self, *further: Path) -> None:
        """Copy run.json and ``further`` files there."""
        self._each(self._send_file, [*further, self._run.manifest])

    def send(self, markers: Sequence[Path]) -> None:
        """Have the files of ``markers``, then the markers, copied there in the background."""
        self._sending.append(self._queue.submit(self._send_marked, markers))

    def finish(self, stage: str, key: str) -> None:
        """Wait until all of ``stage`` is there; what did not arrive at the first attempt is sent once more."""
        with suppress(AtlasError):
            self.wait()
        self._update(FOLDERS[stage], key)

    def wait(self) -> None:
        """Wait for all that is on its way. Raises the first error."""
        sending, self._sending = self._sending, []
        for future in sending:
            future.result()

    # One process at a time

    def _enter(self) -> None:
        try:
            other = json.loads(self._read(_OWNER))
        except (FileNotFoundError, ValueError):
            other = {}
        gone = other.get("host") == self._me["host"] and not psutil.pid_exists(other.get("process", -1))
        silent = time.time() - other.get("time", 0)
        if other and not gone and silent < _SILENT_SECONDS:
            raise AtlasError(
                f"Another process ({other.get('process')} on {other.get('host')}) was at work at {self.url} "
                f"{max(0, silent):.0f} seconds ago. Wait for it; if it was killed, try again in {_SILENT_SECONDS} "
                "seconds."
            )
        self._say_mine()
        if json.loads(self._read(_OWNER)).get("id") != self._me["id"]:
            raise AtlasError(f"Another process has just begun to work at {self.url}. Wait for it.")
        self._beating.start()

    def _say_mine(self) -> None:
        text = json.dumps({**self._me, "time": time.time()}).encode()
        self._write(_OWNER, lambda target: self._system.pipe_file(target, text))

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            with suppress(AtlasError):
                self._say_mine()

    def _leave(self) -> None:
        if self._beating.ident is None:
            return
        self._ended.set()
        self._beating.join()
        with suppress(AtlasError, OSError):
            self._do(lambda: self._system.rm_file(self._at(_OWNER)))

    # What is finished

    def _state_there(self) -> dict[str, Any]:
        """run.json as it is there, or an empty dict."""
        try:
            state = json.loads(self._read("run.json"))
        except FileNotFoundError:
            return {}
        except ValueError:
            state = None
        if not isinstance(state, dict):
            raise AtlasError(f"{self.url}/run.json is no JSON of a run. Give another URL with --set out=URL.")
        return state

    def _send_marked(self, markers: Sequence[Path]) -> None:
        found = [(marker, parse_marker(marker)) for marker in markers]
        files = {marker.parent / name for marker, facts in found if facts for name in facts["files"]}
        self._each(self._send_file, sorted(files))
        self._each(self._send_file, markers)

    def _update(self, folder: str, key: str) -> None:
        """Send what is finished here in a folder of the run and is not there, or differs."""
        there = self._find(folder)

        def lacking(path: Path) -> bool:
            marker = read_marker(path, key)
            if marker is None:
                return False
            name = self._name(path)
            files = {self._name(path.parent / each): facts["bytes"] for each, facts in marker["files"].items()}
            whole = name in there and all(there.get(file) == size for file, size in files.items())
            return not whole or self._read(name) != path.read_bytes()

        markers = sorted((self._run.path / folder).rglob("*.json"))
        self._send_marked([path for path, each in zip(markers, self._each(lacking, markers)) if each])

    def _fetch(self, folder: str, key: str) -> None:
        """Bring here what is finished there in a folder of the run, with ``key``, and is not here."""
        there = self._find(folder)

        def fetch(name: str) -> None:
            text = self._read(name)
            marker, path = as_marker(text), self._run.path / name
            if marker is None or marker["key"] != key or read_marker(path, key):
                return
            files = {self._name(path.parent / each): facts["bytes"] for each, facts in marker["files"].items()}
            if any(there.get(file) != size for file, size in files.items()):
                return  # not whole: made again
            for file, size in files.items():
                known = self._run.path / file
                if not known.is_file() or known.stat().st_size != size:
                    self._fetch_file(file)
            with atomic(path) as temporary:
                temporary.write_bytes(text)

        self._each(fetch, [name for name in there if name.endswith(".json")])

    def _free(self, folder: str) -> str:
        """``folder``, or with a number behind where there is one there."""
        return next(name for name in (folder, *(f"{folder}-{n}" for n in range(2, 1000))) if not self._find(name))

    def _move(self, old: str, new: str) -> None:
        """Move a folder there; one that was half moved before goes the rest of the way."""
        names = list(self._find(old))

        def copy(name: str) -> None:
            self._write(new + name.removeprefix(old), lambda target: self._system.cp_file(self._at(name), target))

        self._each(copy, names)
        self._each(lambda name: self._do(lambda: self._system.rm_file(self._at(name))), names)

    # Single files, by their names below the run's folder

    def _name(self, path: Path) -> str:
        return path.resolve().relative_to(self._run.path.resolve()).as_posix()

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _find(self, folder: str) -> dict[str, int]:
        """The files there below ``folder``, with their sizes."""
        self._system.invalidate_cache()
        try:
            found = self._do(lambda: self._system.find(self._at(folder), detail=True))
        except FileNotFoundError:
            return {}
        start = len(self._root) + 1
        return {name[start:]: facts["size"] for name, facts in found.items() if facts["type"] == "file"}

    def _read(self, name: str) -> bytes:
        """Raises FileNotFoundError where there is none."""
        text: bytes = self._do(lambda: self._system.cat_file(self._at(name)))
        return text

    def _fetch_file(self, name: str) -> None:
        with atomic(self._run.path / name) as temporary:
            self._do(lambda: self._system.get_file(self._at(name), str(temporary)))

    def _send_file(self, path: Path) -> None:
        self._write(self._name(path), lambda target: self._system.put_file(str(path), target))

    def _write(self, name: str, write: Callable[[str], object]) -> None:
        target = self._at(name)

        def attempt() -> None:
            if self._has_folders:
                self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
            write(target)

        try:
            self._do(attempt)
        except FileNotFoundError as error:
            raise self._unreachable(error) from error

    def _each(self, work: Callable[[Any], Result], given: Iterable[Any]) -> list[Result]:
        return list(self._lanes.map(work, given))

    def _do(self, attempt: Callable[[], Result]) -> Result:
        try:
            return patiently(attempt)
        except (FileNotFoundError, AtlasError):
            raise
        except Exception as error:  # each storage has its own
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> AtlasError:
        why = "there is no such place" if isinstance(error, FileNotFoundError) else reason(error)
        return AtlasError(
            f"out: {self.url} cannot be read or written ({why}). Check the address, your credentials and out_options. "
            f"What is finished lies in {self._run.path}; the same command goes on."
        )

"""The other home of a run whose ``out`` is a URL: what is finished is copied there, markers after what they vouch for.

The run itself works in a folder of this machine, its working copy. Whatever is finished at the URL and missing in the
folder is fetched when the run begins, so that the same command goes on elsewhere. What another configuration made there
is moved aside there, as it is here: nothing is deleted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from atlas.errors import AtlasError
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import as_marker, parse_marker, read_marker
from atlas.rundir.owner import OwnerLock
from atlas.rundir.remote_store import RemoteStore
from atlas.rundir.stages import FOLDERS
from atlas.rundir.versions import refuse_other_format


class Mirror:
    """Keeps ``run``, the working copy, and the files below ``url`` alike; ``options`` go to fsspec.

    To be used with ``with``: at the end of the block all that was sent has arrived. Raises ConfigError when the URL
    cannot be used at all; every method raises AtlasError when it cannot be reached or written.
    """

    def __init__(self, url: str, options: dict[str, Any], run: RunDirectory) -> None:
        self._run = run
        self._store = RemoteStore(url, options, run.path)
        self._lock = OwnerLock(self._store)
        self._queue = ThreadPoolExecutor(1)
        self._sending: list[Future[None]] = []

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
            self._store.close()
            self._lock.release()

    def begin(self) -> None:
        """Lock the URL for this process, and fetch what says how far the run is. Raises AtlasError when another process
        is at work there, or the folder is no working copy of this URL."""
        manifest = self._run.read_manifest()
        if manifest and manifest.get("config", {}).get("out") != self._store.url:
            raise AtlasError(
                f"out: {self._run.path} would be the working copy of {self._store.url}, but another run lies there. "
                "Move it away, or give a URL that ends in another name."
            )
        self._lock.acquire()
        if not manifest and self._remote_manifest():
            for name in ("listing.parquet", "report.json", "run.json"):
                with suppress(FileNotFoundError):
                    self._store.fetch(name, self._run.path / name)

    def claim(self, stage: str, key: str) -> None:
        """RunDirectory.claim, here and there; then both have all that is finished of the stage."""
        folder = FOLDERS[stage]
        remote_key = self._remote_manifest().get("stages", {}).get(stage, {}).get("key")
        if remote_key != key:
            self._store.move_folder(folder, self._unused(f"{folder}.{(remote_key or 'unknown')[:8]}"))
            self._store.move_folder(f"{folder}.{key[:8]}", folder)
        self._run.claim(stage, key)
        self.send_state()
        self._fetch_finished(folder, key)
        self._send_finished(folder, key)

    def send_state(self, *further: Path) -> None:
        """Copy run.json and ``further`` files there."""
        self._store.map(self._send_file, [*further, self._run.manifest])

    def send(self, markers: Sequence[Path]) -> None:
        """Have the files of ``markers``, then the markers, copied there in the background."""
        self._sending.append(self._queue.submit(self._send_marked, markers))

    def finish(self, stage: str, key: str) -> None:
        """Wait until all of ``stage`` is there; what did not arrive at the first attempt is sent once more."""
        with suppress(AtlasError):
            self.wait()
        self._send_finished(FOLDERS[stage], key)

    def wait(self) -> None:
        """Wait for all that is on its way. Raises the first error."""
        sending, self._sending = self._sending, []
        for future in sending:
            future.result()

    def _remote_manifest(self) -> dict[str, Any]:
        """run.json as it is there, or an empty dict. Raises ConfigError when another version of activation-atlas wrote
        it."""
        try:
            manifest = json.loads(self._store.read("run.json"))
        except FileNotFoundError:
            return {}
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise AtlasError(f"{self._store.url}/run.json is no JSON of a run. Give another URL with --set out=URL.")
        refuse_other_format(manifest, f"{self._store.url}/run.json")
        return manifest

    def _send_marked(self, markers: Sequence[Path]) -> None:
        pairs = [(path, parse_marker(path)) for path in markers]
        files = {path.parent / name for path, marker in pairs if marker for name in marker["files"]}
        self._store.map(self._send_file, sorted(files))
        self._store.map(self._send_file, markers)

    def _send_finished(self, folder: str, key: str) -> None:
        """Send what is finished here in a folder of the run and is not there, or differs."""
        remote = self._store.sizes(folder)

        def differs(path: Path) -> bool:
            marker = read_marker(path, key)
            if marker is None:
                return False
            name = self._name(path)
            whole = name in remote and all(remote.get(file) == size for file, size in self._sizes(marker, path).items())
            return not whole or self._store.read(name) != path.read_bytes()

        markers = sorted((self._run.path / folder).rglob("*.json"))
        self._send_marked([path for path, lacking in zip(markers, self._store.map(differs, markers)) if lacking])

    def _fetch_finished(self, folder: str, key: str) -> None:
        """Bring here what is finished there in a folder of the run, with ``key``, and is not here."""
        remote = self._store.sizes(folder)

        def fetch(name: str) -> None:
            data = self._store.read(name)
            marker, path = as_marker(data), self._run.path / name
            if marker is None or marker["key"] != key or read_marker(path, key):
                return
            sizes = self._sizes(marker, path)
            if any(remote.get(file) != size for file, size in sizes.items()):
                return  # not whole: made again
            for file, size in sizes.items():
                local = self._run.path / file
                if not local.is_file() or local.stat().st_size != size:
                    self._store.fetch(file, local)
            with atomic(path) as temporary:
                temporary.write_bytes(data)

        self._store.map(fetch, [name for name in remote if name.endswith(".json")])

    def _unused(self, folder: str) -> str:
        """``folder``, or with a number behind where there is one there."""
        names = (folder, *(f"{folder}-{number}" for number in range(2, 1000)))
        return next(name for name in names if not self._store.sizes(name))

    def _sizes(self, marker: dict[str, Any], path: Path) -> dict[str, int]:
        """The names of the files that the marker at ``path`` vouches for, with their sizes in bytes."""
        return {self._name(path.parent / name): facts["bytes"] for name, facts in marker["files"].items()}

    def _send_file(self, path: Path) -> None:
        self._store.send(path, self._name(path))

    def _name(self, path: Path) -> str:
        """The name of a file of the run: its path below the run's folder."""
        return path.resolve().relative_to(self._run.path.resolve()).as_posix()

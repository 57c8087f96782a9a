"""The other home of a run whose ``out`` is a URL: what is finished is copied there, markers after what they vouch for.

The run itself works in a folder of this machine, its working copy. Whatever is finished at the URL and missing in the
folder is fetched when the run begins, so that the same command goes on elsewhere.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from atlas.errors import AtlasError
from atlas.files import Read, is_remote, open_system, patiently, reason
from atlas.rundir import FOLDERS, RunDirectory, as_marker, atomic, parse_marker, read_marker

# Files on their way at a time.
_LANES = 16
# What a bucket should say of files that Python knows nothing of, where it serves a site.
for _suffix, _kind in {".webp": "image/webp", ".dzi": "application/xml", ".bin": "application/octet-stream"}.items():
    mimetypes.add_type(_kind, _suffix)


def working_folder(out: str) -> Path:
    """The folder, absolute, that a run with this ``out`` works in: ``out`` itself, or for a URL its last part in runs/.

    Absolute, since workers may stand in another folder.
    """
    path = Path("runs", out.rstrip("/").rpartition("/")[2]) if is_remote(out) else Path(out).expanduser()
    return path.absolute()


class Mirror:
    """Keeps ``run``, the working copy, and the files below ``url`` alike; ``options`` go to fsspec.

    To be used with ``with``: at the end of the block all that was sent has arrived. Every method raises ConfigError
    when the URL cannot be used at all, AtlasError when it cannot be reached or written.
    """

    def __init__(self, url: str, options: dict[str, Any], run: RunDirectory) -> None:
        self.url, self._run = url, run
        self._system, self._root = open_system(url, options, "out")
        self._lanes = ThreadPoolExecutor(_LANES)
        self._queue = ThreadPoolExecutor(1)
        self._sending: list[Future[None]] = []

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._queue.shutdown(cancel_futures=True)
            self._lanes.shutdown(cancel_futures=True)

    def begin(self) -> None:
        """Fetch what says how far the run is. Raises AtlasError when the folder is not a working copy of this URL, or
        one that was overtaken by another."""
        here = self._run.read_manifest()
        if here and here.get("config", {}).get("out") != self.url:
            raise AtlasError(
                f"out: {self._run.path} would be the working copy of {self.url}, but another run lies there. Move it "
                "away, or give a URL that ends in another name."
            )
        try:
            there = json.loads(self._read("run.json"))
        except FileNotFoundError:
            return
        except ValueError:
            raise AtlasError(f"{self.url}/run.json is no JSON of a run. Give another URL with --set out=URL.") from None
        if not here:
            for name in ("listing.parquet", "report.json", "run.json"):
                with suppress(FileNotFoundError):
                    self._fetch_file(name)
            return
        for stage, facts in there.get("stages", {}).items():
            known = here.get("stages", {}).get(stage)
            if known and known["key"] != facts["key"]:
                raise AtlasError(
                    f"{self.url} was worked on from elsewhere since: its {FOLDERS[stage]} belongs to another "
                    f"configuration than {self._run.path}. Move that folder away and give the same command again: "
                    "what is finished there is fetched."
                )

    def claim(self, stage: str, key: str) -> None:
        """RunDirectory.claim, here and there; then both have all that is finished of the stage."""
        folder = FOLDERS[stage]
        aside = f"{folder}.{key[:8]}"
        known = self._run.read_manifest().get("stages", {}).get(stage, {}).get("key")
        if known not in (None, key) and not (self._run.path / aside).exists():
            self._fetch(aside)
        for old, new in self._run.claim(stage, key):
            self._move(old.name, new.name)
        self.send_state()
        self._fetch(folder)
        self._update(folder)

    def send_state(self, *further: Path) -> None:
        """Copy run.json and ``further`` files there."""
        self._each(self._send_file, [*further, self._run.manifest])

    def send(self, markers: Sequence[Path]) -> None:
        """Have the files of ``markers``, then the markers, copied there in the background."""
        for future in self._sending:
            if future.done():
                future.result()  # tells at once that the URL is out of reach
        self._sending = [future for future in self._sending if not future.done()]
        self._sending.append(self._queue.submit(self._send_marked, markers))

    def wait(self) -> None:
        """Wait for all that is on its way."""
        sending, self._sending = self._sending, []
        for future in sending:
            future.result()

    def _send_marked(self, markers: Sequence[Path]) -> None:
        found = [(marker, parse_marker(marker)) for marker in markers]
        files = {marker.parent / name for marker, facts in found if facts for name in facts["files"]}
        self._each(self._send_file, sorted(files))
        self._each(self._send_file, markers)

    def _update(self, folder: str) -> None:
        """Send what is finished here in a folder of the run and is not there, or differs."""
        there = self._find(folder)

        def lacking(path: Path) -> bool:
            marker = parse_marker(path)
            if marker is None or read_marker(path, marker["key"]) is None:
                return False
            if any(
                there.get(self._name(path.parent / name)) != facts["bytes"] for name, facts in marker["files"].items()
            ):
                return True
            name = self._name(path)
            return name not in there or self._read(name) != path.read_bytes()

        markers = sorted((self._run.path / folder).rglob("*.json"))
        self._send_marked([path for path, each in zip(markers, self._each(lacking, markers)) if each])

    def _fetch(self, folder: str) -> None:
        """Bring here what is finished there in a folder of the run and is not here."""
        there = self._find(folder)

        def fetch(name: str) -> None:
            text = self._read(name)
            marker, path = as_marker(text), self._run.path / name
            here = parse_marker(path)
            if marker is None or (here and (here["key"] != marker["key"] or read_marker(path, here["key"]))):
                return
            files = [self._name(path.parent / each) for each in marker["files"]]
            if any(there.get(file) != facts["bytes"] for file, facts in zip(files, marker["files"].values())):
                return  # of what another process is sending right now
            for file, facts in zip(files, marker["files"].values()):
                known = self._run.path / file
                if not known.is_file() or known.stat().st_size != facts["bytes"]:
                    self._fetch_file(file)
            with atomic(path) as temporary:
                temporary.write_bytes(text)

        self._each(fetch, [name for name in there if name.endswith(".json")])

    def _move(self, old: str, new: str) -> None:
        names = list(self._find(old))

        def copy(name: str) -> None:
            self._do(lambda: self._system.cp_file(self._at(name), self._at(new + name.removeprefix(old))))

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
        found = self._do(lambda: self._system.find(self._at(folder), detail=True))
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
        def send() -> None:
            target = self._at(self._name(path))
            self._system.makedirs(target.rpartition("/")[0], exist_ok=True)  # nothing in a bucket, folders elsewhere
            self._system.put_file(str(path), target)

        self._do(send)

    def _each(self, work: Callable[[Any], Read], given: Iterable[Any]) -> list[Read]:
        return list(self._lanes.map(work, given))

    def _do(self, attempt: Callable[[], Read]) -> Read:
        try:
            return patiently(attempt)
        except FileNotFoundError:
            raise
        except Exception as error:  # each storage has its own
            raise AtlasError(
                f"out: {self.url} cannot be read or written ({reason(error)}). Check the address, your credentials and "
                f"out_options. What is finished lies in {self._run.path}; the same command goes on."
            ) from error

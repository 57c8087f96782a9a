"""A made site that grows as that of a run at work does, and the servers that it may lie behind."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from made_site import running
from starlette.staticfiles import StaticFiles

LAYER, OTHERS = "_blocks.10", ("_blocks.2", "_blocks.4")
UNITS = {"_blocks.2": 6, "_blocks.4": 12, "_blocks.10": 40}
# What is there of the site, stage by stage: the grids of each map, the layers with units, and whether there is a tour.
STAGES: dict[str, tuple[dict[str, tuple[int, ...]], tuple[str, ...], bool]] = {
    "coarse": ({LAYER: (10,)}, (), False),
    "fine": ({LAYER: (10, 20, 40)}, (), False),
    "layers": ({LAYER: (10, 20, 40), OTHERS[1]: (10,)}, (), False),
    "units": ({LAYER: (10, 20, 40), OTHERS[1]: (10, 20, 40), OTHERS[0]: (10, 20, 40)}, (LAYER,), False),
    "more units": ({LAYER: (10, 20, 40), OTHERS[1]: (10, 20, 40), OTHERS[0]: (10, 20, 40)}, tuple(UNITS), False),
    "whole": ({LAYER: (10, 20, 40), OTHERS[1]: (10, 20, 40), OTHERS[0]: (10, 20, 40)}, tuple(UNITS), True),
}
STEP = {
    "kind": "network", "title": "The first step", "text": ["It goes on."], "see": None, "figure": None, "go": None,
    "link": None, "picture_to_open": None, "picture": None, "parts": [],
}  # fmt: skip


class GrowingRun:
    """A run at work in ``folder``, whose site comes to hold what the one at ``whole`` does."""

    def __init__(self, folder: Path, whole: Path) -> None:
        self.folder, self.site, self._whole = folder, folder / "site", whole
        (folder / "layout").mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        self.note("running", seconds_left=360)
        shutil.copytree(whole, self.site, copy_function=os.link, ignore=shutil.ignore_patterns("_blocks*", "neurons"))
        (self.site / "atlas.json").unlink()

    def note(self, state: str, *, seconds_left: float = 0.0, silence: float = 0.0) -> None:
        """Write how far the run is, as it was ``silence`` seconds ago."""
        facts = {"state": state, "updated": time.time() - silence, "seconds_left": seconds_left}
        _replace(self.folder / "progress.json", facts)

    def grow(self, stage: str, *, minutes: float | None = 6, ago: float = 0.0, **changes: Any) -> None:
        """Publish a stage: its files, and atlas.json last. ``minutes``: until all is there, None where nobody knows;
        ``ago``: minutes since the stage was published; ``changes``: of atlas.json."""
        grids, unit_layers, tour = STAGES[stage]
        facts = json.loads((self._whole / "atlas.json").read_text())
        for layer, sizes in grids.items():
            for grid in sizes:
                self._link(f"{layer}/grid-{grid:03d}")
        for layer in unit_layers:
            self._link(f"neurons/{layer}")
        (self.site / "tour.json").write_text(json.dumps({"title": "What does it see?", "steps": [STEP]}))
        now = time.time() - 60 * ago
        making = {
            "maps": [
                {"name": name, "path": name, "grids": absent}
                for name in UNITS
                if (absent := [grid for grid in (10, 20, 40) if grid not in grids.get(name, ())])
            ],
            "units": [{"layer": name, "units": UNITS[name]} for name in UNITS if name not in unit_layers],
            "tour": not tour,
            "written": _timestamp(now),
            **({} if minutes is None else {"expected_end": _timestamp(now + 60 * minutes)}),
        }
        layers = [
            {**layer, "grids": [grid for grid in layer["grids"] if grid["grid"] in grids[layer["path"]]]}
            for layer in facts["layers"]
            if layer["path"] in grids
        ]
        units = [entry for entry in facts["neurons"]["layers"] if entry["layer"] in unit_layers]
        facts |= {"layers": layers, "neurons": {"layers": units} if units else None, "tour": tour, "opening_map": LAYER}
        _replace(self.site / "atlas.json", {**facts, **({} if tour else {"making": making}), **changes})

    def grow_quick(self) -> None:
        """Publish the coarsest level with quick icons, whose scores are lower than those of its own."""
        self.grow("coarse")
        folder = self.site / LAYER / "grid-010"
        quick = folder / "quick"
        shutil.copytree(folder, quick, copy_function=os.link, ignore=shutil.ignore_patterns("patches*", "details"))
        cells = json.loads((quick / "cells.json").read_text())
        lower = {**cells, "cosine": [None if cosine is None else 0.62 for cosine in cells["cosine"]]}
        _replace(quick / "cells.json", lower)
        layers = json.loads((self.site / "atlas.json").read_text())["layers"]
        layers[0]["grids"][0]["quick"] = True
        self.grow("coarse", layers=layers)

    def _link(self, name: str) -> None:
        if not (self.site / name).exists():
            shutil.copytree(self._whole / name, self.site / name, copy_function=os.link)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _replace(path: Path, facts: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(json.dumps(facts))
    temporary.replace(path)


@pytest.fixture
def growing(neurons_site: Path, tmp_path: Path) -> GrowingRun:
    """A run whose site has the coarsest level of one layer."""
    run = GrowingRun(tmp_path / "made", neurons_site)
    run.grow("coarse")
    return run


class Looks:
    """What was asked of atlas.json, and how it was answered: the headers with a condition, and the status."""

    def __init__(self) -> None:
        self.answers: list[tuple[set[str], int]] = []

    def note(self, headers: Any, status: int) -> None:
        conditions = {name for name in ("if-none-match", "if-modified-since") if name in headers}
        self.answers.append((conditions, status))


@contextmanager
def plain_server(site: Path) -> Iterator[tuple[str, Looks]]:
    """The address of a site behind Python's own file server, which knows times only."""
    looks = Looks()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def send_response(self, code: int, message: str | None = None) -> None:
            if self.path.startswith("/atlas.json"):
                looks.note(self.headers, code)
            super().send_response(code, message)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", looks
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def tagging_server(site: Path) -> Iterator[tuple[str, Looks]]:
    """The address of a site behind a file server that gives ETags."""
    looks = Looks()
    files = StaticFiles(directory=site, html=True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def noted_send(message: Any) -> None:
            if message["type"] == "http.response.start" and scope["path"] == "/atlas.json":
                looks.note({name.decode() for name, _ in scope["headers"]}, message["status"])
            await send(message)

        await files(scope, receive, noted_send)

    with running(app, lifespan="off") as url:
        yield url, looks

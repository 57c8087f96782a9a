"""From the command to what there is to see: a run that serves its page, watched in a browser.

The seconds until the browser shows the opening layer's coarsest level, until that layer is there with all levels and
their own icons (the quick ones do not count), and until the run is done, units and tour included; beside them what the
plan expected.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_rows import BenchRow  # beside this file
from playwright.sync_api import Page, sync_playwright

from atlas.errors import AtlasError

# Seconds between two looks at what is there.
_LOOK_SECONDS = 0.25


def bench_first(config: str, arguments: Sequence[str], pictures: Path | None) -> BenchRow:
    """One run of ``config`` with ``arguments`` of `atlas run`; ``pictures``: a folder for a screenshot of each state.

    Raises AtlasError where the run fails.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "atlas.run", config, *arguments, "--serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "160", "PYTHONUNBUFFERED": "1"},
    )
    log = _Log(process, started)
    try:
        return {"bench": "first", "system": "ours", **_watch(log, started, pictures)}
    finally:
        process.terminate()
        process.wait()


class _Log:
    """What a run prints, read by a thread: each line is passed on; the address and the end are noted with their
    time."""

    def __init__(self, process: subprocess.Popen[str], started: float) -> None:
        self.process, self.started = process, started
        self.address, self.expected_minutes = "", 0.0
        self.end: float | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            print(line, end="", flush=True)
            if match := re.search(r"^estimate +about (\d+) min", line):
                self.expected_minutes = float(match[1])
            if match := re.match(r"The atlas is at (\S+)$", line):
                self.address = match[1]
            if line.startswith("Done."):
                self.end = time.monotonic() - self.started

    def wait_for(self, name: str) -> Any:
        """The attribute of that name, as soon as it has a value."""
        while not getattr(self, name):
            if self.process.poll() is not None:
                raise AtlasError(f"The run ended with exit code {self.process.returncode}; its own lines say why.")
            time.sleep(_LOOK_SECONDS)
        return getattr(self, name)


def _watch(log: _Log, started: float, pictures: Path | None) -> dict[str, Any]:
    address = log.wait_for("address")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("ATLAS_CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        with page.expect_response(lambda response: "icons_files" in response.url and response.ok):
            page.goto(address)
        first = time.monotonic() - started
        looks = _Looks(page, pictures)
        opening: float | None = None
        while log.end is None:
            facts = _atlas(address)
            if opening is None and _is_whole(facts):
                opening = time.monotonic() - started
            looks.look(facts)
            if log.process.poll() is not None:
                raise AtlasError(f"The run ended with exit code {log.process.returncode}; its own lines say why.")
            page.wait_for_timeout(1000 * _LOOK_SECONDS)
        looks.look(_atlas(address))
        browser.close()
    return {
        "first_level_s": round(first, 1),
        "opening_layer_s": round(opening or log.end, 1),
        "whole_s": round(log.end, 1),
        "expected_whole_s": round(60 * log.expected_minutes),
    }


class _Looks:
    """A screenshot of the page whenever its levels have changed, a little later: the page learns of it by itself."""

    def __init__(self, page: Page, pictures: Path | None) -> None:
        self._page, self._pictures = page, pictures
        self._state: list[Any] = []
        self._count = 0

    def look(self, facts: dict[str, Any]) -> None:
        """Take one, where ``facts``, atlas.json, has changed."""
        state = [facts["layers"] and [[layer["path"], layer["grids"]] for layer in facts["layers"]], facts["tour"]]
        if self._pictures is None or state == self._state:
            return
        self._state = state
        self._count += 1
        self._page.wait_for_timeout(3000)
        self._pictures.mkdir(parents=True, exist_ok=True)
        self._page.screenshot(path=self._pictures / f"{self._count:02d}.png")


def _atlas(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}atlas.json", timeout=60) as answer:
        facts: dict[str, Any] = json.load(answer)
    return facts


def _is_whole(facts: dict[str, Any]) -> bool:
    """Whether the opening layer is there with all levels and their own icons."""
    layer = next((layer for layer in facts["layers"] if layer["path"] == facts["opening_map"]), None)
    to_come = [entry["path"] for entry in (facts.get("making") or {}).get("maps", [])]
    return layer is not None and layer["path"] not in to_come and not any(grid.get("quick") for grid in layer["grids"])

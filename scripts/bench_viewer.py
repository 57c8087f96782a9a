"""scripts/bench.py viewer: the page in a real browser, on a made site whose finest level has 160 × 160 cells.

The site is served on loopback by the product's own server, and read by Chromium without a graphics card. All is done as
a reader does it, by mouse and keyboard, and timed in the page:

- first_tiles_ms: from the page's navigation until the map shows pictures in the middle of the window;
- longest_task_ms: the longest task of the main thread (those over 50 ms are told by the browser) while the map is
  dragged and zoomed at every level; longest_task_with_class_ms: the same under the heat map of a class and with sizes;
- class_switch_ms: from the key that chooses a class to the frame in which its heat map is drawn, over 40 classes on the
  finest level; fetched: the first of a file of fifty classes, kept: the others;
- heap_mb_20 and heap_mb_200: the page's heap after so many switches of classes and layers, garbage collected.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bench_rows import BenchRow  # beside this file
from numpy.typing import NDArray
from playwright.sync_api import CDPSession, Page, sync_playwright

from atlas import show
from atlas.errors import AtlasError
from atlas.rundir.versions import SITE_FORMAT
from atlas.site.page import CLASSES_PER_FILE, PAGE_CLASSES, viewer_folder
from atlas.site.tiles import Icons, write_combined_pyramid, write_grid_pyramid

GRIDS = (10, 20, 40, 80, 160)
LAYERS = ("early", "late")
CLASSES = 1000
CHROMIUM = os.environ.get("ATLAS_CHROMIUM", "/usr/bin/chromium")
WINDOW: Any = {"width": 1440, "height": 900}
SWITCHES = 200

# Notes tasks that keep the main thread busy, and when the middle of the map is first drawn.
WATCH = """
window.tasks = [];
new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((task) => task.duration)))
  .observe({ type: 'longtask', buffered: true });
"""
FIRST_TILES = """
window.first = 0;
const look = () => {
  const canvas = document.querySelector('.openseadragon-canvas canvas');
  const middle = canvas && canvas.width && canvas.getContext('2d', { willReadFrequently: true })
    .getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[3];
  if (middle) window.first = performance.now();
  else requestAnimationFrame(look);
};
look();
"""
# Notes, for each heat map that is drawn, the time since the key that chose its class.
SWITCH = """
() => {
  window.switches = [];
  let pressed = 0;
  addEventListener('keydown', (event) => { if (event.key === 'Enter') pressed = performance.now(); }, true);
  new MutationObserver(() => requestAnimationFrame(() => {
    if (pressed) window.switches.push(performance.now() - pressed);
    pressed = 0;
  })).observe(document.querySelector('canvas.overlay'), { attributeFilter: ['data-veil'] });
}
"""


def make_site(site: Path, seed: int = 0) -> None:
    """Two layers of a thousand classes: pictures, cells and heat maps made from a few waves, on a round map."""
    random = np.random.default_rng(seed)
    pool = np.stack([_picture(random) for _ in range(64)])
    layers = []
    for layer in LAYERS:
        for grid in GRIDS:
            folder = site / layer / f"grid-{grid:03d}"
            folder.mkdir(parents=True)
            row, col = np.nonzero(_inside(grid))
            for name in ("icons", "patches"):
                write_grid_pyramid(folder / f"{name}.dzi", _icons(pool, grid), grid=grid)
            _write_cells(folder, grid, row, col, random)
        write_combined_pyramid(site / layer / "atlas.dzi", {grid: _icons(pool, grid) for grid in GRIDS})
        grids = [{"grid": grid, "cells": 1, "drawn": 1, "median_cosine": 0.9, "flagged": 0} for grid in GRIDS]
        facts = {"name": layer, "path": layer, "layer": layer, "network": 0, "classes_shown": [], "grids": grids}
        layers.append({**facts, "channels": 512, "map_size": [14, 14], "rows": 10**6, "dropped": 0})
    names = [f"class {number:03d}" for number in range(CLASSES)]
    atlas = {
        "format": SITE_FORMAT,
        "title": "made",
        "networks": [{"name": "made", "input_size": 224, "classes": names}],
        "icon_size": 80,
        "tile_size": 640,
        "attributions": True,
        "classes_per_file": CLASSES_PER_FILE,
        "labels": [],
        "layers": layers,
        "provenance": {"images": "none", "views": 0, "seed": seed, "created": None, "versions": {}},
        "report": {"layers": {}},
    }  # fmt: skip
    (site / "atlas.json").write_text(json.dumps(atlas))
    for file in viewer_folder().rglob("*"):
        if file.is_file():
            copy = site / file.relative_to(viewer_folder())
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())


def _picture(random: np.random.Generator) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:80, 0:80] / 80
    waves = [np.sin(random.uniform(2, 30) * x + random.uniform(2, 30) * y + random.uniform(0, 6)) for _ in range(3)]
    return (127 + 110 * np.stack(waves, 2)).astype(np.uint8)


def _inside(grid: int) -> NDArray[np.bool_]:
    offset = (np.arange(grid) + 0.5) / grid - 0.5
    inside: NDArray[np.bool_] = np.hypot(offset[:, None], offset) < 0.5
    return inside


def _icons(pool: NDArray[np.uint8], grid: int) -> Icons:
    inside = _inside(grid)

    def icon(row: int, col: int) -> NDArray[np.uint8] | None:
        return pool[(7 * row + 13 * col) % len(pool)] if inside[row, col] else None

    return icon


def _write_cells(
    folder: Path, grid: int, row: NDArray[np.int64], col: NDArray[np.int64], random: np.random.Generator
) -> None:
    cells = len(row)
    x, y = (col + 0.5) / grid, (row + 0.5) / grid
    columns = {
        "grid": grid,
        "row": row.tolist(),
        "col": col.tolist(),
        "count": random.integers(8, 500, cells).tolist(),
        "mean_cosine": np.round(random.uniform(0.5, 0.9, cells), 4).tolist(),
        "drawn": [1] * cells,
        "cosine": np.round(random.uniform(0.5, 0.99, cells), 4).tolist(),
        "flag": ["low" if low else None for low in random.random(cells) < 0.02],
        "scale": [0.5] * CLASSES,
    }
    (folder / "cells.json").write_text(json.dumps(columns, separators=(",", ":")))
    tops = np.sort(random.random((cells, PAGE_CLASSES)).astype("<f4"), 1)[:, ::-1]
    numbers = (np.floor(x * 12) * 12 + np.floor(y * 12))[:, None] + np.arange(PAGE_CLASSES)
    (folder / "classes.bin").write_bytes(tops.tobytes() + numbers.astype("<u2").tobytes())
    for first in range(0, CLASSES, CLASSES_PER_FILE):
        turns = random.uniform(-9, 9, (CLASSES_PER_FILE, 2))
        heat = np.sin(turns[:, :1] * x + turns[:, 1:] * y)
        (folder / f"classes-{first // CLASSES_PER_FILE:03d}.bin").write_bytes(
            (128 + 127 * heat).astype(np.uint8).tobytes()
        )


@contextmanager
def served_site(run: Path) -> Iterator[str]:
    """The address of a run's site while it is served, by the product's own server."""
    page_server = show(run)
    try:
        yield page_server.address
    finally:
        page_server.close()


def bench_viewer(repeat: int) -> BenchRow:
    """The medians of ``repeat`` rounds, each in a browser of its own; of the longest tasks the longest."""
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary) / "made" / "site"
        site.mkdir(parents=True)
        make_site(site)
        with served_site(site.parent) as url:
            rounds = [measure_page(url) for _ in range(repeat)]
    most = {"longest_task_ms", "longest_task_with_class_ms", "class_switch_ms_most"}
    figures = {
        name: (max if name in most else statistics.median)([entry[name] for entry in rounds]) for name in rounds[0]
    }
    cells = sum(int(_inside(grid).sum()) for grid in GRIDS[-1:])
    return {"bench": "viewer", "system": "ours", "variant": "default", "cells": cells, **figures}


def measure_page(url: str) -> dict[str, float]:
    """One round in a fresh browser; see the module's text for the figures."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-precise-memory-info"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        context = browser.new_context(viewport=WINDOW)
        page = context.new_page()
        page.add_init_script(FIRST_TILES)
        page.goto(url)
        wait_for(page, "window.first > 0")
        figures = {"first_tiles_ms": page.evaluate("window.first")}
        page.close()
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(f"{url}#layer=late")
        page.wait_for_timeout(2500)
        figures["longest_task_ms"] = longest(page)
        figures |= classes(page)
        page.get_by_role("button", name="View", exact=True).click()
        page.get_by_label("Size by density").fill("0.7")
        page.keyboard.press("Escape")
        page.wait_for_timeout(1500)
        figures["longest_task_with_class_ms"] = longest(page)
        figures |= memory(page, context.new_cdp_session(page))
        browser.close()
    return {name: round(value, 1) for name, value in figures.items()}


def wait_for(page: Page, condition: str, seconds: float = 20) -> None:
    """Until a condition holds in the page, whose policy lets nothing be evaluated there again and again."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        if time.monotonic() > end:
            raise AtlasError(f"The page did not come to {condition} within {seconds:.0f} s.")
        page.wait_for_timeout(20)


def longest(page: Page) -> float:
    """The longest task, in ms, while the map is dragged and zoomed through all levels; 0 where none takes over 50."""
    page.keyboard.press("0")
    page.wait_for_timeout(800)
    page.evaluate("window.tasks.length = 0")
    page.mouse.move(700, 450)
    for _ in range(14):
        page.mouse.wheel(0, -120)
        page.wait_for_timeout(150)
    for turn in range(6):
        page.mouse.move(900, 600)
        page.mouse.down()
        page.mouse.move(500 - 30 * turn, 300, steps=12)
        page.mouse.up()
        page.wait_for_timeout(250)
    for _ in range(14):
        page.mouse.wheel(0, 120)
        page.wait_for_timeout(150)
    page.wait_for_timeout(500)
    return float(page.evaluate("Math.max(0, ...window.tasks)"))


def choose_class(page: Page, number: int) -> None:
    page.keyboard.type(f"class {number:03d}", delay=0)
    page.keyboard.press("Enter")


def classes(page: Page) -> dict[str, float]:
    """Switches between classes where the finest level is in view."""
    page.get_by_label("Choose the level").select_option(str(GRIDS[-1]))
    page.keyboard.press("0")
    page.wait_for_timeout(2500)
    page.evaluate(SWITCH)
    times: dict[bool, list[float]] = {True: [], False: []}
    for step in range(40):
        number = step * CLASSES_PER_FILE if step < 20 else (step - 20) * CLASSES_PER_FILE // 20 + 3
        before = page.evaluate("window.switches.length")
        choose_class(page, number)
        wait_for(page, f"window.switches.length > {before}")
        fetched = step < 20
        times[fetched].append(page.evaluate("window.switches.at(-1)"))
        page.get_by_role("button", name="Remove").first.click()
        page.wait_for_timeout(60)
    page.get_by_label("Choose the level").select_option("")
    choose_class(page, 7)
    return {
        "class_switch_fetched_ms": statistics.median(times[True]),
        "class_switch_kept_ms": statistics.median(times[False]),
        "class_switch_ms_most": max(times[True] + times[False]),
    }


def memory(page: Page, session: CDPSession) -> dict[str, float]:
    """The page's heap, in MB, after 20 and after 200 switches of classes, every tenth with the layer."""
    heap = {}
    for step in range(SWITCHES + 1):
        if step in (20, SWITCHES):
            session.send("HeapProfiler.collectGarbage")
            page.wait_for_timeout(200)
            heap[f"heap_mb_{step}"] = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
        choose_class(page, (step * 37) % CLASSES)
        if step % 10 == 0:
            page.keyboard.press("[" if step % 20 else "]")
        page.wait_for_timeout(50)
    return heap

"""A made site in a real browser: what the tests of the page share.

Screenshots of the main states are written to test-results/. The browser is Debian's Chromium, or the one that the
variable ATLAS_CHROMIUM names.
"""

import colorsys
import importlib.util
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from checkout import CHECKOUT
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

from atlas.arrays import Pixels
from atlas.rundir.versions import SITE_FORMAT
from atlas.serve.app import create_app
from atlas.serve.sockets import open_socket
from atlas.site.tiles import Icons, write_combined_pyramid, write_grid_pyramid

RESULTS = CHECKOUT / "test-results"
CHROMIUM = os.environ.get("ATLAS_CHROMIUM", "/usr/bin/chromium")
GRIDS = (10, 20, 40)
LAYERS = ("_blocks.4", "_blocks.10")
CLASSES = ["tench, Tinca tinca", "Egyptian cat", "tabby, tabby cat", "espresso", "strawberry", "car wheel", "daisy"]
LABELS = ["animals", "things"]
SCALE = [0.1, 0.5, 0.25, 0.05, 0.4, 0.13, 0.0]
PROVENANCE = {
    "images": "pictures",
    "views": 13000,
    "seed": 4,
    "created": "2026-11-25T10:00:00+00:00",
    "versions": {"activation-atlas": "0.1.0", "torch": "2.14.1"},
}
DESKTOP: ViewportSize = {"width": 1440, "height": 900}
PHONE: ViewportSize = {"width": 360, "height": 740}

# --- the made site ---------------------------------------------------------------------------------------------------


def colour(layer: str, picture: str, grid: int, row: int, col: int) -> tuple[int, int, int]:
    """The colour in the middle of a cell: it tells layer, level and place, and patches are grey."""
    if picture == "patches":
        return (60 + 150 * row // grid,) * 3
    turn = {"_blocks.4": 0.0, "_blocks.10": 0.5}[layer] + {10: 0.0, 20: 0.08, 40: 0.16}[grid]
    hue = turn + 0.3 * col / grid
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, 0.75, 0.5 + 0.4 * row / grid)
    return round(255 * red), round(255 * green), round(255 * blue)


def is_there(grid: int, row: int, col: int) -> bool:
    """A round map with a hole."""
    u, v = (col + 0.5) / grid, (row + 0.5) / grid
    return np.hypot(u - 0.62, v - 0.4) > 0.1 and np.hypot(u - 0.5, v - 0.5) < 0.46


def is_drawn(grid: int, row: int, col: int) -> bool:
    return is_there(grid, row, col) and (row + 2 * col) % 13 != 0


def rings() -> NDArray[np.float64]:
    """A brightness (80, 80, 1) that is 1 in the middle and waves outside."""
    y, x = np.mgrid[-39.5:40, -39.5:40]
    radius = np.hypot(x, y)
    return np.where(radius < 16, 1, 0.8 + 0.2 * np.cos((radius - 16) / 4))[..., None]


def made_icons(layer: str, picture: str, grid: int) -> Icons:
    waves = rings()

    def icon(row: int, col: int) -> Pixels | None:
        if not is_drawn(grid, row, col):
            return None
        return np.clip(waves * colour(layer, picture, grid, row, col), 0, 255).astype(np.uint8)

    return icon


def is_low(grid: int, row: int, col: int) -> bool:
    """Three cells of grid 20 whose icons have low scores."""
    return (grid, row, col) in ((20, 3, 9), (20, 12, 4), (20, 15, 14))


def cell_count(grid: int, row: int, col: int) -> int:
    return 1000 + row * grid + col if is_drawn(grid, row, col) else 3


def made_cells(grid: int) -> dict[str, Any]:
    places = [(row, col) for row in range(grid) for col in range(grid) if is_there(grid, row, col)]
    mask = [is_drawn(grid, *place) for place in places]
    return {
        "grid": grid,
        "row": [row for row, _ in places],
        "col": [col for _, col in places],
        "count": [cell_count(grid, *place) for place in places],
        "mean_cosine": [0.8] * len(places),
        "drawn": [int(flag) for flag in mask],
        "cosine": [
            (0.5 if is_low(grid, row, col) else 0.934) if is_drawn_cell else None
            for (row, col), is_drawn_cell in zip(places, mask)
        ],
        "flag": [
            "low" if is_low(grid, row, col) and is_drawn_cell else None
            for (row, col), is_drawn_cell in zip(places, mask)
        ],
        "scale": SCALE,
    }


def made_tops(cells: dict[str, Any]) -> bytes:
    """The same ten classes of every cell; there are seven."""
    classes = np.full((len(cells["row"]), 10), 65535, "<u2")
    values = np.zeros((len(cells["row"]), 10), "<f4")
    classes[:, :6], values[:, :6] = [1, 2, 0, 3, 5, 4], [0.5, 0.25, 0.1, 0.05, -0.13, -0.2]
    return values.tobytes() + classes.tobytes()


def made_heat(cells: dict[str, Any]) -> bytes:
    """What each cell says of each class, as bytes: espresso is in the west, strawberry in the south; the car wheel is
    opposed in the east; nothing speaks of daisies."""
    x, y = (2 * (np.array(cells[name]) + 0.5) / cells["grid"] - 1 for name in ("col", "row"))
    zero = np.zeros_like(x)
    heat = [0.2 + zero, 0.5 + zero, 0.3 - 0.2 * y, -x, y, -np.maximum(x, 0), zero]
    return (128 + np.rint(127 * np.array(heat))).astype(np.uint8).tobytes()


def made_details(layer: str, grid: int, folder: Path) -> None:
    """Two exemplars a cell: in its line a red and a green patch, then two blue wholes."""
    folder.mkdir()
    other = LAYERS[1 - LAYERS.index(layer)]
    for block in {(row // 4, col // 4) for row in range(grid) for col in range(grid) if is_drawn(grid, row, col)}:
        rows, cols = (range(4 * at, min(4 * at + 4, grid)) for at in block)
        cells = [(row, col) for row in rows for col in cols if is_drawn(grid, row, col)]
        line = [
            np.full((80, 80, 3), shade, np.uint8)
            for shade in ((200, 30, 30), (30, 160, 30), (30, 30, 200), (30, 30, 90))
        ]
        Image.fromarray(np.tile(np.concatenate(line, 1), (len(cells), 1, 1))).save(
            folder / f"{block[0]}-{block[1]}.webp"
        )
        exemplars = [
            {
                "row": row,
                "col": col,
                "predicted": [[1, cell_count(grid, row, col) // 2], [2, 10]],
                "labels": [[0, cell_count(grid, row, col)]],
                "nearest_cells": [[*near_cell(grid, row, col), 0.91]],
                "cells_on_other_maps": {other: [[grid, row, col, 0.4]]},
                "exemplars": [
                    {"image": f"{row}-{col}-{name}.png", "frame": [0.25, 0.25, 0.75, 0.75], "label": 0, "predicted": 1,
                     "confidence": 0.7, "cosine": cosine, "nearest": cosine > 0.9}
                    for name, cosine in (("one", 0.95), ("two", 0.85))
                ],
            }
            for row, col in cells
        ]  # fmt: skip
        (folder / f"{block[0]}-{block[1]}.json").write_text(
            json.dumps({"sprite": 80, "columns": 2, "cells": exemplars})
        )


def near_cell(grid: int, row: int, col: int) -> tuple[int, int]:
    """Some drawn cell far from this one."""
    return next(
        (other, grid - 1 - col)
        for other in [grid - 1 - row, *range(grid)]
        if is_drawn(grid, other, grid - 1 - col) and (other, grid - 1 - col) != (row, col)
    )


def made_report() -> dict[str, Any]:
    names = ("median_cosine", "median_cosine_whitened", "median_cosine_robust")
    icons = {"n": 90, **dict.fromkeys(names, 0.91), "flagged_share": 0.01}
    layout = {"trustworthiness": 0.952, "recall": 0.41, "dropped_share": 0.001}
    return {"layers": {layer: {"layout": layout, "icons": {str(grid): icons for grid in GRIDS}} for layer in LAYERS}}


def make_site(site: Path) -> None:
    layers = []
    for layer in LAYERS:
        for grid in GRIDS:
            folder = site / layer / f"grid-{grid:03d}"
            for picture in ("icons", "patches"):
                write_grid_pyramid(folder / f"{picture}.dzi", made_icons(layer, picture, grid), grid=grid)
            cells = made_cells(grid)
            (folder / "cells.json").write_text(json.dumps(cells))
            scores = {"cosine_whitened": 0.861, "cosine_robust": 0.902, "percentile": 97.4, "rank": 2}
            columns = {name: [value] * len(cells["row"]) for name, value in scores.items()}
            (folder / "scores.json").write_text(json.dumps({"row": cells["row"], "col": cells["col"], **columns}))
            (folder / "classes.bin").write_bytes(made_tops(cells))
            (folder / "classes-000.bin").write_bytes(made_heat(cells))
            made_details(layer, grid, folder / "details")
        write_combined_pyramid(site / layer / "atlas.dzi", {grid: made_icons(layer, "icons", grid) for grid in GRIDS})
        grids = [{"grid": grid, "cells": 1, "drawn": 1, "median_cosine": 0.9, "flagged": 0} for grid in GRIDS]
        sizes = {"channels": 40, "map_size": [28, 28], "rows": 13000, "dropped": 12}
        facts = {"name": layer, "path": layer, "layer": layer, "network": 0, "classes_shown": []}
        layers.append({**facts, "grids": grids, **sizes})
    networks = [{"name": "made", "input_size": 224, "classes": CLASSES}]
    atlas = {
        "format": SITE_FORMAT,
        "title": "made",
        "networks": networks,
        "icon_size": 80,
        "tile_size": 640,
        "attributions": True,
        "classes_per_file": 50,
        "labels": LABELS,
        "layers": layers,
    }
    (site / "atlas.json").write_text(json.dumps({**atlas, "provenance": PROVENANCE, "report": made_report()}))
    shutil.copytree(built_viewer(), site, dirs_exist_ok=True)


def built_viewer() -> Path:
    """The viewer, built from the present sources (as installing does it)."""
    spec = importlib.util.spec_from_file_location("build_viewer", CHECKOUT / "scripts" / "build_viewer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build(CHECKOUT)
    return CHECKOUT / "atlas" / "viewer" / "dist"


# --- browser and server ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "made" / "site"
    make_site(folder)
    return folder


@contextmanager
def served(*runs: Path) -> Iterator[str]:
    """The address of these runs, served as the product serves them, but for the questions about pictures."""
    with running(create_app(list(runs))) as url:
        yield url


@contextmanager
def running(app: Any, **options: Any) -> Iterator[str]:
    """The address of an application on loopback; ``options`` are uvicorn's."""
    with open_socket("127.0.0.1", 0) as bound:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The site under a path prefix, served beside a second run, whose site is the same."""
    twin = site.parent.parent / "twin"
    twin.mkdir(exist_ok=True)
    shutil.copytree(site, twin / "site", dirs_exist_ok=True)
    with served(site.parent, twin) as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.fail(
            f"There is no browser at {CHROMIUM}. Install it (on Debian: apt-get install chromium), or name another "
            "Chromium in the variable ATLAS_CHROMIUM.",
            pytrace=False,
        )
    RESULTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Visitor:
    """A page, everything that it complained about, and every address that it asked for."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._note_complaint)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _note_complaint(self, message: ConsoleMessage) -> None:
        # OpenSeadragon tells of each tile that was under way when its layer was left.
        if "loaded before reset" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def open(self, address: str) -> None:
        self.page.goto(address)
        expect(self.page.get_by_label("Level", exact=True)).to_be_visible(timeout=20_000)

    def screen(self) -> NDArray[np.int64]:
        picture = Image.open(BytesIO(self.page.screenshot())).convert("RGB")
        return np.asarray(picture).astype(int)

    def shows(self, layer: str, picture: str, grid: int, places: list[tuple[int, int]]) -> bool:
        """Whether the middle of each of these cells (where they lie at zoom 1) has the colour it should have."""
        screen = self.screen()
        height, width, _ = screen.shape
        side = 0.96 * min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        for row, col in places:
            x, y = int(left + (col + 0.5) * side / grid), int(top + (row + 0.5) * side / grid)
            if np.abs(screen[y, x] - colour(layer, picture, grid, row, col)).max() > 16:
                return False
        return True

    def link(self) -> dict[str, str]:
        """What the address says of the view; the page writes it a moment after it has moved."""
        eventually(lambda: "=" in self.page.evaluate("location.hash"), "the view in the address")
        return dict(part.split("=") for part in self.page.evaluate("location.hash")[1:].split("&"))


def eventually(condition: Callable[[], bool], what: str, seconds: float = 8) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


@pytest.fixture
def visitor(browser: Browser, address: str) -> Iterator[Visitor]:
    """Someone with a large screen who has opened the page; at the end nothing must have been complained about."""
    with guest(browser, f"{address}made/") as visitor:
        yield visitor


@contextmanager
def guest(
    browser: Browser, address: str, *, missing: str = "", complaints: int = 0, **context: Any
) -> Iterator[Visitor]:
    """Someone who follows a link. Addresses like ``missing`` are not there, of which the browser complains so many
    times; nothing is asked of another server."""
    with browser.new_context(**{"viewport": DESKTOP, "color_scheme": "light", **context}) as page_context:
        visitor = Visitor(page_context)
        if missing:
            visitor.page.route(missing, lambda route: route.fulfill(status=404))
        visitor.open(address)
        yield visitor
        end = time.monotonic() + 8
        # What the browser says of a missing file may come after the page's own sentence.
        while len(visitor.complaints) < complaints and time.monotonic() < end:
            visitor.page.wait_for_timeout(50)
        assert len(visitor.complaints) == complaints, visitor.complaints
        hosts = {url.split("/")[2] for url in visitor.requests if url.startswith("http")}
        assert hosts == {address.split("/")[2]}, "nothing comes from outside"


# At zoom 1 on 1440 × 900 the map is 864 px wide: 43 px for a cell of grid 20.
PLACES_20 = [(5, 5), (14, 12), (10, 3), (8, 17)]


def cell_20(row: int, col: int) -> tuple[float, float]:
    return 288 + (col + 0.5) * 43.2, 18 + (row + 0.5) * 43.2


def lit(visitor: Visitor, row: int, col: int) -> float:
    """How bright a cell of grid 20 is in the middle, beside the icon that lies there."""
    x, y = cell_20(row, col)
    pixel = visitor.screen()[int(y), int(x)]
    return float(pixel.sum() / sum(colour("_blocks.10", "icons", 20, row, col)))


def switch(page: Page, layer: str) -> Locator:
    return page.get_by_role("button", name=f"Layer {layer}")

"""What the tests of the page's neurons share: a made site with units, and where its views show what."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_site import (
    Visitor,
    guest,
    served,
)
from made_units import (
    BUILT_CELL,
    EARLIER,
    INVARIANT,
    add_units,
    unit_colour,
)
from playwright.sync_api import Browser, Locator

UNIT = f"#unit=_blocks.10:{INVARIANT}"
CIRCUIT = f"{UNIT}&show=circuit"
ARROWS = f"#layer=_blocks.10&with={EARLIER}&cells=" + ".".join(str(each) for each in BUILT_CELL)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def neurons_site(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neurons") / "made" / "site"
    shutil.copytree(site, folder)
    add_units(folder)
    return folder


@pytest.fixture(scope="module")
def neurons(neurons_site: Path) -> Iterator[str]:
    """The address of a site with neurons."""
    with served(neurons_site.parent) as url:
        yield url


@contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[tuple[Visitor, Locator]]:
    """Someone who follows a link, with the view of neurons; ``options`` are those of ``guest``."""
    with guest(browser, address, **options) as visitor:
        yield visitor, visitor.page.get_by_test_id("neurons")


def units(view: Locator) -> Locator:
    return view.get_by_role("toolbar", name="Units").get_by_role("button")


def shown(view: Locator) -> list[tuple[int, str]]:
    """The units of the list with their figures."""
    texts = (
        units(view).locator(".words").evaluate_all("all => all.map(one => [...one.children].map(e => e.textContent))")
    )
    return [(int(unit.removeprefix("Unit ")), figure) for unit, figure in texts]


def middle(visitor: Visitor, what: Locator) -> Any:
    """The colour in the middle of something."""
    what.scroll_into_view_if_needed()
    box = what.bounding_box()
    assert box is not None
    return visitor.screen()[int(box["y"] + box["height"] / 2), int(box["x"] + box["width"] / 2)]


def near(seen: Any, wanted: tuple[int, int, int], least: int = 26) -> bool:
    return bool(np.abs(seen - wanted).max() <= least)


def node(view: Locator, layer: str, unit: int) -> Locator:
    return view.locator(f"[data-node='{layer}:{unit}']")


def place(view: Locator, layer: str, unit: int) -> tuple[float, float]:
    """The middle of a unit's icon in the drawing of a circuit."""
    icon = view.locator(f"[data-icon='{layer}:{unit}']")
    x, y, side = (float(icon.get_attribute(name) or "") for name in ("x", "y", "width"))
    return x + side / 2, y + side / 2


def icon_shows(visitor: Visitor, view: Locator, layer: str, unit: int) -> bool:
    """Whether a unit's own icon is seen where it stands in the drawing."""
    drawing = view.get_by_role("group", name="Circuit").bounding_box()
    assert drawing is not None
    x, y = place(view, layer, unit)
    return near(visitor.screen()[int(drawing["y"] + y), int(drawing["x"] + x)], unit_colour(layer, unit))


def overlap(one: Any, other: Any) -> bool:
    """Whether two boxes of the screen cover each other, but for the space around letters."""
    return bool(
        one["x"] < other["x"] + other["width"]
        and other["x"] < one["x"] + one["width"]
        and one["y"] < other["y"] + other["height"] - 4
        and other["y"] < one["y"] + one["height"] - 4
    )


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]

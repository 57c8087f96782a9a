"""What the tests of the page's neurons share: a made site with units, and where its views show what."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_site import Visitor, guest, served
from made_units import INVARIANT, add_units
from playwright.sync_api import Browser, Locator

UNIT = f"#unit=_blocks.10:{INVARIANT}"
CIRCUIT = f"{UNIT}&show=circuit"


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
def open_neurons(browser: Browser, address: str, **options: Any) -> Iterator[tuple[Visitor, Locator]]:
    """Someone who follows a link, with the view of neurons; ``options`` are those of ``guest``."""
    with guest(browser, address, **options) as visitor:
        yield visitor, visitor.page.get_by_test_id("neurons")


def middle(visitor: Visitor, what: Locator) -> Any:
    """The colour in the middle of something."""
    what.scroll_into_view_if_needed()
    box = what.bounding_box()
    assert box is not None
    return visitor.screen()[int(box["y"] + box["height"] / 2), int(box["x"] + box["width"] / 2)]


def near(colour: Any, target: tuple[int, int, int], least: int = 26) -> bool:
    return bool(np.abs(colour - target).max() <= least)


def node(view: Locator, layer: str, unit: int) -> Locator:
    return view.locator(f"[data-node='{layer}:{unit}']")


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]

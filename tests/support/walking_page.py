"""What the tests of the forward pass on the page share: a server that walks through a small network, a picture, and how
to find a number."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_forward import ForwardApi, serve_forward
from made_site import Visitor, guest
from playwright.sync_api import Browser, Locator, Page, expect

from atlas.pictures.decode import encode_png


def painted() -> bytes:
    """A disc on stripes, so that edges of all directions are there."""
    y, x = np.mgrid[0:96, 0:96]
    disc = np.hypot(y - 40, x - 56) < 26
    stripes = 120 + 90 * np.sin((x + 2 * y) / 5)
    colours = np.where(disc[..., None], [220, 140, 40], np.stack([stripes, 0.6 * stripes, 200 - stripes], -1))
    return encode_png(np.clip(colours, 0, 255).astype(np.uint8))


PICTURE = painted()


@pytest.fixture(scope="module")
def forward_server(site: Path) -> Iterator[ForwardApi]:
    with serve_forward(site) as served:
        yield served


@pytest.fixture
def forward_api(forward_server: ForwardApi) -> ForwardApi:
    """The server as it is before a test has set anything."""
    forward_server.refusals, forward_server.icon_delay, forward_server.log_sum_off = {}, 0.0, 0.0
    forward_server.requests.clear()
    forward_server.stopped.clear()
    return forward_server


@contextmanager
def walking(browser: Browser, forward_api: ForwardApi, **context: Any) -> Iterator[tuple[Visitor, Locator]]:
    """Someone who has given a picture and opened its way through the network."""
    with guest(browser, forward_api.address, **context) as visitor:
        begin(visitor.page)
        yield visitor, visitor.page.get_by_role("dialog", name="Step by step")


def begin(page: Page) -> None:
    give_picture(page)
    expect(page.get_by_test_id("layers")).to_be_visible(timeout=20_000)


def give_picture(page: Page) -> None:
    page.get_by_role("button", name="One image").click()
    panel = page.get_by_test_id("image")
    disc: Any = {"name": "disc.png", "mimeType": "image/png", "buffer": PICTURE}
    panel.get_by_label("Choose a picture").set_input_files(disc)
    panel.get_by_role("button", name="Step by step").click()


def layer(view: Locator, name: str) -> Locator:
    """The head of a column of the row."""
    return view.get_by_test_id("layers").locator(".head").filter(has_text=re.compile(rf"^\s*{re.escape(name)}\b"))


def open_step(view: Locator, name: str) -> None:
    view.get_by_test_id("flow").get_by_role("button", name=re.compile(rf"^{re.escape(name)}\b")).click()


def number(text: str) -> float:
    """The number that a figure stands for: −1,234.5 or 3.0 × 10⁻⁷."""
    plain, _, power = text.strip().replace("−", "-").replace("+", "").replace(",", "").partition(" × 10")
    return float(plain) * 10.0 ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)


def parts(account: Locator, name: str) -> list[float]:
    return [number(text) for text in account.locator(f"[data-part={name}]").all_inner_texts()]


def account_of(view: Locator, *, inside: bool = False) -> Locator:
    """The account once it is that of the chosen number."""
    expect(view.locator("[aria-busy=false]")).to_be_visible()
    return view.get_by_test_id("account-inside" if inside else "account").first


def assert_whole(account: Locator) -> float:
    """What is shown adds up to the shown total, within the last decimals that are shown."""
    terms, others, bias = (parts(account, name) for name in ("term", "other_terms", "bias"))
    (total,) = parts(account, "total")
    assert terms
    assert sum(terms) + sum(others) + sum(bias) == pytest.approx(total, abs=0.0006 * (len(terms) + 2))
    sizes = [abs(term) for term in terms]
    assert sizes == sorted(sizes, reverse=True)
    return total


def grid(term: Locator, name: str) -> Any:
    """The numbers of a small grid, as screen readers say them."""
    label = str(term.get_by_role("img", name=re.compile(f"^{name}:")).get_attribute("aria-label"))
    return np.array([[number(text) for text in line.split(", ")] for line in label.split(": ")[1].split("; ")])


def place(view: Locator) -> int:
    row, column = re.findall(r"\d+", view.get_by_test_id("place").inner_text())
    return 24 * int(row) + int(column)

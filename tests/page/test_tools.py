"""What the page lets a person do beyond looking and searching: layers of display, scores, comparing, saving."""

import csv
import io
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accessibility import serious
from made_site import (
    CHECKOUT,
    DESKTOP,
    LAYERS,
    PHONE,
    PLACES_20,
    RESULTS,
    Visitor,
    cell_20,
    cell_count,
    colour,
    eventually,
    guest,
    is_drawn,
    is_low,
    lit,
)
from page_hands import find, open_cell
from PIL import Image
from playwright.sync_api import Browser, Page, expect

TABLET: Any = {"width": 768, "height": 1024}


def options(page: Page) -> None:
    page.get_by_role("button", name="View", exact=True).click()
    expect(page.get_by_test_id("options")).to_be_visible()


# What the cells show


def test_icons_and_patches_mix(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_label("From icons to real patches").fill("0.5")
    row, col = PLACES_20[0]
    x, y = cell_20(row, col)
    half = sum(np.array(colour("_blocks.10", picture, 20, row, col)) for picture in ("icons", "patches")) / 2
    eventually(lambda: bool(np.abs(visitor.screen()[int(y), int(x)] - half).max() < 12), "half of each")
    eventually(lambda: visitor.link().get("patches") == "0.5", "in the address")


def test_a_level_by_hand_stays_at_every_zoom(visitor: Visitor) -> None:
    page = visitor.page
    level = page.get_by_label("Level", exact=True)
    page.get_by_label("Choose the level").select_option("10")
    expect(level).to_have_text("10 × 10")
    eventually(lambda: visitor.shows("_blocks.10", "icons", 10, [(2, 2), (7, 6)]), "the icons of grid 10")
    page.keyboard.press("+")
    page.keyboard.press("+")
    expect(page.get_by_label("Zoom", exact=True)).to_have_text("2.2×")
    expect(level).to_have_text("10 × 10")
    assert visitor.link()["level"] == "10"
    page.get_by_label("Choose the level").select_option("")
    expect(level).to_have_text("40 × 40")


def test_sizes_by_density(visitor: Visitor) -> None:
    """In the made map counts grow towards the south-east; the few of the north-west become smaller."""
    page = visitor.page
    options(page)
    page.get_by_label("Size by density").fill("1")
    page.keyboard.press("Escape")
    x, y = cell_20(5, 5)
    corner, middle = (int(y - 20.4), int(x - 20.4)), (int(y), int(x))
    ground = np.array([0xF7, 0xF7, 0xF5])
    eventually(lambda: bool(np.abs(visitor.screen()[corner] - ground).max() < 12), "ground at a small cell's corner")
    assert np.abs(visitor.screen()[middle] - colour("_blocks.10", "icons", 20, 5, 5)).max() <= 16
    x, y = cell_20(17, 14)
    assert np.abs(visitor.screen()[int(y - 20.4), int(x - 20.4)] - ground).max() > 60, "a large cell is as it was"
    page.screenshot(path=RESULTS / "viewer-density.png")


def test_names_never_overlap_and_can_be_switched_off(visitor: Visitor) -> None:
    page = visitor.page
    overlay = page.get_by_test_id("overlay")
    expect(overlay).to_have_attribute("data-labels", "Egyptian cat")
    options(page)
    page.get_by_label("Names of classes").uncheck()
    expect(overlay).to_have_attribute("data-labels", "")
    assert visitor.link()["labels"] == "off"


def test_low_scores_are_marked_hidden_and_listed(visitor: Visitor) -> None:
    page = visitor.page
    low = [(row, col) for row in range(20) for col in range(20) if is_low(20, row, col)]
    row, col = low[0]
    x, y = cell_20(row, col)
    corner = (int(y - 19), int(x + 19))
    eventually(lambda: bool(visitor.screen()[corner].max() < 60), "a dark corner")
    options(page)
    page.get_by_role("button", name="hidden").click()
    eventually(lambda: visitor.screen()[int(y), int(x)].tolist() == [0xF7, 0xF7, 0xF5], "only ground")
    page.get_by_role("button", name="as all others").click()
    icon_colour = colour("_blocks.10", "icons", 20, row, col)
    eventually(lambda: bool(np.abs(visitor.screen()[int(y), int(x)] - icon_colour).max() <= 16), "as all others")
    page.get_by_role("button", name="List all by score (3 low at this level)").click()
    scores = page.get_by_test_id("scores")
    expect(scores.locator("li b").nth(2)).to_have_text("0.50")
    expect(scores.locator("li b").nth(3)).to_have_text("0.93")
    scores.get_by_label("only low ones").check()
    expect(scores.locator("li")).to_have_count(3)
    page.screenshot(path=RESULTS / "viewer-scores.png")
    scores.get_by_label("Order").select_option("most")
    counts = [
        int(text.split(";")[1].split()[0].replace(",", "")) for text in scores.locator("li small").all_inner_texts()
    ]
    assert counts == sorted((cell_count(20, *cell) for cell in low), reverse=True)
    scores.locator("li button").first.click()
    expect(page.get_by_test_id("selected")).to_have_count(1)


# Two maps


def test_two_layers_side_by_side_move_and_select_together(visitor: Visitor) -> None:
    page = visitor.page
    options(page)
    page.get_by_label("Compare with").select_option("_blocks.4")
    second = page.get_by_test_id("second")
    expect(second).to_be_visible()
    page.keyboard.press("Escape")

    def is_on_screen(layer: str, left: int) -> bool:
        side = 0.96 * 720
        row, col = 2, 6
        x, y = left + 360 - side / 2 + (col + 0.5) * side / 10, 450 - side / 2 + (row + 0.5) * side / 10
        return bool(np.abs(visitor.screen()[int(y), int(x)] - colour(layer, "icons", 10, row, col)).max() <= 16)

    page.get_by_label("Choose the level").select_option("10")
    page.keyboard.press("0")
    eventually(lambda: is_on_screen("_blocks.10", 0) and is_on_screen("_blocks.4", 720), "the whole of both")
    page.screenshot(path=RESULTS / "viewer-beside.png")
    for place in ((200, 500), (900, 500)):  # whichever is moved, the other one follows
        page.mouse.move(*place)
        page.mouse.wheel(0, -240)
        page.wait_for_timeout(900)
        counts = set()
        for left in (0, 720):
            page.mouse.move(left + 250, 520)
            counts.add(page.get_by_test_id("card").locator(".count").inner_text())
        assert len(counts) == 1, "the same place in both"
    page.keyboard.press("0")
    page.wait_for_timeout(700)
    page.mouse.click(360 - 0.48 * 720 + 6.5 * 69.12, 450 - 0.48 * 720 + 2.5 * 69.12)
    expect(page.get_by_test_id("selected")).to_have_count(2)
    page.wait_for_timeout(900)
    boxes = [element.bounding_box() for element in page.get_by_test_id("selected").all()]
    assert boxes[0] is not None
    assert boxes[1] is not None
    room = (1440 - 384) / 2  # for each map beside the drawer
    assert boxes[1]["x"] - boxes[0]["x"] == pytest.approx(room, abs=2)
    page.keyboard.press("Escape")
    page.wait_for_timeout(500)  # the maps take the drawer's place
    page.mouse.click(720 + 360 - 0.48 * 720 + 5.5 * 69.12, 450 - 0.48 * 720 + 7.5 * 69.12)
    expect(page.get_by_test_id("drawer")).to_contain_text("Row 7, column 5")
    page.get_by_role("button", name="Close the second map").click()
    expect(second).to_have_count(0)


def test_a_line_swipes_between_two_layers(visitor: Visitor) -> None:
    page = visitor.page
    options(page)
    page.get_by_label("Compare with").select_option("_blocks.4")
    page.get_by_role("button", name="swipe").click()
    page.keyboard.press("Escape")
    west, east = (10, 4), (10, 15)

    def shows(layer: str, cell: tuple[int, int]) -> bool:
        x, y = cell_20(*cell)
        return bool(np.abs(visitor.screen()[int(y), int(x)] - colour(layer, "icons", 20, *cell)).max() <= 16)

    eventually(lambda: shows("_blocks.10", west) and shows("_blocks.4", east), "one on each side")
    page.screenshot(path=RESULTS / "viewer-swipe.png")
    line = page.get_by_role("separator").bounding_box()
    assert line is not None
    page.mouse.move(line["x"] + 16, 300)
    page.mouse.down()
    page.mouse.move(300, 300, steps=5)
    page.mouse.up()
    eventually(lambda: shows("_blocks.4", west) and shows("_blocks.4", east), "the line has moved")
    page.get_by_role("separator").focus()
    for _ in range(15):
        page.keyboard.press("ArrowRight")
    eventually(lambda: shows("_blocks.10", west) and shows("_blocks.10", east), "with the keyboard too")


# Taking along


def test_cells_are_selected_and_saved_as_a_table(visitor: Visitor) -> None:
    page = visitor.page
    page.keyboard.down("Shift")
    page.mouse.move(*(at - 15 for at in cell_20(14, 11)))
    page.mouse.down()
    page.mouse.move(*(at + 15 for at in cell_20(15, 13)), steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    cells = [(row, col) for row in (14, 15) for col in (11, 12, 13) if is_drawn(20, row, col)]
    expect(page.get_by_test_id("selected")).to_have_count(len(cells))
    page.keyboard.down("Shift")
    page.mouse.click(*cell_20(10, 5))
    page.keyboard.up("Shift")
    cells.append((10, 5))
    expect(page.get_by_test_id("selected")).to_have_count(len(cells))
    page.keyboard.down("Shift")
    page.mouse.click(*cell_20(10, 6))
    page.mouse.click(*cell_20(10, 6))
    page.keyboard.up("Shift")
    expect(page.get_by_test_id("selected")).to_have_count(len(cells))  # taken, and left again
    options(page)
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Save the {len(cells)} selected cells (CSV)").click()
    assert download.value.suggested_filename == "made-_blocks.10-cells.csv"
    lines = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert {(int(line["row"]), int(line["col"])) for line in lines} == set(cells)
    for line in lines:
        row, col = int(line["row"]), int(line["col"])
        assert int(line["activations"]) == cell_count(20, row, col)
        assert (line["layer"], line["grid"], line["class_3"]) == ("_blocks.10", "20", "tench, Tinca tinca")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("selected")).to_have_count(0)


def picture(path: Path) -> Any:
    return np.asarray(Image.open(BytesIO(path.read_bytes())).convert("RGB")).astype(int)


def test_the_view_and_a_poster_are_saved_as_pictures(visitor: Visitor) -> None:
    page = visitor.page
    eventually(lambda: visitor.shows("_blocks.10", "icons", 20, PLACES_20), "icons")
    find(visitor, "espresso", "espresso")
    eventually(lambda: lit(visitor, 14, 15) < 0.45, "the veil")
    options(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the view (PNG)").click()
    view = picture(Path(download.value.path()))
    assert view.shape == (900, 1440, 3)
    x, y = cell_20(14, 15)
    assert np.abs(view[int(y), int(x)] - visitor.screen()[int(y), int(x)]).max() <= 8, "as it is on the screen"
    assert view[30, 100].tolist() == [0xF7, 0xF7, 0xF5], "without the panels"

    with page.expect_download() as download:
        page.get_by_role("button", name="Save this level as a poster (PNG)").click()
    poster = picture(Path(download.value.path()))
    drawn_cells = [(row, col) for row in range(20) for col in range(20) if is_drawn(20, row, col)]
    top, left = min(row for row, _ in drawn_cells), min(col for _, col in drawn_cells)
    rows, cols = (
        max(cell[side] for cell in drawn_cells) - min(cell[side] for cell in drawn_cells) + 1 for side in (0, 1)
    )
    assert poster.shape == (80 * rows, 80 * cols, 3)
    for row, col in drawn_cells[::7]:
        pixel = poster[80 * (row - top) + 40, 80 * (col - left) + 40]
        assert np.abs(pixel - colour("_blocks.10", "icons", 20, row, col)).max() <= 16
    assert download.value.suggested_filename == "made-_blocks.10-20.png"


def test_the_link_is_copied(browser: Browser, address: str) -> None:
    with guest(browser, f"{address}made/", permissions=["clipboard-read", "clipboard-write"]) as visitor:
        open_cell(visitor, 14, 12)
        options(visitor.page)
        visitor.page.get_by_role("button", name="Copy the link to this view").click()
        expect(visitor.page.get_by_text("The link is copied.")).to_be_visible()
        assert visitor.page.evaluate("navigator.clipboard.readText()") == visitor.page.url
        assert "cells=20.14.12" in visitor.page.url


def test_about_tells_what_was_measured_and_how_to_cite(visitor: Visitor) -> None:
    page = visitor.page
    options(page)
    page.get_by_role("button", name="About this atlas").click()
    about = page.get_by_role("dialog", name="About this atlas")
    for text in ("13,000 views", "“pictures”", "seed 4", "2026-11-25", "torch 2.14.1", "doi 10.23915/distill.00015"):
        expect(about).to_contain_text(text)
    row = about.locator("tbody tr").filter(has_text="_blocks.10")
    assert row.locator("td").all_inner_texts() == ["_blocks.10", "0.95", "10", "90", "0.91", "0.91", "0.91", "1.0 %"]
    page.wait_for_timeout(200)
    page.screenshot(path=RESULTS / "viewer-about.png")


# For everyone


STATES = {
    "open": "",
    "drawer": "&cells=20.14.12",
    "class": "&class=espresso",
    "two": "&with=_blocks.4&how=swipe&class=espresso&class=strawberry",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, address: str, scheme: str) -> None:
    axe = (CHECKOUT / "atlas/viewer/node_modules/axe-core/axe.min.js").read_text()
    with browser.new_context(viewport=DESKTOP, color_scheme=scheme, bypass_csp=True) as context:  # type: ignore[arg-type]
        page = context.new_page()
        for name, state in STATES.items():
            page.goto(f"{address}made/?{name}#layer=_blocks.10&x=0.5&y=0.5&zoom=1{state}")
            expect(page.get_by_label("Level", exact=True)).to_be_visible()
            page.wait_for_timeout(500)
            if name == "open":
                options(page)
            assert serious(page, axe) == [], name
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        assert serious(page, axe) == []


@pytest.mark.parametrize(("name", "size"), [("phone", PHONE), ("tablet", TABLET)])
def test_small_screens_have_all_of_it(browser: Browser, address: str, name: str, size: Any) -> None:
    extra = {"has_touch": True, "is_mobile": True} if name == "phone" else {}
    with guest(browser, f"{address}made/", viewport=size, **extra) as visitor:
        page = visitor.page
        page.wait_for_timeout(400)
        page.screenshot(path=RESULTS / f"viewer-{name}-open.png")
        page.get_by_label("Find a class").click()
        page.get_by_label("Find a class").fill("esp")
        page.screenshot(path=RESULTS / f"viewer-{name}-search.png")
        page.locator("#classes").get_by_role("option", name="espresso").click()
        expect(page.get_by_test_id("heat-key")).to_be_visible()
        page.wait_for_timeout(400)
        page.screenshot(path=RESULTS / f"viewer-{name}-class.png")
        page.get_by_role("button", name="View", exact=True).click()
        box = page.get_by_test_id("options").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size["width"]
        assert box["y"] + box["height"] <= size["height"]
        expect(page.get_by_test_id("options").get_by_label("Real patches")).to_be_visible()
        page.screenshot(path=RESULTS / f"viewer-{name}-options.png")
        page.get_by_label("Compare with").select_option(LAYERS[0])
        page.get_by_role("button", name="View", exact=True).click()
        page.wait_for_timeout(1200)
        page.screenshot(path=RESULTS / f"viewer-{name}-beside.png")
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"]

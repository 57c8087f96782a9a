"""Classes and cells on the page: searching, the drawer, links and history, the keyboard."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_site import (
    DESKTOP,
    RESULTS,
    Visitor,
    cell_20,
    cell_count,
    colour,
    eventually,
    guest,
    is_drawn,
    lit,
    near_cell,
    switch,
)
from page_hands import find, open_cell
from playwright.sync_api import Browser, expect

# Classes


def test_typing_anywhere_finds_a_class_and_lights_up_what_supports_it(visitor: Visitor) -> None:
    page = visitor.page
    page.keyboard.type("esp")
    expect(page.locator("#classes [role=option]")).to_have_count(1)
    expect(page.locator("#classes").get_by_role("option", name="espresso")).to_have_attribute("aria-selected", "true")
    page.screenshot(path=RESULTS / "viewer-search.png")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("heat-key")).to_contain_text("espresso")
    eventually(lambda: lit(visitor, 10, 2) > 0.85, "the west is as it was")
    assert lit(visitor, 10, 6) < lit(visitor, 10, 4) < lit(visitor, 10, 2), "it goes by the value"
    assert lit(visitor, 14, 15) < 0.45, "the east is dark"
    assert visitor.screen()[450, 60].tolist() == [0xF7, 0xF7, 0xF5], "empty ground stays ground"
    assert visitor.link()["class"] == "espresso"
    page.screenshot(path=RESULTS / "viewer-heat.png")

    page.get_by_role("button", name="opposes").click()
    eventually(lambda: lit(visitor, 14, 15) > 0.7 and lit(visitor, 10, 2) < 0.45, "the other way round")
    assert visitor.link()["side"] == "oppose"
    page.get_by_role("button", name="both").click()
    eventually(lambda: visitor.screen()[int(cell_20(10, 1)[1]), int(cell_20(10, 1)[0])][0] > 120, "orange in the west")
    page.get_by_role("button", name="Remove espresso").click()
    eventually(lambda: lit(visitor, 14, 15) > 0.95, "all as before")
    assert "class" not in visitor.link()


def test_how_dark_the_rest_becomes_is_for_the_reader_to_say(visitor: Visitor) -> None:
    find(visitor, "espresso", "espresso")
    eventually(lambda: lit(visitor, 14, 15) < 0.45, "dark")
    slider = visitor.page.get_by_label("Darken the rest")
    slider.fill("0.2")
    eventually(lambda: 0.7 < lit(visitor, 14, 15) < 0.95, "less dark")
    eventually(lambda: visitor.link().get("darkening") == "0.2", "in the address")


def test_two_classes_have_two_colours(visitor: Visitor) -> None:
    page = visitor.page
    find(visitor, "espresso", "espresso")
    find(visitor, "strawb", "strawberry")
    key = page.get_by_test_id("heat-key")
    expect(key).to_contain_text("Orange cells support the first, blue ones the second")

    def pixel(row: int, col: int) -> Any:
        x, y = cell_20(row, col)
        plain = np.array(colour("_blocks.10", "icons", 20, row, col))
        return visitor.screen()[int(y), int(x)] - plain

    eventually(lambda: pixel(9, 1)[0] > 40, "red comes to the west")
    assert pixel(17, 14)[0] < 0 < pixel(17, 14)[2] + 40, "blue comes to the south"
    assert page.evaluate("location.hash").count("class=") == 2
    page.screenshot(path=RESULTS / "viewer-two-classes.png")


def test_searching_with_the_keyboard_alone(visitor: Visitor) -> None:
    page = visitor.page
    page.keyboard.type("cat")
    names = page.locator("#classes [role=option]").locator("span")
    expect(names).to_have_text(["Egyptian cat", "tabby"])
    page.keyboard.press("ArrowDown")
    expect(page.locator("#classes").get_by_role("option", name="tabby")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(page.get_by_role("textbox").or_(page.get_by_role("combobox", name="Find a class"))).to_have_value("")
    page.keyboard.press("Escape")
    expect(page.get_by_role("listbox")).to_have_count(0)
    page.keyboard.type("zebra")
    expect(page.locator("#classes [role=option]")).to_have_text("No class has “zebra” in its name.")


def test_layers_in_the_list_follow_the_class(visitor: Visitor) -> None:
    find(visitor, "espresso", "espresso")
    switch(visitor.page, "_blocks.10").click()
    veils = visitor.page.locator("[role=menu] canvas")
    expect(veils).to_have_count(2)
    eventually(lambda: veils.evaluate_all("all => all.every(one => one.dataset.veil === '3')"), "a veil on each")
    dark = veils.first.evaluate("one => one.getContext('2d').getImageData(8, 5, 1, 1).data[3]")
    light = veils.first.evaluate("one => one.getContext('2d').getImageData(1, 5, 1, 1).data[3]")
    assert dark > 150 > light
    visitor.complaints = [
        complaint for complaint in visitor.complaints if "willReadFrequently" not in complaint
    ]  # of this test's look
    visitor.page.screenshot(path=RESULTS / "viewer-layers.png")


def test_without_attributions_nothing_is_promised(browser: Browser, address: str, site: Path) -> None:
    facts = json.loads((site / "atlas.json").read_text()) | {"attributions": False}
    with browser.new_context(viewport=DESKTOP) as context:
        visitor = Visitor(context)
        visitor.page.route("**/atlas.json", lambda route: route.fulfill(json=facts))
        visitor.open(f"{address}made/#class=espresso")
        expect(visitor.page.get_by_label("Find a class")).to_have_count(0)
        expect(visitor.page.get_by_test_id("heat-key")).to_have_count(0)
        open_cell(visitor, 14, 12)
        expect(visitor.page.get_by_test_id("drawer")).to_contain_text("Predicted for its pictures")
        assert visitor.complaints == []


def test_an_empty_layer_says_why(browser: Browser, address: str, site: Path) -> None:
    facts = json.loads((site / "atlas.json").read_text())
    for grid in facts["layers"][1]["grids"]:
        grid["drawn"] = 0
    with browser.new_context(viewport=DESKTOP) as context:
        visitor = Visitor(context)
        visitor.page.route("**/atlas.json", lambda route: route.fulfill(json=facts))
        visitor.open(f"{address}made/")
        sentence = visitor.page.get_by_text("No cell of _blocks.10 has activations enough for a picture.")
        expect(sentence).to_be_visible()
        visitor.page.keyboard.press("[")
        expect(sentence).to_have_count(0)


# The drawer


def test_a_click_opens_all_that_is_known_of_a_cell(visitor: Visitor) -> None:
    page = visitor.page
    open_cell(visitor, 14, 12)
    drawer = page.get_by_test_id("drawer")
    expect(drawer).to_contain_text("It shows it very well: 0.93 of 1 (cosine)")
    expect(drawer).to_contain_text(
        f"The average of {cell_count(20, 14, 12):,} activations, which are like each other: 0.80"
    )
    expect(drawer.locator("li .name")).to_have_count(6)
    expect(drawer.locator("li .name").nth(2)).to_have_text("tench, Tinca tinca")
    drawer.get_by_text("What is this figure?").click()
    drawn_count = sum(is_drawn(20, row, col) for row in range(20) for col in range(20))
    for text in ("higher than that of 97 %", "whitened 0.861", "robust 0.902", f"rank 2 of {drawn_count}"):
        expect(drawer).to_contain_text(text)
    expect(drawer).to_contain_text("The network takes them for Egyptian cat 50 %, tabby 1 %.")
    expect(drawer).to_contain_text("Their own labels: animals 100 %.")

    patches = drawer.get_by_role("group", name="Real patches").get_by_role("button")
    expect(patches).to_have_count(2)
    expect(drawer).to_contain_text("14-12-one.png")
    patches.nth(1).hover()
    expect(drawer).to_contain_text("14-12-two.png")
    expect(drawer).to_contain_text("cosine 0.85")
    box = patches.nth(1).bounding_box()
    assert box is not None
    page.wait_for_timeout(300)
    colour_on_screen = visitor.screen()[int(box["y"] + box["height"] / 2), int(box["x"] + box["width"] / 2)]
    assert np.abs(colour_on_screen - [30, 160, 30]).max() < 25, "the sprite of the second patch"
    whole = page.get_by_test_id("whole")
    whole.scroll_into_view_if_needed()
    outer, inner = whole.bounding_box(), whole.locator(".frame").bounding_box()
    assert outer is not None
    assert inner is not None
    assert inner["width"] == pytest.approx(outer["width"] / 2, abs=1)
    assert inner["x"] == pytest.approx(outer["x"] + outer["width"] / 4, abs=1)
    colour_on_screen = visitor.screen()[int(outer["y"] + 8), int(outer["x"] + 8)]
    assert np.abs(colour_on_screen - [30, 30, 90]).max() < 25, "its whole picture"
    expect(drawer).to_contain_text('run.members("_blocks.10", grid=20, row=14, col=12)')
    page.screenshot(path=RESULTS / "viewer-drawer.png")
    page.keyboard.press("Escape")
    expect(drawer).to_have_count(0)
    expect(page.get_by_test_id("selected")).to_have_count(0)


def test_from_a_cell_to_what_is_like_it_and_to_the_other_layer(visitor: Visitor) -> None:
    page = visitor.page
    open_cell(visitor, 14, 12)
    row, col = near_cell(20, 14, 12)
    page.get_by_test_id("drawer").get_by_role("button", name=f"Go to row {row}, column {col}").click()
    expect(page.get_by_test_id("drawer")).to_contain_text(f"Row {row}, column {col}")
    assert visitor.link()["cells"] == f"20.{row}.{col}"
    page.get_by_test_id("drawer").get_by_role("button", name="Go to _blocks.4").click()
    expect(switch(page, "_blocks.4")).to_be_visible()
    expect(page.get_by_test_id("drawer")).to_contain_text(f"Row {row}, column {col} of 20 × 20, _blocks.4")


def test_back_and_forward_go_through_what_was_looked_at(visitor: Visitor) -> None:
    page = visitor.page
    eventually(lambda: "layer" in visitor.link(), "the start")
    open_cell(visitor, 14, 12)
    find(visitor, "espresso", "espresso")
    eventually(lambda: visitor.link().get("class") == "espresso", "the class")
    page.keyboard.press("+")
    eventually(lambda: visitor.link()["zoom"] == "1.5", "a move is no step of its own")
    page.go_back()
    expect(page.get_by_test_id("heat-key")).to_have_count(0)
    expect(page.get_by_test_id("drawer")).to_contain_text("Row 14, column 12")
    page.go_back()
    expect(page.get_by_test_id("drawer")).to_have_count(0)
    page.go_forward()
    expect(page.get_by_test_id("drawer")).to_contain_text("Row 14, column 12")
    page.go_forward()
    expect(page.get_by_test_id("heat-key")).to_contain_text("espresso")
    expect(page.get_by_label("Zoom", exact=True)).to_have_text("1.5×")


def test_a_link_holds_everything(browser: Browser, address: str) -> None:
    link = (
        "#layer=_blocks.10&x=0.45&y=0.55&zoom=1.5&level=20&patches=0.5&class=espresso&side=both&darkening=0.3"
        "&cells=20.14.12+20.14.11&with=_blocks.4&how=swipe&at=0.25&density=0.6&labels=off&low=hide"
    )
    with guest(browser, f"{address}made/{link}") as visitor:
        page = visitor.page
        expect(page.get_by_test_id("drawer")).to_contain_text("Row 14, column 12")
        expect(page.get_by_test_id("selected")).to_have_count(3)  # one of them on the second map
        expect(page.get_by_role("separator")).to_have_attribute("aria-valuenow", "25")
        expect(page.get_by_role("button", name="both")).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_label("Darken the rest")).to_have_value("0.3")
        page.wait_for_timeout(800)
        assert page.evaluate("location.hash") == link


def test_a_link_to_what_is_not_there_opens_the_rest(browser: Browser, address: str) -> None:
    link = "#layer=lost&class=zebra&class=espresso&with=gone&level=7&cells=20.0.0+20.14.12+10.1.1"
    with guest(browser, f"{address}made/{link}") as visitor:
        expect(visitor.page.get_by_test_id("drawer")).to_contain_text("Row 14, column 12")
        expect(visitor.page.get_by_test_id("selected")).to_have_count(1)
        expect(visitor.page.get_by_test_id("heat-key")).to_contain_text("espresso")
        expect(visitor.page.get_by_test_id("second")).to_have_count(0)
        expect(switch(visitor.page, "_blocks.10")).to_be_visible()


def test_with_the_keyboard_from_cell_to_cell(visitor: Visitor) -> None:
    page = visitor.page
    page.keyboard.press("ArrowDown")
    expect(page.get_by_test_id("card")).to_be_visible()
    page.keyboard.press("Enter")
    drawer = page.get_by_test_id("drawer")
    expect(drawer).to_be_visible()
    heading = drawer.get_by_role("heading").first.inner_text()
    page.keyboard.press("Shift+ArrowDown")
    expect(drawer.get_by_role("heading").first).not_to_have_text(heading)
    page.keyboard.press("[")
    expect(switch(page, "_blocks.4")).to_be_visible()
    page.keyboard.press("]")
    expect(switch(page, "_blocks.10")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="How to read this atlas")).to_be_visible()
    page.wait_for_timeout(200)
    page.screenshot(path=RESULTS / "viewer-help.png")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.wait_for_timeout(100)
    page.keyboard.press("<")
    expect(page.get_by_label("Level", exact=True)).to_have_text("10 × 10")

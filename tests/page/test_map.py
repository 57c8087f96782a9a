"""The page in a real browser, on a made site: what a person does, and what is then on the screen."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_site import (
    DESKTOP,
    PHONE,
    PLACES_20,
    RESULTS,
    Visitor,
    cell_20,
    cell_count,
    colour,
    eventually,
    is_drawn,
    is_there,
    switch,
)
from playwright.sync_api import Browser, Route, expect

from atlas.rundir.versions import SITE_FORMAT


def test_opens_on_the_whole_middle_layer(visitor: Visitor) -> None:
    page = visitor.page
    expect(page).to_have_title("made: activation atlas")
    expect(page.get_by_label("Level", exact=True)).to_have_text("20 × 20")
    eventually(lambda: visitor.shows("_blocks.10", "icons", 20, PLACES_20), "the icons of grid 20 at their places")
    ground = visitor.screen()[int(cell_20(7, 12)[1]), int(cell_20(7, 12)[0])]  # in the map's hole
    assert ground.tolist() == [0xF7, 0xF7, 0xF5]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.get_by_test_id("card")).to_have_count(0)
    expect(page.get_by_text("Scroll to zoom.")).to_be_visible()
    page.screenshot(path=RESULTS / "viewer-desktop.png")
    page.mouse.wheel(0, -10)
    expect(page.get_by_text("Scroll to zoom.")).to_have_attribute("aria-hidden", "true")


def test_first_load_is_light_and_knows_no_outside_address(site: Path) -> None:
    files = [path for path in [site / "index.html", *(site / "assets").iterdir()] if path.is_file()]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) <= 250_000
    outside = {address for path in files for address in re.findall(r"https?://[\w.-]+", path.read_text())}
    assert outside <= {"http://www.w3.org"}
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (site / "index.html").read_text())
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]


def test_pointing_at_a_cell_shows_what_it_is(visitor: Visitor) -> None:
    page = visitor.page
    row, col = 14, 12
    page.mouse.move(*cell_20(row, col))
    card = page.get_by_test_id("card")
    expect(card).to_contain_text(f"average of {cell_count(20, row, col):,} activations")
    names = [element.inner_text() for element in card.locator("li .name").all()]
    values = [element.inner_text() for element in card.locator("li .value").all()]
    assert names == ["Egyptian cat", "tabby", "tench", "espresso", "car wheel"]
    assert values == ["+0.50", "+0.25", "+0.10", "+0.05", "−0.13"]
    widths = card.locator("li .bar").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert widths[1] == pytest.approx(widths[0] / 2, abs=1)
    colours = card.locator("li .bar").evaluate_all("bars => bars.map(bar => getComputedStyle(bar).backgroundColor)")
    assert colours == ["rgb(217, 95, 2)"] * 4 + ["rgb(27, 108, 168)"]
    expect(card).to_contain_text("shows very well what the layer sees here: 0.93 of 1 (cosine)")

    outline = page.get_by_test_id("outline").bounding_box()
    assert outline is not None
    x, y = cell_20(row, col)
    assert outline["x"] + outline["width"] / 2 == pytest.approx(x, abs=1)
    assert outline["y"] + outline["height"] / 2 == pytest.approx(y, abs=1)
    assert outline["width"] == pytest.approx(43.2, abs=0.5)
    box = card.bounding_box()
    assert box is not None
    assert box["x"] >= outline["x"] + outline["width"], "the card covers its cell"
    page.wait_for_timeout(400)
    pixels = visitor.screen()
    for left, picture in ((box["x"] + 70, "icons"), (box["x"] + 200, "patches")):
        expected = colour("_blocks.10", picture, 20, row, col)
        assert np.abs(pixels[int(box["y"] + 70), int(left)] - expected).max() <= 16, picture
    page.screenshot(path=RESULTS / "viewer-desktop-card.png")

    page.mouse.move(40, 450)  # empty ground
    expect(card).to_have_count(0)
    expect(page.get_by_test_id("outline")).to_have_count(0)


def test_a_layer_of_another_network_and_a_map_of_classes(browser: Browser, address: str, site: Path) -> None:
    """Classes are those of the layer's own network; the page opens on a whole layer; a map of classes has a title."""
    facts = json.loads((site / "atlas.json").read_text())
    facts["networks"].append(
        {"name": "other", "input_size": 240, "classes": [f"thing {number}" for number in range(7)]}
    )
    first, second = facts["layers"]
    pair = {**second, "name": "_blocks.10: lemon → daisy", "classes_shown": ["lemon", "daisy"]}
    facts["layers"] = [{**first, "name": "_blocks.4@other", "network": 1}, pair]
    with browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.route("**/atlas.json", lambda route: route.fulfill(json=facts))
        page.goto(f"{address}made/")
        expect(page.get_by_role("button", name="Layer _blocks.4@other; choose another")).to_be_visible()
        page.mouse.move(*cell_20(14, 12))
        names = page.get_by_test_id("card").locator("li .name")
        expect(names.first).to_have_text("thing 1")
        page.get_by_role("button", name="choose another").click()
        page.get_by_role("menuitemradio", name="_blocks.10: lemon → daisy").click()
        expect(page.get_by_role("button", name="Layer _blocks.10: lemon → daisy")).to_be_visible()
        page.mouse.move(*cell_20(14, 13))
        expect(names.first).to_have_text("Egyptian cat")


def test_a_cell_that_is_not_drawn_says_why(visitor: Visitor) -> None:
    row, col = next((r, c) for r in range(20) for c in range(20) if is_there(20, r, c) and not is_drawn(20, r, c))
    visitor.page.mouse.move(*cell_20(row, col))
    card = visitor.page.get_by_test_id("card")
    expect(card).to_contain_text("average of 3 activations")
    expect(card).to_contain_text("Too few for a picture")
    expect(card.locator("figure")).to_have_count(0)


def test_zooming_changes_the_level(visitor: Visitor) -> None:
    page = visitor.page
    level, zoom = page.get_by_label("Level", exact=True), page.get_by_label("Zoom", exact=True)
    page.get_by_label("Zoom out").click()
    expect(level).to_have_text("10 × 10")
    expect(zoom).to_have_text("0.7×")
    for _ in range(4):
        page.get_by_label("Zoom in").click()
    expect(level).to_have_text("40 × 40")
    expect(zoom).to_have_text("3.4×")
    # The middle of the window is the corner of four cells; half a cell (41 px) to the left and up lies (19, 19).
    target = np.array(colour("_blocks.10", "icons", 40, 19, 19))
    eventually(lambda: bool(np.abs(visitor.screen()[450 - 36, 720 - 36] - target).max() <= 16), "the icons of grid 40")
    page.mouse.move(720 - 36, 450 - 36)
    expect(page.get_by_test_id("card")).to_contain_text(f"average of {cell_count(40, 19, 19):,} activations")
    page.screenshot(path=RESULTS / "viewer-desktop-zoomed.png")
    page.get_by_label("Show the whole map").click()
    expect(zoom).to_have_text("1.0×")
    expect(level).to_have_text("20 × 20")


def test_the_wheel_zooms_at_the_pointer(visitor: Visitor) -> None:
    x, y = cell_20(5, 5)
    visitor.page.mouse.move(x, y)
    for _ in range(5):
        visitor.page.mouse.wheel(0, -120)
        visitor.page.wait_for_timeout(120)
    expect(visitor.page.get_by_label("Level", exact=True)).to_have_text("40 × 40")
    card = visitor.page.get_by_test_id("card")
    inside = "|".join(f"{cell_count(40, row, col):,}" for row in (10, 11) for col in (10, 11))
    expect(card).to_contain_text(re.compile(f"average of ({inside}) activations"))


def test_switching_the_layer_keeps_the_view(visitor: Visitor) -> None:
    page = visitor.page
    page.keyboard.press("ArrowRight")
    page.get_by_label("Zoom in").click()
    eventually(lambda: visitor.link().get("zoom") == "1.5", "the view in the address")
    before = visitor.link()
    assert float(before["x"]) > 0.55
    switch(page, "_blocks.10").click()
    page.get_by_role("menuitemradio", name="_blocks.4").click()
    expect(switch(page, "_blocks.4")).to_be_visible()
    eventually(lambda: visitor.link()["layer"] == "_blocks.4", "the layer in the address")
    assert visitor.link() == {**before, "layer": "_blocks.4"}
    page.get_by_label("Show the whole map").click()
    eventually(lambda: visitor.shows("_blocks.4", "icons", 20, PLACES_20), "the other layer's icons")


def test_layers_may_be_switched_faster_than_they_come(visitor: Visitor) -> None:
    """A layer that left while it was under way comes back when it is wanted again."""
    page = visitor.page
    eventually(lambda: visitor.shows("_blocks.10", "icons", 20, PLACES_20), "the first layer")
    for gap in (0, 20, 60, 120, 180):
        for key in "[][":
            page.keyboard.press(key)
            page.wait_for_timeout(gap)
        eventually(lambda: visitor.shows("_blocks.4", "icons", 20, PLACES_20), f"the layer before, {gap} ms apart")
        page.keyboard.press("]")
        eventually(lambda: visitor.shows("_blocks.10", "icons", 20, PLACES_20), f"the first layer, {gap} ms apart")


def test_icons_and_patches_change_places(visitor: Visitor) -> None:
    page = visitor.page
    eventually(lambda: visitor.shows("_blocks.10", "icons", 20, PLACES_20), "icons")
    page.get_by_role("button", name="Real patches").click()
    eventually(lambda: visitor.shows("_blocks.10", "patches", 20, PLACES_20), "patches")
    eventually(lambda: visitor.link().get("patches") == "1", "the patches in the address")
    expect(page.get_by_role("button", name="Real patches")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Icons").click()
    eventually(lambda: visitor.shows("_blocks.10", "icons", 20, PLACES_20), "icons again")
    eventually(lambda: "patches" not in visitor.link(), "no patches in the address")


def test_no_white_flash_between_icons_and_patches(visitor: Visitor) -> None:
    """In every frame of the change, drawn cells are darker than the ground (which is 247)."""
    page = visitor.page
    eventually(lambda: visitor.shows("_blocks.10", "icons", 20, PLACES_20), "icons")
    x, y = cell_20(14, 12)
    page.evaluate(
        """([x, y]) => {
            window.seen = [];
            const look = () => {
                const canvas = document.querySelector('.openseadragon-canvas canvas');
                window.seen.push([...canvas.getContext('2d').getImageData(x, y, 1, 1).data]);
                window.watch = requestAnimationFrame(look);
            };
            look();
        }""",
        [x, y],
    )
    page.get_by_role("button", name="Real patches").click()
    eventually(lambda: visitor.shows("_blocks.10", "patches", 20, PLACES_20), "patches")
    pixels = np.array(page.evaluate("cancelAnimationFrame(window.watch), window.seen"))
    assert len(pixels) > 5
    assert pixels[:, 3].min() >= 250, "the ground shone through"
    visitor.complaints = [
        complaint for complaint in visitor.complaints if "willReadFrequently" not in complaint
    ]  # of this test's look


def test_keyboard(visitor: Visitor) -> None:
    page = visitor.page
    page.keyboard.press("+")
    page.keyboard.press("+")
    expect(page.get_by_label("Zoom", exact=True)).to_have_text("2.2×")
    page.keyboard.press("-")
    expect(page.get_by_label("Zoom", exact=True)).to_have_text("1.5×")
    page.keyboard.press("ArrowDown")
    eventually(lambda: float(visitor.link()["y"]) > 0.55, "the map moves down")
    expect(page.get_by_test_id("card")).to_contain_text("activations")  # of the cell in the middle
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("card")).to_have_count(0)
    page.keyboard.press("0")
    expect(page.get_by_label("Zoom", exact=True)).to_have_text("1.0×")
    eventually(lambda: visitor.link()["y"] == "0.5", "the whole map again")

    switch(page, "_blocks.10").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(switch(page, "_blocks.4")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("menu")).to_have_count(0)


def test_moves_made_before_the_map_is_there_are_kept(browser: Browser, address: str) -> None:
    with browser.new_context(viewport=DESKTOP) as context:
        visitor = Visitor(context)
        routes: list[Route] = []
        visitor.page.route("**/atlas.json", lambda route: routes.append(route))
        with visitor.page.expect_request("**/atlas.json"):
            visitor.page.goto(f"{address}made/")
        visitor.page.keyboard.press("+")
        visitor.page.keyboard.press("+")
        assert len(routes) == 1
        routes[0].continue_()
        expect(visitor.page.get_by_label("Zoom", exact=True)).to_have_text("2.2×")
        expect(visitor.page.get_by_label("Level", exact=True)).to_have_text("40 × 40")
        assert visitor.complaints == []


def test_a_link_opens_the_same_view(browser: Browser, address: str) -> None:
    with browser.new_context(viewport=DESKTOP) as context:
        visitor = Visitor(context)
        link = "#layer=_blocks.4&x=0.4&y=0.55&zoom=2.5&patches=1"
        visitor.open(f"{address}twin/{link}")
        expect(visitor.page.get_by_label("Zoom", exact=True)).to_have_text("2.5×")
        expect(switch(visitor.page, "_blocks.4")).to_be_visible()
        expect(visitor.page.get_by_role("button", name="Real patches")).to_have_attribute("aria-pressed", "true")
        visitor.page.wait_for_timeout(600)
        assert visitor.page.evaluate("location.hash") == link
        assert visitor.complaints == []


def test_the_minimap_moves_the_view(visitor: Visitor) -> None:
    page = visitor.page
    minimap = page.get_by_test_id("minimap")
    expect(minimap).to_be_hidden()  # all of the map is in view
    for _ in range(3):
        page.get_by_label("Zoom in").click()
    expect(minimap).to_be_visible()
    eventually(lambda: visitor.link().get("zoom") == "3.375", "zoom")
    box = minimap.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.7, steps=4)
    page.mouse.up()
    eventually(lambda: visitor.link()["x"].startswith("0.3"), "the view follows the frame")
    assert float(visitor.link()["x"]) == pytest.approx(0.3, abs=0.02)
    assert float(visitor.link()["y"]) == pytest.approx(0.7, abs=0.02)


def test_dark_and_light(browser: Browser, address: str) -> None:
    with browser.new_context(viewport=DESKTOP, color_scheme="dark") as context:
        visitor = Visitor(context)
        visitor.open(f"{address}made/")
        eventually(lambda: visitor.shows("_blocks.10", "icons", 20, PLACES_20), "icons")
        assert visitor.screen()[450, 60].tolist() == [0x11, 0x12, 0x14]
        visitor.page.mouse.move(*cell_20(14, 12))
        expect(visitor.page.get_by_test_id("card")).to_be_visible()
        visitor.page.wait_for_timeout(300)
        visitor.page.screenshot(path=RESULTS / "viewer-desktop-dark.png")
        visitor.page.get_by_label("Light ground").click()
        eventually(lambda: visitor.screen()[450, 60].tolist() == [0xF7, 0xF7, 0xF5], "the light ground")
        visitor.page.reload()
        eventually(lambda: visitor.screen()[450, 60].tolist() == [0xF7, 0xF7, 0xF5], "the choice is kept")
        assert visitor.complaints == []


def test_phone(browser: Browser, address: str) -> None:
    options: dict[str, Any] = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    with browser.new_context(viewport=PHONE, **options) as context:
        visitor = Visitor(context)
        page = visitor.page
        visitor.open(f"{address}made/")
        page.wait_for_timeout(600)
        page.screenshot(path=RESULTS / "viewer-phone.png")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        side = 0.96 * 360
        row, col = 6, 5
        x, y = 180 - side / 2 + (col + 0.5) * side / 10, 370 - side / 2 + (row + 0.5) * side / 10
        page.touchscreen.tap(x, y)
        drawer = page.get_by_test_id("drawer")
        expect(drawer).to_contain_text(f"average of {cell_count(10, row, col):,} activations")
        page.wait_for_timeout(500)
        page.screenshot(path=RESULTS / "viewer-phone-drawer.png")
        box, outline = drawer.bounding_box(), page.get_by_test_id("selected").bounding_box()
        assert box is not None
        assert outline is not None
        assert box["y"] > outline["y"] + outline["height"], "the drawer covers its cell"
        assert (box["x"], box["width"]) == (0, 360)
        page.get_by_test_id("drawer").get_by_label("Close").tap()
        expect(drawer).to_have_count(0)
        assert visitor.complaints == []


def test_reduced_motion(browser: Browser, address: str) -> None:
    with browser.new_context(viewport=DESKTOP, reduced_motion="reduce") as context:
        visitor = Visitor(context)
        visitor.open(f"{address}made/")
        zoom = visitor.page.get_by_label("Zoom", exact=True)
        zoom.evaluate("""output => {
            window.zooms = [];
            const note = () => window.zooms.push(output.textContent);
            new MutationObserver(note).observe(output, { childList: true, characterData: true, subtree: true });
        }""")
        visitor.page.keyboard.press("+")
        expect(zoom).to_have_text("1.5×")
        visitor.page.wait_for_timeout(300)
        assert visitor.page.evaluate("window.zooms") == ["1.5×"], "the zoom jumps, with nothing in between"
        visitor.page.keyboard.press("0")
        visitor.page.get_by_role("button", name="Real patches").click()
        eventually(lambda: visitor.shows("_blocks.10", "patches", 20, PLACES_20), "patches")
        assert visitor.complaints == []


def test_failed_states_say_what_to_do(browser: Browser, address: str, site: Path) -> None:
    with browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto((site / "index.html").as_uri())
        expect(page.get_by_role("alert")).to_contain_text("atlas serve")

        page.route("**/atlas.json", lambda route: route.fulfill(status=404))
        page.goto(f"{address}made/")
        expect(page.get_by_role("alert")).to_contain_text("atlas run CONFIG")

        page.unroute("**/atlas.json")
        page.route("**/atlas.json", lambda route: route.fulfill(json={"format": SITE_FORMAT + 1, "layers": []}))
        page.goto(f"{address}made/?newer")
        expect(page.get_by_role("alert")).to_contain_text(f"format {SITE_FORMAT + 1}")

        page.unroute("**/atlas.json")
        page.route("**/12/*.webp", lambda route: route.abort())
        page.goto(f"{address}made/#zoom=3&x=0.5&y=0.5")
        expect(page.get_by_role("alert")).to_contain_text("did not arrive")


def test_the_index_page_leads_to_each_run(browser: Browser, address: str) -> None:
    with browser.new_context(viewport=DESKTOP) as context:
        visitor = Visitor(context)
        visitor.page.goto(address)
        images = visitor.page.locator("img")
        expect(images).to_have_count(2)
        eventually(lambda: all(images.evaluate_all("all => all.map(one => one.naturalWidth === 400)")), "thumbnails")
        visitor.page.get_by_role("link", name="twin").click()
        expect(visitor.page.get_by_label("Level", exact=True)).to_have_text("20 × 20")
        assert visitor.complaints == []

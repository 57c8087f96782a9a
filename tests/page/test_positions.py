"""What the page tells of a picture's positions: icons, effects on a class, their dots on the map, groups."""

import numpy as np
from made_api import MadeApi, icon_colour, stand_in_colour
from made_site import CLASSES, DESKTOP, RESULTS, Visitor, eventually, guest, switch
from numpy.typing import NDArray
from picture_page import (
    BROWN,
    FINER,
    LAYER,
    SIDE,
    at,
    canvas,
    give,
    middle,
    near,
    panel,
    picture_of,
    pixels_of,
    point_at,
    show,
)
from playwright.sync_api import Browser, Page, Route, expect

NAMES = [name.split(",")[0] for name in CLASSES]
SUPPORT, OPPOSE = np.array([217, 95, 2]), np.array([27, 108, 168])
TINT, LIFT = 0.85, 0.7  # as in viewer/src/image/paint.ts


def dot_at(page: Page, image_api: MadeApi, position: int) -> tuple[float, float]:
    """Where the dot of a position is in the window, on the whole map."""
    box = page.locator(".pane").first.bounding_box()
    cell = image_api.cell(LAYER, position)
    assert box is not None
    assert cell is not None
    grid, row, col = cell
    side = 0.96 * min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    return left + (col + 0.5) / grid * side, top + (row + 0.5) / grid * side


# What lies over the picture


def test_icons_come_one_by_one_in_place_of_those_of_the_cells(browser: Browser, image_api: MadeApi) -> None:
    image_api.icon_delay = 0.02
    with guest(browser, image_api.address) as visitor:
        page = visitor.page
        give(page, picture_of(BROWN))
        show(page, "icons")
        strongest, weakest = 6 * SIDE + 6, 0
        cell = image_api.cell(LAYER, weakest)
        assert cell is not None
        ground, icon_there = np.array([0xF7, 0xF7, 0xF5]), np.array(stand_in_colour(LAYER, cell))
        below = ground + 0.16 * (np.array(BROWN) - ground)
        pale = below + 0.4 * (icon_there - below)
        eventually(lambda: near(middle(page, weakest), pale, 12), "the icon of its cell, pale")
        eventually(lambda: near(middle(page, strongest), icon_colour(strongest)), "the strongest has its own first")
        assert near(middle(page, weakest), pale, 12)
        page.screenshot(path=RESULTS / "viewer-image-icons.png")
        progress = panel(page).get_by_role("progressbar")
        share = float(progress.get_attribute("value") or 0)
        assert 0 < share < 1
        eventually(lambda: float(progress.get_attribute("value") or 0) > share, "it goes on")

        panel(page).get_by_role("button", name="Stop").click()
        eventually(lambda: any("icons" in request for request in image_api.stopped), "the server is told")
        own = canvas(page).get_attribute("data-own")
        page.wait_for_timeout(200)
        assert canvas(page).get_attribute("data-own") == own
        expect(panel(page)).to_contain_text(f"{own} of {SIDE * SIDE} drawn; pale ones")
        show(page, "picture")
        show(page, "icons")
        assert canvas(page).get_attribute("data-own") == own, "what was stopped stays so"

        image_api.icon_delay = 0
        panel(page).get_by_role("button", name="Draw all").click()
        expect(canvas(page)).to_have_attribute("data-own", str(SIDE * SIDE))
        eventually(lambda: near(middle(page, weakest), icon_colour(weakest)), "all have their own")
        pixels = pixels_of(page)
        for position in (0, 17, strongest, 150):
            half = np.sqrt(image_api.magnitude(LAYER, position)) / 2
            assert near(at(pixels, position, 0.5 + 0.8 * half, 0.5), icon_colour(position)), "area by magnitude"
            if half < 0.4:
                assert near(at(pixels, position, 0.5 + 1.15 * half, 0.5), below, 12)


def test_what_each_position_adds_to_a_class(browser: Browser, image_api: MadeApi) -> None:
    with guest(browser, image_api.address) as visitor:
        page = visitor.page
        picture = picture_of(BROWN)
        give(page, picture)
        first, _, third, *_ = image_api.top(picture, 0)
        show(page, "class effect")
        expect(canvas(page)).to_have_attribute("data-over", "effect")
        expect(panel(page)).to_contain_text(
            f"What each position adds to {NAMES[first]}: orange supports, blue opposes."
        )
        eventually(lambda: page.get_by_test_id("heat-key").count() == 0, "no class is chosen on the map by this")
        assert_tinted(page, np.array(image_api.attribution(LAYER, first)))
        page.mouse.move(*point_at(page, 0))
        value = image_api.attribution(LAYER, first)[0]
        expect(panel(page).get_by_role("status")).to_contain_text(f"−{-value:.2f} for {NAMES[first]}")
        page.wait_for_timeout(200)
        page.screenshot(path=RESULTS / "viewer-image-effect.png")

        # One class of the list, then a second: on the map too.
        classes = panel(page).get_by_label("What the network takes it for").get_by_role("button")
        classes.nth(0).click()
        expect(page.get_by_test_id("heat-key")).to_contain_text(NAMES[first])
        classes.nth(2).click()
        expect(classes.nth(2)).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_test_id("heat-key")).to_contain_text(NAMES[third])
        difference = np.array(image_api.attribution(LAYER, first)) - np.array(image_api.attribution(LAYER, third))
        eventually(lambda: tinted(page, difference), "two against each other")
        best = int(difference.argmin())
        page.mouse.move(*point_at(page, best))
        expect(panel(page).get_by_role("status")).to_contain_text(f"{-difference[best]:.2f} more for {NAMES[third]}")
        page.mouse.move(700, 20)

        # The true difference, asked for.
        image_api.step_delay = 0.2
        panel(page).get_by_role("button", name="Take each position out").click()
        expect(panel(page)).to_contain_text("Taking positions out: 25 %")
        expect(panel(page)).to_contain_text("Taking positions out: 50 %")
        expect(panel(page).get_by_role("button", name="each taken out")).to_have_attribute("aria-pressed", "true")
        assert f"POST api/explain/removed?layer={LAYER}&class={first}&class={third}" in image_api.requests
        assert_tinted(page, difference[::-1])
        page.mouse.move(*point_at(page, difference.size - 1 - best))
        words = f"without it {NAMES[third]} loses {-difference[best]:.2f} against {NAMES[first]}"
        expect(panel(page).get_by_role("status")).to_contain_text(words)
        page.mouse.move(700, 20)
        page.screenshot(path=RESULTS / "viewer-image-removed.png")
        panel(page).get_by_role("button", name="estimated (first order)").click()
        assert_tinted(page, difference)

        # A class that did not come with the summary, found by its name.
        classes.nth(0).click()
        classes.nth(2).click()
        expect(page.get_by_test_id("heat-key")).to_have_count(0)
        other = image_api.top(picture, 0)[6]
        page.get_by_label("Find a class").fill(NAMES[other])
        page.locator("#classes").get_by_role("option", name=NAMES[other]).first.click()
        expect(panel(page)).to_contain_text(f"What each position adds to {NAMES[other]}")
        eventually(lambda: tinted(page, np.array(image_api.attribution(LAYER, other))), "asked for on its own")
        assert f"POST api/explain/classes?network=0&class={other}" in image_api.requests


def tinted(page: Page, values: NDArray[np.float64]) -> bool:
    """Whether every seventh position has the colour of its value over the grey of the picture."""
    grey = np.dot(BROWN, (0.3, 0.59, 0.11))  # luminosity, as the blend mode has it
    pixels = pixels_of(page)
    for position in range(0, values.size, 7):
        opacity = TINT * (abs(values[position]) / np.abs(values).max()) ** LIFT
        colour = SUPPORT if values[position] > 0 else OPPOSE
        if not near(at(pixels, position, 0.5, 0.5), grey + opacity * (colour - grey), 5):
            return False
    return True


def assert_tinted(page: Page, values: NDArray[np.float64]) -> None:
    eventually(lambda: tinted(page, values), "the colours of the values")


# Picture and atlas


def test_picture_and_atlas_mark_each_other(browser: Browser, image_api: MadeApi) -> None:
    with guest(browser, image_api.address) as visitor:
        page = visitor.page
        give(page, picture_of(BROWN))
        dots = page.get_by_test_id("dots")
        page.mouse.move(*point_at(page, 33))
        expect(dots).to_have_attribute("data-marked", "33")
        page.wait_for_timeout(200)
        x, y = dot_at(page, image_api, 33)
        pixels = visitor.screen()
        assert pixels[int(y), int(x)].max() < 60, "its dot, dark"
        ring = [pixels[int(y), int(x) + right].max() for right in range(7, 16)]
        assert min(ring) < 60, "and the ring around it"
        status = panel(page).get_by_role("status")
        expect(status).to_contain_text("Row 2, column 5")
        expect(status).to_contain_text("little like what was in the data (0.17 of 1)")
        page.mouse.move(*point_at(page, 2))
        expect(status).to_contain_text("nothing like this was in the data (0.01 of 1)")

        page.mouse.move(*dot_at(page, image_api, 120))
        expect(canvas(page)).to_have_attribute("data-marked", "120")
        eventually(lambda: at(pixels_of(page), 120, 0.0, 0.5).max() < 60, "a ring around the position")
        page.mouse.move(700, 20)
        expect(canvas(page)).to_have_attribute("data-marked", "")

        # A click opens the cell; the place is then followed through the layers.
        page.mouse.click(*point_at(page, 33))
        cell = image_api.cell(LAYER, 33)
        assert cell is not None
        expect(page.get_by_test_id("drawer")).to_contain_text(f"Row {cell[1]}, column {cell[2]} of 40 × 40, {LAYER}")
        page.mouse.move(700, 20)
        expect(dots).to_have_attribute("data-marked", "33")
        steps = panel(page).get_by_label("Its path through the network").get_by_role("button")
        expect(steps).to_have_count(2)
        expect(steps.nth(1)).to_have_attribute("aria-current", "step")
        expect(steps.nth(1)).to_contain_text("little like what was in the data")
        page.keyboard.press("Escape")
        steps.nth(0).click()
        there = 5 * 28 + 11  # the same place on a map of 28 × 28
        finer = image_api.cell(FINER, there)
        assert finer is not None
        expect(page.get_by_test_id("drawer")).to_contain_text(f"Row {finer[1]}, column {finer[2]} of 40 × 40, {FINER}")
        expect(switch(page, FINER)).to_be_visible()
        expect(panel(page).get_by_label("Layer")).to_have_value(FINER)
        expect(canvas(page)).to_have_attribute("data-marked", str(there))
        page.keyboard.press("Escape")
        panel(page).get_by_label("Layer").select_option(LAYER)
        expect(switch(page, LAYER)).to_be_visible()
        page.keyboard.press("[")
        expect(panel(page).get_by_label("Layer")).to_have_value(FINER)
        page.keyboard.press("]")

        # The keyboard alone.
        page.get_by_test_id("picture").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        expect(canvas(page)).to_have_attribute("data-marked", str(33 + 1 + SIDE))
        for _ in range(SIDE):
            page.keyboard.press("ArrowLeft")
        expect(canvas(page)).to_have_attribute("data-marked", str(3 * SIDE))
        page.keyboard.press("Enter")
        cell = image_api.cell(LAYER, 3 * SIDE)
        assert cell is not None
        expect(page.get_by_test_id("drawer")).to_contain_text(f"Row {cell[1]}, column {cell[2]}")
        assert float(visitor.link()["zoom"]) == 1, "the arrows were the picture's"

        # A dot chooses its position.
        page.keyboard.press("Escape")
        page.keyboard.press("0")
        home = {"x": "0.5", "y": "0.5", "zoom": "1"}
        eventually(lambda: home.items() <= visitor.link().items(), "the map is home and at rest")
        page.wait_for_timeout(100)
        page.mouse.click(*dot_at(page, image_api, 60))
        page.mouse.move(700, 20)
        expect(canvas(page)).to_have_attribute("data-marked", "60")


def as_the_layer(route: Route) -> None:
    route.fulfill(response=route.fetch(url=route.request.url.replace("/part/", f"/{LAYER}/")))


def test_a_map_of_classes_counts_as_its_layer(browser: Browser, image_api: MadeApi) -> None:
    facts = image_api.atlas
    part = {"name": f"{LAYER}: espresso", "path": "part", "classes_shown": ["espresso"]}
    facts["layers"].append({**facts["layers"][1], **part})
    with browser.new_context(viewport=DESKTOP) as context:
        visitor = Visitor(context)
        page = visitor.page
        page.route("**/atlas.json", lambda route: route.fulfill(json=facts, headers={"x-atlas-api": "1"}))
        page.route("**/part/**", as_the_layer)
        visitor.open(f"{image_api.address}#layer=part")
        give(page, picture_of(BROWN))
        expect(panel(page).get_by_label("Layer")).to_have_value(LAYER)
        expect(panel(page)).to_contain_text("The map shows a part of the layer, with places of its own")
        dots = page.get_by_test_id("dots")
        expect(dots).to_have_attribute("data-dots", "0")
        page.mouse.move(*point_at(page, 33))
        expect(panel(page).get_by_role("status")).to_contain_text("Row 2, column 5")
        panel(page).get_by_role("button", name="Show its map").click()
        expect(switch(page, f"{LAYER};")).to_be_visible()
        expect(dots).to_have_attribute("data-dots", str(SIDE * SIDE - 1))
        assert visitor.complaints == []


def test_groups_have_a_part_of_the_picture_each(browser: Browser, image_api: MadeApi) -> None:
    image_api.step_delay = 0.05
    with guest(browser, image_api.address) as visitor:
        page = visitor.page
        give(page, picture_of(BROWN))
        section = panel(page).get_by_label("Groups", exact=True)
        section.get_by_label("Number of groups").fill("4")
        expect(section).to_contain_text("4 groups")
        section.get_by_role("button", name="Find groups").click()
        groups = section.locator("li").filter(has=page.get_by_role("button"))
        expect(groups).to_have_count(4)
        assert f"POST api/explain/groups?layer={LAYER}&count=4" in image_api.requests
        expect(section).to_contain_text("Together they make up 87 % of what the layer says here")
        expect(section).to_contain_text("with negative numbers is counted apart")
        expect(section).to_contain_text("what the scores of the ten likeliest classes lose without it")
        icons = groups.get_by_role("button").locator("canvas[data-there]")
        eventually(lambda: icons.evaluate_all("all => all.every((one) => one.dataset.there === 'yes')"), "icons")
        expect(section.get_by_role("progressbar")).to_have_count(0)

        third = groups.nth(2)
        expect(third).to_contain_text("22 % of what the layer says")
        expect(third).to_contain_text("much like what was in the data")
        assert third.locator(".name").all_inner_texts() == [NAMES[number % 7] for number in (2, 3, 4, 5, 6, 0)]
        assert third.locator(".value").all_inner_texts() == ["+1.20", "+1.00", "+0.80", "−0.90", "−0.80", "−0.70"]
        third.get_by_role("button").hover()
        expect(canvas(page)).to_have_attribute("data-over", "mask")
        inside, outside = 8 * SIDE + 6, 2 * SIDE + 6
        eventually(lambda: near(middle(page, inside), BROWN), "its part as it is")
        assert middle(page, outside).max() < 60, "the rest dark"
        box, stage = third.bounding_box(), page.get_by_test_id("picture").bounding_box()
        assert box is not None
        assert stage is not None
        assert stage["y"] > 60, "the picture stays in sight"
        page.wait_for_timeout(200)
        page.screenshot(path=RESULTS / "viewer-image-groups.png")
        page.mouse.move(700, 20)
        expect(canvas(page)).to_have_attribute("data-over", "nothing")

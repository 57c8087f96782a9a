"""One image beside the map, in a real browser and against a made server of answers: what a person does, and what is
then on the screen."""

import base64
from typing import Any

import pytest
from accessibility import serious
from made_api import MadeApi
from made_site import CHECKOUT, CLASSES, PHONE, RESULTS, Visitor, eventually, guest
from picture_page import (
    BROWN,
    FINER,
    LAYER,
    SIDE,
    canvas,
    drop,
    give,
    middle,
    near,
    panel,
    picture_of,
    pixels_of,
    point_at,
    show,
    wait_for_summary,
)
from playwright.sync_api import Browser, expect

BLUE = (20, 40, 200)

# Giving a picture


def test_a_picture_is_dropped_and_told_of(browser: Browser, image_api: MadeApi) -> None:
    with guest(browser, image_api.address) as visitor:
        page = visitor.page
        expect(page.get_by_role("button", name="One image")).to_be_visible()
        eventually(lambda: image_api.requests == ["GET api/explain"], "the network is loaded before there is a picture")
        picture = picture_of(BROWN)
        drop(page, ("photo.png", "image/png", picture), let_go=False)
        expect(page.get_by_test_id("drop")).to_contain_text("Let go to see what the network sees in it")
        page.wait_for_timeout(200)
        page.screenshot(path=RESULTS / "viewer-image-drop.png")
        give(page, picture)
        expect(page.get_by_test_id("drop")).to_have_count(0)
        assert "POST api/explain" in image_api.requests
        best = image_api.top(picture, 0)
        classes = panel(page).get_by_label("What the network takes it for").locator("li")
        expect(classes.locator(".name").first).to_have_text(CLASSES[best[0]])
        assert classes.locator(".value").all_inner_texts() == ["40 %", "24 %", "14 %", "8.6 %", "5.2 %"]
        eventually(lambda: near(middle(page, 100), BROWN), "the picture")
        pixels = pixels_of(page)
        assert near(pixels[pixels.shape[0] // 2, 3], BROWN, 40), "only the square that the network saw"
        dots = page.get_by_test_id("dots")
        expect(dots).to_have_attribute("data-dots", str(SIDE * SIDE - 1))  # one has no place
        map_box, panel_box = page.locator(".pane").first.bounding_box(), panel(page).bounding_box()
        assert map_box is not None
        assert panel_box is not None
        assert map_box["x"] >= panel_box["x"] + panel_box["width"], "the map makes room"
        assert page.evaluate("location.hash").count("photo") == 0
        page.screenshot(path=RESULTS / "viewer-image.png")


def test_a_picture_is_pasted_chosen_or_one_of_the_samples(browser: Browser, image_api: MadeApi) -> None:
    image_api.samples = [("a blue one", picture_of(BLUE)), ("a brown one", picture_of(BROWN))]
    permissions = ["clipboard-read", "clipboard-write"]
    with guest(browser, image_api.address, permissions=permissions) as visitor:
        page = visitor.page
        page.get_by_role("button", name="One image").click()
        expect(panel(page).get_by_role("button", name="Choose a picture")).to_be_visible()
        samples = panel(page).get_by_label("Sample pictures").get_by_role("button")
        expect(samples).to_have_text(["a blue one", "a brown one"])
        eventually(lambda: samples.first.locator("img").evaluate("one => one.naturalWidth") == 120, "its picture")
        page.screenshot(path=RESULTS / "viewer-image-start.png")
        samples.first.click()
        wait_for_summary(page, "a blue one")
        eventually(lambda: near(middle(page, 100), BLUE), "the sample")

        page.evaluate(
            """async (content) => {
                const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
                const picture = new Blob([bytes], { type: 'image/png' });
                await navigator.clipboard.write([new ClipboardItem({ 'image/png': picture })]);
            }""",
            base64.b64encode(picture_of(BROWN)).decode(),
        )
        page.keyboard.press("Control+V")
        wait_for_summary(page, "image.png")
        eventually(lambda: near(middle(page, 100), BROWN), "what was pasted")

        with page.expect_file_chooser() as chooser:
            panel(page).get_by_role("button", name="Another").click()
        chooser.value.set_files({"name": "chosen.png", "mimeType": "image/png", "buffer": picture_of(BLUE)})
        wait_for_summary(page, "chosen.png")
        eventually(lambda: near(middle(page, 100), BLUE), "what was chosen")
        assert image_api.requests.count("POST api/explain") == 3

        page.get_by_label("Find a class").focus()
        page.evaluate("navigator.clipboard.writeText('esp')")
        page.keyboard.press("Control+V")
        expect(page.get_by_label("Find a class")).to_have_value("esp")
        assert image_api.requests.count("POST api/explain") == 3, "text that is pasted is no picture"


def test_what_is_no_picture_is_told_in_a_sentence(browser: Browser, image_api: MadeApi) -> None:
    with guest(browser, image_api.address) as visitor:
        page = visitor.page
        alert = panel(page).get_by_role("alert")
        drop(page, ("holiday.mp4", "video/mp4", b"moving"))
        expect(alert).to_have_text(
            "“holiday.mp4” is a video (video/mp4), not a picture. Give a picture, such as a JPEG, PNG or WebP file."
        )
        drop(page, ("thesis.pdf", "application/pdf", b"%PDF"))
        expect(alert).to_contain_text("“thesis.pdf” is a PDF document (application/pdf), not a picture.")
        drop(page, ("huge.jpg", "image/jpeg", bytes(2_500_000)))
        expect(alert).to_contain_text("“huge.jpg” has 2.5 MB, and the server takes pictures of 2.0 MB at most.")
        assert "POST api/explain" not in image_api.requests, "all of that without the server"
        page.screenshot(path=RESULTS / "viewer-image-refused.png")

        drop(page, ("broken.png", "image/png", b"no picture at all"))
        expect(alert).to_have_text("This file is no picture that can be read; give a JPEG or PNG.")
        visitor.complaints = [
            complaint for complaint in visitor.complaints if "415" not in complaint
        ]  # the browser's own note

        several = [("notes.txt", "text/plain", b"x"), ("one.png", "image/png", picture_of(BROWN))]
        drop(page, *several, ("two.png", "image/png", picture_of(BLUE)))
        expect(panel(page)).to_contain_text("3 files were given. This is the first picture among them, “one.png”")
        eventually(lambda: near(middle(page, 100), BROWN), "the first picture")
        expect(alert).to_have_count(0)
        drop(page, ("holiday.mp4", "video/mp4", b"moving"))
        expect(alert).to_contain_text("“holiday.mp4” is a video")
        assert near(middle(page, 100), BROWN), "the picture stays"

        page.route("**/api/explain**", lambda route: route.abort())
        drop(page, ("photo.png", "image/png", picture_of(BLUE)))
        expect(alert).to_contain_text("The server does not answer any more. Start it again")
        visitor.complaints = [complaint for complaint in visitor.complaints if "Failed to load" not in complaint]


def test_a_picture_that_is_refused_leaves_all_that_was_told_of_the_former_one(
    browser: Browser, image_api: MadeApi
) -> None:
    image_api.samples = [("a blue one", picture_of(BLUE))]
    with guest(browser, image_api.address) as visitor:
        page = visitor.page
        alert = panel(page).get_by_role("alert")
        picture = picture_of(BROWN)
        drop(page, ("one.png", "image/png", picture), ("two.png", "image/png", picture))
        wait_for_summary(page, "one.png")
        show(page, "icons")
        expect(canvas(page)).to_have_attribute("data-own", str(SIDE * SIDE))
        panel(page).get_by_role("button", name="Find groups").click()
        section = panel(page).get_by_label("Groups", exact=True)
        expect(section).to_contain_text("87 %")
        page.mouse.click(*point_at(page, 33))
        page.keyboard.press("Escape")
        before = len(image_api.requests)

        def assert_all_there() -> None:
            wait_for_summary(page, "one.png")
            expect(panel(page)).to_contain_text("This is the first picture among them, “one.png”")
            names = panel(page).get_by_label("What the network takes it for").locator("li .name")
            expect(names.first).to_have_text(CLASSES[image_api.top(picture, 0)[0]])
            expect(canvas(page)).to_have_attribute("data-own", str(SIDE * SIDE))
            expect(canvas(page)).to_have_attribute("data-marked", "33")
            expect(section).to_contain_text("87 %")
            expect(page.get_by_test_id("dots")).to_have_attribute("data-dots", str(SIDE * SIDE - 1))

        page.mouse.move(700, 20)
        drop(page, ("broken.png", "image/png", b"no picture at all"))
        expect(alert).to_have_text("This file is no picture that can be read; give a JPEG or PNG.")
        assert_all_there()
        show(page, "picture")
        eventually(lambda: near(middle(page, 100), BROWN), "the former picture")
        assert [request for request in image_api.requests[before:] if request.startswith("POST")] == [
            "POST api/explain"
        ], "cached, no request"

        # One that is left while it is under way, too.
        image_api.explain_delay = 8
        drop(page, ("slow.png", "image/png", picture_of(BLUE)))
        expect(panel(page)).to_contain_text("The network looks at the picture …")
        panel(page).get_by_role("button", name="Cancel").click()
        show(page, "icons")
        assert_all_there()
        visitor.complaints = [complaint for complaint in visitor.complaints if "415" not in complaint]


def test_a_sample_that_does_not_come_is_told_of(browser: Browser, image_api: MadeApi) -> None:
    image_api.samples = [("a blue one", picture_of(BLUE))]
    with guest(browser, image_api.address) as visitor:
        page = visitor.page
        page.get_by_role("button", name="One image").click()
        samples = panel(page).get_by_label("Sample pictures").get_by_role("button")
        eventually(lambda: samples.first.locator("img").evaluate("one => one.naturalWidth") == 120, "its picture")
        page.route("**/api/samples/0", lambda route: route.fulfill(status=503, json={"sentence": "It is not there."}))
        samples.first.click()
        expect(panel(page).get_by_role("alert")).to_have_text("It is not there.")
        assert "POST api/explain" not in image_api.requests
        page.unroute("**/api/samples/0")
        samples.first.click()
        wait_for_summary(page, "a blue one")
        expect(panel(page).get_by_role("alert")).to_have_count(0)
        visitor.complaints = [complaint for complaint in visitor.complaints if "503" not in complaint]


def test_of_pictures_in_quick_succession_the_last_one_counts(browser: Browser, image_api: MadeApi) -> None:
    with guest(browser, image_api.address) as visitor:
        page = visitor.page
        give(page, picture_of(BROWN), "former.png")
        image_api.requests.clear()
        # While the server is asked for its limits.
        image_api.limits_delay = 1.0
        drop(page, ("first.png", "image/png", picture_of(BROWN)))
        eventually(lambda: "GET api/explain" in image_api.requests, "the first is under way")
        image_api.limits_delay = 0.0
        drop(page, ("last.png", "image/png", picture_of(BLUE)))
        wait_for_summary(page, "last.png")
        eventually(lambda: image_api.stopped == ["GET api/explain"], "the first one's question is left off")
        page.wait_for_timeout(1200)
        expect(panel(page).locator("h2")).to_contain_text("last.png")
        assert image_api.requests.count("POST api/explain") == 1

        # While the network looks at it; a bad one then leaves what was told last.
        image_api.explain_delay = 1.5
        drop(page, ("first.png", "image/png", picture_of(BROWN)))
        eventually(lambda: image_api.requests.count("POST api/explain") == 2, "the first is looked at")
        drop(page, ("broken.png", "image/png", b"no picture at all"))
        expect(panel(page).get_by_role("alert")).to_contain_text("no picture that can be read")
        wait_for_summary(page, "last.png")
        eventually(lambda: near(middle(page, 100), BLUE), "its picture")
        page.wait_for_timeout(1600)
        expect(panel(page).locator("h2")).to_contain_text("last.png")
        visitor.complaints = [complaint for complaint in visitor.complaints if "415" not in complaint]


def test_without_the_api_there_is_nothing_of_it(visitor: Visitor) -> None:
    expect(visitor.page.get_by_role("button", name="View", exact=True)).to_be_visible()
    expect(visitor.page.get_by_role("button", name="One image")).to_have_count(0)
    drop(visitor.page, ("photo.png", "image/png", picture_of(BROWN)), let_go=False)
    visitor.page.wait_for_timeout(200)
    expect(visitor.page.get_by_test_id("drop")).to_have_count(0)
    expect(panel(visitor.page)).to_have_count(0)
    assert not [url for url in visitor.requests if "/api/" in url]


# Ending


def test_closing_and_another_picture_end_all_work_at_once(browser: Browser, image_api: MadeApi) -> None:
    def stopped(what: str) -> bool:
        return any(f"POST api/explain{what}" == request.split("?")[0] for request in image_api.stopped)

    with guest(browser, image_api.address) as visitor:
        page = visitor.page
        opener = page.get_by_role("button", name="One image")
        opener.click()
        image_api.explain_delay = 8
        drop(page, ("slow.png", "image/png", picture_of(BROWN)))
        expect(panel(page)).to_contain_text("The network looks at the picture …")
        eventually(lambda: "POST api/explain" in image_api.requests, "the question")
        panel(page).get_by_role("button", name="Cancel").click()
        eventually(lambda: stopped(""), "cancelling stops the server", 2)
        expect(panel(page).get_by_role("button", name="Choose a picture")).to_be_visible()

        image_api.stopped.clear()
        drop(page, ("slow.png", "image/png", picture_of(BROWN)))
        eventually(lambda: image_api.requests.count("POST api/explain") == 2, "the question")
        page.keyboard.press("Escape")
        expect(panel(page)).to_have_count(0)
        eventually(lambda: stopped(""), "closing stops the server", 2)
        expect(opener).to_be_focused()

        image_api.explain_delay, image_api.icon_delay, image_api.step_delay = 0, 0.1, 5
        image_api.stopped.clear()
        give(page, picture_of(BROWN))
        show(page, "icons")
        eventually(lambda: int(canvas(page).get_attribute("data-own") or 0) > 0, "icons")
        panel(page).get_by_role("button", name="Find groups").click()
        show(page, "class effect")
        panel(page).get_by_role("button", name="Take each position out").click()
        eventually(lambda: any("removed" in request for request in image_api.requests), "all of it under way")
        give(page, picture_of(BLUE), "other.png")  # and all of it is ended
        for what in ("/icons", "/groups", "/removed"):
            eventually(lambda what=what: stopped(what), what, 2)  # type: ignore[misc]
        expect(panel(page).get_by_role("progressbar")).to_have_count(0)

        # Another layer ends the icons of the former one.
        image_api.stopped.clear()
        show(page, "icons")
        eventually(lambda: int(canvas(page).get_attribute("data-own") or 0) > 0, "icons")
        page.keyboard.press("[")
        eventually(lambda: stopped("/icons"), "the former layer's icons", 2)
        eventually(lambda: f"POST api/explain/icons?layer={FINER}" in image_api.requests, "those of the next")
        image_api.stopped.clear()
        panel(page).get_by_role("button", name="Close").click()
        eventually(lambda: stopped("/icons"), "closing", 2)
        expect(page.get_by_test_id("dots")).to_have_count(0)


def test_two_pages_at_once_do_not_mix(browser: Browser, image_api: MadeApi) -> None:
    image_api.explain_delay = 0.4
    one, other = picture_of(BROWN), picture_of(BLUE)
    assert image_api.top(one, 0)[0] != image_api.top(other, 0)[0]
    with guest(browser, image_api.address) as first, guest(browser, image_api.address) as second:
        for visitor, picture in ((first, one), (second, other)):
            drop(visitor.page, ("photo.png", "image/png", picture))
        for visitor, picture, colour in ((first, one, BROWN), (second, other, BLUE)):
            name = panel(visitor.page).get_by_label("What the network takes it for").locator("li .name").first
            expect(name).to_have_text(CLASSES[image_api.top(picture, 0)[0]])
            eventually(lambda v=visitor, c=colour: near(middle(v.page, 100), c), "its own picture")  # type: ignore[misc]


# For everyone


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, image_api: MadeApi, scheme: str) -> None:
    axe = (CHECKOUT / "atlas/viewer/node_modules/axe-core/axe.min.js").read_text()
    image_api.samples = [("a blue one", picture_of(BLUE))]
    with guest(browser, image_api.address, color_scheme=scheme, bypass_csp=True) as visitor:
        page = visitor.page
        page.get_by_role("button", name="One image").click()
        expect(panel(page).get_by_label("Sample pictures")).to_be_visible()
        assert serious(page, axe) == [], "the start"
        give(page, picture_of(BROWN))
        classes = panel(page).get_by_label("What the network takes it for").get_by_role("button")
        classes.nth(0).click()
        classes.nth(1).click()
        panel(page).get_by_role("button", name="Find groups").click()
        expect(panel(page).get_by_label("Groups", exact=True)).to_contain_text("87 %")
        show(page, "class effect")
        page.mouse.click(*point_at(page, 33))
        page.keyboard.press("Escape")
        page.wait_for_timeout(300)
        assert serious(page, axe) == [], "a picture"
        page.screenshot(path=RESULTS / f"viewer-image-{scheme}.png")


def test_on_a_phone_it_is_a_sheet_from_below(browser: Browser, image_api: MadeApi) -> None:
    options: dict[str, Any] = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
    with guest(browser, image_api.address, **options) as visitor:
        page = visitor.page
        page.get_by_role("button", name="One image").tap()
        with page.expect_file_chooser() as chooser:
            panel(page).get_by_role("button", name="Choose a picture").tap()
        chooser.value.set_files({"name": "photo.png", "mimeType": "image/png", "buffer": picture_of(BROWN)})
        expect(page.get_by_test_id("dots")).to_have_attribute("data-dots", str(SIDE * SIDE - 1))
        box, map_box = panel(page).bounding_box(), page.locator(".pane").first.bounding_box()
        bar = page.locator("header.panel").bounding_box()
        assert box is not None
        assert map_box is not None
        assert bar is not None
        assert (box["x"], box["width"]) == (0, 360)
        assert bar["y"] + bar["height"] <= map_box["y"]
        assert map_box["y"] + map_box["height"] <= box["y"] + 1, "the map is above it"
        page.touchscreen.tap(*point_at(page, 33))
        expect(canvas(page)).to_have_attribute("data-marked", "33")
        expect(page.get_by_test_id("drawer")).to_have_count(0)  # the first tap points
        page.touchscreen.tap(*point_at(page, 33))
        cell = image_api.cell(LAYER, 33)
        assert cell is not None
        expect(page.get_by_test_id("drawer")).to_contain_text(f"Row {cell[1]}, column {cell[2]}")
        page.get_by_test_id("drawer").get_by_label("Close").tap()
        expect(canvas(page)).to_have_attribute("data-marked", "33")
        page.wait_for_timeout(300)
        page.screenshot(path=RESULTS / "viewer-image-phone.png")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        panel(page).get_by_role("button", name="Close").tap()
        expect(panel(page)).to_have_count(0)

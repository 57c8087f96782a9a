"""One image beside the map, in a real browser and against a made server of answers: what a person does, and what is
then on the screen."""

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_api import MadeApi, icon_colour, serve_api, stand_in_colour
from made_site import CLASSES, DESKTOP, PHONE, RESULTS, ROOT, Visitor, eventually, guest, serious, switch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

from atlas.images import encode_png

LAYER, FINER = "_blocks.10", "_blocks.4"
SIDE = 14  # positions of LAYER's map
NAMES = [name.split(",")[0] for name in CLASSES]
SUPPORT, OPPOSE = np.array([217, 95, 2]), np.array([27, 108, 168])
TINT, LIFT = 0.85, 0.7  # as in paint.ts


def picture_of(colour: tuple[int, int, int], width: int = 120, height: int = 80) -> bytes:
    """A PNG of one colour, with black edges left and right of its middle square."""
    pixels = np.zeros((height, width, 3), np.uint8)
    edge = (width - min(width, height)) // 2
    pixels[:, edge : width - edge] = colour
    return encode_png(pixels)


BROWN = (150, 110, 80)
BLUE = (20, 40, 200)


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[MadeApi]:
    with serve_api(site) as api:
        yield api


@pytest.fixture
def api(served: MadeApi) -> MadeApi:
    """The server as it is at first: quick, without samples, and asked nothing yet."""
    served.explain_delay = served.icon_delay = served.step_delay = served.limits_delay = 0.0
    served.samples = []
    served.asked.clear()
    served.stopped.clear()
    return served


def drop(page: Page, *files: tuple[str, str, bytes], let_go: bool = True) -> None:
    """Drag files (name, type, content) over the page, and let go of them."""
    told = [(name, kind, base64.b64encode(content).decode()) for name, kind, content in files]
    page.evaluate(
        """([files, letGo]) => {
            const dragged = new DataTransfer();
            for (const [name, type, content] of files) {
                const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
                dragged.items.add(new File([bytes], name, { type }));
            }
            const target = document.elementFromPoint(700, 400);
            const tell = (kind) =>
                target.dispatchEvent(new DragEvent(kind, { dataTransfer: dragged, bubbles: true, cancelable: true }));
            if (!letGo || !document.querySelector('[data-testid="drop"]')) tell('dragenter');
            tell('dragover');
            if (letGo) tell('drop');
        }""",
        [told, let_go],
    )


def give(page: Page, picture: bytes, name: str = "photo.png") -> None:
    """Drop a picture, and wait for what the server tells of it."""
    drop(page, (name, "image/png", picture))
    told(page, name)


def told(page: Page, name: str) -> None:
    """Wait for what the server tells of a picture."""
    expect(panel(page).locator("h2")).to_contain_text(name)
    expect(panel(page).get_by_role("group", name="What is shown of the picture")).to_be_visible()


def panel(page: Page) -> Locator:
    return page.get_by_test_id("image")


def canvas(page: Page) -> Locator:
    return page.get_by_test_id("picture").locator("canvas")


def pixels_of(page: Page) -> NDArray[np.int64]:
    """The picture's canvas, (side, side, 3)."""
    told = canvas(page).evaluate(
        """canvas => {
            const copy = document.createElement('canvas');
            copy.width = copy.height = canvas.width;
            const context = copy.getContext('2d', { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            return copy.toDataURL().split(',')[1];
        }"""
    )
    return np.asarray(Image.open(BytesIO(base64.b64decode(told))).convert("RGB")).astype(int)


def middle(page: Page, position: int, side: int = SIDE) -> NDArray[np.int64]:
    """The pixel in the middle of a position."""
    return at(pixels_of(page), position, 0.5, 0.5, side)


def at(pixels: NDArray[np.int64], position: int, right: float, down: float, side: int = SIDE) -> NDArray[np.int64]:
    """The pixel at a share of a position's box."""
    row, col = divmod(position, side)
    cell = pixels.shape[0] / side
    return pixels[int((row + down) * cell), int((col + right) * cell)]


def near(seen: NDArray[Any], wanted: Any, by: float = 6) -> bool:
    return bool(np.abs(seen - np.array(wanted)).max() <= by)


def show(page: Page, what: str) -> None:
    page.get_by_role("group", name="What is shown of the picture").get_by_role("button", name=what).click()


def point_at(page: Page, position: int, side: int = SIDE) -> tuple[float, float]:
    """Where a position of the picture is in the window."""
    page.get_by_test_id("picture").scroll_into_view_if_needed()
    box = page.get_by_test_id("picture").bounding_box()
    assert box is not None
    row, col = divmod(position, side)
    return box["x"] + (col + 0.5) * box["width"] / side, box["y"] + (row + 0.5) * box["height"] / side


def dot_at(page: Page, api: MadeApi, position: int) -> tuple[float, float]:
    """Where the dot of a position is in the window, on the whole map."""
    box = page.locator(".pane").first.bounding_box()
    cell = api.cell(LAYER, position)
    assert box is not None
    assert cell is not None
    grid, row, col = cell
    side = 0.96 * min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    return left + (col + 0.5) / grid * side, top + (row + 0.5) / grid * side


# Giving a picture


def test_a_picture_is_dropped_and_told_of(browser: Browser, api: MadeApi) -> None:
    with guest(browser, api.address) as visitor:
        page = visitor.page
        expect(page.get_by_role("button", name="One image")).to_be_visible()
        eventually(lambda: api.asked == ["GET api/explain"], "the network is loaded before there is a picture")
        picture = picture_of(BROWN)
        drop(page, ("photo.png", "image/png", picture), let_go=False)
        expect(page.get_by_test_id("drop")).to_contain_text("Let go to see what the network sees in it")
        page.wait_for_timeout(200)
        page.screenshot(path=RESULTS / "viewer-image-drop.png")
        give(page, picture)
        expect(page.get_by_test_id("drop")).to_have_count(0)
        assert "POST api/explain" in api.asked
        best = api.top(picture, 0)
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


def test_a_picture_is_pasted_chosen_or_one_of_the_samples(browser: Browser, api: MadeApi) -> None:
    api.samples = [("a blue one", picture_of(BLUE)), ("a brown one", picture_of(BROWN))]
    permissions = ["clipboard-read", "clipboard-write"]
    with guest(browser, api.address, permissions=permissions) as visitor:
        page = visitor.page
        page.get_by_role("button", name="One image").click()
        expect(panel(page).get_by_role("button", name="Choose a picture")).to_be_visible()
        samples = panel(page).get_by_label("Sample pictures").get_by_role("button")
        expect(samples).to_have_text(["a blue one", "a brown one"])
        eventually(lambda: samples.first.locator("img").evaluate("one => one.naturalWidth") == 120, "its picture")
        page.screenshot(path=RESULTS / "viewer-image-start.png")
        samples.first.click()
        told(page, "a blue one")
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
        told(page, "image.png")
        eventually(lambda: near(middle(page, 100), BROWN), "what was pasted")

        with page.expect_file_chooser() as chooser:
            panel(page).get_by_role("button", name="Another").click()
        chooser.value.set_files({"name": "chosen.png", "mimeType": "image/png", "buffer": picture_of(BLUE)})
        told(page, "chosen.png")
        eventually(lambda: near(middle(page, 100), BLUE), "what was chosen")
        assert api.asked.count("POST api/explain") == 3

        page.get_by_label("Find a class").focus()
        page.evaluate("navigator.clipboard.writeText('esp')")
        page.keyboard.press("Control+V")
        expect(page.get_by_label("Find a class")).to_have_value("esp")
        assert api.asked.count("POST api/explain") == 3, "text that is pasted is no picture"


def test_what_is_no_picture_is_told_in_a_sentence(browser: Browser, api: MadeApi) -> None:
    with guest(browser, api.address) as visitor:
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
        assert "POST api/explain" not in api.asked, "all of that without the server"
        page.screenshot(path=RESULTS / "viewer-image-refused.png")

        drop(page, ("broken.png", "image/png", b"no picture at all"))
        expect(alert).to_have_text("This file is no picture that can be read; give a JPEG or PNG.")
        visitor.complaints = [each for each in visitor.complaints if "415" not in each]  # the browser's own note

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
        visitor.complaints = [each for each in visitor.complaints if "Failed to load" not in each]


def test_a_picture_that_is_refused_leaves_all_that_was_told_of_the_former_one(browser: Browser, api: MadeApi) -> None:
    api.samples = [("a blue one", picture_of(BLUE))]
    with guest(browser, api.address) as visitor:
        page = visitor.page
        alert = panel(page).get_by_role("alert")
        picture = picture_of(BROWN)
        drop(page, ("one.png", "image/png", picture), ("two.png", "image/png", picture))
        told(page, "one.png")
        show(page, "icons")
        expect(canvas(page)).to_have_attribute("data-own", str(SIDE * SIDE))
        panel(page).get_by_role("button", name="Find groups").click()
        section = panel(page).get_by_label("Groups", exact=True)
        expect(section).to_contain_text("87 %")
        page.mouse.click(*point_at(page, 33))
        page.keyboard.press("Escape")
        asked = len(api.asked)

        def assert_all_there() -> None:
            told(page, "one.png")
            expect(panel(page)).to_contain_text("This is the first picture among them, “one.png”")
            names = panel(page).get_by_label("What the network takes it for").locator("li .name")
            expect(names.first).to_have_text(CLASSES[api.top(picture, 0)[0]])
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
        assert [each for each in api.asked[asked:] if each.startswith("POST")] == ["POST api/explain"], (
            "kept, not asked"
        )

        # One that is left while it is under way, too.
        api.explain_delay = 8
        drop(page, ("slow.png", "image/png", picture_of(BLUE)))
        expect(panel(page)).to_contain_text("The network looks at the picture …")
        panel(page).get_by_role("button", name="Cancel").click()
        show(page, "icons")
        assert_all_there()
        visitor.complaints = [each for each in visitor.complaints if "415" not in each]


def test_a_sample_that_does_not_come_is_told_of(browser: Browser, api: MadeApi) -> None:
    api.samples = [("a blue one", picture_of(BLUE))]
    with guest(browser, api.address) as visitor:
        page = visitor.page
        page.get_by_role("button", name="One image").click()
        samples = panel(page).get_by_label("Sample pictures").get_by_role("button")
        eventually(lambda: samples.first.locator("img").evaluate("one => one.naturalWidth") == 120, "its picture")
        page.route("**/api/samples/0", lambda route: route.fulfill(status=503, json={"sentence": "It is not there."}))
        samples.first.click()
        expect(panel(page).get_by_role("alert")).to_have_text("It is not there.")
        assert "POST api/explain" not in api.asked
        page.unroute("**/api/samples/0")
        samples.first.click()
        told(page, "a blue one")
        expect(panel(page).get_by_role("alert")).to_have_count(0)
        visitor.complaints = [each for each in visitor.complaints if "503" not in each]


def test_of_pictures_in_quick_succession_the_last_one_counts(browser: Browser, api: MadeApi) -> None:
    with guest(browser, api.address) as visitor:
        page = visitor.page
        give(page, picture_of(BROWN), "former.png")
        api.asked.clear()
        # While the server is asked for its limits.
        api.limits_delay = 1.0
        drop(page, ("first.png", "image/png", picture_of(BROWN)))
        eventually(lambda: "GET api/explain" in api.asked, "the first is under way")
        api.limits_delay = 0.0
        drop(page, ("last.png", "image/png", picture_of(BLUE)))
        told(page, "last.png")
        eventually(lambda: api.stopped == ["GET api/explain"], "the first one's question is left off")
        page.wait_for_timeout(1200)
        expect(panel(page).locator("h2")).to_contain_text("last.png")
        assert api.asked.count("POST api/explain") == 1

        # While the network looks at it; a bad one then leaves what was told last.
        api.explain_delay = 1.5
        drop(page, ("first.png", "image/png", picture_of(BROWN)))
        eventually(lambda: api.asked.count("POST api/explain") == 2, "the first is looked at")
        drop(page, ("broken.png", "image/png", b"no picture at all"))
        expect(panel(page).get_by_role("alert")).to_contain_text("no picture that can be read")
        told(page, "last.png")
        eventually(lambda: near(middle(page, 100), BLUE), "its picture")
        page.wait_for_timeout(1600)
        expect(panel(page).locator("h2")).to_contain_text("last.png")
        visitor.complaints = [each for each in visitor.complaints if "415" not in each]


def test_without_the_api_there_is_nothing_of_it(visitor: Visitor) -> None:
    expect(visitor.page.get_by_role("button", name="View", exact=True)).to_be_visible()
    expect(visitor.page.get_by_role("button", name="One image")).to_have_count(0)
    drop(visitor.page, ("photo.png", "image/png", picture_of(BROWN)), let_go=False)
    visitor.page.wait_for_timeout(200)
    expect(visitor.page.get_by_test_id("drop")).to_have_count(0)
    expect(panel(visitor.page)).to_have_count(0)
    assert not [url for url in visitor.requests if "/api/" in url]


# What lies over the picture


def test_icons_come_one_by_one_in_place_of_those_of_the_cells(browser: Browser, api: MadeApi) -> None:
    api.icon_delay = 0.02
    with guest(browser, api.address) as visitor:
        page = visitor.page
        give(page, picture_of(BROWN))
        show(page, "icons")
        strongest, weakest = 6 * SIDE + 6, 0
        cell = api.cell(LAYER, weakest)
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
        eventually(lambda: any("icons" in each for each in api.stopped), "the server is told")
        own = canvas(page).get_attribute("data-own")
        page.wait_for_timeout(200)
        assert canvas(page).get_attribute("data-own") == own
        expect(panel(page)).to_contain_text(f"{own} of {SIDE * SIDE} drawn; pale ones")
        show(page, "picture")
        show(page, "icons")
        assert canvas(page).get_attribute("data-own") == own, "what was stopped stays so"

        api.icon_delay = 0
        panel(page).get_by_role("button", name="Draw all").click()
        expect(canvas(page)).to_have_attribute("data-own", str(SIDE * SIDE))
        eventually(lambda: near(middle(page, weakest), icon_colour(weakest)), "all have their own")
        pixels = pixels_of(page)
        for position in (0, 17, strongest, 150):
            half = np.sqrt(api.magnitude(LAYER, position)) / 2
            assert near(at(pixels, position, 0.5 + 0.8 * half, 0.5), icon_colour(position)), "area by magnitude"
            if half < 0.4:
                assert near(at(pixels, position, 0.5 + 1.15 * half, 0.5), below, 12)


def test_what_each_position_adds_to_a_class(browser: Browser, api: MadeApi) -> None:
    with guest(browser, api.address) as visitor:
        page = visitor.page
        picture = picture_of(BROWN)
        give(page, picture)
        first, _, third, *_ = api.top(picture, 0)
        show(page, "class effect")
        expect(canvas(page)).to_have_attribute("data-over", "effect")
        expect(panel(page)).to_contain_text(
            f"What each position adds to {NAMES[first]}: orange supports, blue opposes."
        )
        eventually(lambda: page.get_by_test_id("heat-key").count() == 0, "no class is chosen on the map by this")
        assert_tinted(page, np.array(api.attribution(LAYER, first)))
        page.mouse.move(*point_at(page, 0))
        value = api.attribution(LAYER, first)[0]
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
        difference = np.array(api.attribution(LAYER, first)) - np.array(api.attribution(LAYER, third))
        eventually(lambda: tinted(page, difference), "two against each other")
        best = int(difference.argmin())
        page.mouse.move(*point_at(page, best))
        expect(panel(page).get_by_role("status")).to_contain_text(f"{-difference[best]:.2f} more for {NAMES[third]}")
        page.mouse.move(700, 20)

        # The true difference, asked for.
        api.step_delay = 0.2
        panel(page).get_by_role("button", name="Take each position out").click()
        expect(panel(page)).to_contain_text("Taking positions out: 25 %")
        expect(panel(page)).to_contain_text("Taking positions out: 50 %")
        expect(panel(page).get_by_role("button", name="each taken out")).to_have_attribute("aria-pressed", "true")
        assert f"POST api/explain/removed?layer={LAYER}&class={first}&class={third}" in api.asked
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
        other = api.top(picture, 0)[6]
        page.get_by_label("Find a class").fill(NAMES[other])
        page.locator("#classes").get_by_role("option", name=NAMES[other]).first.click()
        expect(panel(page)).to_contain_text(f"What each position adds to {NAMES[other]}")
        eventually(lambda: tinted(page, np.array(api.attribution(LAYER, other))), "asked for on its own")
        assert f"POST api/explain/classes?network=0&class={other}" in api.asked


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


def test_picture_and_atlas_mark_each_other(browser: Browser, api: MadeApi) -> None:
    with guest(browser, api.address) as visitor:
        page = visitor.page
        give(page, picture_of(BROWN))
        dots = page.get_by_test_id("dots")
        page.mouse.move(*point_at(page, 33))
        expect(dots).to_have_attribute("data-marked", "33")
        page.wait_for_timeout(200)
        x, y = dot_at(page, api, 33)
        seen = visitor.screen()
        assert seen[int(y), int(x)].max() < 60, "its dot, dark"
        ring = [seen[int(y), int(x) + right].max() for right in range(7, 16)]
        assert min(ring) < 60, "and the ring around it"
        status = panel(page).get_by_role("status")
        expect(status).to_contain_text("Row 2, column 5")
        expect(status).to_contain_text("little like what was in the data (0.17 of 1)")
        page.mouse.move(*point_at(page, 2))
        expect(status).to_contain_text("nothing like this was in the data (0.01 of 1)")

        page.mouse.move(*dot_at(page, api, 120))
        expect(canvas(page)).to_have_attribute("data-marked", "120")
        eventually(lambda: at(pixels_of(page), 120, 0.0, 0.5).max() < 60, "a ring around the position")
        page.mouse.move(700, 20)
        expect(canvas(page)).to_have_attribute("data-marked", "")

        # A click opens the cell; the place is then followed through the layers.
        page.mouse.click(*point_at(page, 33))
        cell = api.cell(LAYER, 33)
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
        finer = api.cell(FINER, there)
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
        cell = api.cell(LAYER, 3 * SIDE)
        assert cell is not None
        expect(page.get_by_test_id("drawer")).to_contain_text(f"Row {cell[1]}, column {cell[2]}")
        assert float(visitor.link()["zoom"]) == 1, "the arrows were the picture's"

        # A dot chooses its position.
        page.keyboard.press("Escape")
        page.keyboard.press("0")
        home = {"x": "0.5", "y": "0.5", "zoom": "1"}
        eventually(lambda: home.items() <= visitor.link().items(), "the map is home and at rest")
        page.wait_for_timeout(100)
        page.mouse.click(*dot_at(page, api, 60))
        page.mouse.move(700, 20)
        expect(canvas(page)).to_have_attribute("data-marked", "60")


def as_the_layer(route: Route) -> None:
    route.fulfill(response=route.fetch(url=route.request.url.replace("/part/", f"/{LAYER}/")))


def test_a_map_of_classes_counts_as_its_layer(browser: Browser, api: MadeApi) -> None:
    facts = api.atlas
    part = {"name": f"{LAYER}: espresso", "path": "part", "of_classes": ["espresso"]}
    facts["layers"].append({**facts["layers"][1], **part})
    with browser.new_context(viewport=DESKTOP) as context:
        visitor = Visitor(context)
        page = visitor.page
        page.route("**/atlas.json", lambda route: route.fulfill(json=facts, headers={"x-atlas-api": "1"}))
        page.route("**/part/**", as_the_layer)
        visitor.open(f"{api.address}#layer=part")
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


def test_groups_have_a_part_of_the_picture_each(browser: Browser, api: MadeApi) -> None:
    api.step_delay = 0.05
    with guest(browser, api.address) as visitor:
        page = visitor.page
        give(page, picture_of(BROWN))
        section = panel(page).get_by_label("Groups", exact=True)
        section.get_by_label("Number of groups").fill("4")
        expect(section).to_contain_text("4 groups")
        section.get_by_role("button", name="Find groups").click()
        groups = section.locator("li").filter(has=page.get_by_role("button"))
        expect(groups).to_have_count(4)
        assert f"POST api/explain/groups?layer={LAYER}&count=4" in api.asked
        expect(section).to_contain_text("Together they make up 87 % of what the layer says here")
        expect(section).to_contain_text("with negative numbers is counted apart")
        expect(section).to_contain_text("what the scores of the ten likeliest classes lose without it")
        icons = groups.get_by_role("button").locator("canvas[data-there]")
        eventually(lambda: icons.evaluate_all("all => all.every((one) => one.dataset.there === 'yes')"), "icons")
        expect(section.get_by_role("progressbar")).to_have_count(0)

        third = groups.nth(2)
        expect(third).to_contain_text("22 % of what the layer says")
        expect(third).to_contain_text("much like what was in the data")
        assert third.locator(".name").all_inner_texts() == [NAMES[each % 7] for each in (2, 3, 4, 5, 6, 0)]
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


# Ending


def test_closing_and_another_picture_end_all_work_at_once(browser: Browser, api: MadeApi) -> None:
    def stopped(what: str) -> bool:
        return any(f"POST api/explain{what}" == each.split("?")[0] for each in api.stopped)

    with guest(browser, api.address) as visitor:
        page = visitor.page
        opener = page.get_by_role("button", name="One image")
        opener.click()
        api.explain_delay = 8
        drop(page, ("slow.png", "image/png", picture_of(BROWN)))
        expect(panel(page)).to_contain_text("The network looks at the picture …")
        eventually(lambda: "POST api/explain" in api.asked, "the question")
        panel(page).get_by_role("button", name="Cancel").click()
        eventually(lambda: stopped(""), "cancelling stops the server", 2)
        expect(panel(page).get_by_role("button", name="Choose a picture")).to_be_visible()

        api.stopped.clear()
        drop(page, ("slow.png", "image/png", picture_of(BROWN)))
        eventually(lambda: api.asked.count("POST api/explain") == 2, "the question")
        page.keyboard.press("Escape")
        expect(panel(page)).to_have_count(0)
        eventually(lambda: stopped(""), "closing stops the server", 2)
        expect(opener).to_be_focused()

        api.explain_delay, api.icon_delay, api.step_delay = 0, 0.1, 5
        api.stopped.clear()
        give(page, picture_of(BROWN))
        show(page, "icons")
        eventually(lambda: int(canvas(page).get_attribute("data-own") or 0) > 0, "icons")
        panel(page).get_by_role("button", name="Find groups").click()
        show(page, "class effect")
        panel(page).get_by_role("button", name="Take each position out").click()
        eventually(lambda: any("removed" in each for each in api.asked), "all of it under way")
        give(page, picture_of(BLUE), "other.png")  # and all of it is ended
        for what in ("/icons", "/groups", "/removed"):
            eventually(lambda what=what: stopped(what), what, 2)  # type: ignore[misc]
        expect(panel(page).get_by_role("progressbar")).to_have_count(0)

        # Another layer ends the icons of the former one.
        api.stopped.clear()
        show(page, "icons")
        eventually(lambda: int(canvas(page).get_attribute("data-own") or 0) > 0, "icons")
        page.keyboard.press("[")
        eventually(lambda: stopped("/icons"), "the former layer's icons", 2)
        eventually(lambda: f"POST api/explain/icons?layer={FINER}" in api.asked, "those of the next")
        api.stopped.clear()
        panel(page).get_by_role("button", name="Close").click()
        eventually(lambda: stopped("/icons"), "closing", 2)
        expect(page.get_by_test_id("dots")).to_have_count(0)


def test_two_pages_at_once_do_not_mix(browser: Browser, api: MadeApi) -> None:
    api.explain_delay = 0.4
    one, other = picture_of(BROWN), picture_of(BLUE)
    assert api.top(one, 0)[0] != api.top(other, 0)[0]
    with guest(browser, api.address) as first, guest(browser, api.address) as second:
        for visitor, picture in ((first, one), (second, other)):
            drop(visitor.page, ("photo.png", "image/png", picture))
        for visitor, picture, colour in ((first, one, BROWN), (second, other, BLUE)):
            name = panel(visitor.page).get_by_label("What the network takes it for").locator("li .name").first
            expect(name).to_have_text(CLASSES[api.top(picture, 0)[0]])
            eventually(lambda v=visitor, c=colour: near(middle(v.page, 100), c), "its own picture")  # type: ignore[misc]


# For everyone


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, api: MadeApi, scheme: str) -> None:
    axe = (ROOT / "atlas/viewer/node_modules/axe-core/axe.min.js").read_text()
    api.samples = [("a blue one", picture_of(BLUE))]
    with guest(browser, api.address, color_scheme=scheme, bypass_csp=True) as visitor:
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


def test_on_a_phone_it_is_a_sheet_from_below(browser: Browser, api: MadeApi) -> None:
    options: dict[str, Any] = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
    with guest(browser, api.address, **options) as visitor:
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
        cell = api.cell(LAYER, 33)
        assert cell is not None
        expect(page.get_by_test_id("drawer")).to_contain_text(f"Row {cell[1]}, column {cell[2]}")
        page.get_by_test_id("drawer").get_by_label("Close").tap()
        expect(canvas(page)).to_have_attribute("data-marked", "33")
        page.wait_for_timeout(300)
        page.screenshot(path=RESULTS / "viewer-image-phone.png")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        panel(page).get_by_role("button", name="Close").tap()
        expect(panel(page)).to_have_count(0)

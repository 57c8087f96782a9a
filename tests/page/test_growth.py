"""The page while its run is at work, in a real browser: it learns of what comes, shows it, and stays where it is."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from accessibility import serious
from growing_site import LAYER, OTHERS, GrowingRun, Looks, plain_server, tagging_server
from made_api import serve_api
from made_site import CHECKOUT, DESKTOP, PHONE, RESULTS, Visitor, eventually, guest, switch
from page_hands import overlap
from picture_page import BROWN, give, panel, picture_of
from playwright.sync_api import Browser, Locator, Page, expect
from served_run import served
from starlette.routing import Route

from atlas.serve.growth import GrowthEvents
from atlas.serve.limits import RequestLimits

VIEW = f"#layer={LAYER}&x=0.45&y=0.55&zoom=2.5"
MARK = "element => (element.dataset.mark = 'the same')"
MARKED = "() => document.querySelectorAll('[data-mark=\"the same\"]').length"
Server = Callable[[Path], AbstractContextManager[tuple[str, Looks]]]


@pytest.fixture
def address(growing: GrowingRun) -> Iterator[str]:
    """The growing run as atlas serve serves it."""
    with served(growing.folder) as port:
        yield f"http://127.0.0.1:{port}/"


def line(page: Page) -> Locator:
    return page.get_by_test_id("growth")


def level(page: Page) -> Locator:
    return page.get_by_label("Level", exact=True)


def zoom(page: Page) -> Locator:
    return page.get_by_label("Zoom", exact=True)


def has_asked(visitor: Visitor, address: str) -> bool:
    """Whether the page has asked for an address like this one."""
    visitor.page.evaluate("true")  # meanwhile its requests are noted
    return any(address in url for url in visitor.requests)


def turn(page: Page, state: str) -> None:
    """Have the page believe that it is seen, or not."""
    page.evaluate(
        """state => {
            Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });
            document.dispatchEvent(new Event('visibilitychange'));
        }""",
        state,
    )


# What is on the screen stays


def test_finer_levels_come_without_losing_the_view(browser: Browser, growing: GrowingRun, address: str) -> None:
    with guest(browser, address + VIEW) as visitor:
        page = visitor.page
        expect(level(page)).to_have_text("10 × 10")
        page.mouse.click(600, 450)
        drawer = page.get_by_test_id("drawer")
        expect(drawer).to_contain_text("of 10 × 10")
        title = drawer.get_by_role("heading").first.inner_text()
        expect(drawer.get_by_text("Most alike")).to_be_visible()
        drawer.locator(".scroll").evaluate("element => (element.scrollTop = 120)")
        drawer.evaluate(MARK)
        page.get_by_role("combobox", name="Class").fill("stra")
        page.evaluate("window.first = true")
        before = page.evaluate("location.hash")

        growing.grow("fine")
        expect(level(page)).to_have_text("40 × 40")
        expect(zoom(page)).to_have_text("2.5×")
        assert page.evaluate("location.hash") == before
        expect(drawer.get_by_role("heading").first).to_have_text(title)
        assert page.evaluate(MARKED) == 1, "the drawer is the same one"
        assert drawer.locator(".scroll").evaluate("element => element.scrollTop") == 120
        expect(page.get_by_role("combobox", name="Class")).to_have_value("stra")
        expect(page.get_by_role("combobox", name="Class")).to_be_focused()
        expect(page.get_by_test_id("selected")).to_have_count(1)
        eventually(lambda: has_asked(visitor, "grid-040/icons_files/12/"), "tiles of the new level")
        assert page.evaluate("window.first"), "the page was not loaded again"
        page.screenshot(path=RESULTS / "viewer-growth-drawer.png")


def test_an_open_cell_stays_when_quick_icons_give_way(browser: Browser, growing: GrowingRun, address: str) -> None:
    growing.grow_quick()
    with guest(browser, address + VIEW) as visitor:
        page = visitor.page
        page.mouse.click(600, 450)
        drawer = page.get_by_test_id("drawer")
        expect(drawer).to_contain_text("It shows it roughly: 0.62 of 1")
        expect(drawer.get_by_text("Most alike")).to_be_visible()
        drawer.locator(".scroll").evaluate("element => (element.scrollTop = 120)")
        drawer.evaluate(MARK)
        assert has_asked(visitor, "grid-010/quick/icons_files")
        assert not has_asked(visitor, "grid-010/icons_files")
        growing.grow("coarse")
        expect(drawer).to_contain_text("It shows it very well: 0.93 of 1")
        eventually(lambda: has_asked(visitor, "grid-010/icons_files"), "its own icons")
        assert page.evaluate(MARKED) == 1, "the drawer is the same one"
        assert drawer.locator(".scroll").evaluate("element => element.scrollTop") == 120
        expect(zoom(page)).to_have_text("2.5×")


def test_the_new_level_is_seen_in_place_of_the_coarser_one(browser: Browser, growing: GrowingRun, address: str) -> None:
    places = [(5, 5), (14, 12), (10, 3), (8, 17)]
    with guest(browser, address) as visitor:
        expect(level(visitor.page)).to_have_text("10 × 10")
        eventually(lambda: visitor.shows(LAYER, "icons", 10, [(3, 3), (7, 6)]), "the coarse level")
        growing.grow("fine")
        eventually(lambda: visitor.shows(LAYER, "icons", 20, places), "the finer level, at the same zoom")
        expect(zoom(visitor.page)).to_have_text("1.0×")


def test_layers_units_and_the_tour_appear_as_they_come(browser: Browser, growing: GrowingRun, address: str) -> None:
    with guest(browser, address) as visitor:
        page = visitor.page
        expect(page.get_by_role("button", name="Neurons")).to_have_count(0)
        switch(page, LAYER).click()
        expect(page.get_by_role("menuitemradio")).to_have_count(1)
        growing.grow("layers")
        expect(page.get_by_role("menuitemradio")).to_have_count(2)
        page.get_by_role("menuitemradio", name=OTHERS[1]).click()
        expect(level(page)).to_have_text("10 × 10")
        eventually(lambda: visitor.shows(OTHERS[1], "icons", 10, [(3, 3), (7, 6)]), "the other layer")

        growing.grow("units")
        expect(switch(page, OTHERS[1])).to_be_visible()
        expect(level(page)).to_have_text("20 × 20")
        page.get_by_role("button", name="Neurons").click()
        view = page.get_by_test_id("neurons")
        expect(view).to_contain_text(f"40 units of {LAYER}")
        view.evaluate(MARK)
        view.get_by_role("combobox").first.fill("tab")
        growing.grow("more units")
        expect(view.get_by_role("button", name=OTHERS[0])).to_be_visible()
        assert page.evaluate(MARKED) == 1
        expect(view.get_by_role("combobox").first).to_have_value("tab")
        view.get_by_label("Close").click()

        growing.grow("whole")
        expect(line(page)).to_have_count(0)
        page.get_by_role("button", name="View", exact=True).click()
        page.get_by_role("button", name=re.compile("tour", re.IGNORECASE)).first.click()
        expect(page.get_by_test_id("tour")).to_contain_text("The first step")


def test_two_maps_and_the_choices_stay_open(browser: Browser, growing: GrowingRun, address: str) -> None:
    growing.grow("layers")
    with guest(browser, f"{address}{VIEW}&with={OTHERS[1]}") as visitor:
        page = visitor.page
        second = page.get_by_test_id("second")
        expect(second).to_be_visible()
        second.evaluate(MARK)
        page.get_by_role("button", name="View", exact=True).click()
        page.get_by_role("button", name="View", exact=True).evaluate(MARK)
        growing.grow("units")
        eventually(lambda: has_asked(visitor, f"{OTHERS[1]}/grid-040"), "the second map's new level")
        assert page.evaluate(MARKED) == 2
        expect(zoom(page)).to_have_text("2.5×")
        expect(page.get_by_role("button", name="View", exact=True)).to_have_attribute("aria-expanded", "true")


def test_one_image_stays_beside_the_map(browser: Browser, growing: GrowingRun) -> None:
    events = Route("/growth", GrowthEvents(growing.folder, RequestLimits()).stream)
    with serve_api(growing.site, more=[events]) as image_api, guest(browser, image_api.address) as visitor:
        page = visitor.page
        give(page, picture_of(BROWN))
        panel(page).evaluate(MARK)
        growing.grow("fine")
        expect(level(page)).to_have_text("20 × 20")
        assert page.evaluate(MARKED) == 1
        expect(page.get_by_test_id("dots")).to_have_attribute("data-dots", "783")
        assert image_api.requests.count("POST api/explain") == 1


# How it learns of it


@pytest.mark.parametrize("server", [plain_server, tagging_server])
def test_a_file_server_is_looked_at_until_all_is_there(browser: Browser, growing: GrowingRun, server: Server) -> None:
    with server(growing.site) as (url, looks), browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.clock.install()
        page.goto(url)
        expect(level(page)).to_have_text("10 × 10")
        eventually(lambda: len(looks.answers) == 2, "a look at once: it may have grown since it was read")

        def look() -> tuple[set[str], int]:
            count = len(looks.answers)
            page.clock.fast_forward(15_000)
            eventually(lambda: len(looks.answers) == count + 1, "another look")
            return looks.answers[-1]

        if server is tagging_server:
            assert look() == ({"if-none-match"}, 304)
        else:
            eventually(lambda: look() == ({"if-modified-since"}, 304), "a time that tells versions apart")
        turn(page, "hidden")
        count = len(looks.answers)
        growing.grow("fine")
        page.clock.fast_forward(60_000)
        expect(level(page)).to_have_text("10 × 10")
        assert len(looks.answers) == count, "a page that nobody sees asks for nothing"
        turn(page, "visible")
        expect(level(page)).to_have_text("20 × 20")
        assert looks.answers[-1][1] == 200
        growing.grow("whole")
        page.clock.fast_forward(15_000)
        expect(line(page)).to_have_count(0)
        count = len(looks.answers)
        page.clock.fast_forward(60_000)
        switch(page, LAYER).click()
        expect(page.get_by_role("menuitemradio")).to_have_count(3)
        assert len(looks.answers) == count, "a whole site is not looked at again"


def test_a_whole_site_is_never_asked_again(browser: Browser, growing: GrowingRun, address: str) -> None:
    growing.grow("whole")
    with guest(browser, address) as visitor:
        expect(line(visitor.page)).to_have_count(0)
        turn(visitor.page, "hidden")
        turn(visitor.page, "visible")
        visitor.page.keyboard.press("+")
        expect(zoom(visitor.page)).to_have_text("1.5×")
        assert [url for url in visitor.requests if "growth" in url] == []
        assert sum("atlas.json" in url for url in visitor.requests) == 1


def test_a_page_that_nobody_sees_closes_its_stream(browser: Browser, growing: GrowingRun, address: str) -> None:
    with guest(browser, address) as visitor:
        page = visitor.page
        expect(line(page)).to_contain_text("about 6 min")
        with page.expect_event("requestfailed", lambda request: "growth" in request.url):
            turn(page, "hidden")
        growing.grow("fine")
        assert has_asked(visitor, "api/growth")
        assert sum("api/growth" in url for url in visitor.requests) == 1
        expect(level(page)).to_have_text("10 × 10")
        with page.expect_request("**/api/growth"):
            turn(page, "visible")
        expect(level(page)).to_have_text("20 × 20")


def test_a_server_that_refuses_its_events_is_looked_at(browser: Browser, growing: GrowingRun, address: str) -> None:
    with browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.clock.install()
        page.route("**/api/growth", lambda route: route.fulfill(status=503))
        page.goto(address)
        expect(level(page)).to_have_text("10 × 10")
        growing.grow("fine")
        page.clock.fast_forward(15_000)
        expect(level(page)).to_have_text("20 × 20")


# The line


def test_the_line_tells_what_comes_and_how_long_it_takes(browser: Browser, growing: GrowingRun, address: str) -> None:
    with guest(browser, address) as visitor:
        page = visitor.page
        expect(line(page)).to_have_text(
            f"Still being made: finer levels of {LAYER}; the maps of {OTHERS[0]} and {OTHERS[1]}; 58 units; the tour: "
            "about 6 min"
        )
        expect(line(page).get_by_role("status")).not_to_contain_text("min"), "the time is not read out each minute"
        page.screenshot(path=RESULTS / "viewer-growth.png")
        growing.note("running", seconds_left=130)
        expect(line(page)).to_contain_text("about 2 min")
        growing.grow("layers")
        expect(line(page)).to_contain_text(f"finer levels of {OTHERS[1]}; the map of {OTHERS[0]}; 58 units")
        growing.note("running", seconds_left=20)
        expect(line(page)).to_contain_text("less than a minute")
        growing.grow("more units")
        expect(line(page)).to_contain_text("Still being made: the tour")
        growing.grow("whole")
        expect(line(page)).to_have_count(0)
        page.screenshot(path=RESULTS / "viewer-growth-whole.png")


def test_the_line_is_closed_for_good(browser: Browser, growing: GrowingRun, address: str) -> None:
    with guest(browser, address) as visitor:
        line(visitor.page).get_by_role("button", name="Hide this line").click()
        expect(line(visitor.page)).to_have_count(0)
        growing.grow("fine")
        expect(level(visitor.page)).to_have_text("20 × 20")
        expect(line(visitor.page)).to_have_count(0)


@pytest.mark.parametrize(("state", "silence"), [("stopped", 0), ("failed", 0), ("running", 61)])
def test_a_run_that_has_stopped_promises_nothing(
    browser: Browser, growing: GrowingRun, address: str, state: str, silence: float
) -> None:
    with guest(browser, address) as visitor:
        page = visitor.page
        expect(line(page)).to_contain_text("about 6 min")
        growing.note(state, seconds_left=360, silence=silence)
        expect(line(page)).to_contain_text(f"Not finished: finer levels of {LAYER}")
        expect(line(page)).to_contain_text("The run has stopped; the same command, atlas run, goes on from there.")
        expect(line(page)).not_to_contain_text("min")
        page.screenshot(path=RESULTS / "viewer-growth-stopped.png")
        growing.note("running", seconds_left=600)
        expect(line(page)).to_contain_text("about 10 min")


def test_a_server_that_has_ended_is_told(browser: Browser, growing: GrowingRun) -> None:
    """As after Ctrl-C of a run that served its own page."""
    with browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        with served(growing.folder) as port:
            page.goto(f"http://127.0.0.1:{port}/")
            expect(line(page)).to_contain_text("about 6 min")
        expect(line(page)).to_contain_text("The server does not answer. If it was stopped, the same command goes on")
        expect(line(page)).not_to_contain_text("min")
        growing.grow("fine")
        with served(growing.folder, port=port):
            expect(level(page)).to_have_text("20 × 20")
            expect(line(page)).to_contain_text("Still being made")


def test_a_file_server_s_site_that_grows_no_more_says_so(browser: Browser, growing: GrowingRun) -> None:
    growing.grow("coarse", minutes=10, ago=25)
    with plain_server(growing.site) as (url, _), guest(browser, url) as visitor:
        expect(line(visitor.page)).to_contain_text(
            re.compile(r"Nothing new has come since .*\d\d:\d\d; the run may have")
        )
        expect(line(visitor.page)).not_to_contain_text("about")


def test_another_build_of_the_page_is_offered_and_not_forced(
    browser: Browser, growing: GrowingRun, address: str
) -> None:
    growing.grow("coarse", page="one")
    with guest(browser, address) as visitor:
        page = visitor.page
        page.evaluate("window.first = true")
        growing.grow("fine", page="another")
        expect(level(page)).to_have_text("20 × 20")
        expect(line(page)).to_contain_text("The atlas was made anew")
        assert page.evaluate("window.first")
        with page.expect_navigation():
            line(page).get_by_role("button", name="Load it again").click()
        expect(line(page)).to_contain_text("Still being made")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("phone", [False, True])
def test_the_line_is_read_and_covers_no_control(
    browser: Browser, growing: GrowingRun, address: str, phone: bool, dark: bool
) -> None:
    options = {"viewport": PHONE, "has_touch": True, "is_mobile": True, "device_scale_factor": 2} if phone else {}
    with guest(browser, address, color_scheme="dark" if dark else "light", **options) as visitor:
        page = visitor.page
        expect(line(page)).to_contain_text("about 6 min")
        box = line(page).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= page.evaluate("innerWidth")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for other in (page.locator("header.panel"), page.locator("footer.panel"), page.locator(".hint")):
            assert not overlap(box, other.bounding_box())
        assert serious(page, (CHECKOUT / "atlas/viewer/node_modules/axe-core/axe.min.js").read_text()) == []
        eventually(lambda: seen(visitor), "the map")
        page.screenshot(
            path=RESULTS / f"viewer-growth-{'phone' if phone else 'wide'}-{'dark' if dark else 'light'}.png"
        )


def seen(visitor: Visitor) -> bool:
    return visitor.shows(LAYER, "icons", 10, [(3, 3), (7, 6)])

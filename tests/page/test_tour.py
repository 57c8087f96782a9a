"""The tour on the page, in a real browser: step by step, to the live views and back."""

import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accessibility import serious
from made_forward import ForwardApi, serve_forward
from made_site import CHECKOUT, CLASSES, DESKTOP, PHONE, RESULTS, eventually, guest, served, switch
from page_hands import overlap
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

STEPS = ("network", "neuron", "image", "atlas", "invariant", "circuit", "forward")
TITLES = [f"The step {kind}" for kind in STEPS]
PICTURE_COLOUR = (200, 120, 40)
LAYER = "_blocks.4"
PICTURES_ARE_LOADED = "[...document.querySelectorAll('[data-testid=tour] img')].every((each) => each.naturalWidth > 0)"
TOO_WIDE = """[...document.querySelectorAll('.pages, .stage, .words')]
    .filter((each) => each.scrollWidth > each.clientWidth + 1).map((each) => each.className)"""


def made_tour(site: Path) -> dict[str, Any]:
    """A tour whose pictures tell by their colours what they are."""
    folder = site / "tour"
    folder.mkdir()

    def picture(name: str, colour: tuple[int, int, int], side: int = 96) -> str:
        Image.new("RGB", (side, side), colour).save(folder / f"{name}.webp", lossless=True)
        return f"tour/{name}.webp"

    def parts(kind: str, count: int, **more: Any) -> list[dict[str, Any]]:
        return [
            {"picture": picture(f"{kind}-{at}", (30 * at, 90, 200)), "label": f"{45 * at}°", **more}
            for at in range(count)
        ]

    picture_to_open = picture("image-3-1", PICTURE_COLOUR, 200)
    links = {
        "neuron": f"#layer={LAYER}&class=espresso", "image": "#open=image", "atlas": f"#layer={LAYER}",
        "invariant": f"#layer={LAYER}", "circuit": f"#layer={LAYER}", "forward": "#open=forward",
    }  # fmt: skip
    lines = [{**part, "line": layer} for layer in ("early", "late") for part in parts(f"network-{layer}", 6)]
    step = {
        "network": {"picture": None, "parts": lines},
        "neuron": {"parts": parts("neuron", 9)},
        "image": {"picture": picture_to_open, "picture_to_open": picture_to_open},
        "invariant": {"parts": parts("invariant", 8, value=0.5)},
        "circuit": {"parts": [*parts("circuit", 3, value=1.0, sign=1), *parts("against", 1, value=0.5, sign=-1)]},
        "forward": {"picture": picture_to_open, "picture_to_open": picture_to_open, "parts": parts("forward", 3)},
    }
    steps = [
        {
            "kind": kind, "title": title, "text": [f"What {kind} is. " + "It goes on. " * 12, "And more of it."],
            "see": f"See {kind}.", "figure": f"Chosen by {kind}.", "go": f"Go to {kind}" if kind in links else None,
            "link": links.get(kind), "picture_to_open": None, "picture": picture(kind, (90, 160, 90), 256), "parts": [],
            **step.get(kind, {}),
        }
        for kind, title in zip(STEPS, TITLES)
    ]  # fmt: skip
    return {"title": "What does it see?", "steps": steps}


@pytest.fixture(scope="module")
def toured(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made site with a tour."""
    copy = tmp_path_factory.mktemp("toured") / "made" / "site"
    shutil.copytree(site, copy)
    (copy / "tour.json").write_text(json.dumps(made_tour(copy)))
    atlas = json.loads((copy / "atlas.json").read_text())
    (copy / "atlas.json").write_text(json.dumps({**atlas, "tour": True}))
    return copy


@pytest.fixture(scope="module")
def api(toured: Path) -> Iterator[ForwardApi]:
    with serve_forward(toured) as served:
        yield served


@pytest.fixture(scope="module")
def static(toured: Path) -> Iterator[str]:
    """The same site from a server that knows no network of it."""
    with served(toured.parent) as url:
        yield url


def tour(page: Page) -> Locator:
    return page.get_by_test_id("tour")


def at(page: Page, step: int) -> None:
    """The step, counted from 1, is shown, and stands in the address."""
    expect(tour(page).get_by_role("heading", name=TITLES[step - 1])).to_be_visible()
    eventually(lambda: f"tour={step}" in page.evaluate("location.hash"), "the step in the address")


def hash_of(page: Page) -> str:
    return str(page.evaluate("location.hash"))


def test_the_page_offers_the_tour_and_goes_through_it(browser: Browser, static: str) -> None:
    with guest(browser, static) as visitor:
        page = visitor.page
        page.get_by_role("button", name="New to this? Take the tour").click()
        at(page, 1)
        expect(tour(page).get_by_text("What does it see?")).to_be_visible()
        expect(tour(page).get_by_role("button", name="Back", exact=True)).to_be_hidden()
        for step in range(2, 8):
            tour(page).get_by_role("button", name="Next").click()
            at(page, step)
            kind = STEPS[step - 1]
            expect(tour(page)).to_contain_text(f"See {kind}.")
            expect(tour(page)).to_contain_text(f"Chosen by {kind}.")
            eventually(lambda: bool(page.evaluate(PICTURES_ARE_LOADED)), "all its pictures are there")
            expect(tour(page).locator("[aria-current=step]")).to_have_attribute(
                "aria-label", f"Step {step} of 7: {TITLES[step - 1]}"
            )
        tour(page).get_by_role("button", name="To the atlas").click()
        expect(tour(page)).to_have_count(0)
        eventually(lambda: "tour" not in hash_of(page), "the address is the map's")
        expect(page.get_by_role("group", name="Tour")).to_have_count(0)


def test_keys_dots_and_the_browsers_back(browser: Browser, static: str) -> None:
    with guest(browser, static) as visitor:
        page = visitor.page
        page.get_by_role("button", name="View", exact=True).click()
        page.get_by_role("button", name="Take the tour", exact=True).click()
        at(page, 1)
        page.keyboard.press("ArrowLeft")
        at(page, 1)
        page.keyboard.press("ArrowRight")
        at(page, 2)
        tour(page).get_by_role("button", name="Step 6 of 7").click()
        at(page, 6)
        page.go_back()
        at(page, 2)
        page.go_back()
        at(page, 1)
        page.go_forward()
        at(page, 2)
        page.keyboard.press("Escape")
        expect(tour(page)).to_have_count(0)
        eventually(lambda: "tour" not in hash_of(page), "the address is the map's")
        page.keyboard.press("ArrowRight")
        expect(tour(page)).to_have_count(0)


def test_a_link_opens_its_step(browser: Browser, static: str) -> None:
    with guest(browser, f"{static}#tour=4") as visitor:
        at(visitor.page, 4)
    with guest(browser, f"{static}#tour=99") as visitor:
        at(visitor.page, 7)
    with guest(browser, f"{static}#tour=nothing") as visitor:
        at(visitor.page, 1)


def test_one_click_to_the_live_view_and_one_back(browser: Browser, static: str) -> None:
    with guest(browser, f"{static}#layer=_blocks.10&tour=4") as visitor:
        page = visitor.page
        at(page, 4)
        tour(page).get_by_role("button", name="Go to atlas").click()
        expect(tour(page)).to_have_count(0)
        expect(switch(page, LAYER)).to_be_visible()
        pill = page.get_by_role("group", name="Tour")
        expect(pill).to_contain_text("Tour 4 of 7")
        eventually(lambda: "tour" not in hash_of(page) and LAYER in hash_of(page), "the live view's own address")
        page.screenshot(path=RESULTS / "tour-live.png")
        pill.get_by_role("button", name="Tour 4 of 7").click()
        at(page, 4)
        expect(pill).to_have_count(0)

        tour(page).get_by_role("button", name="Step 2 of 7").click()
        tour(page).get_by_role("button", name="Go to neuron").click()
        expect(page.get_by_test_id("heat-key")).to_contain_text("espresso")
        page.go_back()
        at(page, 2)
        expect(page.get_by_test_id("heat-key")).to_have_count(0)
        tour(page).get_by_role("button", name="Go to neuron").click()
        pill.get_by_role("button", name="End the tour").click()
        expect(pill).to_have_count(0)
        expect(page.get_by_test_id("heat-key")).to_be_visible()


def test_a_static_site_says_what_needs_the_network(browser: Browser, static: str) -> None:
    with guest(browser, f"{static}#tour=3") as visitor:
        page = visitor.page
        at(page, 3)
        expect(tour(page)).to_contain_text("atlas serve runs/NAME")
        expect(tour(page).get_by_role("button", name="Go to image")).to_have_count(0)
        tour(page).get_by_role("button", name="Next").click()
        expect(tour(page).get_by_role("button", name="Go to atlas")).to_be_visible()
        expect(tour(page)).not_to_contain_text("atlas.serve")
    with guest(browser, f"{static}#open=image") as visitor:
        expect(visitor.page.get_by_role("alert")).to_contain_text("atlas serve runs/NAME")


def test_the_tours_picture_is_opened(browser: Browser, api: ForwardApi) -> None:
    """What the network is asked about is the tour's own picture, by its colour."""
    with guest(browser, f"{api.address}#tour=3") as visitor:
        page = visitor.page
        at(page, 3)
        tour(page).get_by_role("button", name="Go to image").click()
        panel = page.get_by_test_id("image")
        expect(panel).to_contain_text("Picture of the tour")
        first = CLASSES[PICTURE_COLOUR[0] * len(CLASSES) // 256].split(",")[0]
        expect(panel).to_contain_text(first)
        pill = page.get_by_role("group", name="Tour")
        expect(pill).to_contain_text("Tour 3 of 7")
        for element in page.locator(".panel, .minimap, aside.image").all():
            if element.is_visible():
                assert not overlap(box_of(pill), box_of(element)), element.get_attribute("class")
        page.screenshot(path=RESULTS / "tour-image.png")
        page.get_by_role("button", name="Tour 3 of 7").click()
        at(page, 3)
        expect(panel).to_have_count(0)


def test_from_the_forward_pass_one_click_leads_back(browser: Browser, api: ForwardApi) -> None:
    with guest(browser, f"{api.address}#tour=7") as visitor:
        page = visitor.page
        at(page, 7)
        tour(page).get_by_role("button", name="Go to forward").click()
        walk = page.get_by_role("dialog", name="Step by step")
        expect(walk.get_by_test_id("layers")).to_be_visible(timeout=20_000)
        pill = walk.get_by_role("group", name="Tour")
        expect(pill).to_be_visible()
        for other in walk.locator("header > :not([role=group])").all():
            assert not overlap(box_of(pill), box_of(other)), "it covers nothing"
        page.screenshot(path=RESULTS / "tour-forward.png")
        walk.get_by_role("button", name="Tour 7 of 7").click()
        at(page, 7)
        expect(walk).to_have_count(0)
        expect(page.get_by_test_id("image")).to_have_count(0)


def test_the_way_back_outlives_the_dialog_that_it_was_in(browser: Browser, api: ForwardApi) -> None:
    with guest(browser, f"{api.address}#tour=7") as visitor:
        page = visitor.page
        tour(page).get_by_role("button", name="Go to forward").click()
        walk = page.get_by_role("dialog", name="Step by step")
        expect(walk.get_by_role("group", name="Tour")).to_be_visible(timeout=20_000)
        page.keyboard.press("Escape")
        expect(walk).to_have_count(0)
        page.get_by_role("button", name="Tour 7 of 7").click()
        at(page, 7)


def test_a_link_opens_a_picture_of_the_run_where_there_is_no_tour(browser: Browser, site: Path) -> None:
    with serve_forward(site) as plain:
        with guest(browser, f"{plain.address}#tour=2") as visitor:
            page = visitor.page
            expect(page.get_by_role("alert")).to_contain_text("This atlas has no tour")
            expect(page.get_by_role("button", name="Take the tour")).to_have_count(0)
        with guest(browser, f"{plain.address}#open=image") as visitor:
            expect(visitor.page.get_by_test_id("image")).to_be_visible()


@pytest.mark.parametrize("content", [None, "{", '{"steps": []}'])
def test_a_tour_that_cannot_be_read_is_told(browser: Browser, toured: Path, static: str, content: str | None) -> None:
    path = toured / "tour.json"
    text = path.read_text()
    path.unlink()
    if content is not None:
        path.write_text(content)
    try:
        # The browser itself complains of an address that is not there.
        with guest(browser, f"{static}#tour=2", complaints=int(content is None)) as visitor:
            said = tour(visitor.page).get_by_role("alert")
            expect(said).to_contain_text("tour.json")
            visitor.page.keyboard.press("Escape")
            expect(tour(visitor.page)).to_have_count(0)
    finally:
        path.write_text(text)


@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_every_step_fits_and_is_accessible(browser: Browser, static: str, look: Any, size: str) -> None:
    axe = (CHECKOUT / "atlas" / "viewer" / "node_modules" / "axe-core" / "axe.min.js").read_text()
    viewport = PHONE if size == "phone" else DESKTOP
    extra: Any = {"has_touch": True, "is_mobile": True} if size == "phone" else {}
    with guest(browser, f"{static}#tour=1", viewport=viewport, color_scheme=look, **extra) as visitor:
        page = visitor.page
        for step in range(1, 8):
            at(page, step)
            assert serious(page, axe) == []
            assert page.evaluate(TOO_WIDE) == [], STEPS[step - 1]
            box = tour(page).get_by_role("button", name="Next" if step < 7 else "To the atlas").bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= viewport["width"]
            page.screenshot(path=RESULTS / f"tour-{size}-{look}-{step}.png")
            if step < 7:
                tour(page).get_by_role("button", name="Next").click()


def test_bars_and_signs_say_what_the_figures_say(browser: Browser, static: str) -> None:
    with guest(browser, f"{static}#tour=5") as visitor:
        page = visitor.page
        at(page, 5)
        bars = tour(page).get_by_role("listitem").filter(has_text="answer 50 %")
        expect(bars).to_have_count(8)
        half = page.screenshot(clip=box_of(tour(page).locator(".bar").first))
        pixels = np.asarray(Image.open(BytesIO(half)).convert("L"))
        dark = (pixels[:, pixels.shape[1] // 2] < 140).mean()
        assert 0.45 < dark < 0.55, "half of it is filled"
        tour(page).get_by_role("button", name="Next").click()
        at(page, 6)
        expect(tour(page).get_by_role("listitem").filter(has_text="builds")).to_have_count(3)
        expect(tour(page).get_by_role("listitem").filter(has_text="opposes")).to_have_count(1)


def box_of(place: Locator) -> Any:
    box = place.bounding_box()
    assert box is not None
    return box

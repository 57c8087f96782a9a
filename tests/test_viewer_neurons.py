"""Neurons on the page: the list of a layer's units, one unit, what builds it, and arrows between two maps. The site is
made; see made_units."""

import json
import re
import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from made_site import (
    CLASSES,
    DESKTOP,
    PHONE,
    RESULTS,
    ROOT,
    Visitor,
    cell_20,
    colour,
    eventually,
    guest,
    lit,
    serious,
    served,
    switch,
)
from made_units import (
    BUILT_CELL,
    BUILT_FROM,
    EARLIER,
    EARLIEST,
    FAR,
    INVARIANT,
    ORIENTED,
    SCALES,
    SILENT,
    TOLD,
    UNITS,
    add_units,
    effects_on,
    invariance,
    selectivity,
    unit_colour,
    unit_table,
)
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from atlas.tiles import encode_webp

UNIT = f"#unit=_blocks.10:{INVARIANT}"
CIRCUIT = f"{UNIT}&show=circuit"
ARROWS = f"#layer=_blocks.10&with={EARLIER}&cells=" + ".".join(str(each) for each in BUILT_CELL)
SVG = "{http://www.w3.org/2000/svg}"


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
def opened(browser: Browser, address: str, **options: Any) -> Iterator[tuple[Visitor, Locator]]:
    """Someone who follows a link, with the view of neurons; ``options`` are those of ``guest``."""
    with guest(browser, address, **options) as visitor:
        yield visitor, visitor.page.get_by_test_id("neurons")


def units(view: Locator) -> Locator:
    return view.get_by_role("toolbar", name="Units").get_by_role("button")


def shown(view: Locator) -> list[tuple[int, str]]:
    """The units of the list with their figures."""
    texts = (
        units(view).locator(".words").evaluate_all("all => all.map(one => [...one.children].map(e => e.textContent))")
    )
    return [(int(unit.removeprefix("Unit ")), figure) for unit, figure in texts]


def middle(visitor: Visitor, what: Locator) -> Any:
    """The colour in the middle of something."""
    what.scroll_into_view_if_needed()
    box = what.bounding_box()
    assert box is not None
    return visitor.screen()[int(box["y"] + box["height"] / 2), int(box["x"] + box["width"] / 2)]


def near(seen: Any, wanted: tuple[int, int, int], least: int = 26) -> bool:
    return bool(np.abs(seen - wanted).max() <= least)


def node(view: Locator, layer: str, unit: int) -> Locator:
    return view.locator(f"[data-node='{layer}:{unit}']")


def place(view: Locator, layer: str, unit: int) -> tuple[float, float]:
    """The middle of a unit's icon in the drawing of a circuit."""
    icon = view.locator(f"[data-icon='{layer}:{unit}']")
    x, y, side = (float(icon.get_attribute(name) or "") for name in ("x", "y", "width"))
    return x + side / 2, y + side / 2


def icon_shows(visitor: Visitor, view: Locator, layer: str, unit: int) -> bool:
    """Whether a unit's own icon is seen where it stands in the drawing."""
    drawing = view.get_by_role("group", name="Circuit").bounding_box()
    assert drawing is not None
    x, y = place(view, layer, unit)
    return near(visitor.screen()[int(drawing["y"] + y), int(drawing["x"] + x)], unit_colour(layer, unit))


def overlap(one: Any, other: Any) -> bool:
    """Whether two boxes of the screen cover each other, but for the space around letters."""
    return bool(
        one["x"] < other["x"] + other["width"]
        and other["x"] < one["x"] + one["width"]
        and one["y"] < other["y"] + other["height"] - 4
        and other["y"] < one["y"] + one["height"] - 4
    )


# The list


def test_the_button_opens_the_list_of_the_layers_units(browser: Browser, neurons: str) -> None:
    table = unit_table("_blocks.10")
    with opened(browser, neurons) as (visitor, view):
        page = visitor.page
        switch(page, "_blocks.4").click()
        page.get_by_role("menuitemradio", name="_blocks.10").click()
        page.get_by_role("button", name="Neurons").click()
        expect(view.get_by_role("heading", name="40 units of _blocks.10")).to_be_visible()
        by = sorted(range(40), key=lambda unit: -table["largest"][unit] if unit != SILENT else 1)
        assert [unit for unit, _ in shown(view)] == by
        assert shown(view)[0] == (by[0], f"{table['largest'][by[0]]:.3g}")
        assert shown(view)[-1] == (SILENT, "–")
        for unit in (by[0], 7, 33):
            eventually(
                lambda unit=unit: near(
                    middle(visitor, view.get_by_role("button", name=f"Unit {unit} ").locator(".picture")),
                    unit_colour("_blocks.10", unit),
                ),
                f"the icon of unit {unit}",
            )
        page.screenshot(path=RESULTS / "neurons-list.png")
        assert visitor.link()["neurons"] == "_blocks.10"
        page.go_back()
        expect(view).to_have_count(0)


def test_a_site_without_units_has_no_button(visitor: Visitor) -> None:
    expect(visitor.page.get_by_role("button", name="Neurons")).to_have_count(0)


def test_the_list_is_ordered_by_each_figure(browser: Browser, neurons: str) -> None:
    table = unit_table("_blocks.10")
    with opened(browser, f"{neurons}#neurons=_blocks.10&order=invariant") as (visitor, view):
        expect(units(view).first).to_have_accessible_name(f"Unit {INVARIANT} 0.93")
        known = [unit for unit in range(40) if invariance("_blocks.10", unit) is not None]
        assert [unit for unit, _ in shown(view)][:-1] == sorted(known, key=lambda unit: -table["invariance"][unit])
        view.get_by_role("button", name="most selective").click()
        expect(units(view).first).to_have_accessible_name(f"Unit {ORIENTED} 0.47")
        known = [unit for unit in range(40) if selectivity("_blocks.10", unit) is not None]
        listed = shown(view)
        assert [unit for unit, _ in listed][: len(known)] == sorted(known, key=lambda unit: -table["selectivity"][unit])
        assert {figure for _, figure in listed[len(known) :]} == {"–"}
        view.get_by_role("button", name="rarest").click()
        expect(units(view).first).to_have_accessible_name("Unit 39 1.3 %")
        eventually(lambda: visitor.link().get("order") == "rare", "in the address")
        visitor.page.go_back()
        expect(view.get_by_role("button", name="most selective")).to_have_attribute("aria-pressed", "true")
        view.get_by_role("button", name=EARLIEST).click()
        expect(units(view)).to_have_count(UNITS[EARLIEST])


def test_units_are_found_by_class_and_by_likeness(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}#neurons=_blocks.10") as (visitor, view):
        page = visitor.page
        expect(units(view)).to_have_count(40)
        view.get_by_label("Find a class").fill("espr")
        page.keyboard.press("Enter")
        expect(view.get_by_role("heading", name="Units for espresso")).to_be_visible()
        eventually(lambda: shown(view)[:3] == [(20, "+0.80"), (7, "+0.62"), (2, "+0.40")], "those that support it")
        assert shown(view)[3:] == [
            *((unit, "0") for unit in range(40) if unit not in (20, 7, 2, SILENT)),
            (SILENT, "–"),
        ]
        eventually(lambda: visitor.link().get("for") == "espresso", "the class in the link")
        expect(view.get_by_label("Find a class")).to_have_attribute("placeholder", "Find a class")
        page.reload()
        expect(view.get_by_role("heading", name="Units for espresso")).to_be_visible()
        view.get_by_role("button", name=EARLIER).click()
        expect(view.get_by_role("heading", name="Units for espresso")).to_be_visible()
        expect(units(view)).to_have_count(UNITS[EARLIER])
        eventually(lambda: shown(view)[:2] == [(7, "+0.62"), (2, "+0.40")], "those of the earlier layer")
        view.get_by_role("button", name="_blocks.10").click()
        expect(units(view)).to_have_count(40)
        opposed = CLASSES[4].split(",")[0]
        units(view).first.focus()
        page.keyboard.type(opposed)
        expect(view.get_by_label("Find a class")).to_be_focused()
        page.keyboard.press("Enter")
        expect(view.get_by_role("heading", name=f"Units for {opposed}")).to_be_visible()
        eventually(lambda: {figure for _, figure in shown(view)[:-1]} == {"−0.25"}, "what all do to it")
        assert min(effects_on("_blocks.10", 4)) == -0.25
        view.get_by_role("button", name="Show all units").click()
        expect(view.get_by_role("heading", name="40 units of _blocks.10")).to_be_visible()
        eventually(lambda: "for" not in visitor.link(), "no class in the link")
        view.get_by_role("button", name="Unit 7 ").click()
        view.get_by_role("button", name="Show them in the list").click()
        expect(view.get_by_role("heading", name="Units like unit 7")).to_be_visible()
        eventually(lambda: shown(view) == [(7, "itself"), (8, "0.80"), (9, "0.70"), (10, "0.60")], "itself first")
        eventually(lambda: visitor.link().get("like") == "7", "the unit in the link")
        page.reload()
        expect(view.get_by_role("heading", name="Units like unit 7")).to_be_visible()
        eventually(lambda: len(shown(view)) == 4, "the same as before")


def test_the_list_by_keyboard_alone(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}#neurons=_blocks.10") as (visitor, view):
        page = visitor.page
        expect(units(view)).to_have_count(40)
        order = [unit for unit, _ in shown(view)]
        units(view).first.focus()
        across = len(
            units(view).first.evaluate("one => getComputedStyle(one.parentElement).gridTemplateColumns").split()
        )
        page.keyboard.press("ArrowDown")
        expect(units(view).nth(across)).to_be_focused()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(view.get_by_role("heading", name=f"unit {order[across + 1]} of _blocks.10")).to_be_focused()
        page.keyboard.press("ArrowRight")
        expect(view.get_by_role("heading", name=f"unit {order[across + 2]} of _blocks.10")).to_be_visible()
        page.keyboard.press("Escape")
        expect(units(view).nth(across + 2)).to_be_focused()
        page.keyboard.press("End")
        expect(units(view).nth(39)).to_be_focused()
        page.keyboard.press("Escape")
        expect(view).to_have_count(0)


def test_a_list_of_2048_units_is_whole(browser: Browser, neurons: str, neurons_site: Path) -> None:
    facts = json.loads((neurons_site / "atlas.json").read_text())
    facts["neurons"]["layers"][2]["units"] = 2048
    table = {
        name: [values[unit % 40] for unit in range(2048)] if isinstance(values, list) else values
        for name, values in unit_table("_blocks.10").items()
    }
    sheet = encode_webp(np.full((64 * 128, 64 * 16, 4), 200, np.uint8), 50)
    with browser.new_context(viewport=DESKTOP) as context:
        visitor = Visitor(context)
        page = visitor.page
        page.route("**/atlas.json", lambda route: route.fulfill(json=facts))
        page.route("**/neurons/_blocks.10/units.json", lambda route: route.fulfill(json=table | {"units": 2048}))
        page.route("**/icons.webp", lambda route: route.fulfill(body=sheet, content_type="image/webp"))
        visitor.open(f"{neurons}#neurons=_blocks.10")
        view = page.get_by_test_id("neurons")
        expect(units(view)).to_have_count(2048)
        view.get_by_role("button", name="most pose-invariant").click()
        expect(units(view).first).to_have_accessible_name("Unit 7 0.93")
        units(view).first.focus()
        page.keyboard.press("End")
        expect(units(view).nth(2047)).to_be_in_viewport()
        assert visitor.complaints == []


# One unit


def test_a_units_page_tells_all_that_is_known(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}{UNIT}") as (visitor, view):
        unit = view.get_by_test_id("unit")
        expect(unit).to_contain_text("How alike does it answer whichever way up? Almost alike: 0.93 of 1 (invariance")
        expect(unit).to_contain_text("To none more than to others: 0.02 of 1 (selectivity).")
        wanted = unit_colour("_blocks.10", INVARIANT)
        pictures = unit.locator(".pictures .picture")
        expect(pictures).to_have_count(4)
        eventually(lambda: near(middle(visitor, pictures.first), wanted), "its first picture")
        assert near(middle(visitor, pictures.nth(3)), tuple(each * 7 // 10 for each in wanted))  # type: ignore[arg-type]
        rows = unit.get_by_role("list", name="Classes that it supports and opposes").get_by_role("listitem")
        names = [CLASSES[index].split(",")[0] for index in (3, 1, 5, 4)]
        assert [each.split("\n")[0].strip() for each in rows.all_inner_texts()] == names
        assert rows.locator(".value").all_inner_texts() == ["+0.62", "+0.10", "−0.10", "−0.25"]
        assert unit.get_by_test_id("histogram").locator("rect").count() > 50
        expect(unit.locator("ol li", has_text="6.00").first).to_be_visible()
        expect(unit.get_by_test_id("scaled").get_by_role("listitem")).to_have_text(
            [f"× {each} {value}" for each, value in zip(SCALES, ("1.00", "3.00", "6.00", "4.00", "0"))]
        )
        bars = unit.get_by_test_id("scaled").locator(".bar i").evaluate_all("all => all.map(one => one.offsetHeight)")
        assert bars == pytest.approx([8, 24, 48, 32, 1], abs=1.1)
        visitor.page.screenshot(path=RESULTS / "neurons-unit.png")
        unit.get_by_role("button", name="All units for espresso").click()
        expect(view.get_by_role("heading", name="Units for espresso")).to_be_visible()


def test_patches_show_the_whole_picture_they_come_from(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}{UNIT}") as (visitor, view):
        patches = view.get_by_role("group", name="Top patches").get_by_role("button")
        expect(patches).to_have_count(9)
        expect(view.locator("figcaption")).to_contain_text("animals/0.png")
        patches.nth(4).hover()
        expect(view.locator("figcaption")).to_contain_text("animals/4.png")
        expect(view.locator("figcaption")).to_contain_text("answer 6.60 (activation)")
        expect(view.locator("figcaption")).to_contain_text("taken for Egyptian cat (70 %)")
        eventually(lambda: near(middle(visitor, patches.nth(4)), (168, 30, 30)), "the fifth patch")
        whole = view.get_by_test_id("whole")
        outer, inner = whole.bounding_box(), whole.locator(".frame").bounding_box()
        assert outer is not None
        assert inner is not None
        assert inner["y"] == pytest.approx(outer["y"] + outer["height"] / 2, abs=1)
        assert inner["width"] == pytest.approx(outer["width"] / 4, abs=1)
        assert near(visitor.screen()[int(outer["y"] + 9), int(outer["x"] + 9)], (30, 30, 168)), "its whole picture"
        patches.nth(8).focus()
        expect(view.locator("figcaption")).to_contain_text("animals/8.png")


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def test_the_tuning_curve_reaches_to_where_it_answers(browser: Browser, neurons: str) -> None:
    """The oriented unit answers at 90°, on the right of the plot, and mirrored on the left; the other to all alike."""
    with opened(browser, f"{neurons}#unit=_blocks.10:{ORIENTED}") as (visitor, view):
        ring = view.get_by_test_id("turning")
        turned, mirrored = (
            points(ring.locator(f"[data-line={name}]").get_attribute("d") or "") for name in ("turned", "mirrored")
        )
        assert len(turned) == 24
        assert turned[6] == pytest.approx((100, 0), abs=0.1)
        assert np.hypot(*turned[18]) < 1
        assert mirrored[18] == pytest.approx((-100, 0), abs=0.1)
        right, left = (
            ring.locator("[data-angle='90']").bounding_box(),
            ring.locator("[data-angle='270']").bounding_box(),
        )
        assert right is not None
        assert left is not None
        assert right["x"] > left["x"] + 200, "the picture that is turned by 90° stands on the right"
        ring.locator("[data-angle='90']").hover()
        expect(view).to_contain_text("90°: 100 % of its largest answer, mirrored 0 %")
        ring.focus()
        visitor.page.keyboard.press("ArrowLeft")
        expect(view).to_contain_text("75°: 76 % of its largest answer")
        expect(view).to_contain_text("Strongly: 0.47 of 1 (selectivity), most at 90°.")
        visitor.page.keyboard.press("Escape")
        view.get_by_role("button", name=f"Unit {INVARIANT} ").click()
        path = view.get_by_test_id("turning").locator("[data-line=turned]")
        radii = [np.hypot(*point) for point in points(path.get_attribute("d") or "")]
        assert min(radii) > 85, "almost a circle"


def test_a_unit_that_never_fires_says_so(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}#unit=_blocks.10:{SILENT}") as (_, view):
        expect(view.get_by_test_id("told")).to_have_text(TOLD)
        expect(view.get_by_test_id("turning")).to_have_count(0)
        expect(view.get_by_role("group", name="Top patches")).to_have_count(0)
        expect(view.locator(".pictures .picture")).to_have_count(4)
        view.get_by_role("button", name="what builds it").click()
        expect(view.get_by_test_id("circuit")).to_have_text(TOLD)


def test_the_earliest_layer_says_that_nothing_is_before_it(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}#unit={EARLIEST}:1&show=circuit") as (_, view):
        expect(view.get_by_test_id("circuit")).to_have_text(
            f"{EARLIEST} is the earliest of the layers looked at: nothing before it is known. "
            "Name an earlier layer under neurons.layers."
        )


def test_a_unit_lights_up_on_the_map(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}#layer=_blocks.4&class=espresso&unit=_blocks.10:{INVARIANT}") as (visitor, view):
        page = visitor.page
        heat = view.get_by_test_id("heat-map")
        expect(heat).to_have_attribute("data-unit", str(INVARIANT))
        heat.scroll_into_view_if_needed()
        box = heat.bounding_box()
        assert box is not None
        screen = visitor.screen()
        y = int(box["y"] + 0.55 * box["height"])
        west, east = (screen[y, int(box["x"] + share * box["width"])].sum() for share in (0.15, 0.85))
        assert west > 3 * east, "an odd unit answers in the west"
        view.get_by_role("button", name="Show on the map").click()
        expect(view).to_have_count(0)
        expect(switch(page, "_blocks.10")).to_be_visible()
        key = page.get_by_test_id("heat-key")
        expect(key).to_contain_text("unit 7 of _blocks.10")
        expect(key).not_to_contain_text("espresso")
        expect(page.get_by_test_id("overlay")).to_have_attribute("data-veil", "unit 7")
        eventually(lambda: lit(visitor, 10, 2) > 0.8 and lit(visitor, 14, 15) < 0.45, "the west is lit")
        link = visitor.link()
        assert (link["lit"], link["layer"]) == ("_blocks.10%3A7", "_blocks.10")
        page.screenshot(path=RESULTS / "neurons-lit.png")
        key.get_by_role("button", name="below 0").click()
        eventually(lambda: lit(visitor, 14, 15) > 0.7 and lit(visitor, 10, 2) < 0.45, "the east is lit")
        key.get_by_role("button", name="unit 7 of _blocks.10").click()
        expect(view.get_by_role("heading", name="unit 7 of _blocks.10")).to_be_visible()
        page.go_back()
        key.get_by_role("button", name="Remove unit 7").click()
        eventually(lambda: lit(visitor, 14, 15) > 0.95 and lit(visitor, 10, 2) > 0.95, "all as before")
        assert "lit" not in visitor.link()


# What builds a unit


def test_a_circuit_keeps_the_places_of_its_sources(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}{CIRCUIT}") as (visitor, view):
        expect(node(view, EARLIER, 1)).to_have_accessible_name(
            "Unit 1 of _blocks.4 builds unit 7, +0.80; it counts most above"
        )
        expect(node(view, EARLIER, 2)).to_have_accessible_name(
            "Unit 2 of _blocks.4 inhibits unit 7, −0.50; it counts most below"
        )
        expect(node(view, EARLIER, 3)).to_have_accessible_name(
            "Unit 3 of _blocks.4 builds unit 7 by its absence, +0.30; it counts most to the left"
        )
        assert view.locator("[data-struck]").evaluate_all("all => all.map(one => one.dataset.struck)") == [
            f"{EARLIER}:3"
        ]
        expect(view.locator(f"[data-name='{EARLIER}:3']")).to_have_text("not 3")
        expect(view.locator(f"[data-name='{EARLIER}:1']")).to_have_text("1")
        expect(view.get_by_test_id("absence")).to_contain_text("acts by its absence")
        expect(node(view, EARLIER, 4)).to_have_count(0)
        top, side, bottom, root = (
            place(view, *each) for each in ((EARLIER, 1), (EARLIER, 3), (EARLIER, 2), ("_blocks.10", 7))
        )
        assert top[1] < side[1] < bottom[1], "what counts above stands above"
        assert side[0] < top[0], "what counts to the left stands to the left"
        assert max(top[0], bottom[0]) < root[0] - 100, "the unit itself stands on the right"
        widths = []
        for unit, kind in ((1, "plus"), (2, "minus"), (3, "plus")):
            edge = view.locator(f"[data-edge='{EARLIER}:{unit} _blocks.10:7']")
            line = edge.locator(".line")
            expect(edge).to_have_class(re.compile(rf"\b{kind}\b"))
            style = line.evaluate("one => [getComputedStyle(one).stroke, getComputedStyle(one).strokeDasharray]")
            assert style == (["rgb(217, 95, 2)", "none"] if kind == "plus" else ["rgb(27, 108, 168)", "7px, 4px"])
            expect(view.locator(f"[data-figure='{EARLIER}:{unit} _blocks.10:7']")).to_contain_text(
                "+" if kind == "plus" else "−"
            )
            widths.append(float(line.get_attribute("stroke-width") or ""))
        assert widths[0] > widths[1] > widths[2]
        kernel = view.locator(f"[data-kernel='{EARLIER}:2'] rect.minus")
        ground = view.locator(f"[data-kernel='{EARLIER}:2'] rect.ground")
        strongest = max(kernel.all(), key=lambda each: float(each.get_attribute("fill-opacity") or "0"))
        assert float(strongest.get_attribute("y") or "") > float(ground.get_attribute("y") or "") + 24, "at the bottom"
        for layer, unit in ((EARLIER, 1), (EARLIER, 2), ("_blocks.10", 7)):
            eventually(lambda of=(layer, unit): icon_shows(visitor, view, *of), f"the icon of unit {unit}")  # type: ignore[misc]
        expect(view.get_by_test_id("agreement")).to_have_text(
            "The weights agree well with what happens in the data: 0.91 of 1 (correlation)."
        )
        expect(view).to_contain_text("On the way these were taken as linear: 4 ReLU6.")
        expect(view).to_contain_text("What clearly counts above stands above, what counts below stands below")
        expect(view).to_contain_text("3 of 4 are shown, those with at least 5 % of the strongest.")
        visitor.page.screenshot(path=RESULTS / "neurons-circuit.png")


def test_a_circuit_is_cut_by_strength_and_ordered_by_data_or_weights(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}{CIRCUIT}") as (_, view):
        cut = view.get_by_label("Leave out sources below this share of the strongest")
        cut.fill("0.5")
        expect(node(view, EARLIER, 3)).to_have_count(0)
        expect(node(view, EARLIER, 2)).to_have_count(1)
        cut.fill("0")
        expect(node(view, EARLIER, 4)).to_have_count(1)
        cut.fill("1")
        expect(view.locator("[data-edge]")).to_have_count(1)
        expect(node(view, EARLIER, 1)).to_have_count(1)
        view.get_by_role("button", name="weights", exact=True).click()
        expect(view.locator("[data-edge]")).to_have_count(1)
        expect(node(view, EARLIER, 2)).to_have_accessible_name(re.compile("inhibits unit 7, −0.60"))


def test_weights_from_far_layers_come_with_a_warning(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}{CIRCUIT}") as (_, view):
        view.get_by_role("button", name=f"from {EARLIEST}").click()
        expect(view.get_by_test_id("agreement")).to_contain_text(
            "The weights hardly agree with what happens in the data: 0.11"
        )
        expect(view).to_contain_text("taken as linear: 12 ReLU6 and 1 max-pooling as average.")
        expect(view).to_contain_text(FAR)
        expect(node(view, EARLIEST, 1)).to_have_count(1)


def test_a_source_opens_its_own_sources(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}{CIRCUIT}") as (visitor, view):
        page = visitor.page
        node(view, EARLIER, 1).focus()
        page.keyboard.press("Enter")
        source = view.get_by_test_id("source")
        expect(source).to_contain_text("unit 1 of _blocks.4")
        expect(source).to_contain_text("Builds unit 7. It counts most above.")
        expect(source.locator("dt")).to_have_text(["+0.80", "+0.70", "+0.30", "+0.60", "0.90 of 1"])
        node(view, EARLIER, 3).click()
        expect(source).to_contain_text("Builds unit 7 by its absence. Unit 7 answers more where this one is below 0")
        node(view, EARLIER, 1).click()
        source.get_by_role("button", name="Show what builds it").click()
        expect(view.locator(f"[data-edge='{EARLIEST}:1 {EARLIER}:1']")).to_have_count(1)
        assert place(view, EARLIEST, 1)[0] < place(view, EARLIER, 1)[0] - 100
        assert place(view, EARLIEST, 1)[1] < place(view, EARLIEST, 2)[1]
        expect(node(view, EARLIER, 1)).to_be_in_viewport(ratio=1)
        names = view.get_by_role("group", name="Circuit").locator(".layer")
        expect(names).to_have_text([EARLIER, EARLIEST])
        expect(source.get_by_role("img", name="Its kernel: it counts most above")).to_have_attribute("width", "150")
        node(view, EARLIER, 2).click()
        source.get_by_role("button", name="Show what builds it").click()
        expect(view.locator(f"[data-edge='{EARLIEST}:1 {EARLIER}:2']")).to_have_count(1)
        boxes = [each.bounding_box() for each in view.locator(f"[data-figure^='{EARLIEST}:']").all()]
        assert len(boxes) == 6
        assert not any(overlap(one, other) for at, one in enumerate(boxes) for other in boxes[:at]), "each is readable"
        visitor.page.screenshot(path=RESULTS / "neurons-circuit-deep.png")
        source.get_by_role("button", name="Hide what builds it").click()
        node(view, EARLIEST, 1).click()
        expect(source).to_contain_text("unit 1 of _blocks.2")
        expect(source.get_by_role("button", name="Show what builds it")).to_have_count(0)
        node(view, EARLIER, 1).click()
        source.get_by_role("button", name="Hide what builds it").click()
        expect(node(view, EARLIEST, 1)).to_have_count(0)
        source.get_by_role("button", name="Open unit 1").click()
        expect(view.get_by_role("heading", name="unit 1 of _blocks.4")).to_be_visible()
        assert visitor.link()["unit"] == "_blocks.4%3A1"
        page.go_back()
        expect(view.get_by_test_id("circuit")).to_be_visible()


def test_a_circuit_is_saved_as_a_file_that_stands_alone(browser: Browser, neurons: str, tmp_path: Path) -> None:
    with opened(browser, f"{neurons}{CIRCUIT}") as (visitor, view):
        node(view, EARLIER, 1).click()
        view.get_by_role("button", name="Show what builds it").click()
        expect(node(view, EARLIEST, 1)).to_have_count(1)
        with visitor.page.expect_download() as told:
            view.get_by_role("button", name="Save as SVG").click()
        assert told.value.suggested_filename == "made-_blocks.10-unit-7-circuit.svg"
        text = Path(told.value.path()).read_text()
        drawing = ElementTree.fromstring(text)
        assert drawing.findtext(f"{SVG}title") == "Circuit of unit 7 of _blocks.10"
        told_of = drawing.findtext(f"{SVG}desc") or ""
        assert "effect in the data" in told_of
        assert "by their absence" in told_of
        images = drawing.findall(f".//{SVG}image")
        assert len(images) == 7
        wanted = [
            unit_colour("_blocks.10", 7),
            *(unit_colour(layer, unit) for layer in (EARLIER, EARLIEST) for unit in (1, 2, 3)),
        ]
        for image in images:
            href = image.get("href") or ""
            assert href.startswith("data:image/png;base64,")
            icon = Image.open(BytesIO(b64decode(href.partition(",")[2]))).convert("RGB")
            assert min(np.abs(np.array(icon.getpixel((30, 30))) - each).max() for each in wanted) <= 3
        strokes = {each.get("stroke") for each in drawing.findall(f".//{SVG}path")}
        assert {"rgb(217, 95, 2)", "rgb(27, 108, 168)"} <= strokes
        words = {"".join(each.itertext()) for each in drawing.findall(f".//{SVG}text")}
        assert {"+0.80", "−0.50", "unit 7", "of _blocks.10", "not 3", EARLIER, EARLIEST} <= words
        assert not re.search(r"var\(|https?://(?!www\.w3\.org)|url\(|class=", text), "nothing is looked for outside"
        # Another program shows it too.
        alone = tmp_path / "circuit.svg"
        alone.write_text(text)
        page = visitor.page.context.new_page()
        page.goto(alone.as_uri())
        page.screenshot(path=RESULTS / "neurons-circuit-saved.png")
        seen = np.asarray(Image.open(BytesIO(page.screenshot())).convert("RGB")).astype(int)
        x, y = place(view, EARLIER, 1)
        assert near(seen[int(y), int(x)], unit_colour(EARLIER, 1), 4)


# Which cells build a cell


def test_a_cell_tells_which_cells_build_it_and_arrows_show_it(browser: Browser, neurons: str) -> None:
    grid, row, col = BUILT_CELL
    with opened(browser, f"{neurons}#layer=_blocks.10&cells={grid}.{row}.{col}") as (visitor, _):
        page = visitor.page
        built = page.get_by_test_id("built")
        expect(built).to_contain_text("Cells of _blocks.4 whose mean activation raises (+) or lowers (−)")
        expect(built.get_by_role("button", name="Go to")).to_have_count(3)
        expect(built.get_by_role("button", name="row 10, column 3")).to_have_accessible_name(
            "Go to _blocks.4, row 10, column 3: inhibits it, −0.60 2 % of its activations lie there"
        )
        expect(page.get_by_test_id("arrows")).to_have_count(0)
        built.get_by_role("button", name="Show both maps").click()
        arrows = page.get_by_test_id("arrows").locator("g")
        expect(arrows).to_have_count(3)
        expect(built.get_by_role("button", name="Show both maps")).to_have_count(0)
        eventually(lambda: arrows_fit(page), "arrows from the cells of the other map to the open one")
        signs = [each.text_content() for each in page.get_by_test_id("arrows").locator("text").all()]
        assert signs == ["+", "+", "−"]
        marks = [each.bounding_box() for each in page.get_by_test_id("arrows").locator("text").all()]
        assert not any(overlap(one, other) for at, one in enumerate(marks) for other in marks[:at])
        eventually(lambda: visitor.link().get("level") == str(grid), "the open cell's level on both maps")
        colours = arrows.locator(".line").evaluate_all("all => all.map(one => getComputedStyle(one).stroke)")
        assert colours == ["rgb(217, 95, 2)"] * 2 + ["rgb(27, 108, 168)"]
        widths = arrows.locator(".line").evaluate_all("all => all.map(one => Number(one.getAttribute('stroke-width')))")
        assert widths[0] > widths[2] > widths[1]
        page.screenshot(path=RESULTS / "neurons-arrows.png")
        page.mouse.move(300, 300)
        page.mouse.wheel(0, -240)
        eventually(lambda: visitor.link()["zoom"] != "1", "the maps have moved")
        eventually(lambda: arrows_fit(page), "and the arrows with them")
        built.get_by_role("button", name="row 5, column 5").click()
        expect(switch(page, EARLIER)).to_be_visible()
        expect(page.get_by_test_id("drawer")).to_contain_text("Row 5, column 5 of 20 × 20, _blocks.4")
        expect(page.get_by_test_id("arrows")).to_have_count(0)


def arrows_fit(page: Page) -> bool:
    """Whether each arrow begins at its own cell of the second map and ends at the open cell of the first."""
    selected = page.locator(".first [data-testid=selected]").bounding_box()
    origin = page.get_by_test_id("arrows").bounding_box()
    second = page.get_by_test_id("second").bounding_box()
    if not selected or not origin or not second:
        return False
    goal = np.array([selected["x"] + selected["width"] / 2, selected["y"] + selected["height"] / 2])
    _, row, col = BUILT_CELL
    for (_, from_row, from_col, *_rest), path in zip(
        BUILT_FROM,
        page.locator("[data-testid=arrows] .line").evaluate_all("all => all.map(one => one.getAttribute('d'))"),
    ):
        start, _, end = (np.array(point) for point in points(path.replace("Q", " ")))
        away = np.array([from_col - col, from_row - row]) * selected["width"] + [second["width"], 0]
        if np.hypot(*(goal + away - start)) > 0.75 * selected["width"] or np.hypot(*(goal - end)) > selected["width"]:
            return False
    return True


def test_going_back_closes_view_after_view(browser: Browser, neurons: str) -> None:
    with opened(browser, neurons) as (visitor, view):
        page = visitor.page
        page.get_by_role("button", name="Neurons").click()
        view.get_by_role("button", name="_blocks.10").click()
        view.get_by_role("button", name="Unit 7 ").click()
        view.get_by_role("button", name="what builds it").click()
        expect(view.get_by_test_id("circuit")).to_be_visible()
        eventually(lambda: visitor.link().get("show") == "circuit", "in the address")
        page.go_back()
        expect(view.get_by_test_id("unit")).to_be_visible()
        page.go_back()
        expect(units(view)).to_have_count(40)
        page.go_back()
        expect(units(view)).to_have_count(UNITS[EARLIER])
        page.go_back()
        expect(view).to_have_count(0)
        page.go_forward()
        expect(units(view)).to_have_count(UNITS[EARLIER])


# What is not there


@pytest.mark.parametrize(
    ("link", "missing", "test_id"),
    [
        ("#neurons=_blocks.10", "**/units.json", "neurons"),
        (UNIT, "**/unit-0007.json", "neurons"),
        (UNIT, "**/units-000.bin", "neurons"),
        ("#neurons=_blocks.10&for=espresso", "**/neurons/_blocks.10/classes.bin", "neurons"),
        (ARROWS, "**/built.json", "drawer"),
    ],
)
def test_a_missing_file_is_told_in_a_sentence(
    browser: Browser, neurons: str, link: str, missing: str, test_id: str
) -> None:
    name = missing.rpartition("/")[2]
    asked = 2 if test_id == "drawer" else 1
    with opened(browser, f"{neurons}{link}", missing=missing, complaints=asked) as (visitor, _):
        told = visitor.page.get_by_test_id(test_id).get_by_role("alert")
        expect(told).to_contain_text(re.compile(rf"The site has no \S+/{re.escape(name)} \(answer 404\)"))
        expect(told).to_contain_text("give python -m atlas.run CONFIG again")


def test_a_unit_that_is_not_there_opens_the_list(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}#unit=_blocks.10:40") as (visitor, view):
        expect(units(view)).to_have_count(40)
        expect(
            visitor.page.get_by_text("This atlas has no unit 40 of _blocks.10, of which the link tells")
        ).to_have_count(1)


# For everyone


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, neurons: str, scheme: str) -> None:
    axe = (ROOT / "atlas/viewer/node_modules/axe-core/axe.min.js").read_text()
    links = {
        "list": "#neurons=_blocks.10&order=selective",
        "unit": UNIT,
        "circuit": CIRCUIT,
        "arrows": ARROWS,
        "lit": "#layer=_blocks.10&lit=_blocks.10:7",
    }
    waits = {"list": "neurons", "unit": "unit", "circuit": "circuit", "arrows": "arrows", "lit": "heat-key"}
    with browser.new_context(viewport=DESKTOP, color_scheme=scheme, bypass_csp=True) as context:  # type: ignore[arg-type]
        page = context.new_page()
        for name, link in links.items():
            page.goto(f"{neurons}?{name}{link}")
            expect(page.get_by_test_id(waits[name])).to_be_visible()
            if name == "circuit":
                page.locator(f"[data-node='{EARLIER}:2']").click()
            assert serious(page, axe) == [], name
            page.screenshot(path=RESULTS / f"neurons-{name}-{scheme}.png")


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}#neurons=_blocks.10", viewport=PHONE, has_touch=True, is_mobile=True) as (
        visitor,
        view,
    ):
        page = visitor.page
        for name, act in {
            "list": lambda: expect(units(view)).to_have_count(40),
            "unit": lambda: view.get_by_role("button", name="Unit 7 ").tap(),
            "circuit": lambda: view.get_by_role("button", name="what builds it").tap(),
        }.items():
            act()
            if name != "list":
                expect(view.get_by_test_id(name)).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
            wide = view.evaluate("view => [...view.children].filter(each => each.scrollWidth > 360).length")
            assert wide == 0, name
            page.screenshot(path=RESULTS / f"neurons-phone-{name}.png")
        node(view, EARLIER, 2).tap()
        expect(view.get_by_test_id("source")).to_contain_text("Inhibits unit 7.")
        drawing = view.get_by_role("group", name="Circuit").bounding_box()
        assert drawing is not None
        assert drawing["x"] >= 0
        assert drawing["x"] + drawing["width"] <= PHONE["width"], "the unit and its sources fit the screen"


def test_the_lit_map_stays_with_its_own_layer(browser: Browser, neurons: str) -> None:
    with opened(browser, f"{neurons}#layer=_blocks.10&lit=_blocks.10:7") as (visitor, _):
        page = visitor.page
        expect(page.get_by_test_id("heat-key")).to_contain_text("unit 7 of _blocks.10")
        expect(page.get_by_test_id("overlay")).to_have_attribute("data-veil", "unit 7")  # the map is there
        eventually(lambda: "x" in visitor.link(), "the map's place in the link")
        page.keyboard.type("esp")
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("heat-key")).to_contain_text("espresso")
        expect(page.get_by_test_id("heat-key")).not_to_contain_text("unit 7")
        page.go_back()
        expect(page.get_by_test_id("overlay")).to_have_attribute("data-veil", "unit 7")
        page.keyboard.press("[")
        expect(switch(page, EARLIER)).to_be_visible()
        expect(page.get_by_test_id("heat-key")).to_have_count(0)
        x, y = cell_20(10, 15)
        wanted = colour(EARLIER, "icons", 20, 10, 15)
        eventually(lambda: near(visitor.screen()[int(y), int(x)], wanted, 16), "no veil on the other layer")

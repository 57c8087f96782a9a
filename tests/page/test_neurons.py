"""Neurons on the page: the list of a layer's units, and how all views of neurons behave. The site is made; see
made_units."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from accessibility import serious
from made_site import CHECKOUT, CLASSES, DESKTOP, PHONE, RESULTS, Visitor, cell_20, colour, eventually, switch
from made_units import (
    BUILT_CELL,
    EARLIER,
    EARLIEST,
    INVARIANT,
    ORIENTED,
    SILENT,
    UNITS,
    effects_on,
    invariance,
    selectivity,
    unit_colour,
    unit_table,
)
from playwright.sync_api import Browser, Locator, expect
from units_page import CIRCUIT, UNIT, middle, near, node, open_neurons

from atlas.site.tiles import encode_webp

ARROWS = f"#layer=_blocks.10&with={EARLIER}&cells=" + ".".join(str(number) for number in BUILT_CELL)


def units(view: Locator) -> Locator:
    return view.get_by_role("toolbar", name="Units").get_by_role("button")


def rows_on_screen(view: Locator) -> list[tuple[int, str]]:
    """The units of the list with their figures."""
    texts = (
        units(view).locator(".words").evaluate_all("all => all.map(one => [...one.children].map(e => e.textContent))")
    )
    return [(int(unit.removeprefix("Unit ")), figure) for unit, figure in texts]


# The list


def test_the_button_opens_the_list_of_the_layers_units(browser: Browser, neurons: str) -> None:
    table = unit_table("_blocks.10")
    with open_neurons(browser, neurons) as (visitor, view):
        page = visitor.page
        switch(page, "_blocks.4").click()
        page.get_by_role("menuitemradio", name="_blocks.10").click()
        page.get_by_role("button", name="Neurons").click()
        expect(view.get_by_role("heading", name="40 units of _blocks.10")).to_be_visible()
        by = sorted(range(40), key=lambda unit: -table["largest"][unit] if unit != SILENT else 1)
        assert [unit for unit, _ in rows_on_screen(view)] == by
        assert rows_on_screen(view)[0] == (by[0], f"{table['largest'][by[0]]:.3g}")
        assert rows_on_screen(view)[-1] == (SILENT, "–")
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
    with open_neurons(browser, f"{neurons}#neurons=_blocks.10&order=invariant") as (visitor, view):
        expect(units(view).first).to_have_accessible_name(f"Unit {INVARIANT} 0.93")
        units_with_figure = [unit for unit in range(40) if invariance("_blocks.10", unit) is not None]
        assert [unit for unit, _ in rows_on_screen(view)][:-1] == sorted(
            units_with_figure, key=lambda unit: -table["invariance"][unit]
        )
        view.get_by_role("button", name="most selective").click()
        expect(units(view).first).to_have_accessible_name(f"Unit {ORIENTED} 0.47")
        units_with_figure = [unit for unit in range(40) if selectivity("_blocks.10", unit) is not None]
        rows = rows_on_screen(view)
        assert [unit for unit, _ in rows][: len(units_with_figure)] == sorted(
            units_with_figure, key=lambda unit: -table["selectivity"][unit]
        )
        assert {figure for _, figure in rows[len(units_with_figure) :]} == {"–"}
        view.get_by_role("button", name="rarest").click()
        expect(units(view).first).to_have_accessible_name("Unit 39 1.3 %")
        eventually(lambda: visitor.link().get("order") == "rare", "in the address")
        visitor.page.go_back()
        expect(view.get_by_role("button", name="most selective")).to_have_attribute("aria-pressed", "true")
        view.get_by_role("button", name=EARLIEST).click()
        expect(units(view)).to_have_count(UNITS[EARLIEST])


def test_units_are_found_by_class_and_by_likeness(browser: Browser, neurons: str) -> None:
    with open_neurons(browser, f"{neurons}#neurons=_blocks.10") as (visitor, view):
        page = visitor.page
        expect(units(view)).to_have_count(40)
        view.get_by_label("Find a class").fill("espr")
        page.keyboard.press("Enter")
        expect(view.get_by_role("heading", name="Units for espresso")).to_be_visible()
        eventually(
            lambda: rows_on_screen(view)[:3] == [(20, "+0.80"), (7, "+0.62"), (2, "+0.40")], "those that support it"
        )
        assert rows_on_screen(view)[3:] == [
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
        eventually(lambda: rows_on_screen(view)[:2] == [(7, "+0.62"), (2, "+0.40")], "those of the earlier layer")
        view.get_by_role("button", name="_blocks.10").click()
        expect(units(view)).to_have_count(40)
        opposed = CLASSES[4].split(",")[0]
        units(view).first.focus()
        page.keyboard.type(opposed)
        expect(view.get_by_label("Find a class")).to_be_focused()
        page.keyboard.press("Enter")
        expect(view.get_by_role("heading", name=f"Units for {opposed}")).to_be_visible()
        eventually(lambda: {figure for _, figure in rows_on_screen(view)[:-1]} == {"−0.25"}, "what all do to it")
        assert min(effects_on("_blocks.10", 4)) == -0.25
        view.get_by_role("button", name="Show all units").click()
        expect(view.get_by_role("heading", name="40 units of _blocks.10")).to_be_visible()
        eventually(lambda: "for" not in visitor.link(), "no class in the link")
        view.get_by_role("button", name="Unit 7 ").click()
        view.get_by_role("button", name="Show them in the list").click()
        expect(view.get_by_role("heading", name="Units like unit 7")).to_be_visible()
        eventually(
            lambda: rows_on_screen(view) == [(7, "itself"), (8, "0.80"), (9, "0.70"), (10, "0.60")], "itself first"
        )
        eventually(lambda: visitor.link().get("like") == "7", "the unit in the link")
        page.reload()
        expect(view.get_by_role("heading", name="Units like unit 7")).to_be_visible()
        eventually(lambda: len(rows_on_screen(view)) == 4, "the same as before")


def test_the_list_by_keyboard_alone(browser: Browser, neurons: str) -> None:
    with open_neurons(browser, f"{neurons}#neurons=_blocks.10") as (visitor, view):
        page = visitor.page
        expect(units(view)).to_have_count(40)
        order = [unit for unit, _ in rows_on_screen(view)]
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


def test_going_back_closes_view_after_view(browser: Browser, neurons: str) -> None:
    with open_neurons(browser, neurons) as (visitor, view):
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
    requests = 2 if test_id == "drawer" else 1
    with open_neurons(browser, f"{neurons}{link}", missing=missing, complaints=requests) as (visitor, _):
        alert = visitor.page.get_by_test_id(test_id).get_by_role("alert")
        expect(alert).to_contain_text(re.compile(rf"The site has no \S+/{re.escape(name)} \(answer 404\)"))
        expect(alert).to_contain_text("give atlas run CONFIG again")


def test_a_unit_that_is_not_there_opens_the_list(browser: Browser, neurons: str) -> None:
    with open_neurons(browser, f"{neurons}#unit=_blocks.10:40") as (visitor, view):
        expect(units(view)).to_have_count(40)
        expect(
            visitor.page.get_by_text("This atlas has no unit 40 of _blocks.10, of which the link tells")
        ).to_have_count(1)


# For everyone


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, neurons: str, scheme: str) -> None:
    axe = (CHECKOUT / "atlas/viewer/node_modules/axe-core/axe.min.js").read_text()
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
    with open_neurons(browser, f"{neurons}#neurons=_blocks.10", viewport=PHONE, has_touch=True, is_mobile=True) as (
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
    with open_neurons(browser, f"{neurons}#layer=_blocks.10&lit=_blocks.10:7") as (visitor, _):
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
        icon_colour = colour(EARLIER, "icons", 20, 10, 15)
        eventually(lambda: near(visitor.screen()[int(y), int(x)], icon_colour, 16), "no veil on the other layer")

"""One neuron on the page: what it answers to, its tuning curve, where on the map it lights up. The site is
made; see made_units."""

import numpy as np
import pytest
from made_site import CLASSES, RESULTS, eventually, lit, switch
from made_units import EARLIEST, INVARIANT, NOTE, ORIENTED, SCALES, SILENT, unit_colour
from playwright.sync_api import Browser, expect
from units_page import UNIT, middle, near, open_neurons, points


def test_a_units_page_tells_all_that_is_known(browser: Browser, neurons: str) -> None:
    with open_neurons(browser, f"{neurons}{UNIT}") as (visitor, view):
        unit = view.get_by_test_id("unit")
        expect(unit).to_contain_text("How alike does it answer whichever way up? Almost alike: 0.93 of 1 (invariance")
        expect(unit).to_contain_text("To none more than to others: 0.02 of at most 0.64 (selectivity).")
        icon_colour = unit_colour("_blocks.10", INVARIANT)
        pictures = unit.locator(".pictures .picture")
        expect(pictures).to_have_count(4)
        eventually(lambda: near(middle(visitor, pictures.first), icon_colour), "its first picture")
        assert near(middle(visitor, pictures.nth(3)), tuple(one * 7 // 10 for one in icon_colour))  # type: ignore[arg-type]
        rows = unit.get_by_role("list", name="Classes that it supports and opposes").get_by_role("listitem")
        names = [CLASSES[index].split(",")[0] for index in (3, 1, 5, 4)]
        assert [one.split("\n")[0].strip() for one in rows.all_inner_texts()] == names
        assert rows.locator(".value").all_inner_texts() == ["+0.62", "+0.10", "−0.10", "−0.25"]
        assert unit.get_by_test_id("histogram").locator("rect").count() > 50
        expect(unit.locator("ol li", has_text="6.00").first).to_be_visible()
        expect(unit.get_by_test_id("scaled").get_by_role("listitem")).to_have_text(
            [f"× {one} {value}" for one, value in zip(SCALES, ("1.00", "3.00", "6.00", "4.00", "0"))]
        )
        bars = unit.get_by_test_id("scaled").locator(".bar i").evaluate_all("all => all.map(one => one.offsetHeight)")
        assert bars == pytest.approx([8, 24, 48, 32, 1], abs=1.1)
        visitor.page.screenshot(path=RESULTS / "neurons-unit.png")
        unit.get_by_role("button", name="All units for espresso").click()
        expect(view.get_by_role("heading", name="Units for espresso")).to_be_visible()


def test_patches_show_the_whole_picture_they_come_from(browser: Browser, neurons: str) -> None:
    with open_neurons(browser, f"{neurons}{UNIT}") as (visitor, view):
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


def test_the_tuning_curve_reaches_to_where_it_answers(browser: Browser, neurons: str) -> None:
    """The oriented unit answers at 90°, on the right of the plot, and mirrored on the left; the other to all alike."""
    with open_neurons(browser, f"{neurons}#unit=_blocks.10:{ORIENTED}") as (visitor, view):
        ring = view.get_by_test_id("tuning")
        turned, mirrored = (
            points(ring.locator(f"[data-line={name}]").get_attribute("d") or "") for name in ("rotated", "mirrored")
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
        expect(view).to_contain_text("Strongly: 0.47 of at most 0.64 (selectivity), most at 90°.")
        visitor.page.keyboard.press("Escape")
        view.get_by_role("button", name=f"Unit {INVARIANT} ").click()
        path = view.get_by_test_id("tuning").locator("[data-line=rotated]")
        radii = [np.hypot(*point) for point in points(path.get_attribute("d") or "")]
        assert min(radii) > 85, "almost a circle"


def test_a_unit_that_never_fires_says_so(browser: Browser, neurons: str) -> None:
    with open_neurons(browser, f"{neurons}#unit=_blocks.10:{SILENT}") as (_, view):
        expect(view.get_by_test_id("note")).to_have_text(NOTE)
        expect(view.get_by_test_id("tuning")).to_have_count(0)
        expect(view.get_by_role("group", name="Top patches")).to_have_count(0)
        expect(view.locator(".pictures .picture")).to_have_count(4)
        view.get_by_role("button", name="what builds it").click()
        expect(view.get_by_test_id("circuit")).to_have_text(NOTE)


def test_the_earliest_layer_says_that_nothing_is_before_it(browser: Browser, neurons: str) -> None:
    with open_neurons(browser, f"{neurons}#unit={EARLIEST}:1&show=circuit") as (_, view):
        expect(view.get_by_test_id("circuit")).to_have_text(
            f"{EARLIEST} is the earliest of the layers looked at: nothing before it is known. "
            "Name an earlier layer under neurons.layers."
        )


def test_a_unit_lights_up_on_the_map(browser: Browser, neurons: str) -> None:
    address = f"{neurons}#layer=_blocks.4&class=espresso&unit=_blocks.10:{INVARIANT}"
    with open_neurons(browser, address) as (visitor, view):
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

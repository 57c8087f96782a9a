"""Where a number of the network comes from, on the page: terms, sums, the trail down to the picture, the kernel
that slides."""

import re

import numpy as np
import pytest
from made_forward import ForwardApi
from made_site import RESULTS, eventually
from playwright.sync_api import Browser, expect
from walking_page import PICTURE, account_of, assert_whole, grid, layer, number, open_step, parts, place, walking

from atlas.forward.trace import trace_facts


def number_of(forward_api: ForwardApi, name: str, place: tuple[int, ...]) -> float:
    """The number that the network itself has there."""
    trace = forward_api.trace(PICTURE)
    step = next(layer["step"] for layer in trace_facts(trace)["layers"] if layer["name"] == name)
    return float(trace.maps(step)[place])


def test_the_sum_of_a_convolution_is_whole_and_the_networks_own(browser: Browser, forward_api: ForwardApi) -> None:
    with walking(browser, forward_api) as (visitor, view):
        layer(view, "stem").click()
        flow = view.get_by_test_id("flow")
        expect(flow.get_by_role("button")).to_have_count(3)
        expect(
            flow.get_by_role("button", name="convolution 3 × 3 16 channels of 24 × 24 reads the picture")
        ).to_be_visible()
        view.get_by_label("Channel", exact=True).fill("5")
        view.get_by_label("Channel", exact=True).press("Enter")
        view.get_by_label("Row", exact=True).fill("7")
        view.get_by_label("Row", exact=True).press("Enter")
        view.get_by_label("Column", exact=True).fill("9")
        view.get_by_label("Column", exact=True).press("Enter")
        account = account_of(view)
        inside = account_of(view, inside=True)
        before = assert_whole(inside)
        expect(inside.locator(".term")).to_have_count(3)
        expect(inside).to_contain_text("The batch norm stem.1 is folded into kernel and bias.")
        assert parts(account, "total") == [pytest.approx(min(max(before, 0), 6), abs=0.001)]
        own = number_of(forward_api, "stem", (5, 7, 9))
        assert parts(account, "value") == [pytest.approx(own, abs=0.0006)]
        assert parts(account, "total") == [pytest.approx(own, abs=0.0006)]
        expect(view.get_by_role("img", name="The curve of ReLU6")).to_be_visible()

        # Patch, kernel and product of a term are those that its sum is of.
        term = inside.locator(".term").first
        patch, kernel, product = (grid(term, name) for name in ("Patch", "Kernel", "Product"))
        np.testing.assert_allclose(patch * kernel, product, atol=0.03)
        assert product.sum() == pytest.approx(parts(inside, "term")[0], abs=0.06)
        visitor.page.screenshot(path=RESULTS / "forward-number.png")


def test_a_click_on_the_map_and_the_arrow_keys_choose_the_position(browser: Browser, forward_api: ForwardApi) -> None:
    with walking(browser, forward_api) as (visitor, view):
        layer(view, "stem").click()
        chooser = view.get_by_role("application")
        box = chooser.bounding_box()
        assert box is not None
        visitor.page.mouse.click(box["x"] + 2.5 * box["width"] / 24, box["y"] + 20.5 * box["height"] / 24)
        expect(view.get_by_label("Row", exact=True)).to_have_value("20")
        expect(view.get_by_label("Column", exact=True)).to_have_value("2")
        visitor.page.keyboard.press("ArrowDown")
        visitor.page.keyboard.press("ArrowLeft")
        expect(view.get_by_label("Row", exact=True)).to_have_value("21")
        expect(view.get_by_label("Column", exact=True)).to_have_value("1")
        channel = int(view.get_by_label("Channel", exact=True).input_value())
        value = account_of(view).locator("[data-part=value]")
        expect(value).to_have_text(f"{number_of(forward_api, 'stem', (channel, 21, 1)):.3f}")


def test_what_is_left_out_stands_as_one_term_that_can_be_opened(browser: Browser, forward_api: ForwardApi) -> None:
    with walking(browser, forward_api) as (_, view):
        layer(view, "last").click()
        inside = account_of(view, inside=True)
        expect(inside.locator(".term")).to_have_count(6)
        expect(inside).to_contain_text("18 more that come together to")
        total = assert_whole(inside)
        view.get_by_role("button", name="show more of them").click()
        expect(inside.locator(".term")).to_have_count(12)
        assert assert_whole(inside) == total


def test_terms_lead_down_to_the_picture_and_the_trail_back(browser: Browser, forward_api: ForwardApi) -> None:
    with walking(browser, forward_api) as (visitor, view):
        layer(view, "block").click()
        account = account_of(view)
        expect(account.locator(".term")).to_have_count(2)
        first = assert_whole(account)
        assert parts(account, "value") == [pytest.approx(first, abs=0.001)]
        titles = []
        for _ in range(12):
            title = view.locator(".left h3").inner_text()
            titles.append(title)
            if title.startswith("The picture"):
                break
            name = view.locator(".account .term button.name").last
            leads = number(view.locator(".account .term [data-part=term]").last.inner_text())
            plain = view.locator(".account .term").last.get_by_role("img").count() == 0
            name.click()
            expect(view.locator(".left h3")).not_to_have_text(title)
            if plain:  # a summand is the number that one comes to
                assert parts(account_of(view), "value") == [pytest.approx(leads, abs=0.001)]
        assert titles[-1].startswith("The picture"), titles
        expect(view.get_by_test_id("account")).to_contain_text(re.compile(r"(red|green|blue) is \d+ of 255"))
        trail = view.get_by_role("navigation", name="The way here").get_by_role("button")
        expect(trail).to_have_count(len(titles) - 1)
        visitor.page.screenshot(path=RESULTS / "forward-trail.png")
        trail.first.click()
        expect(view.get_by_role("navigation", name="The way here")).to_have_count(0)
        assert parts(account_of(view), "total") == [first]
        expect(layer(view, "block")).to_have_attribute("aria-current", "step")


def test_paths_pools_and_depthwise_steps_have_their_arithmetic(browser: Browser, forward_api: ForwardApi) -> None:
    with walking(browser, forward_api) as (visitor, view):
        layer(view, "paths").click()
        flow = view.get_by_test_id("flow")
        expect(flow.get_by_role("button", name=re.compile("^put side by side"))).to_be_visible()
        expect(flow.get_by_role("button", name=re.compile("reads block$"))).to_have_count(2)
        account = account_of(view)
        expect(account.locator(".term")).to_have_count(1)
        assert parts(account, "term") == parts(account, "total") == parts(account, "value")
        visitor.page.screenshot(path=RESULTS / "forward-paths.png")

        view.get_by_role("button", name="All layers").click()
        layer(view, "last").click()
        open_step(view, "largest of 3 × 3")
        view.get_by_label("Row", exact=True).fill("0")
        view.get_by_label("Row", exact=True).press("Enter")
        account = account_of(view)
        expect(account.locator("i", has_text="–")).to_have_count(3)  # the row above is beyond the edge
        view.get_by_label("Column", exact=True).fill("0")
        view.get_by_label("Column", exact=True).press("Enter")
        expect(account.locator("i", has_text="–")).to_have_count(5)  # the column beside it is, too
        marked = account.locator("i.marked")
        expect(marked).to_have_count(1)
        assert number(marked.inner_text()) == pytest.approx(parts(account, "total")[0], abs=0.006)
        expect(account.locator("i", has_text="–")).to_have_count(5)  # beyond the edge there is nothing

        view.get_by_role("button", name="All layers").click()
        layer(view, "block").click()
        open_step(view, "depthwise")
        account = account_of(view)
        expect(account.locator(".term")).to_have_count(1)
        assert parts(account, "value") == [pytest.approx(assert_whole(account), abs=0.001)]


def test_the_kernel_slides_when_it_is_told_to(browser: Browser, forward_api: ForwardApi) -> None:
    with walking(browser, forward_api) as (visitor, view):
        page = visitor.page
        layer(view, "stem").click()
        view.get_by_role("button", name="The sliding kernel").click()
        slide = view.get_by_test_id("slide")
        expect(slide.get_by_test_id("part")).to_be_visible()
        page.wait_for_timeout(600)
        assert place(view) == 0, "nothing moves by itself"
        slide.get_by_role("button", name="Play").click()
        eventually(lambda: place(view) > 30, "it slides")
        page.screenshot(path=RESULTS / "forward-slide.png")
        slide.get_by_role("button", name="Pause").click()
        paused = place(view)
        page.wait_for_timeout(500)
        assert place(view) == paused, "what is paused stays"
        slide.get_by_role("button", name="One place on").click()
        assert place(view) == paused + 1
        slide.get_by_role("button", name="One place back").click()
        slide.get_by_role("button", name="One place back").click()
        assert place(view) == paused - 1
        slide.get_by_label("Place of the kernel").fill("300")
        assert place(view) == 300
        slide.get_by_label("Speed").select_option("1,000 places a second")
        slide.get_by_role("button", name="Play").click()
        eventually(lambda: place(view) == 24 * 24 - 1, "it comes to the end")
        expect(slide.get_by_role("button", name="Play")).to_be_visible()


def test_what_the_page_works_out_is_what_the_network_adds(browser: Browser, forward_api: ForwardApi) -> None:
    trace = forward_api.trace(PICTURE)
    with walking(browser, forward_api) as (_, view):
        layer(view, "stem").click()
        channel = int(view.get_by_label("Channel", exact=True).input_value())
        view.get_by_role("button", name="The sliding kernel").click()
        slide = view.get_by_test_id("slide")
        sums = []
        for colour in ("red", "green", "blue"):
            slide.get_by_label("Input channel", exact=True).select_option(colour)
            slide.get_by_label("Place of the kernel").fill(str(24 * 5 + 8))
            expect(slide.get_by_role("img", name=f"What is read: {colour} of the picture")).to_be_visible()
            expect(slide.get_by_role("img", name="What is read")).not_to_have_class(re.compile("waiting"))
            sums.append(number(slide.get_by_test_id("part").inner_text()))
        open_step(view, "convolution")
        view.get_by_label("Row", exact=True).fill("5")
        view.get_by_label("Row", exact=True).press("Enter")
        view.get_by_label("Column", exact=True).fill("8")
        view.get_by_label("Column", exact=True).press("Enter")
        if view.get_by_role("button", name="The arithmetic").count():
            view.get_by_role("button", name="The arithmetic").click()
        account = account_of(view)
        (bias,) = parts(account, "bias")
        assert sorted(sums) == pytest.approx(sorted(parts(account, "term")), abs=0.002)
        step = next(entry for entry in trace_facts(trace)["steps"] if entry["kind"] == "convolution")["step"]
        assert sum(sums) + bias == pytest.approx(float(trace.maps(step)[channel, 5, 8]), abs=0.004)


def test_with_little_motion_nothing_plays(browser: Browser, forward_api: ForwardApi) -> None:
    with walking(browser, forward_api, reduced_motion="reduce") as (_, view):
        layer(view, "stem").click()
        view.get_by_role("button", name="The sliding kernel").click()
        slide = view.get_by_test_id("slide")
        expect(slide).to_contain_text("Your system asks for little motion")
        expect(slide.get_by_role("button", name="Play")).to_have_count(0)
        slide.get_by_role("button", name="One place on").click()
        assert place(view) == 1

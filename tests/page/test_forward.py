"""The forward pass step by step, in a real browser: the row of layers, its end, what goes wrong. The answers are those
of atlas.explain for a small network; see made_forward."""

import re

import numpy as np
import pytest
from accessibility import serious
from made_api import icon_colour
from made_forward import ForwardApi
from made_site import CHECKOUT, CLASSES, DESKTOP, PHONE, RESULTS, eventually
from playwright.sync_api import Browser, Locator, expect
from walking_page import (
    PICTURE,
    account_of,
    assert_whole,
    give_picture,
    grid,
    layer,
    number,
    open_step,
    parts,
    place,
    walking,
)

from atlas.forward.trace import trace_facts


def column_of(view: Locator, name: str) -> Locator:
    """A column of the row, by its layer."""
    head = view.page.locator(".head").filter(has_text=re.compile(rf"^\s*{re.escape(name)}\b"))
    return view.locator("[data-column]").filter(has=head)


# The row of layers


def test_the_row_tells_of_each_layer_from_the_picture_to_the_classes(browser: Browser, forward_api: ForwardApi) -> None:
    facts = trace_facts(forward_api.trace(PICTURE))
    with walking(browser, forward_api) as (visitor, view):
        heads = view.get_by_test_id("layers").locator(".head b")
        expect(heads).to_have_text(["The picture", *(entry["name"] for entry in facts["layers"][1:]), "The classes"])
        expect(layer(view, "The picture")).to_contain_text("3 channels of 48 × 48")
        expect(layer(view, "stem")).to_contain_text("16 channels of 24 × 24")
        column = column_of(view, "block")
        expect(column).to_contain_text("What came in is added again.")
        strongest = next(entry for entry in facts["layers"] if entry["name"] == "block")["strongest"]
        expect(column.locator(".number")).to_have_text([str(entry["channel"]) for entry in strongest])
        # The icon of a neuron stands beside its map.
        icon = column.locator(".map").first.locator("canvas").nth(1)
        expect(icon).to_have_attribute("data-there", "yes")
        expect(column.get_by_test_id("drawing")).to_be_empty()
        expect(view).to_contain_text("the strongest channels are shown, by their largest number away from the edge.")
        colour_on_screen = icon.evaluate("(canvas) => [...canvas.getContext('2d').getImageData(3, 3, 1, 1).data]")
        assert tuple(colour_on_screen[:3]) == icon_colour(strongest[0]["channel"])
        # The map is the network's own: orange above 0, blue below, the stronger the larger.
        numbers = forward_api.trace(PICTURE).maps(
            next(entry["step"] for entry in facts["layers"] if entry["name"] == "block")
        )
        values = numbers[strongest[0]["channel"]]
        canvas = column.locator(".map").first.locator("canvas").first
        pixels = np.array(canvas.evaluate("(canvas) => [...canvas.getContext('2d').getImageData(0, 0, 24, 24).data]"))
        alpha = pixels.reshape(24, 24, 4)[..., 3]
        np.testing.assert_allclose(alpha, (255 * values.abs() / values.abs().max()).numpy(), atol=1)
        visitor.page.screenshot(path=RESULTS / "forward-row.png")

        view.get_by_role("button", name="Explanations").click()
        expect(column).not_to_contain_text("What came in is added again.")


def test_arrow_keys_move_along_the_row_and_enter_opens(browser: Browser, forward_api: ForwardApi) -> None:
    with walking(browser, forward_api) as (visitor, view):
        layer(view, "The picture").focus()
        visitor.page.keyboard.press("ArrowRight")
        expect(layer(view, "stem")).to_be_focused()
        visitor.page.keyboard.press("ArrowDown")
        visitor.page.keyboard.press("ArrowRight")
        focused = column_of(view, "block").locator(".map").first
        expect(focused).to_be_focused()
        visitor.page.keyboard.press("End")
        visitor.page.keyboard.press("ArrowUp")
        expect(layer(view, "The classes")).to_be_focused()
        visitor.page.keyboard.press("Home")
        visitor.page.keyboard.press("ArrowRight")
        visitor.page.keyboard.press("Enter")
        expect(view.get_by_test_id("detail").locator("h3").first).to_contain_text("stem")
        expect(layer(view, "stem")).to_have_attribute("aria-current", "step")


def test_icons_are_asked_for_the_columns_in_view_and_end_with_the_view(
    browser: Browser, forward_api: ForwardApi
) -> None:
    forward_api.icon_delay = 3.0
    with walking(browser, forward_api, viewport={"width": 500, "height": 800}) as (visitor, view):
        eventually(lambda: "neurons?stem" in forward_api.requests, "the icons of what is in view")
        expect(column_of(view, "stem").get_by_test_id("drawing")).to_have_text("drawing …")
        assert "neurons?last" not in forward_api.requests, "the last column is out of view"
        for _ in range(6):
            layer(view, "The picture").focus()
            visitor.page.keyboard.press("End")
        eventually(lambda: "neurons?last" in forward_api.requests, "the icons of what has come into view")
        eventually(lambda: "stem" in forward_api.stopped, "what has gone out of view is left off")
        visitor.page.keyboard.press("Escape")
        expect(view).to_be_hidden()
        eventually(lambda: "last" in forward_api.stopped, "closing ends what is under way")


# The end


def test_the_end_tells_scores_and_shares(browser: Browser, forward_api: ForwardApi) -> None:
    trace = forward_api.trace(PICTURE)
    output = trace_facts(trace)["output"]
    with walking(browser, forward_api) as (visitor, view):
        layer(view, "The classes").click()
        end = view.get_by_test_id("end")
        shares = parts(end, "share")
        assert sum(shares) + sum(parts(end, "others")) == pytest.approx(1, abs=0.0006)
        assert shares == pytest.approx([entry["probability"] for entry in output["classes"]], rel=0.001)
        assert min(shares) < 0.1, "digits that count, of small shares too"
        assert apart(end) < 1e-6
        for entry in output["classes"][:3]:
            name = CLASSES[entry["class"]].split(",")[0]
            row = end.get_by_role("row").filter(has_text=name)
            expect(row).to_contain_text(f"{entry['logit']:.3f}".replace("-", "−"))
            row.get_by_role("button", name=name).click()
            expect(end).to_contain_text(f"How the score of “{name}” comes about")
            account = account_of_end(end, name)
            assert assert_whole(account) == pytest.approx(entry["logit"], abs=0.001)
            assert parts(account, "value") == [pytest.approx(entry["logit"], abs=0.001)]
        visitor.page.screenshot(path=RESULTS / "forward-end.png")
        # The factors are as many digits as it takes to multiply them by hand.
        for term in account.locator(".term").all():
            patch, kernel = (grid(term, name).item() for name in ("Patch", "Kernel"))
            assert patch * kernel == pytest.approx(number(term.locator("[data-part=term]").inner_text()), abs=0.00101)
            for name in ("Patch", "Kernel"):
                said = str(term.get_by_role("img", name=re.compile(f"^{name}:")).get_attribute("aria-label"))
                assert len(re.sub(r"^0\.0*|\D", "", said.split(": ")[1].replace("0.0", "0."))) >= 3
                title = term.get_by_role("img", name=re.compile(f"^{name}:")).locator("i").get_attribute("title")
                assert number(str(title)) == pytest.approx(grid(term, name).item(), rel=0.001)
        expect(account).to_contain_text(re.compile("The two are the same|of the size of what is added up"))
        # Beside a weight stands the map that the average reads: the one behind the activation, and its module's icon.
        assert "neurons?last.2" in forward_api.requests
        channel = int(re.findall(r"\d+", account.locator("button.name").first.inner_text())[0])
        expect(account.locator(".columns")).to_contain_text("means of last")
        (read,) = (entry for entry in trace_facts(trace)["steps"] if entry["name"] == "last.2")
        values = trace.maps(read["step"])[channel].flatten()
        map_shown = account.locator(".term").first.locator("canvas").first
        script = "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, 12, 12).data]"
        eventually(lambda: map_shown.get_attribute("width") == "12", "its map")
        alpha = np.array(map_shown.evaluate(script)).reshape(-1, 4)[:, 3]
        np.testing.assert_allclose(alpha, (255 * values.abs() / values.abs().max()).numpy(), atol=1)
        # A feature leads on to the map that it is the mean of.
        account.locator("button.name").first.click()
        expect(view.get_by_role("navigation", name="The way here")).to_be_visible()
        assert parts(account_of(view), "total") == pytest.approx(parts(account_of(view), "value"), abs=0.001)


def apart(end: Locator) -> float:
    """How far the network's own shares are from those that the page has worked out."""
    match = re.search(r"differ from these by (.*) at most", end.locator("[data-part=apart]").inner_text())
    assert match
    return number(match[1])


def test_the_shares_are_worked_out_and_not_those_of_the_network(browser: Browser, forward_api: ForwardApi) -> None:
    classes = trace_facts(forward_api.trace(PICTURE))["output"]["classes"]
    forward_api.log_sum_off = 0.1
    with walking(browser, forward_api) as (_, view):
        layer(view, "The classes").click()
        end = view.get_by_test_id("end")
        assert parts(end, "share")[0] == pytest.approx(classes[0]["probability"] * np.exp(-0.1), rel=0.001)
        assert apart(end) > 0.01, "which the page notices"
    forward_api.log_sum_off = None
    with walking(browser, forward_api) as (_, view):
        layer(view, "The classes").click()
        end = view.get_by_test_id("end")
        assert parts(end, "share")[0] == pytest.approx(classes[0]["probability"], rel=0.001)
        expect(end.locator("[data-part=apart]")).to_have_count(0)


def account_of_end(end: Locator, name: str) -> Locator:
    expect(end.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
    account = end.get_by_test_id("account")
    expect(account).to_be_visible()
    return account


# What goes wrong, leaving, screens


def test_the_servers_sentences_are_shown(browser: Browser, forward_api: ForwardApi) -> None:
    forward_api.refusals = {"unit": "This unit is refused for the test.", "neurons": "No icons today."}
    with walking(browser, forward_api) as (visitor, view):
        column = column_of(view, "stem")
        expect(column).to_contain_text("No icons today.")
        layer(view, "stem").click()
        expect(view.get_by_role("alert")).to_have_text("This unit is refused for the test.")
        forward_api.refusals = {}
        open_step(view, "convolution")
        expect(view.get_by_role("alert")).to_have_count(0)
        assert_whole(account_of(view))
        visitor.complaints = [complaint for complaint in visitor.complaints if "422" not in complaint]


def test_a_refused_picture_is_told_of(browser: Browser, forward_api: ForwardApi) -> None:
    forward_api.refusals = {"forward": "This network cannot be walked through."}
    with browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto(forward_api.address)
        give_picture(page)
        view = page.get_by_role("dialog", name="Step by step")
        expect(view.get_by_role("alert")).to_have_text("This network cannot be walked through.")


def test_escape_closes_and_gives_the_keyboard_back(browser: Browser, forward_api: ForwardApi) -> None:
    with walking(browser, forward_api) as (visitor, view):
        layer(view, "stem").click()
        for _ in range(40):
            visitor.page.keyboard.press("Tab")
            inside = "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
            assert visitor.page.evaluate(inside)
        visitor.page.keyboard.press("Escape")
        expect(view).to_have_count(0)
        expect(visitor.page.get_by_role("button", name="Step by step")).to_be_focused()
        expect(visitor.page.get_by_test_id("image")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, forward_api: ForwardApi, scheme: str) -> None:
    axe = (CHECKOUT / "atlas/viewer/node_modules/axe-core/axe.min.js").read_text()
    with walking(browser, forward_api, color_scheme=scheme, bypass_csp=True) as (visitor, view):
        page = visitor.page
        page.wait_for_timeout(300)
        assert serious(page, axe) == [], "row"
        layer(view, "block").click()
        account_of(view)
        assert serious(page, axe) == [], "add"
        open_step(view, "depthwise")
        account_of(view)
        assert serious(page, axe) == [], "depthwise"
        page.screenshot(path=RESULTS / f"forward-{scheme}.png")
        view.get_by_role("button", name="The sliding kernel").click()
        expect(view.get_by_test_id("part")).to_be_visible()
        assert serious(page, axe) == [], "slide"
        layer(view, "The classes").click()
        expect(view.get_by_test_id("end").get_by_test_id("account")).to_be_visible()
        assert serious(page, axe) == [], "end"


def test_a_phone_has_all_of_it(browser: Browser, forward_api: ForwardApi) -> None:
    with walking(browser, forward_api, viewport=PHONE, has_touch=True, is_mobile=True) as (visitor, view):
        page = visitor.page
        page.wait_for_timeout(300)
        page.screenshot(path=RESULTS / "forward-phone-row.png")
        layer(view, "stem").tap()
        assert_whole(account_of(view, inside=True))
        page.screenshot(path=RESULTS / "forward-phone-step.png")
        fits = "document.querySelector('[data-testid=detail]').scrollWidth <= innerWidth"
        assert page.evaluate(fits), "nothing sticks out sideways"
        view.get_by_test_id("account").scroll_into_view_if_needed()
        page.screenshot(path=RESULTS / "forward-phone-number.png")
        view.get_by_role("button", name="The sliding kernel").tap()
        view.get_by_role("button", name="One place on").tap()
        assert place(view) == 1
        assert page.evaluate(fits)
        page.screenshot(path=RESULTS / "forward-phone-slide.png")
        layer(view, "The classes").tap()
        expect(view.get_by_test_id("end").get_by_test_id("account")).to_be_visible()
        assert page.evaluate(fits)
        page.screenshot(path=RESULTS / "forward-phone-end.png")

"""The forward pass step by step, in a real browser: the row of layers, the arithmetic of a number, the sliding kernel,
the end. The answers are those of atlas.explain for a small network; see made_forward."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_api import icon_colour
from made_forward import ForwardApi, serve_forward
from made_site import CLASSES, DESKTOP, PHONE, RESULTS, ROOT, Visitor, eventually, guest, serious
from playwright.sync_api import Browser, Locator, Page, expect

from atlas.explain.trace import describe
from atlas.images import encode_png


def painted() -> bytes:
    """A disc on stripes, so that edges of all directions are there."""
    y, x = np.mgrid[0:96, 0:96]
    disc = np.hypot(y - 40, x - 56) < 26
    stripes = 120 + 90 * np.sin((x + 2 * y) / 5)
    colours = np.where(disc[..., None], [220, 140, 40], np.stack([stripes, 0.6 * stripes, 200 - stripes], -1))
    return encode_png(np.clip(colours, 0, 255).astype(np.uint8))


PICTURE = painted()


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[ForwardApi]:
    with serve_forward(site) as served:
        yield served


@pytest.fixture
def api(server: ForwardApi) -> ForwardApi:
    """The server as it is before a test has set anything."""
    server.refusals, server.icon_delay, server.log_sum_off = {}, 0.0, 0.0
    server.asked.clear()
    server.stopped.clear()
    return server


@contextmanager
def walking(browser: Browser, api: ForwardApi, **context: Any) -> Iterator[tuple[Visitor, Locator]]:
    """Someone who has given a picture and opened its way through the network."""
    with guest(browser, api.address, **context) as visitor:
        begin(visitor.page)
        yield visitor, visitor.page.get_by_role("dialog", name="Step by step")


def begin(page: Page) -> None:
    give_picture(page)
    expect(page.get_by_test_id("layers")).to_be_visible(timeout=20_000)


def give_picture(page: Page) -> None:
    page.get_by_role("button", name="One image").click()
    panel = page.get_by_test_id("image")
    disc: Any = {"name": "disc.png", "mimeType": "image/png", "buffer": PICTURE}
    panel.get_by_label("Choose a picture").set_input_files(disc)
    panel.get_by_role("button", name="Step by step").click()


def layer(view: Locator, name: str) -> Locator:
    """The head of a column of the row."""
    return view.get_by_test_id("layers").locator(".head").filter(has_text=re.compile(rf"^\s*{re.escape(name)}\b"))


def column_of(view: Locator, name: str) -> Locator:
    """A column of the row, by its layer."""
    head = view.page.locator(".head").filter(has_text=re.compile(rf"^\s*{re.escape(name)}\b"))
    return view.locator("[data-column]").filter(has=head)


def open_step(view: Locator, name: str) -> None:
    view.get_by_test_id("flow").get_by_role("button", name=re.compile(rf"^{re.escape(name)}\b")).click()


def number(text: str) -> float:
    """The number that a figure stands for: −1,234.5 or 3.0 × 10⁻⁷."""
    plain, _, power = text.strip().replace("−", "-").replace("+", "").replace(",", "").partition(" × 10")
    return float(plain) * 10.0 ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)


def parts(account: Locator, name: str) -> list[float]:
    return [number(text) for text in account.locator(f"[data-part={name}]").all_inner_texts()]


def account_of(view: Locator, *, inside: bool = False) -> Locator:
    """The account once it is that of the chosen number."""
    expect(view.locator("[aria-busy=false]")).to_be_visible()
    return view.get_by_test_id("account-inside" if inside else "account").first


def assert_whole(account: Locator) -> float:
    """What is shown adds up to the shown total, within the last decimals that are shown."""
    terms, rest, bias = (parts(account, name) for name in ("term", "rest", "bias"))
    (total,) = parts(account, "total")
    assert terms
    assert sum(terms) + sum(rest) + sum(bias) == pytest.approx(total, abs=0.0006 * (len(terms) + 2))
    sizes = [abs(each) for each in terms]
    assert sizes == sorted(sizes, reverse=True)
    return total


def number_of(api: ForwardApi, name: str, place: tuple[int, ...]) -> float:
    """The number that the network itself has there."""
    known = api.trace(PICTURE)
    step = next(each["step"] for each in describe(known)["layers"] if each["name"] == name)
    return float(known.maps(step)[place])


# The row of layers


def test_the_row_tells_of_each_layer_from_the_picture_to_the_classes(browser: Browser, api: ForwardApi) -> None:
    told = describe(api.trace(PICTURE))
    with walking(browser, api) as (visitor, view):
        heads = view.get_by_test_id("layers").locator(".head b")
        expect(heads).to_have_text(["The picture", *(each["name"] for each in told["layers"][1:]), "The classes"])
        expect(layer(view, "The picture")).to_contain_text("3 channels of 48 × 48")
        expect(layer(view, "stem")).to_contain_text("16 channels of 24 × 24")
        column = column_of(view, "block")
        expect(column).to_contain_text("What came in is added again.")
        strongest = next(each for each in told["layers"] if each["name"] == "block")["strongest"]
        expect(column.locator(".number")).to_have_text([str(each["channel"]) for each in strongest])
        # The icon of a neuron stands beside its map.
        icon = column.locator(".map").first.locator("canvas").nth(1)
        expect(icon).to_have_attribute("data-there", "yes")
        expect(column.get_by_test_id("drawing")).to_be_empty()
        expect(view).to_contain_text("the strongest channels are shown, by their largest number away from the edge.")
        shown = icon.evaluate("(canvas) => [...canvas.getContext('2d').getImageData(3, 3, 1, 1).data]")
        assert tuple(shown[:3]) == icon_colour(strongest[0]["channel"])
        # The map is the network's own: orange above 0, blue below, the stronger the larger.
        numbers = api.trace(PICTURE).maps(next(each["step"] for each in told["layers"] if each["name"] == "block"))
        values = numbers[strongest[0]["channel"]]
        canvas = column.locator(".map").first.locator("canvas").first
        pixels = np.array(canvas.evaluate("(canvas) => [...canvas.getContext('2d').getImageData(0, 0, 24, 24).data]"))
        alpha = pixels.reshape(24, 24, 4)[..., 3]
        np.testing.assert_allclose(alpha, (255 * values.abs() / values.abs().max()).numpy(), atol=1)
        visitor.page.screenshot(path=RESULTS / "forward-row.png")

        view.get_by_role("button", name="Explanations").click()
        expect(column).not_to_contain_text("What came in is added again.")


def test_arrow_keys_move_along_the_row_and_enter_opens(browser: Browser, api: ForwardApi) -> None:
    with walking(browser, api) as (visitor, view):
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


def test_icons_are_asked_for_the_columns_in_view_and_end_with_the_view(browser: Browser, api: ForwardApi) -> None:
    api.icon_delay = 3.0
    with walking(browser, api, viewport={"width": 500, "height": 800}) as (visitor, view):
        eventually(lambda: "neurons?stem" in api.asked, "the icons of what is in view")
        expect(column_of(view, "stem").get_by_test_id("drawing")).to_have_text("drawing …")
        assert "neurons?last" not in api.asked, "the last column is out of view"
        for _ in range(6):
            layer(view, "The picture").focus()
            visitor.page.keyboard.press("End")
        eventually(lambda: "neurons?last" in api.asked, "the icons of what has come into view")
        eventually(lambda: "stem" in api.stopped, "what has gone out of view is left off")
        visitor.page.keyboard.press("Escape")
        expect(view).to_be_hidden()
        eventually(lambda: "last" in api.stopped, "closing ends what is under way")


# The arithmetic


def test_the_sum_of_a_convolution_is_whole_and_the_networks_own(browser: Browser, api: ForwardApi) -> None:
    with walking(browser, api) as (visitor, view):
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
        own = number_of(api, "stem", (5, 7, 9))
        assert parts(account, "value") == [pytest.approx(own, abs=0.0006)]
        assert parts(account, "total") == [pytest.approx(own, abs=0.0006)]
        expect(view.get_by_role("img", name="The curve of ReLU6")).to_be_visible()

        # Patch, kernel and product of a term are those that its sum is of.
        term = inside.locator(".term").first
        patch, kernel, product = (grid(term, name) for name in ("Patch", "Kernel", "Product"))
        np.testing.assert_allclose(patch * kernel, product, atol=0.03)
        assert product.sum() == pytest.approx(parts(inside, "term")[0], abs=0.06)
        visitor.page.screenshot(path=RESULTS / "forward-number.png")


def grid(term: Locator, name: str) -> Any:
    """The numbers of a small grid, as they are told to those who do not see it."""
    said = str(term.get_by_role("img", name=re.compile(f"^{name}:")).get_attribute("aria-label"))
    return np.array([[number(each) for each in line.split(", ")] for line in said.split(": ")[1].split("; ")])


def test_a_click_on_the_map_and_the_arrow_keys_choose_the_position(browser: Browser, api: ForwardApi) -> None:
    with walking(browser, api) as (visitor, view):
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
        expect(value).to_have_text(f"{number_of(api, 'stem', (channel, 21, 1)):.3f}")


def test_what_is_left_out_stands_as_one_term_that_can_be_opened(browser: Browser, api: ForwardApi) -> None:
    with walking(browser, api) as (_, view):
        layer(view, "last").click()
        inside = account_of(view, inside=True)
        expect(inside.locator(".term")).to_have_count(6)
        expect(inside).to_contain_text("18 more that come together to")
        total = assert_whole(inside)
        view.get_by_role("button", name="show more of them").click()
        expect(inside.locator(".term")).to_have_count(12)
        assert assert_whole(inside) == total


def test_terms_lead_down_to_the_picture_and_the_trail_back(browser: Browser, api: ForwardApi) -> None:
    with walking(browser, api) as (visitor, view):
        layer(view, "block").click()
        account = account_of(view)
        expect(account.locator(".term")).to_have_count(2)
        first = assert_whole(account)
        assert parts(account, "value") == [pytest.approx(first, abs=0.001)]
        seen = []
        for _ in range(12):
            title = view.locator(".left h3").inner_text()
            seen.append(title)
            if title.startswith("The picture"):
                break
            name = view.locator(".account .term button.name").last
            leads = number(view.locator(".account .term [data-part=term]").last.inner_text())
            plain = view.locator(".account .term").last.get_by_role("img").count() == 0
            name.click()
            expect(view.locator(".left h3")).not_to_have_text(title)
            if plain:  # a summand is the number that one comes to
                assert parts(account_of(view), "value") == [pytest.approx(leads, abs=0.001)]
        assert seen[-1].startswith("The picture"), seen
        expect(view.get_by_test_id("account")).to_contain_text(re.compile(r"(red|green|blue) is \d+ of 255"))
        trail = view.get_by_role("navigation", name="The way here").get_by_role("button")
        expect(trail).to_have_count(len(seen) - 1)
        visitor.page.screenshot(path=RESULTS / "forward-trail.png")
        trail.first.click()
        expect(view.get_by_role("navigation", name="The way here")).to_have_count(0)
        assert parts(account_of(view), "total") == [first]
        expect(layer(view, "block")).to_have_attribute("aria-current", "step")


def test_paths_pools_and_depthwise_steps_have_their_arithmetic(browser: Browser, api: ForwardApi) -> None:
    with walking(browser, api) as (visitor, view):
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
        view.get_by_label("Column", exact=True).fill("0")
        view.get_by_label("Column", exact=True).press("Enter")
        account = account_of(view)
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


# The sliding kernel


def place(view: Locator) -> int:
    row, column = re.findall(r"\d+", view.get_by_test_id("place").inner_text())
    return 24 * int(row) + int(column)


def test_the_kernel_slides_when_it_is_told_to(browser: Browser, api: ForwardApi) -> None:
    with walking(browser, api) as (visitor, view):
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


def test_what_the_page_works_out_is_what_the_network_adds(browser: Browser, api: ForwardApi) -> None:
    known = api.trace(PICTURE)
    with walking(browser, api) as (_, view):
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
        step = next(each for each in describe(known)["steps"] if each["kind"] == "convolution")["step"]
        assert sum(sums) + bias == pytest.approx(float(known.maps(step)[channel, 5, 8]), abs=0.004)


def test_with_little_motion_nothing_plays(browser: Browser, api: ForwardApi) -> None:
    with walking(browser, api, reduced_motion="reduce") as (_, view):
        layer(view, "stem").click()
        view.get_by_role("button", name="The sliding kernel").click()
        slide = view.get_by_test_id("slide")
        expect(slide).to_contain_text("Your system asks for little motion")
        expect(slide.get_by_role("button", name="Play")).to_have_count(0)
        slide.get_by_role("button", name="One place on").click()
        assert place(view) == 1


# The end


def test_the_end_tells_scores_and_shares(browser: Browser, api: ForwardApi) -> None:
    known = api.trace(PICTURE)
    told = describe(known)["answer"]
    with walking(browser, api) as (visitor, view):
        layer(view, "The classes").click()
        end = view.get_by_test_id("end")
        shares = parts(end, "share")
        assert sum(shares) + sum(parts(end, "others")) == pytest.approx(1, abs=0.0006)
        assert shares == pytest.approx([each["probability"] for each in told["classes"]], rel=0.001)
        assert min(shares) < 0.1, "digits that count, of small shares too"
        assert apart(end) < 1e-6
        for each in told["classes"][:3]:
            name = CLASSES[each["class"]].split(",")[0]
            row = end.get_by_role("row").filter(has_text=name)
            expect(row).to_contain_text(f"{each['logit']:.3f}".replace("-", "−"))
            row.get_by_role("button", name=name).click()
            expect(end).to_contain_text(f"How the score of “{name}” comes about")
            account = account_of_end(end, name)
            assert assert_whole(account) == pytest.approx(each["logit"], abs=0.001)
            assert parts(account, "value") == [pytest.approx(each["logit"], abs=0.001)]
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
        assert "neurons?last.2" in api.asked
        channel = int(re.findall(r"\d+", account.locator("button.name").first.inner_text())[0])
        expect(account.locator(".columns")).to_contain_text("means of last")
        (read,) = (each for each in describe(known)["steps"] if each["name"] == "last.2")
        values = known.maps(read["step"])[channel].flatten()
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
    found = re.search(r"differ from these by (.*) at most", end.locator("[data-part=apart]").inner_text())
    assert found
    return number(found[1])


def test_the_shares_are_worked_out_and_not_those_of_the_network(browser: Browser, api: ForwardApi) -> None:
    told = describe(api.trace(PICTURE))["answer"]["classes"]
    api.log_sum_off = 0.1
    with walking(browser, api) as (_, view):
        layer(view, "The classes").click()
        end = view.get_by_test_id("end")
        assert parts(end, "share")[0] == pytest.approx(told[0]["probability"] * np.exp(-0.1), rel=0.001)
        assert apart(end) > 0.01, "which the page notices"
    api.log_sum_off = None
    with walking(browser, api) as (_, view):
        layer(view, "The classes").click()
        end = view.get_by_test_id("end")
        assert parts(end, "share")[0] == pytest.approx(told[0]["probability"], rel=0.001)
        expect(end.locator("[data-part=apart]")).to_have_count(0)


def account_of_end(end: Locator, name: str) -> Locator:
    expect(end.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
    account = end.get_by_test_id("account")
    expect(account).to_be_visible()
    return account


# What goes wrong, leaving, screens


def test_the_servers_sentences_are_shown(browser: Browser, api: ForwardApi) -> None:
    api.refusals = {"unit": "This unit is refused for the test.", "neurons": "No icons today."}
    with walking(browser, api) as (visitor, view):
        column = column_of(view, "stem")
        expect(column).to_contain_text("No icons today.")
        layer(view, "stem").click()
        expect(view.get_by_role("alert")).to_have_text("This unit is refused for the test.")
        api.refusals = {}
        open_step(view, "convolution")
        expect(view.get_by_role("alert")).to_have_count(0)
        assert_whole(account_of(view))
        visitor.complaints = [each for each in visitor.complaints if "422" not in each]


def test_a_refused_picture_is_told_of(browser: Browser, api: ForwardApi) -> None:
    api.refusals = {"forward": "This network cannot be walked through."}
    with browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto(api.address)
        give_picture(page)
        view = page.get_by_role("dialog", name="Step by step")
        expect(view.get_by_role("alert")).to_have_text("This network cannot be walked through.")


def test_escape_closes_and_gives_the_keyboard_back(browser: Browser, api: ForwardApi) -> None:
    with walking(browser, api) as (visitor, view):
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
def test_axe_finds_nothing_serious(browser: Browser, api: ForwardApi, scheme: str) -> None:
    axe = (ROOT / "atlas/viewer/node_modules/axe-core/axe.min.js").read_text()
    with walking(browser, api, color_scheme=scheme, bypass_csp=True) as (visitor, view):
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


def test_a_phone_has_all_of_it(browser: Browser, api: ForwardApi) -> None:
    with walking(browser, api, viewport=PHONE, has_touch=True, is_mobile=True) as (visitor, view):
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

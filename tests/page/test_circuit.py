"""What builds a neuron on the page, and which cells build a cell: circuits, and arrows between two maps. The site is
made; see made_units."""

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from made_site import RESULTS, Visitor, eventually, switch
from made_units import BUILT_CELL, BUILT_FROM, EARLIER, EARLIEST, FAR, unit_colour
from page_hands import overlap
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect
from units_page import CIRCUIT, near, node, open_neurons, points

SVG = "{http://www.w3.org/2000/svg}"


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


# What builds a unit


def test_a_circuit_keeps_the_places_of_its_sources(browser: Browser, neurons: str) -> None:
    with open_neurons(browser, f"{neurons}{CIRCUIT}") as (visitor, view):
        expect(node(view, EARLIER, 1)).to_have_accessible_name(
            "Unit 1 of _blocks.4 builds unit 7, +0.80; it counts most above"
        )
        expect(node(view, EARLIER, 2)).to_have_accessible_name(
            "Unit 2 of _blocks.4 inhibits unit 7, −0.50; it counts most below"
        )
        expect(node(view, EARLIER, 3)).to_have_accessible_name(
            "Unit 3 of _blocks.4 builds unit 7 when it is below 0, +0.30; it counts most to the left"
        )
        assert view.locator("[data-struck]").evaluate_all("all => all.map(one => one.dataset.struck)") == [
            f"{EARLIER}:3"
        ]
        expect(view.locator(f"[data-name='{EARLIER}:3']")).to_have_text("not 3")
        expect(view.locator(f"[data-name='{EARLIER}:1']")).to_have_text("1")
        expect(view.get_by_test_id("absence")).to_contain_text("acts when it is below 0")
        expect(node(view, EARLIER, 4)).to_have_count(0)
        top, side, bottom, root = (
            place(view, *one) for one in ((EARLIER, 1), (EARLIER, 3), (EARLIER, 2), ("_blocks.10", 7))
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
        strongest = max(kernel.all(), key=lambda one: float(one.get_attribute("fill-opacity") or "0"))
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
    with open_neurons(browser, f"{neurons}{CIRCUIT}") as (_, view):
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
    with open_neurons(browser, f"{neurons}{CIRCUIT}") as (_, view):
        view.get_by_role("button", name=f"from {EARLIEST}").click()
        expect(view.get_by_test_id("agreement")).to_contain_text(
            "The weights hardly agree with what happens in the data: 0.11"
        )
        expect(view).to_contain_text("taken as linear: 12 ReLU6 and 1 max-pooling as average.")
        expect(view).to_contain_text(FAR)
        expect(node(view, EARLIEST, 1)).to_have_count(1)


def test_a_source_opens_its_own_sources(browser: Browser, neurons: str) -> None:
    with open_neurons(browser, f"{neurons}{CIRCUIT}") as (visitor, view):
        page = visitor.page
        node(view, EARLIER, 1).focus()
        page.keyboard.press("Enter")
        source = view.get_by_test_id("source")
        expect(source).to_contain_text("unit 1 of _blocks.4")
        expect(source).to_contain_text("Builds unit 7. It counts most above.")
        expect(source.locator("dt")).to_have_text(["+0.80", "+0.70", "+0.30", "+0.60", "0.90 of 1"])
        node(view, EARLIER, 3).click()
        expect(source).to_contain_text(
            "Builds unit 7 when it is below 0. Unit 7 answers more where this one is below 0"
        )
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
        boxes = [figure.bounding_box() for figure in view.locator(f"[data-figure^='{EARLIEST}:']").all()]
        assert len(boxes) == 6
        assert not any(overlap(one, other, 4) for at, one in enumerate(boxes) for other in boxes[:at]), (
            "each is readable"
        )
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
    with open_neurons(browser, f"{neurons}{CIRCUIT}") as (visitor, view):
        node(view, EARLIER, 1).click()
        view.get_by_role("button", name="Show what builds it").click()
        expect(node(view, EARLIEST, 1)).to_have_count(1)
        with visitor.page.expect_download() as download:
            view.get_by_role("button", name="Save as SVG").click()
        assert download.value.suggested_filename == "made-_blocks.10-unit-7-circuit.svg"
        text = Path(download.value.path()).read_text()
        drawing = ElementTree.fromstring(text)
        assert drawing.findtext(f"{SVG}title") == "Circuit of unit 7 of _blocks.10"
        told_of = drawing.findtext(f"{SVG}desc") or ""
        assert "effect in the data" in told_of
        assert "when they are below 0" in told_of
        images = drawing.findall(f".//{SVG}image")
        assert len(images) == 7
        colours = [
            unit_colour("_blocks.10", 7),
            *(unit_colour(layer, unit) for layer in (EARLIER, EARLIEST) for unit in (1, 2, 3)),
        ]
        for image in images:
            href = image.get("href") or ""
            assert href.startswith("data:image/png;base64,")
            icon = Image.open(BytesIO(b64decode(href.partition(",")[2]))).convert("RGB")
            assert min(np.abs(np.array(icon.getpixel((30, 30))) - one).max() for one in colours) <= 3
        strokes = {one.get("stroke") for one in drawing.findall(f".//{SVG}path")}
        assert {"rgb(217, 95, 2)", "rgb(27, 108, 168)"} <= strokes
        words = {"".join(one.itertext()) for one in drawing.findall(f".//{SVG}text")}
        assert {"+0.80", "−0.50", "unit 7", "of _blocks.10", "not 3", EARLIER, EARLIEST} <= words
        assert not re.search(r"var\(|https?://(?!www\.w3\.org)|url\(|class=", text), "nothing is looked for outside"
        # Another program shows it too.
        alone = tmp_path / "circuit.svg"
        alone.write_text(text)
        page = visitor.page.context.new_page()
        page.goto(alone.as_uri())
        page.screenshot(path=RESULTS / "neurons-circuit-saved.png")
        screenshot = np.asarray(Image.open(BytesIO(page.screenshot())).convert("RGB")).astype(int)
        x, y = place(view, EARLIER, 1)
        assert near(screenshot[int(y), int(x)], unit_colour(EARLIER, 1), 4)


# Which cells build a cell


def test_a_cell_tells_which_cells_build_it_and_arrows_show_it(browser: Browser, neurons: str) -> None:
    grid, row, col = BUILT_CELL
    with open_neurons(browser, f"{neurons}#layer=_blocks.10&cells={grid}.{row}.{col}") as (visitor, _):
        page = visitor.page
        section = page.get_by_test_id("built")
        expect(section).to_contain_text("Cells of _blocks.4 whose mean activation raises (+) or lowers (−)")
        expect(section.get_by_role("button", name="Go to")).to_have_count(3)
        expect(section.get_by_role("button", name="row 10, column 3")).to_have_accessible_name(
            "Go to _blocks.4, row 10, column 3: inhibits it, −0.60 2 % of its activations lie there"
        )
        expect(page.get_by_test_id("arrows")).to_have_count(0)
        section.get_by_role("button", name="Show both maps").click()
        arrows = page.get_by_test_id("arrows").locator("g")
        expect(arrows).to_have_count(3)
        expect(section.get_by_role("button", name="Show both maps")).to_have_count(0)
        eventually(lambda: arrows_fit(page), "arrows from the cells of the other map to the open one")
        signs = [sign.text_content() for sign in page.get_by_test_id("arrows").locator("text").all()]
        assert signs == ["+", "+", "−"]
        marks = [sign.bounding_box() for sign in page.get_by_test_id("arrows").locator("text").all()]
        assert not any(overlap(one, other, 4) for at, one in enumerate(marks) for other in marks[:at])
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
        section.get_by_role("button", name="row 5, column 5").click()
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

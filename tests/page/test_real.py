"""The page on a site that a real small run has made: nothing of it is made up for the page."""

from collections.abc import Iterator

import pytest
from made_site import DESKTOP, RESULTS, Visitor, eventually
from playwright.sync_api import Browser, expect

import atlas
from atlas.rundir.directory import RunDirectory


@pytest.fixture
def real(undisturbed: RunDirectory) -> Iterator[str]:
    frame = atlas.show(undisturbed.path)
    yield frame.address
    frame.close()


def test_a_real_site_is_read_as_it_is(browser: Browser, real: str, undisturbed: RunDirectory) -> None:
    cells = atlas.open_run(undisturbed.path).cells("last", 4).to_pylist()
    cell = max(cells, key=lambda one: one["count"])
    best = max(range(7), key=lambda number: cell["attribution"][number])
    with browser.new_context(viewport=DESKTOP) as context:
        visitor = Visitor(context)
        page = visitor.page
        visitor.open(f"{real}#layer=last&level=4&cells=4.{cell['row']}.{cell['col']}")
        drawer = page.get_by_test_id("drawer")
        expect(drawer).to_contain_text(f"The average of {cell['count']} activations")
        expect(drawer.locator("li .name").first).to_have_text(f"class {best}")
        expect(drawer.get_by_role("group", name="Real patches").get_by_role("button")).to_have_count(
            len(cell["exemplars"]) + len(cell["diverse_exemplars"])
        )
        expect(drawer).to_contain_text("The same places in middle")
        predicted = cell["predicted"][0]
        share = round(100 * predicted["count"] / cell["count"])
        expect(drawer).to_contain_text(f"The network takes them for class {predicted['class']} {share} %")
        page.keyboard.type(f"class {best}")
        page.keyboard.press("Enter")
        overlay = page.get_by_test_id("overlay")
        eventually(lambda: overlay.get_attribute("data-veil") == str(best), "the heat map of the class")
        page.screenshot(path=RESULTS / "viewer-real.png")
        drawer.get_by_role("button", name="Go to middle").first.click()
        expect(page.get_by_role("button", name="Layer middle")).to_be_visible()
        expect(drawer).to_contain_text("middle")
        assert visitor.complaints == [], visitor.complaints

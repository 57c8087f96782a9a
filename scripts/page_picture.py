#!/usr/bin/env python3
"""A picture of the page, as the documents show it: a run with one cell open, or with one picture explained.

scripts/page_picture.py RUN PICTURE [LINK], such as: runs/demo page.webp '#layer=_blocks.10&cells=20.17.4'
scripts/page_picture.py RUN PICTURE --image photo.jpg [--steps]
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

try:
    from bench_viewer import CHROMIUM, WINDOW, served_site  # beside this file
    from playwright.sync_api import Page, expect, sync_playwright
except ImportError as error:
    sys.exit(f'{error}. A browser is led by Playwright: pip install -e ".[bench]".')

PATIENCE = 300_000  # milliseconds for all icons of a picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("link", nargs="?", default="", help="what the page shows, as its address says it behind #")
    parser.add_argument("--image", type=Path, help="a picture to be explained, with the icons of its positions")
    parser.add_argument("--steps", action="store_true", help="show its way through the network, step by step")
    options = parser.parse_args()
    with served_site(options.run) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=WINDOW)
        page.goto(f"{url}{options.link}")
        page.get_by_label("Level", exact=True).wait_for()
        if options.image:
            drop_picture(page, options.image, steps=options.steps)
        page.wait_for_timeout(3000)
        screen = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    screen.convert("RGB").save(options.picture, "WEBP", quality=85, method=6)


def drop_picture(page: Page, image: Path, *, steps: bool) -> None:
    """Give the page a picture, and wait until all that is shown of it is drawn."""
    page.set_default_timeout(PATIENCE)
    page.get_by_role("button", name="One image").click()
    page.set_input_files("input[type=file]", image)
    page.get_by_role("button", name="icons", exact=True).click()
    if not steps:
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        expect(page.get_by_role("button", name="Stop")).to_have_count(0, timeout=PATIENCE)
        return
    page.get_by_role("button", name="picture", exact=True).click()
    page.get_by_role("button", name="Step by step").click()
    page.get_by_role("dialog", name="Step by step").wait_for()
    page.wait_for_timeout(20_000)  # for the icons in view


if __name__ == "__main__":
    main()

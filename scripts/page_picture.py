#!/usr/bin/env python3
"""A picture of the page, as the README shows it: a run with one cell open.

scripts/page_picture.py RUN PICTURE [LINK], such as: runs/demo scripts/pictures/page.webp '#cells=20.6.14'
"""

import argparse
import io
from pathlib import Path

from bench_viewer import CHROMIUM, WINDOW, served
from PIL import Image
from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("link", nargs="?", default="", help="what the page shows, as its address says it behind #")
    given = parser.parse_args()
    with served(given.run) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=WINDOW)
        page.goto(f"{url}{given.link}")
        page.get_by_label("Level", exact=True).wait_for()
        page.wait_for_timeout(3000)
        screen = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    screen.convert("RGB").save(given.picture, "WEBP", quality=85, method=6)


if __name__ == "__main__":
    main()

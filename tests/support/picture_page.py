"""What the tests of one picture on the page share: a made API, pictures to give, and where the page shows what."""

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_api import MadeApi, serve_api
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from atlas.pictures.decode import encode_png

LAYER, FINER = "_blocks.10", "_blocks.4"
SIDE = 14  # positions of LAYER's map


def picture_of(colour: tuple[int, int, int], width: int = 120, height: int = 80) -> bytes:
    """A PNG of one colour, with black edges left and right of its middle square."""
    pixels = np.zeros((height, width, 3), np.uint8)
    edge = (width - min(width, height)) // 2
    pixels[:, edge : width - edge] = colour
    return encode_png(pixels)


BROWN = (150, 110, 80)


@pytest.fixture(scope="module")
def image_server(site: Path) -> Iterator[MadeApi]:
    with serve_api(site) as image_api:
        yield image_api


@pytest.fixture
def image_api(image_server: MadeApi) -> MadeApi:
    """The server as it is at first: quick, without samples, and without requests yet."""
    image_server.explain_delay = image_server.icon_delay = image_server.step_delay = image_server.limits_delay = 0.0
    image_server.samples = []
    image_server.requests.clear()
    image_server.stopped.clear()
    return image_server


def drop(page: Page, *files: tuple[str, str, bytes], let_go: bool = True) -> None:
    """Drag files (name, type, content) over the page, and let go of them."""
    encoded = [(name, kind, base64.b64encode(content).decode()) for name, kind, content in files]
    page.evaluate(
        """([files, letGo]) => {
            const dragged = new DataTransfer();
            for (const [name, type, content] of files) {
                const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
                dragged.items.add(new File([bytes], name, { type }));
            }
            const target = document.elementFromPoint(700, 400);
            const dispatch = (kind) =>
                target.dispatchEvent(new DragEvent(kind, { dataTransfer: dragged, bubbles: true, cancelable: true }));
            if (!letGo || !document.querySelector('[data-testid="drop"]')) dispatch('dragenter');
            dispatch('dragover');
            if (letGo) dispatch('drop');
        }""",
        [encoded, let_go],
    )


def give(page: Page, picture: bytes, name: str = "photo.png") -> None:
    """Drop a picture, and wait for the server's summary of it."""
    drop(page, (name, "image/png", picture))
    wait_for_summary(page, name)


def wait_for_summary(page: Page, name: str) -> None:
    """Wait for the server's summary of a picture."""
    expect(panel(page).locator("h2")).to_contain_text(name)
    expect(panel(page).get_by_role("group", name="What is shown of the picture")).to_be_visible()


def panel(page: Page) -> Locator:
    return page.get_by_test_id("image")


def canvas(page: Page) -> Locator:
    return page.get_by_test_id("picture").locator("canvas")


def pixels_of(page: Page) -> NDArray[np.int64]:
    """The picture's canvas, (side, side, 3)."""
    data = canvas(page).evaluate(
        """canvas => {
            const copy = document.createElement('canvas');
            copy.width = copy.height = canvas.width;
            const context = copy.getContext('2d', { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            return copy.toDataURL().split(',')[1];
        }"""
    )
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def middle(page: Page, position: int, side: int = SIDE) -> NDArray[np.int64]:
    """The pixel in the middle of a position."""
    return at(pixels_of(page), position, 0.5, 0.5, side)


def at(pixels: NDArray[np.int64], position: int, right: float, down: float, side: int = SIDE) -> NDArray[np.int64]:
    """The pixel at a share of a position's box."""
    row, col = divmod(position, side)
    cell = pixels.shape[0] / side
    return pixels[int((row + down) * cell), int((col + right) * cell)]


def near(pixels: NDArray[Any], target: Any, by: float = 6) -> bool:
    return bool(np.abs(pixels - np.array(target)).max() <= by)


def show(page: Page, what: str) -> None:
    page.get_by_role("group", name="What is shown of the picture").get_by_role("button", name=what).click()


def point_at(page: Page, position: int, side: int = SIDE) -> tuple[float, float]:
    """Where a position of the picture is in the window."""
    page.get_by_test_id("picture").scroll_into_view_if_needed()
    box = page.get_by_test_id("picture").bounding_box()
    assert box is not None
    row, col = divmod(position, side)
    return box["x"] + (col + 0.5) * box["width"] / side, box["y"] + (row + 0.5) * box["height"] / side

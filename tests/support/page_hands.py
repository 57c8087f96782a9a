"""What several tests do on the page, and see there: find a class, open a cell; whether boxes overlap."""

from typing import Any

from made_site import Visitor, cell_20
from playwright.sync_api import expect


def find(visitor: Visitor, typed: str, name: str) -> None:
    visitor.page.keyboard.type(typed)
    expect(visitor.page.locator("#classes").get_by_role("option", name=name)).to_be_visible()
    visitor.page.keyboard.press("Enter")


def open_cell(visitor: Visitor, row: int, col: int) -> None:
    visitor.page.mouse.click(*cell_20(row, col))
    expect(visitor.page.get_by_test_id("drawer")).to_contain_text(f"Row {row}, column {col}")


def overlap(one: Any, other: Any, spare: float = 0) -> bool:
    """Whether two boxes of the screen cover each other, but for ``spare`` pixels above and below, the space around
    letters."""
    return bool(
        one["x"] < other["x"] + other["width"]
        and other["x"] < one["x"] + one["width"]
        and one["y"] < other["y"] + other["height"] - spare
        and other["y"] < one["y"] + one["height"] - spare
    )

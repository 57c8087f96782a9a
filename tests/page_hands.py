"""What hands do on the page in several tests: find a class, open a cell."""

from made_site import (
    Visitor,
    cell_20,
)
from playwright.sync_api import expect


def find(visitor: Visitor, typed: str, name: str) -> None:
    visitor.page.keyboard.type(typed)
    expect(visitor.page.locator("#classes").get_by_role("option", name=name)).to_be_visible()
    visitor.page.keyboard.press("Enter")


def open_cell(visitor: Visitor, row: int, col: int) -> None:
    visitor.page.mouse.click(*cell_20(row, col))
    expect(visitor.page.get_by_test_id("drawer")).to_contain_text(f"Row {row}, column {col}")

"""A row of a bench's table, figures by name, and the table."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

BenchRow = dict[str, Any]


def rounded_figures(figures: BenchRow) -> BenchRow:
    """The figures as they are written down: of four digits, where they are not whole."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}


def print_table(title: str, rows: list[BenchRow]) -> None:
    """The rows as a table, but for what they share."""
    in_title = ("bench", "layer", "peak_gflop_per_second", "threads")  # by the title
    table = Table(title=title, box=SIMPLE, title_justify="left")
    shared = [name for name in in_title if len({row.get(name) for row in rows}) == 1]
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in shared))
    for name in columns:
        words = name in ("system", "variant", "way")
        table.add_column(name.replace("_", " "), justify="left" if words else "right", no_wrap=words)
    for row in rows:
        table.add_row(*[str(row.get(name, "")) for name in columns])
    Console(width=max(Console().width, 150)).print(table)

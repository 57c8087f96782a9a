"""A row of a bench's table: figures by name."""

from __future__ import annotations

from typing import Any

BenchRow = dict[str, Any]


def rounded_figures(figures: BenchRow) -> BenchRow:
    """The figures as they are written down: of four digits, where they are not whole."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}

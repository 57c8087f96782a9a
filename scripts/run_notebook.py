"""Run a notebook's cells in order, in one namespace, and write what they give into it.

    python scripts/run_notebook.py atlas/docs/notebooks/analysis.ipynb

A cell's outputs are what it prints, and the value of its last line: pictures as PNG, all else as text. No kernel is
needed, so the notebook's test runs it by the same code.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run a notebook's cells in order and write their outputs into it.")
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args(arguments).notebook
    notebook = json.loads(path.read_text(encoding="utf-8"))
    run_cells(notebook)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def run_cells(notebook: dict[str, Any], **names: Any) -> dict[str, Any]:
    """Run the code cells of a notebook, and set their outputs and counts. ``names`` are set again after the first code
    cell, in place of what it says; returns all names that the cells made."""
    space: dict[str, Any] = {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for count, cell in enumerate(cells, start=1):
        cell["outputs"] = _run("".join(cell["source"]), space, count, names if count == 1 else {})
        cell["execution_count"] = count
    return space


def _run(source: str, space: dict[str, Any], count: int, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one cell; ``names`` replace its own assignments of them. Returns its outputs as nbformat 4 has them."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    tree.body = [_replaced(statement, names) for statement in tree.body]
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), space)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append(
            {"name": "stdout", "output_type": "stream", "text": printed.getvalue().splitlines(keepends=True)}
        )
    if value is not None:
        outputs.append(
            {"data": _display_data(value), "execution_count": count, "metadata": {}, "output_type": "execute_result"}
        )
    return outputs


def _replaced(statement: ast.stmt, names: dict[str, Any]) -> ast.stmt:
    """An assignment of one of ``names`` with its value in place of the cell's; any other statement as it is."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    if isinstance(statement, ast.Assign) and isinstance(target, ast.Name) and target.id in names:
        statement.value = ast.copy_location(ast.Constant(names[target.id]), statement.value)
    return statement


def _display_data(value: Any) -> dict[str, Any]:
    if isinstance(value, Image.Image):
        png = io.BytesIO()
        value.save(png, "PNG", optimize=True)
        text = f"<picture, {value.width} × {value.height} pixels>"
        return {"image/png": base64.b64encode(png.getvalue()).decode() + "\n", "text/plain": [text]}
    return {"text/plain": repr(value).splitlines(keepends=True)}


if __name__ == "__main__":
    sys.exit(main())

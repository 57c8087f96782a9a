"""activation-atlas: shows what a convolutional network sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas.analysis import Run
    from atlas.serve.notebook import Shown

__version__ = "0.1.0"


def open_run(path: str | Path) -> Run:
    """The run at ``path``, opened for analysis: its store, layout, cells and icons; see atlas.analysis.

    Raises ConfigError when there is no run.
    """
    from atlas.analysis import Run  # NumPy and Arrow: `import atlas` alone stays quick

    return Run(path)


def show(run: str | Path | Run, *, height: int = 640, proxy: str | None = None) -> Shown:
    """The atlas of a finished run, in a frame ``height`` pixels high in a notebook's cell; see atlas.serve.notebook.

    run: its folder, or what `open_run` gave; proxy: the address of a proxy that passes on ports, where Jupyter runs on
    another machine than the browser. Raises ConfigError when there is no finished site, or ``proxy`` is no address.
    """
    from atlas.serve.notebook import show  # Starlette and uvicorn

    return show(run, height=height, proxy=proxy)

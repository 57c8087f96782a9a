"""activation-atlas: shows what a convolutional network sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas.analysis import Run

__version__ = "0.1.0"


def open_run(path: str | Path) -> Run:
    """The run at ``path``, opened for analysis: its store, layout, cells and icons; see atlas.analysis.

    Raises ConfigError when there is no run.
    """
    from atlas.analysis import Run  # NumPy and Arrow: `import atlas` alone stays quick

    return Run(path)

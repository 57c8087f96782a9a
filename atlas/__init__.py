"""activation-atlas: shows what a convolutional network sees.

    run = atlas.open_run("runs/demo")          # a finished run, opened for analysis
    atlas.show(run)                            # its page, in a notebook
    network = atlas.load("efficientnet_lite0")
    pixels = atlas.neuron(network, "_blocks.10", 7)

Names are imported when they are first used, so that `import atlas` alone stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.analysis import open_run
    from atlas.errors import AtlasError, ConfigError
    from atlas.explain.explainer import Explainer
    from atlas.networks.network import load
    from atlas.rundir.versions import VERSION as __version__  # noqa: N811
    from atlas.serve.notebook import show
    from atlas.visualize.single import neuron, render

__all__ = [
    "AtlasError",
    "ConfigError",
    "Explainer",
    "__version__",
    "load",
    "neuron",
    "open_run",
    "render",
    "show",
]

# Where each public name is held, and what it is called there.
_SOURCES = {
    "AtlasError": ("atlas.errors", "AtlasError"),
    "ConfigError": ("atlas.errors", "ConfigError"),
    "Explainer": ("atlas.explain.explainer", "Explainer"),
    "__version__": ("atlas.rundir.versions", "VERSION"),
    "load": ("atlas.networks.network", "load"),
    "neuron": ("atlas.visualize.single", "neuron"),
    "open_run": ("atlas.analysis", "open_run"),
    "render": ("atlas.visualize.single", "render"),
    "show": ("atlas.serve.notebook", "show"),
}


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'atlas' has no attribute {name!r}")
    module, attribute = _SOURCES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

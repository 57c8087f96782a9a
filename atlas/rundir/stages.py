"""The stages of a run: their order, the stage that each one builds on, and the folder that each fills."""

from __future__ import annotations

from atlas.config.sections import NeuronsConfig

STAGES = ("collect", "layout", "cells", "render", "neurons", "publish")
# The stage that each one builds on.
ABOVE = {"layout": "collect", "cells": "layout", "render": "cells", "neurons": "cells", "publish": "render"}
# The folder that each stage fills.
FOLDERS = {
    "collect": "store", "layout": "layout", "cells": "cells", "render": "icons", "neurons": "neurons", "publish": "site"
}  # fmt: skip


def stages_of(neurons: NeuronsConfig | None) -> tuple[str, ...]:
    """The stages of a run, in order: without the stage neurons where the configuration has no such section."""
    return tuple(stage for stage in STAGES if stage != "neurons" or neurons is not None)

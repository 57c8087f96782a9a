"""The stages of a run: their order, what each stands on, and the folder that each fills."""

from __future__ import annotations

from atlas.config.model import Config

STAGES = ("collect", "layout", "cells", "render", "neurons", "publish")


# The stage that each one stands on.
ABOVE = {"layout": "collect", "cells": "layout", "render": "cells", "neurons": "cells", "publish": "render"}


# The folder that each stage fills.
FOLDERS = {
    "collect": "store", "layout": "layout", "cells": "cells", "render": "icons", "neurons": "neurons", "publish": "site"
}  # fmt: skip


def stages_of(config: Config) -> tuple[str, ...]:
    """The stages of a run, in order: units are looked at only where they are asked for."""
    return tuple(stage for stage in STAGES if stage != "neurons" or config.neurons is not None)

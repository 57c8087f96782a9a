"""Class names and their numbers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from atlas.errors import ConfigError


def class_number(name: str, classes: Sequence[str]) -> int:
    """The number of class ``name``: as it is written, else whatever its capitals, else by the first of its synonyms
    (ImageNet's "tabby, tabby cat"). Raises ConfigError naming near ones."""
    plain = [known.lower() for known in classes]
    first = [known.split(",")[0] for known in plain]
    for wanted, known in ((name, list(classes)), (name.lower(), plain), (name.lower(), first)):
        if wanted in known:
            return known.index(wanted)
    near = difflib.get_close_matches(name.lower(), plain, n=3, cutoff=0.5)
    hint = f" Near names: {', '.join(classes[plain.index(each)] for each in near)}." if near else ""
    raise ConfigError(f"the network has no class {name!r} among its {len(classes):,}.{hint}")

"""Class names and their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from atlas.errors import ConfigError, near_names


def class_number(name: str, classes: Sequence[str]) -> int:
    """The number of class ``name``: as it is written, else ignoring capitals, else by the first of its synonyms
    (ImageNet's "tabby, tabby cat"). Raises ConfigError naming near ones."""
    lower = [label.lower() for label in classes]
    first = [label.split(",")[0] for label in lower]
    for spelling, labels in ((name, list(classes)), (name.lower(), lower), (name.lower(), first)):
        if spelling in labels:
            return labels.index(spelling)
    near = near_names(name.lower(), lower, count=3, cutoff=0.5)
    hint = f" Near names: {', '.join(classes[lower.index(label)] for label in near)}." if near else ""
    raise ConfigError(f"the network has no class {name!r} among its {len(classes):,}.{hint}")

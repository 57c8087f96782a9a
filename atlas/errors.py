"""Errors that are meant for the person who typed the command.

Each message is whole sentences: what was given, what is expected, what to do. The commands print them without a
traceback.
"""

import difflib
from collections.abc import Iterable


class AtlasError(Exception):
    """Something outside the code went wrong: a file, a download, a disk, a picture. The run can be resumed."""


class ConfigError(AtlasError):
    """What was asked for cannot be done: a wrong key, a wrong layer, a folder that is not there."""


def near_names(name: str, names: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """At most ``count`` of ``names`` that are written like ``name``, the nearest first; a smaller ``cutoff``, in
    [0, 1], lets through less similar ones."""
    return difflib.get_close_matches(name, list(names), count, cutoff)


def did_you_mean(name: str, names: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> str:
    """A sentence with the near names, to be put behind another; empty where there are none."""
    near = near_names(name, names, count=count, cutoff=cutoff)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def too_large(what: str, size: str, most: int) -> str:
    """The sentences for a picture or its file, ``what``, of a ``size`` above ``most``, such as "7,000 pixels"."""
    return (
        f"{what} has {size}, and at most {most:,} are taken. Give it smaller; networks see a few hundred pixels a side."
    )

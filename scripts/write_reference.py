"""The reference of the configuration, atlas/docs/reference/configuration.md, written from the models' own descriptions.

python scripts/write_reference.py           write it
python scripts/write_reference.py --check   exit with 1 where it is not what would be written
"""

from __future__ import annotations

import argparse
import json
import sys
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from atlas.config.model import Config
from atlas.config.sections import KINDS_OF_KEY, ClusterConfig, Section

TARGET = Path(__file__).parents[1] / "atlas/docs/reference/configuration.md"
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Any: "anything"}
# Annotations of pydantic's that bound a value, and the words for them.
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "multiple_of": "a multiple of {}"}

_HEAD = """\
# Configuration

A run is one YAML file, which `atlas run FILE` takes. This page is written by `scripts/write_reference.py` from the
descriptions in [atlas/config/sections.py](../../config/sections.py). To copy from, with all defaults:
[configs/reference.yaml](../../../configs/reference.yaml).

- Only `network.name`, `layers` and `images.source` have no default.
- An unknown key is an error. All mistakes are reported at once, each with its key, the value and what is allowed.
- `--set images.limit=100` overrides a key for one command; the value is YAML.
- Only what a stage depends on makes it run again: see [the run directory](run-directory.md).
"""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where ``--check`` finds another text than would be written."""
    parser = argparse.ArgumentParser(description="Write the reference of the configuration from its models.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the file is not this")
    options = parser.parse_args(arguments)
    text = reference()
    if not options.check:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET.name} does not fit the models any more. Write it again: python scripts/write_reference.py")
        return 1
    return 0


def reference() -> str:
    """The whole page: the keys of the top, then a heading for each section."""
    parts = [_HEAD, "## The top level", _table(Config)]
    for key, field in Config.model_fields.items():
        if key == "compare":  # the same keys as network
            continue
        section = _section(field.annotation)
        if section is not None:
            parts += [f"## {key}", " ".join((section.__doc__ or "").split()), _table(section)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _section(annotation: Any) -> type[Section] | None:
    """The section that a key holds, if it holds one, or may."""
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _table(section: type[Section]) -> str:
    rows = ["| key | value | default | what it is |", "| --- | --- | --- | --- |"]
    for key, field in section.model_fields.items():
        description = " ".join((field.description or "").split())
        if section is ClusterConfig and key in KINDS_OF_KEY:
            description = f"*{', '.join(KINDS_OF_KEY[key])}:* {description}"
        cells = (f"`{key}`", _value(key, field.annotation, field.metadata), _default(key, field), description)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def _default(key: str, field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if key == "out":  # load_config fills it in
        return "`runs/NAME`"
    if field.is_required():
        return "required"
    if value is None:
        return "none"
    if isinstance(value, Section):
        return f"as in [{key}](#{key})"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _value(key: str, annotation: Any, bounds: Iterable[Any] = ()) -> str:
    """What may be given, in words: the kind of the value and its bounds."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _value(key, inner[0], inner[1:])
    if origin in (types.UnionType, typing.Union):
        return ", or ".join(_value(key, kind) for kind in inner if kind is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{json.dumps(word)[1:-1]}`" for word in inner)
    if origin is tuple:
        count = f"{len(inner)}" if inner[-1] is not ... else ""
        least, most = _bound(bounds, "min_length"), _bound(bounds, "max_length")
        if least is not None and least == most:
            count = f"{least}"
        return f"list of {count + ' ' if count else ''}{_plural(_value(key, inner[0]))}"
    if origin is dict:
        return f"mapping of names to {_plural(_value(key, inner[1]))}" if inner[1] is not Any else "mapping"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        name = next(name for name, field in Config.model_fields.items() if _section(field.annotation) is annotation)
        return f"[section](#{name})"
    limits = [
        words.format(f"{value:,}" if isinstance(value, int) else value)
        for name, words in _BOUNDS.items()
        if (value := _bound(bounds, name)) is not None
    ]
    return ", ".join([_PLAIN[annotation], *limits])


def _bound(bounds: Iterable[Any], name: str) -> Any:
    """The bound called ``name``, whether it stands by itself or in a field's own list."""
    for bound in bounds:
        for entry in (bound, *getattr(bound, "metadata", ())):
            if (value := getattr(entry, name, None)) is not None:
                return value
    return None


def _plural(words: str) -> str:
    """ "text" and "[section](…)" as several of them."""
    first, comma, rest = words.partition(",")
    for one, several in (("list", "lists"), ("text", "texts"), ("number", "numbers"), ("[section]", "[sections]")):
        if several not in first:
            first = first.replace(one, several, 1)
    return first + comma + rest


if __name__ == "__main__":
    sys.exit(main())

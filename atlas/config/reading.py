"""Configurations read from YAML and overrides, and checked: all mistakes are reported at once."""

from __future__ import annotations

import json
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from atlas.config.model import Config
from atlas.errors import ConfigError, did_you_mean, near_names

# What pydantic says of values that are no numbers, in the words of who writes YAML.
_PLAIN = {
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "string_type": "expected a text",
}


def config_folders() -> list[Path]:
    """Where the shipped configurations lie: inside the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    return [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]


def find_config(name: str) -> Path:
    """The YAML file for ``name``: a path, or the name of a shipped configuration. Raises ConfigError."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    files = [file for folder in config_folders() for file in sorted(folder.glob("*.yaml"))]
    shipped = {file.stem: file for file in files if file.stem != "tour"}  # a tour is no run
    if path.parent in (Path(), Path("configs")) and path.stem in shipped:
        return shipped[path.stem]
    raise ConfigError(
        f"There is no configuration {name}. Expected a YAML file, or one of the shipped ones: "
        f"{', '.join(sorted(shipped))}.{did_you_mean(path.stem, shipped)}"
    )


def load_config(name: str, overrides: list[str] | None = None) -> Config:
    """Read configuration ``name`` and apply ``overrides`` of the form ``key.path=value`` (values are YAML).

    Raises ConfigError with all mistakes at once, each with its key's path, its value and what is allowed.
    """
    path = find_config(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: {error}") from error
    if not isinstance(values, dict):
        what = "is empty" if values is None else "holds a list" if isinstance(values, list) else f"holds {values!r}"
        raise ConfigError(f"{path} {what}; expected keys such as network, layers and images.")
    for override in overrides or []:
        _override(values, override)
    values.setdefault("out", f"runs/{path.stem}")
    return validate(values, str(path))


def validate(values: dict[str, Any], origin: str) -> Config:
    """``values`` as a Config. Raises ConfigError listing every mistake; ``origin`` names the file in the message."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        # A key that allows a word or a number fails once for each: one mistake with both ways out.
        mistakes: dict[str, list[str]] = {}
        for problem in error.errors():
            subject, expected = _sentence_parts(problem)
            mistakes.setdefault(subject, []).append(expected)
        lines = [f"{subject} {_alternatives(expected)}" for subject, expected in mistakes.items()]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise ConfigError(f"{origin} has {count}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _alternatives(expected: list[str]) -> str:
    text = ", or ".join(sentence.rstrip(".") for sentence in expected)
    return text if text.endswith("?") else f"{text}."


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value, such as --set images.limit=100.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "it cannot be read"
        raise ConfigError(f"--set {override}: the value is not valid YAML ({reason}).") from error
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if inner is None:
            inner = values[parent] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {parent} is {inner!r} and has no keys of its own.")
        values = inner
    values[last] = value


def _sentence_parts(problem: Any) -> tuple[str, str]:
    """The key with the value that it has, and what was expected of it."""
    location = problem["loc"]
    parts = [str(part) for part in location if not str(part).startswith(("function-", "literal[", "constrained-"))]
    if not location:  # keys of several sections that do not go together
        return problem["msg"].removeprefix("Value error, ") + ";", "change one of them."
    key = ".".join(parts)
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        keys = _keys_at(location[:-1])
        near = near_names(str(location[-1]), keys, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(keys)}."
        return f"{key}: unknown key;", hint
    if kind == "missing":
        return f"{key}: missing;", "it has no default and must be given."
    expected = problem["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("Tuple", "list")
    if kind in _PLAIN:
        expected = _PLAIN[kind]
    elif kind in ("too_short", "too_long"):
        bound = problem["ctx"]["min_length"] if kind == "too_short" else problem["ctx"]["max_length"]
        expected = f"expected at {'least' if kind == 'too_short' else 'most'} {bound}"
    if kind == "model_type":
        expected = f"expected keys: {', '.join(_keys_at(location))}"
    expected = expected[:1].lower() + expected[1:]
    return f"{key}: given {json.dumps(value, default=str)};", f"{expected}."


def _keys_at(path: tuple[Any, ...]) -> list[str]:
    """The keys of the section at ``path``."""
    section: Any = Config
    for part in path:
        annotation = section.model_fields[part].annotation
        if isinstance(annotation, types.UnionType):
            annotation = next(
                kind for kind in typing.get_args(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)
            )
        section = annotation
    return list(section.model_fields)

"""The text of a tour: a YAML file of steps, checked, with placeholders for the figures of a run.

A step has a kind, which says what is shown and which figures there are; a rule by which the run's example is chosen;
and sentences, in which {names} stand for figures.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from atlas.config.reading import config_folders
from atlas.errors import ConfigError, did_you_mean

SHIPPED = "tour"
# Figures that the sentences of every step may hold, and those of each kind.
COMMON = ("network", "classes", "pictures", "views", "layers", "steps")
_UNIT = ("unit", "layer", "units", "of")
FIGURES: dict[str, tuple[str, ...]] = {
    "network": ("first", "last"),
    "neuron": (*_UNIT, "ratio", "alike", "patches"),
    "image": ("image", "class", "confidence", "among"),
    "atlas": ("layer", "rows", "cells", "finest"),
    "invariant": (*_UNIT, "invariance", "least", "patches"),
    "circuit": (*_UNIT, "source", "sources", "share", "agreement"),
    "forward": ("image", "class", "confidence"),
}
KINDS = tuple(FIGURES)
# The rule by which each kind's example is chosen. A tour of one's own may name an example instead.
RULES = {
    "network": "every layer",
    "neuron": "clearest",
    "image": "most certain",
    "atlas": "opening layer",
    "invariant": "most invariant",
    "circuit": "strongest",
    "forward": "same image",
}
_OF_UNITS, _OF_IMAGES = ("neuron", "invariant", "circuit"), ("image", "forward")
_KEYS = ("kind", "choose", "title", "text", "see", "figure", "go")


@dataclass(frozen=True)
class Paragraph:
    """``say`` is part of a tour that has a step of kind ``beside``, and of one that has none of kind ``without``."""

    say: str
    beside: str | None = None
    without: str | None = None


@dataclass(frozen=True)
class TourStep:
    """One step: ``text`` explains, ``see`` says what is to be seen in the picture, ``figure`` by which figure the
    example was chosen, ``go`` are the words of the button to the live view."""

    kind: str
    title: str
    text: tuple[Paragraph, ...]
    choose: str
    see: str | None = None
    figure: str | None = None
    go: str | None = None

    @property
    def by_rule(self) -> bool:
        """Whether its example is chosen by the run's figures, and not named in the file."""
        return self.choose == RULES[self.kind]

    @property
    def unit(self) -> tuple[str, int] | None:
        """The layer and the unit that the step names itself."""
        layer, _, number = self.choose.rpartition(":")
        return None if self.by_rule or self.kind not in _OF_UNITS else (layer, int(number))


@dataclass(frozen=True)
class Tour:
    """A tour as its file has it."""

    title: str
    steps: tuple[TourStep, ...]


def tour_file(tour: str | None) -> Path | None:
    """The file of the configuration's ``tour``; None where it is null."""
    if tour is None:
        return None
    if tour != SHIPPED:
        return Path(tour)
    return next(folder / f"{SHIPPED}.yaml" for folder in config_folders())


def load_tour(name: str | None) -> Tour | None:
    """The tour of the configuration's key ``tour``, or None. Raises ConfigError with a sentence for everything that is
    wrong with it."""
    path = tour_file(name)
    if path is None:
        return None
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"tour: there is no file {path}. Expected a YAML file of steps, {SHIPPED} for the shipped one, or null for "
            "none."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"tour: {path} cannot be read as YAML: {error}") from None
    reader = _Reader()
    tour = reader.tour(values)
    if reader.mistakes:
        count = "1 mistake" if len(reader.mistakes) == 1 else f"{len(reader.mistakes)} mistakes"
        raise ConfigError(f"tour: {path} has {count}:\n" + "\n".join(f"  {line}" for line in reader.mistakes))
    return tour


def check_choices(
    tour: Tour, channels: Mapping[str, int], pictures: Collection[str], layers_of_units: Collection[str]
) -> list[str]:
    """What is wrong with examples that a tour names itself: ``channels`` of the run's layers by name, names of its
    ``pictures``, and the layers of ``neurons.layers``."""
    problems = []
    for number, step in enumerate(tour.steps, 1):
        where = f"tour: step {number} ({step.kind}) chooses {step.choose}"
        if step.by_rule:
            continue
        if step.unit is not None:
            layer, unit = step.unit
            if layer not in layers_of_units:
                reason = f"neurons.layers has {', '.join(layers_of_units)}" if layers_of_units else "neurons is null"
                problems.append(f"{where}, but {reason}.")
            elif unit >= channels[layer]:
                problems.append(f"{where}, but {layer} has the units 0 to {channels[layer] - 1}.")
        elif step.kind in _OF_IMAGES and step.choose not in pictures:
            problems.append(f"{where}, but no picture of the run has this name.{did_you_mean(step.choose, pictures)}")
        elif step.kind == "atlas" and step.choose not in channels:
            problems.append(f"{where}, but the layers are {', '.join(channels)}.")
    return problems


def fill(sentence: str, figures: Mapping[str, str]) -> str:
    """``sentence`` with its figures in place of {names}."""
    return string.Formatter().vformat(sentence, (), figures)


class _Reader:
    """Reads plain values as a tour, and collects all mistakes as sentences."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def tour(self, values: Any) -> Tour:
        if not isinstance(values, dict):
            self.mistakes.append(f"It holds {type(values).__name__}, expected the keys title and steps.")
            return Tour("", ())
        self._keys("", values, ("title", "steps"))
        steps = values.get("steps")
        if not isinstance(steps, list) or not steps:
            self.mistakes.append("steps: expected a list of at least one step.")
            steps = []
        read: list[TourStep] = []
        for number, value in enumerate(steps):
            step = self._step(f"steps.{number}", value)
            if step is None:
                continue
            if step.kind in {other.kind for other in read}:
                self.mistakes.append(f"steps.{number}.kind: {step.kind} is there twice; expected each kind once.")
            read.append(step)
        return Tour(self._sentence("title", values.get("title"), COMMON) or "", tuple(read))

    def _step(self, where: str, values: Any) -> TourStep | None:
        if not isinstance(values, dict):
            self.mistakes.append(f"{where}: given {values!r}, expected the keys {', '.join(_KEYS)}.")
            return None
        self._keys(f"{where}.", values, _KEYS)
        kind = values.get("kind")
        if kind not in KINDS:
            self.mistakes.append(f"{where}.kind: {_problem(kind)}, expected one of {', '.join(KINDS)}.")
            return None
        names = (*COMMON, *FIGURES[kind])
        text = values.get("text")
        if not isinstance(text, list) or not text:
            self.mistakes.append(f"{where}.text: expected a list of at least one paragraph.")
            text = []
        optional = {
            name: None if values.get(name) is None else self._sentence(f"{where}.{name}", values[name], names)
            for name in ("see", "figure", "go")
        }
        return TourStep(
            kind,
            self._sentence(f"{where}.title", values.get("title"), names) or "",
            tuple(self._paragraph(f"{where}.text.{number}", value, names) for number, value in enumerate(text)),
            self._choice(f"{where}.choose", values.get("choose", RULES[kind]), kind),
            **optional,
        )

    def _paragraph(self, where: str, value: Any, names: Collection[str]) -> Paragraph:
        if not isinstance(value, dict):
            return Paragraph(self._sentence(where, value, names) or "")
        self._keys(f"{where}.", value, ("say", "with", "without"))
        for name in ("with", "without"):
            if value.get(name) is not None and value[name] not in KINDS:
                self.mistakes.append(f"{where}.{name}: given {value[name]!r}, expected one of {', '.join(KINDS)}.")
        say = self._sentence(f"{where}.say", value.get("say"), names) or ""
        return Paragraph(say, value.get("with"), value.get("without"))

    def _choice(self, where: str, value: Any, kind: str) -> str:
        rule = RULES[kind]
        example = {
            **dict.fromkeys(_OF_UNITS, "a unit such as _blocks.10:7"),
            **dict.fromkeys(_OF_IMAGES, "the name of a picture of the run"),
            "atlas": "one of the layers",
        }.get(kind)
        fits = isinstance(value, str) and bool(value)
        if fits and value != rule:
            fits = bool(re.fullmatch(r".+:\d+", value)) if kind in _OF_UNITS else kind != "network"
        if not fits:
            either = f"{rule!r}, or {example}" if example else repr(rule)
            self.mistakes.append(f"{where}: given {value!r}, expected {either}.")
            return rule
        return str(value)

    def _sentence(self, where: str, value: Any, names: Collection[str]) -> str | None:
        if not isinstance(value, str) or not value.strip():
            self.mistakes.append(f"{where}: {_problem(value)}, expected a sentence.")
            return None
        try:
            fields = string.Formatter().parse(value)
            places = [(name, form, sign) for _, name, form, sign in fields if name is not None]
        except ValueError as error:
            self.mistakes.append(f"{where}: its braces do not fit ({error}); write {{{{ for a brace itself.")
            return None
        for name, form, conversion in places:
            if form or conversion:
                figure = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}}}"
                self.mistakes.append(f"{where}: given {figure}, expected {{{name}}} alone: figures are words already.")
            if name not in names:
                hint = did_you_mean(name, names) or f" Known here: {', '.join(names)}."
                self.mistakes.append(f"{where}: there is no figure {{{name}}}.{hint}")
        return " ".join(value.split())

    def _keys(self, where: str, values: dict[Any, Any], names: Collection[str]) -> None:
        for key in values:
            if key not in names:
                hint = did_you_mean(str(key), names) or f" Known keys here: {', '.join(names)}."
                self.mistakes.append(f"{where}{key}: unknown key.{hint}")


def _problem(value: Any) -> str:
    return "missing" if value is None else f"given {value!r}"

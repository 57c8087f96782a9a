"""Which class of a network each label of the pictures is.

A label is matched by the first way that knows it: a mapping of the user's, the class name as it is written, the same
without regard to capitals and punctuation, a synonym ("tabby, tabby cat" has two), a WordNet id where the classes are
ImageNet's, and the class's number where all labels are numbers. A folder's label is its whole path; where no way knows
that, its last folder counts. A label that could be several classes is none of them: nothing is guessed.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from atlas.errors import ConfigError, near_names
from atlas.networks.zoo import imagenet_classes, imagenet_synsets

Way = Literal["mapping", "name", "spelling", "synonym", "WordNet id", "number"]
"""How a label was matched with its class."""
WAYS: tuple[Way, ...] = ("mapping", "name", "spelling", "synonym", "WordNet id", "number")
Mapped = int | str | None
"""What a mapping has for a label: the class's number or name; None: it is no class of the network."""

_WORDNET_ID = re.compile(r"n\d{8}")
# The share of names that must be ImageNet's, each in its place, for 1,000 classes to be ImageNet's.
_LEAST_SHARE = 0.9
_HEADING = ("label", "class")


# Labels that match by themselves are used where they are at least so large a share.
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class LabelMatch:
    """The labels of a listing against the classes of one network.

    ``classes``: for each label the number of its class, or None; ``ways``: how it was matched; ``ambiguous``: the names
    of the classes that a label could be, by its name; ``problems``: what is wrong with a label's place in the mapping,
    in a sentence.
    """

    labels: tuple[str, ...]
    classes: tuple[int | None, ...]
    ways: tuple[Way | None, ...]
    ambiguous: Mapping[str, tuple[str, ...]]
    problems: Mapping[str, str]

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes: where the mapping says so of any, or at least a tenth of them match. Of many
        folders one may bear a class's name by chance, as music/brass does ImageNet's memorial brass."""
        count = sum(number is not None for number in self.classes)
        return count > 0 and ("mapping" in self.ways or count >= _LEAST_SHARE * len(self.classes))


def read_mapping(source: str | Mapping[str, Mapped] | None) -> dict[str, Mapped]:
    """The mapping of ``images.label_classes``, label → class: itself, or that of a file, a JSON object (.json) or CSV
    of two columns. Digits are a class's number, an empty class is none. Raises ConfigError for a file that cannot be
    read."""
    if source is None or not isinstance(source, str):
        return dict(source or {})
    path = Path(source)
    expected = "Expected a JSON object, or CSV lines of a label and its class"
    if not path.is_file():
        raise ConfigError(f"images.label_classes: there is no file {source}. {expected}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = _json_lines(text) if path.suffix.lower() == ".json" else _csv_lines(text)
    except ValueError as error:  # both UnicodeDecodeError and JSONDecodeError
        raise ConfigError(f"images.label_classes: {source} cannot be read ({error}). {expected}.") from error
    mapping: dict[str, Mapped] = {}
    for label, value in lines:
        if label in mapping and mapping[label] != value:
            raise ConfigError(f"images.label_classes: {source} has two classes for the label {label!r}. Give one.")
        mapping[label] = value
    if not mapping:
        raise ConfigError(f"images.label_classes: {source} holds no label. {expected}.")
    return mapping


def _json_lines(text: str) -> list[tuple[str, Mapped]]:
    def pairs(items: list[tuple[str, Mapped]]) -> list[tuple[str, Mapped]]:
        return items  # a dict would hide a label that is there twice

    lines = json.loads(text, object_pairs_hook=pairs)
    if not isinstance(lines, list) or not all(
        isinstance(line, tuple) and (line[1] is None or type(line[1]) in (int, str)) for line in lines
    ):
        raise ValueError("it is no object of labels with the name or number of a class each")
    return lines


def _csv_lines(text: str) -> list[tuple[str, Mapped]]:
    lines: list[tuple[str, Mapped]] = []
    for number, fields in enumerate(csv.reader(text.splitlines(), skipinitialspace=True)):
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != 2:
            raise ValueError(f"line {number + 1} has {len(fields)} columns; a name with a comma needs quotes")
        label, value = (field.strip() for field in fields)
        if number or (label.lower(), value.lower()) != _HEADING:
            lines.append((label, int(value) if value.isdecimal() else value or None))
    return lines


def match_labels(
    labels: Sequence[str], classes: Sequence[str], mapping: Mapping[str, Mapped] | None = None
) -> LabelMatch:
    """``labels`` against ``classes``, the names of a network's classes in order; ``mapping`` goes before all
    else."""
    names = _Names(classes)
    numbered = bool(labels) and all(label.isdecimal() and int(label) < len(classes) for label in labels)
    numbers: list[int | None] = []
    ways: list[Way | None] = []
    ambiguous: dict[str, tuple[str, ...]] = {}
    problems: dict[str, str] = {}
    for label in labels:
        if mapping and label in mapping:
            number = _class_of(mapping[label], names)
            if isinstance(number, str):
                problems[label] = f"images.label_classes: {label} → {mapping[label]}: {number}"
            numbers.append(None if isinstance(number, str) else number)
            ways.append(None if isinstance(number, str) else "mapping")
            continue
        candidates, way = names.find(label)
        if way is None and "/" in label:
            candidates, way = names.find(label.rpartition("/")[2])
        if way is None and numbered:
            candidates, way = (int(label),), "number"
        if len(candidates) > 1:
            ambiguous[label] = tuple(classes[number] for number in candidates)
        numbers.append(candidates[0] if len(candidates) == 1 else None)
        ways.append(way if len(candidates) == 1 else None)
    return LabelMatch(tuple(labels), tuple(numbers), tuple(ways), ambiguous, problems)


def _class_of(value: Mapped, names: _Names) -> int | str | None:
    """The number of the class that a mapping calls ``value``; a sentence where there is none."""
    if value is None:
        return None
    count = len(names.classes)
    if isinstance(value, int):
        if 0 <= value < count:
            return value
        return f"the network has no class of that number; they are 0 to {count - 1}."
    candidates, _ = names.find(value)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        several = ", ".join(f"{number} ({names.classes[number]})" for number in candidates)
        return f"several classes have that name: {several}. Give the number of one."
    near = near_names(value, names.classes, count=3, cutoff=0.5)
    return "the network has no such class." + (f" Near names: {', '.join(near)}." if near else "")


class _Names:
    """The classes of a network by their names, spellings, synonyms and WordNet ids."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._exact, self._spelling, self._synonym = (defaultdict[str, list[int]](list) for _ in range(3))
        for number, name in enumerate(self.classes):
            self._exact[name].append(number)
            _add(self._spelling, plain(name), number)
            for synonym in name.split(","):
                _add(self._synonym, plain(synonym), number)

    def find(self, label: str) -> tuple[tuple[int, ...], Way | None]:
        """The classes that ``label`` may be, by the first way that knows it, and the way."""
        if label in self._exact:
            return tuple(self._exact[label]), "name"
        spelling = plain(label)
        ways: list[tuple[Way, Mapping[str, list[int]], str]] = [
            ("spelling", self._spelling, spelling), ("synonym", self._synonym, spelling)
        ]  # fmt: skip
        for way, numbers, key in ways:
            if key and key in numbers:
                return tuple(numbers[key]), way
        if self._is_imagenet:
            ids, lemmas = self._wordnet
            if label.lower() in ids:
                return tuple(ids[label.lower()]), "WordNet id"
            if spelling and spelling in lemmas:
                return tuple(lemmas[spelling]), "synonym"
        return (), None

    @cached_property
    def _is_imagenet(self) -> bool:
        if len(self.classes) != 1000:
            return False
        pairs = zip(self.classes, imagenet_classes())
        return sum(plain(own.split(",")[0]) == plain(name) for own, name in pairs) >= _LEAST_SHARE * 1000

    @cached_property
    def _wordnet(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """ImageNet's classes by WordNet id, and by all lemmas of it."""
        ids: dict[str, list[int]] = defaultdict(list)
        numbers_of_lemmas: dict[str, list[int]] = defaultdict(list)
        for number, (wordnet_id, lemmas) in enumerate(imagenet_synsets()):
            ids[wordnet_id].append(number)
            for lemma in lemmas.split(","):
                _add(numbers_of_lemmas, plain(lemma), number)
        return ids, numbers_of_lemmas


def _add(numbers: dict[str, list[int]], key: str, number: int) -> None:
    if key and number not in numbers[key]:
        numbers[key].append(number)


def plain(name: str) -> str:
    """``name`` in small letters, without what stands between words: "Tabby_cat" is "tabbycat"."""
    return "".join(re.findall(r"[^\W_]+", name.lower()))


def describe_match(match: LabelMatch, pictures: Sequence[int]) -> list[str]:
    """What matched, how, and what did not, in sentences; ``pictures``: how many of them have each label."""
    present = [number for number, count in enumerate(pictures) if count]
    classes = [number for number in present if match.classes[number] is not None]
    if not present:
        return []
    ways = Counter(match.ways[number] for number in classes)
    counts = [f"{ways[way]:,} by {way}" for way in WAYS if ways[way]]
    of_pictures = sum(pictures[number] for number in classes)
    how = f" ({', '.join(counts)})" if counts else ""
    verb = "are classes" if len(classes) != 1 else "is a class"
    sentences = [
        f"{len(classes):,} of {len(present):,} {verb} of the network{how}: {of_pictures:,} of {sum(pictures):,} "
        "pictures"
    ]
    if classes and not match.has_classes:
        sentences.append("so few may be chance, and none is used; images.label_classes can say which are classes")
        return sentences
    missing = [number for number in present if match.classes[number] is None]
    unsure = [match.labels[number] for number in missing if match.labels[number] in match.ambiguous]
    if unsure:
        first = match.ambiguous[unsure[0]]
        sentences.append(
            f"{_enumeration(unsure)} could be several classes ({unsure[0]}: {_enumeration(first)}), and so none"
        )
    if unknown := [match.labels[number] for number in missing if match.labels[number] not in match.ambiguous]:
        hint = ""
        if any(_WORDNET_ID.fullmatch(label.rpartition("/")[2]) for label in unknown):
            hint = "; WordNet ids are matched for ImageNet's classes, with timm installed"
        if not classes:
            hint += "; which class each is can be said by images.label_classes"
        sentences.append(f"no class: {_enumeration(unknown)}{hint}")
    return sentences


def _enumeration(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def mapping_problems(
    mapping: Mapping[str, Mapped], matches: Sequence[LabelMatch], pictures: Sequence[int]
) -> list[str]:
    """What is wrong with a mapping, in sentences: labels that are of no picture, ``pictures`` being how many have each
    label of the ``matches``; and those whose class none of the matches' networks has."""
    if not mapping or not matches:
        return []
    present = [label for label, count in zip(matches[0].labels, pictures) if count]
    if not set(mapping) & set(present):
        theirs = f"theirs are {_enumeration(present)}" if present else "they have no labels"
        return [f"images.label_classes: no picture has the label {next(iter(mapping))!r}, or another of it; {theirs}."]
    first = matches[0].problems
    return [first[label] for label in present if all(label in match.problems for match in matches)]

"""The words that may be said of patches, each a predicate on what is measured of one patch.

Colours are shares of the patch's middle, not its mean colour: red and green side by side are not brown. A pattern's
limits were set by looking at patches of photographs and drawings on both sides of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.words.colours import DARK, LIGHT, TERMS

Flags = NDArray[np.bool_]
# What is measured of patches, each (rows,), by name.
Columns = dict[str, Float32]
_NEUTRAL = ("black", "white", "grey")
_WARM = ("red", "orange", "yellow", "brown")
_COOL = ("green", "blue", "purple")
_BROADER = {"colourless": _NEUTRAL, "warm colours": _WARM, "cool colours": _COOL}
# Terms of which a part is said too: nearly every picture has some grey in it.
_PARTS = tuple(term for term in TERMS if term != "grey")
# A pattern is seen from this contrast on, in lightness.
_VISIBLE = 0.05


@dataclass(frozen=True)
class Word:
    """A word, the predicate by which it is true of patches, and the words that go without saying where it is said."""

    text: str
    is_true: Callable[[Columns], Flags]
    covers: tuple[str, ...] = ()


def _colours() -> Iterator[Word]:
    for term in TERMS:
        brightness = {"black": ("dark",), "white": ("bright",)}.get(term, ())
        broader = (word for word, terms in _BROADER.items() if term in terms)
        covers = (*(f"some {part}" for part in _PARTS if part == term), *brightness, *broader)
        yield Word(term, _colour(term, 0, 9), covers)
        for kind, lowest, end in (("dark", 0.0, DARK.get(term)), ("light", LIGHT.get(term), 9.0)):
            if lowest is not None and end is not None:
                implied = "dark" if kind == "dark" else "bright"
                yield Word(f"{kind} {term}", _colour(term, lowest, end), (term, implied, *covers))
    yield Word(
        "black and white",
        lambda of: (
            (of["share of black"] > 0.15)
            & (of["share of white"] > 0.15)
            & (of["share of black"] + of["share of white"] > 0.75)
        ),
        ("black", "white", "some black", "some white", "colourless", "strong contrast"),
    )
    for term in _PARTS:
        yield Word(f"some {term}", _part(term))
    # Broader words, for what no single term is true of.
    yield Word("warm colours", lambda of: _together(of, _WARM) >= 0.75)
    yield Word("cool colours", lambda of: _together(of, _COOL) >= 0.75)
    yield Word("vivid", lambda of: of["chroma"] > 0.16)
    yield Word("colourless", lambda of: _together(of, _NEUTRAL) > 0.85, ("some black", "some white"))
    yield Word("pale", lambda of: (of["lightness"] > 0.75) & (of["chroma"] < 0.08) & (of["contrast"] < 0.15))
    yield Word("many colours", _many)


def _many(of: Columns) -> Flags:
    """Whether at least three chromatic terms have a part."""
    parts = np.stack([of[f"share of {term}"] for term in _WARM + _COOL])
    count: NDArray[np.int64] = (parts > 0.1).sum(0)
    return count >= 3


def _together(of: Columns, terms: tuple[str, ...]) -> Float32:
    """The share of some terms together."""
    return np.stack([of[f"share of {term}"] for term in terms]).sum(0)


def _colour(term: str, lowest: float, end: float) -> Callable[[Columns], Flags]:
    """Whether most is of a term, and its pixels' mean lightness from ``lowest`` to below ``end``."""

    def is_true(of: Columns) -> Flags:
        lightness = of[f"lightness of {term}"]
        return (of[f"share of {term}"] >= 0.5) & (lightness >= lowest) & (lightness < end)

    return is_true


def _part(term: str) -> Callable[[Columns], Flags]:
    return lambda of: of[f"share of {term}"] >= 0.25


def _patterns() -> Iterator[Word]:
    yield Word("dark", lambda of: of["lightness"] < 0.4)
    yield Word("bright", lambda of: of["lightness"] > 0.8)
    yield Word("plain surface", lambda of: (of["contrast"] < 0.04) & (of["variety"] < 0.04))
    yield Word("strong contrast", lambda of: of["contrast"] > 0.2)
    yield from _oriented()
    yield Word("textured", lambda of: _patterned(of, 0.03) & (of["fine"] > 0.015))
    yield Word("fine pattern", _fine, ("textured",))
    yield Word("coarse pattern", lambda of: _patterned(of, 0.08) & (of["frequency"] < 4))
    yield Word("soft shading", _soft)
    for text, name, sign, across in (
        ("lighter above", "down", -1, "right"),
        ("lighter below", "down", 1, "right"),
        ("lighter on the left", "right", -1, "down"),
        ("lighter on the right", "right", 1, "down"),
    ):
        yield Word(text, _lighter(name, sign, across))
    yield Word("light in the middle", lambda of: of["middle"] > 0.1)
    yield Word("dark in the middle", lambda of: of["middle"] < -0.1)


def _patterned(of: Columns, contrast: float) -> Flags:
    """Whether light changes there and back over most of the patch."""
    return (of["contrast"] > contrast) & (of["spread"] > 0.45) & (of["polarity"] < 0.4)


def _fine(of: Columns) -> Flags:
    """Whether there is a pattern whose details are small against the patch."""
    return _patterned(of, _VISIBLE) & (of["fine"] > 0.03) & (of["frequency"] > 5)


def _soft(of: Columns) -> Flags:
    """Whether light changes, but slowly and everywhere."""
    return (of["contrast"] > 0.03) & (of["spread"] > 0.5) & (of["fine"] < 0.004) & (of["frequency"] < 2.5)


def _lighter(name: str, sign: int, across: str) -> Callable[[Columns], Flags]:
    """Whether it is lighter on one side, and not rather on one of those across."""
    return lambda of: (sign * of[name] > 0.1) & (np.abs(of[name]) > 2 * np.abs(of[across]))


def _angle(of: Columns) -> NDArray[np.floating]:
    """The direction of the lines in degrees from horizontal, −90 to 90; rising to the right is positive."""
    return np.degrees(np.arctan2(-of["sine"], of["cosine"])) / 2


_DIRECTIONS: dict[str, Callable[[Columns], Flags]] = {
    "horizontal {}": lambda of: np.abs(_angle(of)) < 22.5,
    "vertical {}": lambda of: np.abs(_angle(of)) > 67.5,
    "slanted {}": lambda of: np.abs(np.abs(_angle(of)) - 45) < 22.5,
    "{} rising to the right": lambda of: np.abs(_angle(of) - 45) < 22.5,
    "{} falling to the right": lambda of: np.abs(_angle(of) + 45) < 22.5,
}


def _aligned(of: Columns) -> Flags:
    """Whether most of what is to be seen runs in one direction."""
    return (of["coherence"] > 0.55) & (of["contrast"] > _VISIBLE)


_KINDS: dict[str, Callable[[Columns], Flags]] = {
    "contours": _aligned,
    "stripes": lambda of: _aligned(of) & (of["polarity"] < 0.35) & (of["spread"] > 0.4) & (of["frequency"] > 1.9),
    "edge": lambda of: _aligned(of) & (of["polarity"] > 0.6),
}


def _oriented() -> Iterator[Word]:
    for direction, points in _DIRECTIONS.items():
        general = "slanted {}" if "right" in direction else direction
        for kind, shows in _KINDS.items():
            covers = {direction.format("contours")} - {direction.format(kind)}
            if general != direction:
                covers |= {general.format(other) for other in _KINDS}
            yield Word(direction.format(kind), _both(points, shows), tuple(sorted(covers)))


def _both(one: Callable[[Columns], Flags], other: Callable[[Columns], Flags]) -> Callable[[Columns], Flags]:
    return lambda of: one(of) & other(of)


WORDS = (*_colours(), *_patterns())

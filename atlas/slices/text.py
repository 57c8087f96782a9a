"""Where a network errs, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas.slices.permutation import FALSE_DISCOVERY_RATE

# Confusions of a run that are named, and of a slice; pictures that a confusion needs.
_CONFUSIONS, _SLICE_CONFUSIONS, _FEWEST = 3, 2, 2
# How unlikely a difference of two networks must be by chance to be called one.
_SIGNIFICANT = 0.05


def accuracy_sentences(facts: dict[str, Any], classes: Sequence[str]) -> list[str]:
    """A network's accuracy, its commonest confusions, and how others do, by ``accuracy_facts``; ``classes``: the
    network's names of classes."""
    if not facts["pictures"]:
        return ["No labelled picture gave a row, so there is no accuracy."]
    sentences = [
        f"right on {facts['accuracy']:.1%} of {facts['pictures']:,} labelled pictures ({facts['low']:.1%} to "
        f"{facts['high']:.1%} with 95 % confidence); the true class is among the first five of "
        f"{facts['near_accuracy']:.1%}, its mean rank is {facts['mean_rank']:.1f}"
    ]
    common = [one for one in facts["confusions"] if one["pictures"] >= _FEWEST][:_CONFUSIONS]
    if common:
        sentences.append(f"most often confused: {_confusions(common, classes)}")
    for name, other in facts["others"].items():
        who = f"@{name}" if name else "the first network"
        what = (
            f"errs alone on {other['only_here']:,.4g} of {other['pictures']:,} pictures, {who} alone on "
            f"{other['only_there']:,.4g}, both on {other['both']:,.4g}"
        )
        doubt = "" if other["p"] <= _SIGNIFICANT else ", which is no more than chance"
        sentences.append(f"{what} (p = {other['p']:.2g}{doubt})")
    return sentences


def slice_sentence(errors: dict[str, Any], classes: Sequence[str]) -> str:
    """The cells of a layer that stand out, or that none does; ``errors``: of the layer in a report."""
    tested = sum(grid["tested"] for grid in errors["grids"].values())
    if not tested:
        return "no cell has enough labelled pictures, of classes that are sometimes wrong, to be tested for its errors"
    if not errors["slices"]:
        return f"no cell of {tested:,} holds more errors than its classes let expect"
    counts = [
        f"{grid['slices']:,} of {grid['tested']:,} cells of grid {name}" for name, grid in errors["grids"].items()
    ]
    first = errors["slices"][0]
    wrong = first["pictures"] * (1 - first["accuracy"])
    expected = first["pictures"] * (1 - first["expected"])
    confusions = _confusions(first["confusions"][:_SLICE_CONFUSIONS], classes)
    return (
        f"more errors than their classes let expect (false discovery rate {FALSE_DISCOVERY_RATE:.0%}) in "
        f"{', '.join(counts)}; most in grid {first['grid']}, row {first['row']}, col {first['col']}: {wrong:.4g} of "
        f"{first['pictures']:,} pictures wrong, {expected:.2g} expected, {confusions}"
    )


def _confusions(confusions: Sequence[dict[str, Any]], classes: Sequence[str]) -> str:
    return ", ".join(
        f"{classes[one['true_class']].split(',')[0]} taken for {classes[one['predicted']].split(',')[0]} "
        f"({one['pictures']:,.4g})"
        for one in confusions
    )

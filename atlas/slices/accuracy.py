"""How often a network is right on the pictures of a run whose labels are classes; a picture counts once, however many
views and rows it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from atlas.store.shards import iterate, read_metadata

# Of the run's confusions, the commonest; and the rank that counts as near.
CONFUSIONS, NEAR_RANK = 10, 5
# Of the interval in which the accuracy of such pictures lies.
_CONFIDENCE = 0.95

_COLUMNS = ("image_id", "view", "draw", "label", "predicted", "confidence", "label_rank", "label_probability")


@dataclass(frozen=True)
class Verdicts:
    """What a network says of the rows of a store, arrays (n,) in the store's order.

    ``true_class``: number of the class that the picture's label is, −1 where it is none; ``rank``, ``probability``: of
    the true class, 1 is best; ``predicted``, ``confidence``: of the network's first class.
    """

    image_id: NDArray[np.int64]
    view: NDArray[np.int64]
    draw: NDArray[np.int64]
    true_class: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    rank: NDArray[np.int64]
    probability: NDArray[np.float64]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether the network's first class is not the true one; False where there is none."""
        return (self.true_class >= 0) & (self.predicted != self.true_class)

    def picture_weights(self) -> NDArray[np.float64]:
        """The share of each row in its picture, (n,), 0 where the picture has no class: they sum to the number of
        pictures that have one."""
        _, index, counts = np.unique(self.image_id, return_inverse=True, return_counts=True)
        return np.where(self.true_class >= 0, 1 / counts[index], 0.0)


def read_verdicts(shards: Sequence[Path]) -> Verdicts | None:
    """What the network says of the rows of these shards; None where no label is a class of it."""
    label_classes = read_metadata(shards[0]).get("label_classes")
    if not label_classes:
        return None
    blocks = list(iterate(shards, _COLUMNS))
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in _COLUMNS}
    # A label without a number, in the last place, is no class either.
    numbers = np.array([-1 if number is None else number for number in [*label_classes, None]], np.int64)
    whole = {name: columns[name].astype(np.int64) for name in ("image_id", "view", "draw", "predicted")}
    return Verdicts(
        **whole,
        true_class=numbers[columns["label"]],
        confidence=columns["confidence"].astype(np.float64),
        rank=columns["label_rank"].astype(np.int64),
        probability=columns["label_probability"].astype(np.float64),
    )


def accuracy_facts(verdicts: Verdicts, others: dict[str, Verdicts]) -> dict[str, Any]:
    """The accuracy of a network over a run's pictures, ready for JSON.

    ``pictures``: those whose label is a class; ``accuracy``, ``near_accuracy``: the share whose true class comes first,
    or among the first five; ``low``, ``high``: the 95 % interval of the first (Wilson 1927); ``mean_rank``: of the true
    class; ``confusions``: the commonest, each the ``true_class``, the class ``predicted`` instead and how many
    ``pictures`` that is; ``others``: for each other network of the same rows, see ``compare``.
    """
    weights = verdicts.picture_weights()
    pictures = float(weights.sum())
    right = float(weights @ ~verdicts.wrong)
    low, high = wilson(right, pictures)
    return {
        "pictures": round(pictures),
        "accuracy": right / pictures if pictures else None,
        "low": low,
        "high": high,
        "near_accuracy": float(weights @ (verdicts.rank <= NEAR_RANK)) / pictures if pictures else None,
        "mean_rank": float(weights @ verdicts.rank) / pictures if pictures else None,
        "confusions": confusions(verdicts, weights, np.flatnonzero(verdicts.wrong), CONFUSIONS),
        "others": {name: compare(verdicts, other) for name, other in others.items()},
    }


def wilson(right: float, count: float) -> tuple[float | None, float | None]:
    """The interval in which a share lies of which ``right`` of ``count`` were seen; None of none."""
    if not count:
        return None, None
    interval = binomtest(round(right), round(count)).proportion_ci(_CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def confusions(
    verdicts: Verdicts, weights: NDArray[np.float64], rows: NDArray[np.integer], most: int
) -> list[dict[str, Any]]:
    """The commonest confusions among ``rows``, numbers of wrong ones, by their ``weights`` (n,)."""
    if not len(rows):
        return []
    pairs = np.stack([verdicts.true_class[rows], verdicts.predicted[rows]], axis=1)
    names, index = np.unique(pairs, axis=0, return_inverse=True)
    sums = np.bincount(index.reshape(-1), weights[rows], minlength=len(names))
    order = np.lexsort((names[:, 1], names[:, 0], -sums.round(6)))[:most]
    return [
        {"true_class": int(names[one, 0]), "predicted": int(names[one, 1]), "pictures": round(float(sums[one]), 2)}
        for one in order
    ]


def compare(verdicts: Verdicts, other: Verdicts) -> dict[str, Any]:
    """Two networks over the same rows: on how many ``pictures``, that have a class in both, only the first errs
    (``only_here``), only the other (``only_there``), and both (``both``); ``p``: how likely so uneven a pair of numbers
    is where neither is better (McNemar's test, exact)."""
    common = (verdicts.true_class >= 0) & (other.true_class >= 0)
    weights = np.where(common, verdicts.picture_weights(), 0.0)
    here, there = verdicts.wrong, other.wrong
    only_here, only_there = float(weights @ (here & ~there)), float(weights @ (there & ~here))
    disagreements = round(only_here) + round(only_there)
    return {
        "pictures": round(float(weights.sum())),
        "only_here": round(only_here, 2),
        "only_there": round(only_there, 2),
        "both": round(float(weights @ (here & there)), 2),
        "p": float(binomtest(round(only_here), disagreements).pvalue) if disagreements else 1.0,
    }

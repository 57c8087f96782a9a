"""The map of one class, or of two: which rows it holds, and where they lie.

Both are deterministic, so that a map that is lost is made again as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atlas.arrays import Float32
from atlas.config.sections import LayoutConfig
from atlas.layout.fit import fit_layout, unit_box
from atlas.rundir.maps import AtlasMap
from atlas.store.classes import class_number
from atlas.store.shards import iterate


@dataclass(frozen=True)
class ClassRows:
    """Rows of a layer that a class atlas lays out, ascending (n,); of a pair, ``difference`` float32 (n,): how much
    more each speaks for the second class than for the first."""

    rows: NDArray[np.int64]
    difference: Float32 | None = None


def choose_rows(
    shards: Sequence[Path], maps: Sequence[AtlasMap], config: LayoutConfig, classes: Sequence[str]
) -> list[ClassRows]:
    """The rows that each class atlas of a layer lays out, each once, from one pass over the layer.

    By attribution: the rows that most support the class, among those that do at all. By prediction: the rows of views
    that the network takes for the class, the surest first. At most ``class_rows``, and by attribution at most a tenth
    of the layer, since every class finds weak support in half of all rows; of a pair, half of them for each class.
    """
    numbers_of_maps = [[class_number(name, classes) for name in atlas_map.classes] for atlas_map in maps]
    class_numbers = sorted({number for numbers in numbers_of_maps for number in numbers})
    predicting = config.class_by == "predicted"
    columns = ["attribution"] if not predicting or any(len(numbers) == 2 for numbers in numbers_of_maps) else []
    support, predicted, confidences = [], [], []
    for block in iterate(shards, [*columns, "predicted", "confidence"]):
        predicted.append(block["predicted"])
        confidences.append(block["confidence"])
        if columns:
            support.append(block["attribution"][:, class_numbers].astype(np.float32))
    predictions, confidence = np.concatenate(predicted), np.concatenate(confidences)
    values = np.concatenate(support) if columns else np.zeros((len(predictions), len(class_numbers)), np.float32)
    return [
        _class_rows(numbers, values[:, np.searchsorted(class_numbers, numbers)], predictions, confidence, config)
        for numbers in numbers_of_maps
    ]


def _class_rows(
    numbers: list[int],
    values: Float32,
    predictions: NDArray[np.integer],
    confidence: NDArray[np.floating],
    config: LayoutConfig,
) -> ClassRows:
    """The rows of one map, of classes ``numbers``: ``values`` (n, classes) are their attributions, ``predictions``
    (n,) the predicted class and ``confidence`` (n,) how sure the network is of it."""
    predicting = config.class_by == "predicted"
    most = (config.class_rows if predicting else min(config.class_rows, len(predictions) // 10)) // len(numbers)
    parts = []
    for column, number in enumerate(numbers):
        candidates = np.flatnonzero(predictions == number if predicting else values[:, column] > 0)
        score = confidence[candidates] if predicting else values[candidates, column]
        order = np.argsort(-score, kind="stable")
        parts.append(candidates[order[:most]])
    rows = np.unique(np.concatenate(parts))
    return ClassRows(rows, values[rows, 1] - values[rows, 0] if len(numbers) == 2 else None)


def lay_out(rows: Float32, class_rows: ClassRows, config: LayoutConfig, *, seed: int) -> Float32:
    """The coordinates in [0, 1]² of each of the chosen unit ``rows`` (n, width), NaN where dropped: float32 (n, 2).

    Of a pair, u is the difference of the attributions by rank, the rows that speak for the first class left of the
    middle, those for the second right of it (the differences themselves have a long tail, which would leave most cells
    empty); v is a map in one dimension. One thread: the same rows give the same map.
    """
    settings = config.model_copy(update={"axes": "umap", "backend": "umap", "deterministic": True})
    pair = class_rows.difference is not None
    coordinates = fit_layout(rows, settings, seed=seed, threads=1, line=pair).coordinates
    if class_rows.difference is None:
        return unit_box([coordinates])[0]
    box_coordinates = unit_box([np.stack([coordinates[:, 0], coordinates[:, 0]], 1)])[0]
    finite = np.isfinite(box_coordinates[:, 0])
    box_coordinates[finite, 0] = _by_rank(class_rows.difference[finite])
    return box_coordinates


def _by_rank(difference: Float32) -> Float32:
    """Differences (n,) as coordinates in (0, 1): in equal steps, negative ones below one half, positive ones above."""
    coordinates = np.full(len(difference), 0.5, np.float32)
    for side in (-1, 1):
        rows = np.flatnonzero(np.sign(difference) == side)
        order = rows[np.argsort(difference[rows], kind="stable")]
        low = 0.0 if side < 0 else 0.5
        coordinates[order] = low + 0.5 * (np.arange(len(order)) + 0.5) / max(len(order), 1)
    return coordinates

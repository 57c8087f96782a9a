"""The table UNITS: pictures of each unit, the classes that it supports, and its tuning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from atlas.arrays import Float32
from atlas.networks.network import Layer, Network
from atlas.networks.observer import Observer
from atlas.networks.precision import AskedPrecision
from atlas.neurons.classes import class_effects, strongest
from atlas.neurons.tables import UNITS
from atlas.neurons.tuning import (
    MIRRORED,
    ROTATED,
    SCALED,
    Figures,
    PatchWindow,
    Tuning,
    figures,
    patch_middle,
    sprites,
    tuning,
    window_of,
)
from atlas.neurons.views import PositionView, as_inputs
from atlas.pictures.decode import encode_png
from atlas.store.shards import RowKey, key_of
from atlas.visualize.diverse import UNIT_RECIPE, DiversePictures, diverse, picture_size
from atlas.visualize.optimize import step_seconds
from atlas.visualize.subnetwork import Subnetwork, cached_subnetwork

# Classes that are listed, and the side and JPEG quality of the pictures of posed patches.
SUPPORTED, OPPOSED = 10, 5
POSE_SIDE, POSE_QUALITY = 120, 85


@dataclass(frozen=True)
class UnitDrawing:
    """How pictures of units are drawn: how many of each, steps of gradient ascent (None: the recipe's), precision,
    batch, and whether the network is compiled."""

    pictures: int
    steps: int | None
    precision: AskedPrecision
    batch: int
    compile: bool
    seed: int


def unit_table(
    network: Network,
    layer: Layer,
    statistics: pa.Table,
    units: Sequence[int],
    views: Mapping[RowKey, PositionView],
    drawing: UnitDrawing,
    observer: Observer | None,
    *,
    rotated_patches: int,
) -> pa.Table:
    """The table UNITS of some ``units`` of a layer, whose ``statistics`` are those of all its units. ``views`` are
    those of their top rows that can be read; ``rotated_patches`` of each unit are also rotated, mirrored and scaled.
    Without ``observer`` there are no classes."""
    drawings = _draw(network, layer, statistics, units, drawing)
    tops = statistics["top"].take(pa.array(units, pa.int64())).to_pylist()
    top_views = [[views[key] for key in map(key_of, _firing(top)) if key in views] for top in tops]
    effects = _effects(network, layer, observer, units, top_views)
    window = window_of(network, layer)
    subnetwork = cached_subnetwork(network, layer.name, window.side, "float32")
    rows: list[dict[str, Any]] = []
    for number, unit in enumerate(units):
        patches = top_views[number][:rotated_patches]
        curves = _tuning(network, layer, subnetwork, unit, patches, window)
        summary = figures(curves.rotated)
        if not _firing(tops[number]):
            summary = Figures(note="It never fires: it is not above 0 in any row of the store.")
        rows.append(
            {
                "unit": unit,
                "pictures": [encode_png(picture) for picture in drawings.pixels[number]],
                "size": drawings.pixels.shape[2],
                "picture_activations": drawings.activations[number],
                "supports": strongest(effects[number], SUPPORTED),
                "opposes": strongest(effects[number], OPPOSED, opposing=True),
                "effects": effects[number].mean(0) if len(effects[number]) else [],
                "rotated": list(curves.rotated),
                "mirrored": list(curves.mirrored),
                "scaled": list(curves.scaled),
                "selectivity": summary.selectivity,
                "invariance": summary.invariance,
                "preferred": summary.preferred,
                "note": summary.note,
                **_posed_pictures(network, layer, patches[:1], window),
            }
        )
    return pa.Table.from_pylist(rows, schema=UNITS)


def seconds_a_unit(
    network: Network, layer: Layer, *, pictures: int, rotated_patches: int, steps: int | None, precision: AskedPrecision
) -> float:
    """About how long a unit takes, here and now: its ``pictures``, and its patches in all their poses."""
    ascent_steps = pictures * (steps or UNIT_RECIPE.steps)
    # A step is three passes and more.
    poses = rotated_patches * (len(ROTATED) + len(MIRRORED) + len(SCALED) - 1) / 3
    drawing = ascent_steps * step_seconds(network, layer.name, picture_size(layer, network), precision)
    # A tenth more for the Gram matrices, by which the pictures are made unlike.
    return 1.1 * drawing + poses * step_seconds(network, layer.name, window_of(network, layer).side, "float32")


def firing_rows(statistics: pa.Table, units: Sequence[int]) -> list[RowKey]:
    """The top rows of some units in which these fire."""
    tops = statistics["top"].take(pa.array(units, pa.int64())).to_pylist()
    return [key_of(row) for top in tops for row in _firing(top)]


def usual_activations(statistics: pa.Table) -> Float32:
    """A large activation of each unit (units,): the mean of its top rows, or the root mean square of the layer for
    units that never fire."""
    tops = [[row["activation"] for row in _firing(top)] for top in statistics["top"].to_pylist()]
    mean, deviation = (statistics[name].to_numpy() for name in ("mean", "deviation"))
    usual = float(np.sqrt(np.mean(mean**2 + deviation**2))) or 1.0
    return np.array([np.mean(top) if top else usual for top in tops], np.float32)


def _firing(top: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in top if row["activation"] > 0]


def _draw(
    network: Network, layer: Layer, statistics: pa.Table, units: Sequence[int], drawing: UnitDrawing
) -> DiversePictures:
    return diverse(
        network,
        layer.name,
        units,
        size=picture_size(layer, network),
        pictures=drawing.pictures,
        activation_scale=usual_activations(statistics)[list(units)],
        deviations=statistics["deviation"].to_numpy(),
        steps=drawing.steps,
        seed=drawing.seed,
        batch=drawing.batch,
        precision=drawing.precision,
        compile=drawing.compile,
    )


def _effects(
    network: Network, layer: Layer, observer: Observer | None, units: Sequence[int], top_views: list[list[PositionView]]
) -> list[Float32]:
    """For each unit the effects (patches, classes) of its activation in its top views."""
    views = [view for of_unit in top_views for view in of_unit]
    if observer is None or not views:
        return [np.zeros((0, 0), np.float32) for _ in units]
    inputs, positions = as_inputs(views, network)
    counts = [len(of_unit) for of_unit in top_views]
    unit_of_view = torch.tensor(np.repeat(np.asarray(units, np.int64), counts))
    effects = class_effects(observer, layer.name, inputs, positions, unit_of_view)
    return np.split(effects, np.cumsum(counts)[:-1])


def _tuning(
    network: Network, layer: Layer, subnetwork: Subnetwork, unit: int, views: list[PositionView], window: PatchWindow
) -> Tuning:
    def activation(pictures: Tensor) -> Tensor:
        with torch.no_grad():
            maps = subnetwork(pictures.to(network.device))
        return maps[:, unit, maps.shape[2] // 2, maps.shape[3] // 2]

    middles = [patch_middle(view.position, layer, network.size, window) for view in views]
    pixels = torch.stack([_pixels(view) for view in views]) if views else torch.zeros(0)
    return tuning(activation, pixels, middles, window)


def _pixels(view: PositionView) -> Tensor:
    return torch.from_numpy(view.pixels).permute(2, 0, 1).float() / 255


def _posed_pictures(
    network: Network, layer: Layer, views: list[PositionView], window: PatchWindow
) -> dict[str, list[bytes]]:
    """The first patch in all poses as JPEGs; nothing where there is none."""
    poses = {"rotated_pictures": ROTATED, "mirrored_pictures": MIRRORED, "scaled_pictures": SCALED}
    if not views:
        return {name: [] for name in poses}
    view, middle = _pixels(views[0]), patch_middle(views[0].position, layer, network.size, window)
    return {
        name: [_jpeg(picture.numpy()) for picture in sprites(view, middle, window, of, POSE_SIDE)]
        for name, of in poses.items()
    }


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=POSE_QUALITY)
    return file.getvalue()

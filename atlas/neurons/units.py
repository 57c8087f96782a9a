"""What is made of each unit: its pictures, the classes it supports, and how it answers to turned patches."""

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
    Tuning,
    Window,
    figures,
    place_of,
    sprites,
    tuning,
    window_of,
)
from atlas.neurons.views import Key, Seen, as_inputs
from atlas.pictures.decode import encode_png
from atlas.visualize.diverse import UNIT_RECIPE, Diverse, diverse, picture_size
from atlas.visualize.optimize import step_seconds
from atlas.visualize.subnetwork import CutNetwork, cut

# Top patches that are turned: each costs 52 passes.
ROTATED_PATCHES = 6
# Classes told of, and the side and JPEG quality of the pictures of turned patches.
SUPPORTED, OPPOSED = 10, 5
SPRITE, QUALITY = 120, 85


@dataclass(frozen=True)
class Drawing:
    """How pictures of units are drawn: how many of each, steps of the climb (None: the recipe's), precision, batch, and
    whether the network is compiled."""

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
    views: Mapping[Key, Seen],
    drawing: Drawing,
    observer: Observer | None,
) -> pa.Table:
    """The table UNITS of some ``units`` of a layer, whose ``statistics`` are those of all its units. ``views`` are
    those of their top rows that can be read. Without ``observer`` no classes are told."""
    drawn = _draw(network, layer, statistics, units, drawing)
    tops = statistics["top"].take(pa.array(units, pa.int64())).to_pylist()
    seen = [[views[key] for key in map(_key, _firing(top)) if key in views] for top in tops]
    effects = _effects(network, layer, observer, units, seen)
    window = window_of(network, layer)
    ask = cut(network, layer.name, window.side, "float32")
    rows: list[dict[str, Any]] = []
    for number, unit in enumerate(units):
        mine = seen[number][:ROTATED_PATCHES]
        tuned = _tuning(network, layer, ask, unit, mine, window)
        found = figures(tuned.rotated)
        if not _firing(tops[number]):
            found = Figures(note="It never fires: it is not above 0 in any row of the store.")
        shown = _shown(network, layer, mine[:1], window)
        rows.append(
            {
                "unit": unit,
                "pictures": [encode_png(picture) for picture in drawn.pixels[number]],
                "size": drawn.pixels.shape[2],
                "picture_activations": drawn.answers[number],
                "supports": strongest(effects[number], SUPPORTED),
                "opposes": strongest(effects[number], OPPOSED, opposing=True),
                "effects": effects[number].mean(0) if len(effects[number]) else [],
                "rotated": list(tuned.rotated),
                "mirrored": list(tuned.mirrored),
                "scaled": list(tuned.scaled),
                "selectivity": found.selectivity,
                "invariance": found.invariance,
                "preferred": found.preferred,
                "note": found.note,
                **shown,
            }
        )
    return pa.Table.from_pylist(rows, schema=UNITS)


def seconds_a_unit(
    network: Network, layer: Layer, *, pictures: int, steps: int | None, precision: AskedPrecision
) -> float:
    """About how long a unit takes, here and now: its ``pictures``, and its patches in all their poses."""
    climbed = pictures * (steps or UNIT_RECIPE.steps)
    # A pass and back is three passes; a third more for the moves, the spectrum and what else a unit needs.
    turned = ROTATED_PATCHES * (len(ROTATED) + len(MIRRORED) + len(SCALED) - 1) / 3
    drawing = climbed * step_seconds(network, layer.name, picture_size(layer, network), precision)
    return 1.3 * (drawing + turned * step_seconds(network, layer.name, window_of(network, layer).side, "float32"))


def firing_rows(statistics: pa.Table, units: Sequence[int]) -> list[Key]:
    """The top rows of some units in which these fire."""
    tops = statistics["top"].take(pa.array(units, pa.int64())).to_pylist()
    return [_key(row) for top in tops for row in _firing(top)]


def usual_answers(statistics: pa.Table) -> Float32:
    """What excites each unit well (units,): the mean of its top rows, or of those that never fire the layer's usual
    size."""
    tops = [[row["activation"] for row in _firing(top)] for top in statistics["top"].to_pylist()]
    mean, deviation = (statistics[name].to_numpy() for name in ("mean", "deviation"))
    usual = float(np.sqrt(np.mean(mean**2 + deviation**2))) or 1.0
    return np.array([np.mean(top) if top else usual for top in tops], np.float32)


def _firing(top: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in top if row["activation"] > 0]


def _key(row: dict[str, Any]) -> Key:
    return row["image_id"], row["view"], row["draw"]


def _draw(network: Network, layer: Layer, statistics: pa.Table, units: Sequence[int], drawing: Drawing) -> Diverse:
    return diverse(
        network,
        layer.name,
        units,
        size=picture_size(layer, network),
        pictures=drawing.pictures,
        usual=usual_answers(statistics)[list(units)],
        deviations=statistics["deviation"].to_numpy(),
        steps=drawing.steps,
        seed=drawing.seed,
        batch=drawing.batch,
        precision=drawing.precision,
        compile=drawing.compile,
    )


def _effects(
    network: Network, layer: Layer, observer: Observer | None, units: Sequence[int], seen: list[list[Seen]]
) -> list[Float32]:
    """For each unit the effects (patches, classes) of its activation in its top views."""
    everywhere = [each for of_unit in seen for each in of_unit]
    if observer is None or not everywhere:
        return [np.zeros((0, 0), np.float32) for _ in units]
    inputs, positions = as_inputs(everywhere, network)
    counts = [len(of_unit) for of_unit in seen]
    asked = torch.tensor(np.repeat(np.asarray(units, np.int64), counts))
    found = class_effects(observer, layer.name, inputs, positions, asked)
    return np.split(found, np.cumsum(counts)[:-1])


def _tuning(network: Network, layer: Layer, ask: CutNetwork, unit: int, seen: list[Seen], window: Window) -> Tuning:
    def answer(pictures: Tensor) -> Tensor:
        with torch.no_grad():
            maps = ask(pictures.to(network.device))
        return maps[:, unit, maps.shape[2] // 2, maps.shape[3] // 2]

    places = [place_of(each.position, layer, network.size, window) for each in seen]
    return tuning(answer, torch.stack([_pixels(each) for each in seen]) if seen else torch.zeros(0), places, window)


def _pixels(seen: Seen) -> Tensor:
    return torch.from_numpy(seen.pixels).permute(2, 0, 1).float() / 255


def _shown(network: Network, layer: Layer, seen: list[Seen], window: Window) -> dict[str, list[bytes]]:
    """The first patch in all poses as JPEGs; nothing where there is none."""
    poses = {"rotated_pictures": ROTATED, "mirrored_pictures": MIRRORED, "scaled_pictures": SCALED}
    if not seen:
        return {name: [] for name in poses}
    view, place = _pixels(seen[0]), place_of(seen[0].position, layer, network.size, window)
    return {
        name: [_jpeg(picture.numpy()) for picture in sprites(view, place, window, of, SPRITE)]
        for name, of in poses.items()
    }


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()

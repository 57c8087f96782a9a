"""What is found of a picture as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas.arrays import Float32
from atlas.explain.explainer import Explainer, Picture
from atlas.explain.groups import Groups
from atlas.explain.rounding import round_value, round_values
from atlas.layout.placement import Placement

# Of a picture's likeliest classes those whose attributions are part of its summary.
ATTRIBUTED_CLASSES = 5
# Classes of a group, on each side.
GROUP_CLASSES = 5


def summary(picture: Picture) -> dict[str, Any]:
    """What the networks answer, and for each layer where its positions lie on the map, how strong they are and what
    they add to the best classes."""
    explainer, square = picture.explainer, picture.square
    names = list(explainer.networks)
    best = {name: picture.top_classes(name) for name in names}
    attributions = {
        name: picture.attribution([top["class"] for top in best[name][:ATTRIBUTED_CLASSES]], name) for name in names
    }
    layers = []
    for name, layer in explainer.layers.items():
        maps = picture.maps(name)
        norms = np.linalg.norm(maps, axis=0).reshape(-1)
        layers.append(
            {
                "path": name,
                "network": names.index(layer.network),
                "rows": maps.shape[1],
                "cols": maps.shape[2],
                "channels": maps.shape[0],
                "magnitude": round_values(norms / max(float(norms.max()), 1e-12)),
                **placement_facts(explainer, name, picture.placements[name]),
                "attribution": {
                    str(number): round_values(effects[name]) for number, effects in attributions[layer.network].items()
                },
            }
        )
    return {
        "picture": {"width": square.width, "height": square.height, "box": list(square.box)},
        "networks": [
            {"name": explainer.networks[name].name, "size": explainer.networks[name].size, "classes": best[name]}
            for name in names
        ],
        "layers": layers,
    }


def group_facts(
    picture: Picture, layer: str, groups: Groups, effects: Float32, classes: Sequence[int] = ()
) -> dict[str, Any]:
    """``groups`` of a layer with their ``effects``, float32 (groups, classes of the network): which of the ten
    likeliest classes, and of ``classes``, they support and oppose. Among all classes those that stand out most do so by
    chance.
    """
    explainer = picture.explainer
    likeliest = [top["class"] for top in picture.top_classes(explainer.layer(layer).network)]
    candidates = np.array(list(dict.fromkeys([*likeliest, *classes])))
    placement = placement_facts(explainer, layer, explainer.run.place(layer, groups.directions))
    entries = []
    for number, mask in enumerate(groups.masks):
        order = candidates[np.argsort(-effects[number, candidates], kind="stable")]
        rows = [{"class": int(index), "value": float(f"{effects[number, index]:.5g}")} for index in order]
        entries.append(
            {
                "mask": round_values(mask),
                "share": round_value(groups.shares[number]),
                "supports": [row for row in rows[:GROUP_CLASSES] if row["value"] > 0],
                "opposes": [row for row in rows[: -GROUP_CLASSES - 1 : -1] if row["value"] < 0],
                **{name: values[number] for name, values in placement.items()},
            }
        )
    return {"groups": entries, "explained_share": round_value(groups.explained_share), "split_by_sign": groups.signed}


def placement_facts(explainer: Explainer, layer: str, placement: Placement) -> dict[str, list[Any]]:
    """``u``, ``v``, ``confidence`` and ``cell`` of placed points; None where a point has no place."""
    nowhere = np.isnan(placement.u)
    return {
        "u": round_values(placement.u),
        "v": round_values(placement.v),
        "confidence": round_values(np.where(nowhere, np.nan, placement.confidence)),
        "cell": [None if cell is None else list(cell) for cell in explainer.cells(layer, placement)],
    }

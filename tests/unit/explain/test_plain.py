"""Plain values of a picture, against the same worked out another way."""

import json

import numpy as np
import pytest

from atlas.explain.explainer import Explainer, Picture
from atlas.explain.plain import group_facts, summary


def test_the_summary_holds_together(explainer: Explainer, picture: Picture) -> None:
    facts = summary(picture)
    assert facts["picture"] == {"width": 96, "height": 64, "box": [16, 0, 80, 64]}
    (network,) = facts["networks"]
    logits = picture.logits()
    order = np.argsort(-logits)
    assert [entry["class"] for entry in network["classes"]] == order.tolist()
    assert sum(entry["probability"] for entry in network["classes"]) == pytest.approx(1, abs=1e-4)
    assert [layer["path"] for layer in facts["layers"]] == ["middle", "last"]
    for layer in facts["layers"]:
        maps = picture.maps(layer["path"])
        assert maps.shape == (layer["channels"], layer["rows"], layer["cols"])
        norms = np.linalg.norm(maps, axis=0).reshape(-1)
        assert layer["magnitude"] == pytest.approx(norms / norms.max(), rel=1e-3)
        placement = explainer.run.place(layer["path"], maps.reshape(len(maps), -1).T)
        placed_positions = [index for index, u in enumerate(layer["u"]) if u is not None]
        assert len(placed_positions) > 10
        u = [layer["u"][index] for index in placed_positions]
        assert u == pytest.approx(placement.u[placed_positions], abs=1e-4)
        assert all(0 <= layer["confidence"][index] <= 1 for index in placed_positions)
        for index in placed_positions:
            if layer["cell"][index] is not None:
                grid, row, col = layer["cell"][index]
                assert (row, col) == (int(layer["v"][index] * grid), int(layer["u"][index] * grid))
        assert set(layer["attribution"]) == {str(index) for index in order[:5]}
        best = str(order[0])
        expected = picture.attribution([int(best)])[int(best)][layer["path"]].reshape(-1)
        assert layer["attribution"][best] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    json.dumps(facts, allow_nan=False)


def test_groups_tell_what_the_best_classes_lose(explainer: Explainer, picture: Picture) -> None:
    groups, effects = picture.groups("last", 3)
    facts = group_facts(picture, "last", groups, effects)
    best = {entry["class"] for entry in picture.top_classes()}
    assert facts == group_facts(picture, "last", groups, effects, [next(iter(best))])
    for number, group in enumerate(facts["groups"]):
        assert len(group["mask"]) == groups.masks[0].size
        values = [entry["value"] for entry in group["supports"]]
        assert values == sorted(values, reverse=True)
        for entry in group["supports"] + group["opposes"]:
            assert entry["class"] in best
            assert entry["value"] == pytest.approx(effects[number, entry["class"]], rel=1e-3)
        assert all(entry["value"] < 0 for entry in group["opposes"])

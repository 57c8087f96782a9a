"""The tour's examples are those with the best figures."""

from pathlib import Path

import numpy as np
import pytest
from made_neurons import INHIBITED, NEVER, shade
from PIL import Image
from tour_run import STEP, key_of, predictions, step_of, write_and_read, write_tour_file

from atlas.neurons.reading import UnitTables
from atlas.rundir.directory import RunDirectory
from atlas.site.tour.writer import percent
from atlas.store.shards import read_columns


@pytest.fixture
def run(tour_run: RunDirectory) -> RunDirectory:
    return tour_run


def colour(run: RunDirectory, picture: str) -> np.ndarray:
    return np.asarray(Image.open(run.folder("publish") / picture).convert("RGB")).mean((0, 1))


def test_the_one_neuron_is_the_clearest(run: RunDirectory) -> None:
    """By counting here anew: how alike the other channels see its patches, times how far its own picture leads."""
    scores = []
    for layer in ("last",):  # its units know most
        vectors = {}
        for shard in run.shards(layer):
            columns = read_columns(shard, ["image_id", "view", "draw", "activation"])
            keys = zip(*(columns[name].tolist() for name in ("image_id", "view", "draw")))
            vectors |= dict(zip(keys, columns["activation"].astype(np.float64) - 0.25))  # the mean of every unit
        units = UnitTables(run, layer).units(range(20))
        for statistics, unit in zip(UnitTables(run, layer).statistics(), units):
            if (number := statistics["unit"]) != NEVER:
                others = [np.delete(vectors[key_of(row)], number) for row in statistics["top"]]
                pairs = [(others[0], others[1]), (others[0], others[2]), (others[1], others[2])]
                alike = np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs])
                ratio = unit["picture_activations"][0] / statistics["largest"]
                scores.append((alike * ratio / (1 + ratio), layer, number, alike, ratio))
    _, layer, unit, alike, ratio = max(scores)
    step = step_of(write_and_read(run), "neuron")
    assert step["link"] == f"#unit={layer}:{unit}"
    assert "Of 19 units the one that comes out first" in step["figure"]
    assert f"look to the rest of its layer ({alike:.2f};" in step["figure"]
    assert f"excites it ({ratio:.1f} times as strongly" in step["figure"]
    assert np.abs(colour(run, step["picture"]) - shade(unit)).max() < 6
    assert len(step["parts"]) == 3


def test_the_one_image_excites_the_neuron_and_the_network_is_sure_of_it(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.site.tour.writer.LEAST_CONFIDENCE", 0.0)
    tour_facts = write_and_read(run)
    layer, unit = step_of(tour_facts, "neuron")["link"].removeprefix("#unit=").split(":")
    top = UnitTables(run, layer).statistics(range(int(unit), int(unit) + 1))[0]["top"]
    facts = predictions(run, "middle")
    surest = max(facts[key_of(row)][1] for row in top)
    step = step_of(tour_facts, "image")
    matches = [fact for fact in (facts[key_of(row)] for row in top) if percent(fact[1]) in step["figure"]]
    assert matches
    assert max(confidence for _, confidence in matches) > surest - 0.01
    assert "Chosen out of 3 pictures" in step["figure"]
    assert step["picture_to_open"] == step["picture"]
    assert step["link"] == "#open=image"
    assert step_of(tour_facts, "forward")["picture_to_open"] == step["picture_to_open"], (
        "the way through the network is of the same picture"
    )

    monkeypatch.setattr("atlas.site.tour.writer.LEAST_CONFIDENCE", 1.1)
    assert "Chosen out of 24 pictures" in step_of(write_and_read(run), "image")["figure"], (
        "it is sure of none of the three"
    )


def test_the_invariant_unit_is_the_steadiest_of_those_that_answer_enough(run: RunDirectory) -> None:
    """Unit 4 is steadier, but its own patches, seen through a disc, excite it less than half as much."""
    step = step_of(write_and_read(run), "invariant")
    assert step["link"] == "#unit=last:2"
    assert "The steadiest of the 2 units" in step["figure"], "units 0 and 2 of the latest layer"
    assert "on average over its 3 strongest spots, of which the first is shown" in step["see"]
    assert "86 % of its strongest" in step["figure"], "3 of 3.5"
    assert "still with 71 %" in step["figure"], "2.5 of 3.5"
    assert [part["label"] for part in step["parts"]] == [f"{angle}°" for angle in range(0, 360, 45)]
    assert step["parts"][0]["value"] == 1
    assert step["parts"][4]["value"] == pytest.approx(2.5 / 3.5, abs=1e-3)
    assert np.abs(colour(run, step["parts"][4]["picture"]) - (90, 0, 0)).max() < 8, "turned by 180°"


def test_the_circuit_is_the_strongest(run: RunDirectory) -> None:
    step = step_of(write_and_read(run), "circuit")
    assert step["link"] == "#unit=last:5&show=circuit"
    assert "The strongest of 17 units" in step["figure"], "without the one that never fires, and two of too few parts"
    assert "(0.80 of 1, a correlation): 3 units of middle alone bring about 81 %" in step["figure"]
    assert [(part["label"], part["sign"]) for part in step["parts"]] == [
        ("unit 0", 1), ("unit 1", 1), ("unit 2", 1), (f"unit {INHIBITED}", -1)
    ]  # fmt: skip
    assert [part["value"] for part in step["parts"]] == pytest.approx([1, 0.8, 0.6, 0.9])


def test_circuits_without_agreement_are_not_told_of(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.site.tour.examples.LEAST_AGREEMENT", 0.9)
    assert "circuit" not in [step["kind"] for step in write_and_read(run)["steps"]]


def test_a_unit_that_never_fires_is_no_example(run: RunDirectory, tmp_path: Path) -> None:
    tour_facts = write_and_read(
        run, tour=write_tour_file(tmp_path, {**STEP, "kind": "neuron", "choose": f"last:{NEVER}"}, STEP)
    )
    assert [step["kind"] for step in tour_facts["steps"]] == ["atlas"]

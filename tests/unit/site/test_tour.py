"""The tour: its words are checked, and its examples are those with the best figures."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_neurons import INHIBITED, NEVER, shade, write_neurons
from PIL import Image
from tiny_run import atlas_run

from atlas.config.reading import config_folders, find_config, load_config
from atlas.errors import ConfigError
from atlas.neurons.reading import UnitTables
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.site.tour.text import FIGURES, RULES, check_choices, fill, load_tour
from atlas.site.tour.writer import TourSettings, percent, write_tour
from atlas.store.shards import read_columns
from pipelines import publish

LAYERS = ["middle", "last"]
STEP = {"kind": "atlas", "title": "A map", "text": ["So it is."]}


@pytest.fixture(scope="module")
def run(undisturbed: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The tiny run with tables of its units."""
    copy = RunDirectory(tmp_path_factory.mktemp("tour") / "run")
    shutil.copytree(undisturbed.path, copy.path)
    write_neurons(copy, LAYERS)
    return copy


def write_and_read(run: RunDirectory, **changes: Any) -> dict[str, Any]:
    """The tour of the run, written anew with these changes of the configuration."""
    manifest = run.read_manifest()
    manifest["config"] |= {"neurons": {"layers": LAYERS, "patches": 3}, "tour": "tour", **changes}
    run.manifest.write_text(json.dumps(manifest))
    config = run.config()
    settings = TourSettings(
        layers=config.layers, opening=config.opening, cells=config.cells, neurons=config.neurons, seed=config.seed
    )
    files = write_tour(run, Listing.load(run.listing), config.tour, settings)
    assert files[0] == run.folder("publish") / "tour.json"
    tour_facts: dict[str, Any] = json.loads(files[0].read_text())
    pictures = {part["picture"] for step in tour_facts["steps"] for part in step["parts"]}
    pictures |= {step[name] for step in tour_facts["steps"] for name in ("picture", "picture_to_open") if step[name]}
    assert {f"tour/{path.name}" for path in files[1:]} == pictures, "all that is shown is there, and nothing else"
    assert {path.name for path in (run.folder("publish") / "tour").iterdir()} == {path.name for path in files[1:]}
    return tour_facts


def step_of(tour_facts: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(step for step in tour_facts["steps"] if step["kind"] == kind)


def colour(run: RunDirectory, picture: str) -> np.ndarray:
    return np.asarray(Image.open(run.folder("publish") / picture).convert("RGB")).mean((0, 1))


def rows(run: RunDirectory, layer: str) -> dict[tuple[int, int, int], tuple[int, float]]:
    """What each row's view is taken for, and how surely."""
    names = ["image_id", "view", "draw", "predicted", "confidence"]
    found = {}
    for shard in run.shards(layer):
        columns = read_columns(shard, names)
        for *key, predicted, confidence in zip(*(columns[name].tolist() for name in names)):
            found[tuple(key)] = predicted, confidence
    return found  # type: ignore[return-value]


def key(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["image_id"], row["view"], row["draw"]


# Examples


def test_the_steps_are_all_there_and_nothing_is_left_to_be_filled_in(run: RunDirectory) -> None:
    tour_facts = write_and_read(run)
    assert [step["kind"] for step in tour_facts["steps"]] == list(FIGURES)
    text = json.dumps(tour_facts)
    assert "{" not in text.replace('{"', "").replace("{}", "")
    assert "None" not in text
    assert step_of(tour_facts, "network")["parts"][0]["label"] == "middle"
    assert {part["line"] for part in step_of(tour_facts, "network")["parts"]} == set(LAYERS)


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
                seen = [np.delete(vectors[key(row)], number) for row in statistics["top"]]
                pairs = [(seen[0], seen[1]), (seen[0], seen[2]), (seen[1], seen[2])]
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
    facts = rows(run, "middle")
    surest = max(facts[key(row)][1] for row in top)
    step = step_of(tour_facts, "image")
    shown = [each for each in (facts[key(row)] for row in top) if percent(each[1]) in step["figure"]]
    assert shown
    assert max(confidence for _, confidence in shown) > surest - 0.01
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


def test_the_map_is_that_of_the_layer_that_the_page_opens_on(run: RunDirectory) -> None:
    step = step_of(write_and_read(run), "atlas")
    assert step["link"] == "#layer=last"
    cells = [json.loads((run.site_grid("last", grid) / "cells.json").read_text())["drawn"] for grid in (4, 8)]
    assert f"This one has {sum(map(sum, cells)):,} such pictures." in " ".join(step["text"])
    assert "The finest map of it is 8 squares wide." in step["figure"]
    picture = Image.open(run.folder("publish") / step["picture"])
    assert picture.mode == "RGBA", "clear where no cell is"


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


def test_one_spot_is_followed_through_the_layers(run: RunDirectory) -> None:
    step = step_of(write_and_read(run), "forward")
    assert [part["label"] for part in step["parts"]] == ["the spot", *LAYERS]


def test_without_neurons_the_rest_makes_sense(run: RunDirectory) -> None:
    tour_facts = write_and_read(run, neurons=None)
    assert [step["kind"] for step in tour_facts["steps"]] == ["network", "image", "atlas", "forward"]
    text = " ".join(sentence for step in tour_facts["steps"] for sentence in step["text"])
    assert "called units (or neurons)" in text, "what the other step would have explained"
    assert "one unit and many pictures" not in text
    sure = max(confidence for _, confidence in rows(run, "middle").values())
    assert f"Chosen out of {24:,} pictures" in step_of(tour_facts, "image")["figure"]
    figure = step_of(tour_facts, "image")["figure"]
    assert any(percent(each) in figure for _, each in rows(run, "middle").values() if each > sure - 0.01)


def test_circuits_without_agreement_are_not_told_of(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.site.tour.examples.LEAST_AGREEMENT", 0.9)
    assert "circuit" not in [step["kind"] for step in write_and_read(run)["steps"]]


def test_a_picture_that_is_gone_gives_way_to_the_next(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    first = step_of(write_and_read(run, neurons=None), "image")["picture_to_open"]
    gone = int(first.split("-")[1])
    read = Listing.read
    monkeypatch.setattr(Listing, "read", lambda self, image: b"no picture" if image == gone else read(self, image))
    second = step_of(write_and_read(run, neurons=None), "image")["picture_to_open"]
    assert second != first
    assert not (run.folder("publish") / first).exists(), "the pictures of the former tour are gone"


# A tour of one's own


def own(folder: Path, *steps: dict[str, Any], **more: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"title": "Mine", "steps": list(steps), **more}))
    return str(path)


def test_a_tour_of_ones_own_names_its_examples(run: RunDirectory, tmp_path: Path) -> None:
    listing = Listing.load(run.listing)
    name = listing.keys[3]
    figure = {"figure": "It is {unit} of {layer}."}
    own_tour = own(
        tmp_path,
        {**STEP, "kind": "circuit", "choose": "last:7", **figure},
        {**STEP, "kind": "neuron", "choose": "middle:3", **figure},
        {**STEP, "kind": "image", "choose": name, "figure": "It is {image}."},
        {**STEP, "choose": "middle", "title": "{layer} of {layers}"},
    )
    tour_facts = write_and_read(run, tour=own_tour)
    assert tour_facts["title"] == "Mine"
    assert [step["link"] for step in tour_facts["steps"]] == [
        "#unit=last:7&show=circuit", "#unit=middle:3", "#open=image", "#layer=middle"
    ]  # fmt: skip
    assert [step["figure"] for step in tour_facts["steps"]] == [
        "It is 7 of last.",
        "It is 3 of middle.",
        f"It is {name}.",
        None,
    ]
    assert tour_facts["steps"][3]["title"] == "middle of 2"
    assert tour_facts["steps"][3]["go"] is None


def test_a_unit_that_never_fires_is_no_example(run: RunDirectory, tmp_path: Path) -> None:
    tour_facts = write_and_read(run, tour=own(tmp_path, {**STEP, "kind": "neuron", "choose": f"last:{NEVER}"}, STEP))
    assert [step["kind"] for step in tour_facts["steps"]] == ["atlas"]


def test_paragraphs_may_depend_on_other_steps(run: RunDirectory, tmp_path: Path) -> None:
    text = ["Always.", {"say": "Beside.", "with": "neuron"}, {"say": "Alone.", "without": "neuron"}]
    own_tour = own(tmp_path, {**STEP, "text": text}, {**STEP, "kind": "neuron"})
    assert write_and_read(run, tour=own_tour)["steps"][0]["text"] == ["Always.", "Beside."]
    assert write_and_read(run, tour=own_tour, neurons=None)["steps"][0]["text"] == ["Always.", "Alone."]


def test_another_tour_is_published_anew_and_nothing_else(run: RunDirectory, tmp_path: Path) -> None:
    write_and_read(run, tour=own(tmp_path, STEP))
    before = {item.id: item.of for item in publish.plan(run.config(), run)}
    own(tmp_path, {**STEP, "title": "Another"})
    after = {item.id: item.of for item in publish.plan(run.config(), run)}
    assert {name for name in before if before[name] != after[name]} == {"tour", "page"}
    without = {item.id for item in publish.plan(run.config().model_copy(update={"tour": None}), run)}
    assert set(before) - without == {"tour"}


# Words


def mistakes(tmp_path: Path, tour: str) -> list[str]:
    config = load_config("demo", [f"tour={tour}"])
    with pytest.raises(ConfigError) as caught:
        load_tour(config.tour)
    return str(caught.value).splitlines()


def test_the_shipped_tour_has_every_kind_and_chooses_by_rule() -> None:
    tour = load_tour(load_config("demo").tour)
    assert tour is not None
    assert [step.kind for step in tour.steps] == list(FIGURES)
    assert {step.kind: step.choose for step in tour.steps} == RULES
    assert load_tour(load_config("demo", ["tour=null"]).tour) is None


def test_a_tour_is_no_run() -> None:
    assert (config_folders()[0] / "tour.yaml").is_file()
    with pytest.raises(ConfigError, match="There is no configuration tour") as caught:
        find_config("tour")
    assert "tour" not in str(caught.value).split("shipped ones: ")[1]


def test_every_mistake_is_told_in_a_sentence(tmp_path: Path) -> None:
    steps = [
        {**STEP, "kind": "nueron"},
        {**STEP, "figure": "{celsl} of {unit}", "color": "red"},
        {"kind": "neuron", "choose": "_blocks.10", "title": "", "text": [{"say": "{unit", "with": "nobody"}]},
        {**STEP, "see": 7, "text": []},
        "nothing",
        {**STEP, "kind": "network", "see": "{first:d} {last!z} {layers:{oof}} {steps}"},
    ]
    tour_facts = mistakes(tmp_path, own(tmp_path, *steps, colour="red"))
    assert tour_facts[0] == f"tour: {tmp_path / 'mine.yaml'} has 16 mistakes:"
    kinds = "network, neuron, image, atlas, invariant, circuit, forward"
    expected = [
        "colour: unknown key. Known keys here: title, steps.",
        f"steps.0.kind: given 'nueron', expected one of {kinds}.",
        "steps.1.color: unknown key. Known keys here: kind, choose, title, text, see, figure, go.",
        "steps.1.figure: there is no figure {celsl}. Did you mean cells?",
        "steps.1.figure: there is no figure {unit}. Known here: network, classes, pictures, views, layers, steps, "
        "layer, rows, cells, finest.",
        "steps.2.title: given '', expected a sentence.",
        f"steps.2.text.0.with: given 'nobody', expected one of {kinds}.",
        "steps.2.choose: given '_blocks.10', expected 'clearest', or a unit such as _blocks.10:7.",
        "steps.3.see: given 7, expected a sentence.",
        "steps.3.text: expected a list of at least one paragraph.",
        "steps.3.kind: atlas is there twice; expected each kind once.",
        "steps.5.see: given {first:d}, expected {first} alone: figures are words already.",
        "steps.5.see: given {last!z}, expected {last} alone: figures are words already.",
        "steps.5.see: given {layers:{oof}}, expected {layers} alone: figures are words already.",
    ]
    lines = [line.strip() for line in tour_facts[1:]]
    for line in expected:
        assert line in lines, "\n".join(lines)
    assert any(line.startswith("steps.2.text.0.say: its braces do not fit") for line in lines)
    assert any(line.startswith("steps.4: given 'nothing', expected the keys kind") for line in lines)
    assert not [line for line in lines if "network is there twice" in line], "those of no kind are not of another"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("title: x\nsteps: []", "steps: expected a list of at least one step."),
        ("- 1", "It holds list, expected the keys title and steps."),
        ("title: [", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_tour(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    assert any(sentence in line for line in mistakes(tmp_path, str(tmp_path / "mine.yaml")))


def test_examples_that_the_run_has_not(tmp_path: Path) -> None:
    own_tour = own(
        tmp_path,
        {**STEP, "kind": "neuron", "choose": "_blocks.10:112"},
        {**STEP, "kind": "invariant", "choose": "_blocks.4:0"},
        {**STEP, "kind": "image", "choose": "cats/moggy.png"},
        {**STEP, "choose": "_blocks.11"},
        {**STEP, "kind": "forward", "choose": "cats/moggie.png"},
    )
    config = load_config("demo", [f"tour={own_tour}", "neurons={layers: [_blocks.10]}"])
    tour = load_tour(config.tour)
    assert tour is not None
    channels = {"_blocks.4": 40, "_blocks.7": 80, "_blocks.10": 112}
    assert check_choices(tour, channels, ["cats/moggie.png"], ("_blocks.10",)) == [
        "tour: step 1 (neuron) chooses _blocks.10:112, but _blocks.10 has the units 0 to 111.",
        "tour: step 2 (invariant) chooses _blocks.4:0, but neurons.layers has _blocks.10.",
        "tour: step 3 (image) chooses cats/moggy.png, but no picture of the run has this name. "
        "Did you mean cats/moggie.png?",
        "tour: step 4 (atlas) chooses _blocks.11, but the layers are _blocks.4, _blocks.7, _blocks.10.",
    ]


def test_a_run_with_a_wrong_tour_does_not_begin(workshop: Path) -> None:
    done = atlas_run(workshop, "tiny.yaml", "--set", "out=runs/wrong", "--set", "tour=nowhere.yaml", "--dry-run")
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert f"tour: there is no file {workshop / 'nowhere.yaml'}. Expected a YAML file of steps" in said
    assert "Traceback" not in said


def test_sentences_are_filled() -> None:
    assert fill("{unit} of {layer}", {"unit": "7", "layer": "last"}) == "7 of last"
    assert [percent(share) for share in (0.004, 0.5, 0.994, 0.9985, 0.99995, 1)] == [
        "0 %", "50 %", "99.4 %", "99.9 %", "over 99.9 %", "100 %"
    ]  # fmt: skip

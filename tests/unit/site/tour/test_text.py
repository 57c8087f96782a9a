"""The words of a tour: what is checked of a file, and how figures come into the sentences."""

from pathlib import Path

import pytest
from tour_run import STEP, write_tour_file

from atlas.config.reading import config_folders, find_config, load_config
from atlas.errors import ConfigError
from atlas.site.tour.text import FIGURES, RULES, check_choices, fill, load_tour
from atlas.site.tour.writer import percent


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
    tour_facts = mistakes(tmp_path, write_tour_file(tmp_path, *steps, colour="red"))
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
    own_tour = write_tour_file(
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


def test_sentences_are_filled() -> None:
    assert fill("{unit} of {layer}", {"unit": "7", "layer": "last"}) == "7 of last"
    assert [percent(share) for share in (0.004, 0.5, 0.994, 0.9985, 0.99995, 1)] == [
        "0 %", "50 %", "99.4 %", "99.9 %", "over 99.9 %", "100 %"
    ]  # fmt: skip

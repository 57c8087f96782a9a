"""The tour as it is written: its steps, their pictures, and a tour of one's own."""

import json
from pathlib import Path

import pytest
from PIL import Image
from planned import planned
from tour_run import LAYERS, STEP, predictions, step_of, write_and_read, write_tour_file

from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker
from atlas.site.tour.text import FIGURES
from atlas.site.tour.writer import percent
from pipelines import publish


@pytest.fixture
def run(tour_run: RunDirectory) -> RunDirectory:
    return tour_run


# Examples


def test_the_steps_are_all_there_and_nothing_is_left_to_be_filled_in(run: RunDirectory) -> None:
    tour_facts = write_and_read(run)
    assert [step["kind"] for step in tour_facts["steps"]] == list(FIGURES)
    text = json.dumps(tour_facts)
    assert "{" not in text.replace('{"', "").replace("{}", "")
    assert "None" not in text
    assert step_of(tour_facts, "network")["parts"][0]["label"] == "middle"
    assert {part["line"] for part in step_of(tour_facts, "network")["parts"]} == set(LAYERS)


def test_the_map_is_that_of_the_layer_that_the_page_opens_on(run: RunDirectory) -> None:
    step = step_of(write_and_read(run), "atlas")
    assert step["link"] == "#layer=last"
    cells = [json.loads((run.site_grid("last", grid) / "cells.json").read_text())["drawn"] for grid in (4, 8)]
    assert f"This one has {sum(map(sum, cells)):,} such pictures." in " ".join(step["text"])
    assert "The finest map of it is 8 squares wide." in step["figure"]
    picture = Image.open(run.folder("publish") / step["picture"])
    assert picture.mode == "RGBA", "clear where no cell is"


def test_one_spot_is_followed_through_the_layers(run: RunDirectory) -> None:
    step = step_of(write_and_read(run), "forward")
    assert [part["label"] for part in step["parts"]] == ["the spot", *LAYERS]


def test_without_neurons_the_rest_makes_sense(run: RunDirectory) -> None:
    tour_facts = write_and_read(run, neurons=None)
    assert [step["kind"] for step in tour_facts["steps"]] == ["network", "image", "atlas", "forward"]
    text = " ".join(sentence for step in tour_facts["steps"] for sentence in step["text"])
    assert "called units (or neurons)" in text, "what the other step would have explained"
    assert "one unit and many pictures" not in text
    sure = max(confidence for _, confidence in predictions(run, "middle").values())
    assert f"Chosen out of {24:,} pictures" in step_of(tour_facts, "image")["figure"]
    figure = step_of(tour_facts, "image")["figure"]
    assert any(percent(entry) in figure for _, entry in predictions(run, "middle").values() if entry > sure - 0.01)


def test_a_picture_that_is_gone_gives_way_to_the_next(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    first = step_of(write_and_read(run, neurons=None), "image")["picture_to_open"]
    gone = int(first.split("-")[1])
    read = Listing.read
    monkeypatch.setattr(Listing, "read", lambda self, image: b"no picture" if image == gone else read(self, image))
    second = step_of(write_and_read(run, neurons=None), "image")["picture_to_open"]
    assert second != first
    assert not (run.folder("publish") / first).exists(), "the pictures of the former tour are gone"


# A tour of one's own


def test_a_tour_of_ones_own_names_its_examples(run: RunDirectory, tmp_path: Path) -> None:
    listing = Listing.load(run.listing)
    name = listing.keys[3]
    figure = {"figure": "It is {unit} of {layer}."}
    own_tour = write_tour_file(
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


def test_paragraphs_may_depend_on_other_steps(run: RunDirectory, tmp_path: Path) -> None:
    text = ["Always.", {"say": "Beside.", "with": "neuron"}, {"say": "Alone.", "without": "neuron"}]
    own_tour = write_tour_file(tmp_path, {**STEP, "text": text}, {**STEP, "kind": "neuron"})
    assert write_and_read(run, tour=own_tour)["steps"][0]["text"] == ["Always.", "Beside."]
    assert write_and_read(run, tour=own_tour, neurons=None)["steps"][0]["text"] == ["Always.", "Alone."]


def test_another_tour_is_published_anew_and_nothing_else(run: RunDirectory, tmp_path: Path) -> None:
    write_and_read(run, tour=write_tour_file(tmp_path, STEP))

    def planned_with_the_tour() -> dict[str, str]:
        tour = publish.plan("tour", run.config(), run)[0]
        write_marker(run.folder("publish") / ".markers/tour.json", key=run.stage_key("publish"), files=[], of=tour.of)
        return {item.id: item.of for item in planned(publish, run.config(), run)}

    before = planned_with_the_tour()
    write_tour_file(tmp_path, {**STEP, "title": "Another"})
    after = planned_with_the_tour()
    assert {name for name in before if before[name] != after[name]} == {"tour", "page"}
    without = {item.id for item in planned(publish, run.config().model_copy(update={"tour": None}), run)}
    assert set(before) - without == {"tour"}


# Words

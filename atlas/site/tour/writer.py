"""The tour of a run's site: tour.json, and the small pictures of its examples in tour/."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from atlas.cells.crops import Cropper, Row
from atlas.config.sections import CellsConfig, NeuronsConfig
from atlas.neurons.reading import UnitTables
from atlas.neurons.tables import DEGREES
from atlas.pictures.listing import Listing
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import digest_file
from atlas.site.tour.examples import ClearUnit, Examples, Unit, ViewFacts, count_drawn_cells
from atlas.site.tour.pictures import TourPictures, grid_picture, icon_at, varied_icons
from atlas.site.tour.text import Tour, TourStep, fill, load_tour, tour_file
from atlas.store.shards import RowKey, count_rows, key_of, read_metadata

# Of the angles of a rotated patch every third is shown.
_EVERY = 3
_PATCHES = 9
# Pictures of each layer in the first step.
_OF_LAYER = 6
# Confidences that differ by less count as equal; and the least confidence of a picture that is an example.
EQUAL_CONFIDENCE, LEAST_CONFIDENCE = 0.01, 0.5

StepFacts = dict[str, Any]
"""A step as tour.json holds it, and before that its ``figures``."""


@dataclass(frozen=True)
class TourSettings:
    """What a tour goes by beside its text: the ``layers`` of the run's first network, the one that the page opens on,
    how their maps are cut, the layers whose units are measured, and the seed of the views."""

    layers: tuple[str, ...]
    opening: str
    cells: CellsConfig
    neurons: NeuronsConfig | None
    seed: int


def digest(tour: str | None) -> str:
    """The digest of the text of the configuration's ``tour``; empty where it is null."""
    path = tour_file(tour)
    return "" if path is None else digest_file(path)


def write_tour(run: RunDirectory, listing: Listing, tour: str | None, settings: TourSettings) -> list[Path]:
    """Choose the examples, and write the tour that the configuration's ``tour`` names; returns its files."""
    text = load_tour(tour)
    assert text is not None  # the stage has no such item without
    facts, pictures = _TourWriter(run, listing, text, settings).tour()
    pictures.tidy()
    path = run.folder("publish") / "tour.json"
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(facts, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
    return [path, *pictures.files]


class _TourWriter:
    """Writes the steps of one run's tour, those that have an example."""

    def __init__(self, run: RunDirectory, listing: Listing, tour: Tour, settings: TourSettings) -> None:
        self._run, self._listing, self._tour, self._settings = run, listing, tour, settings
        self._layers = settings.layers
        self._examples = Examples(run, settings.neurons)
        self._pictures = TourPictures(run.folder("publish"))
        self._clear_unit: ClearUnit | None = None
        self._image_choice: tuple[ViewFacts, Row, int] | None = None

    def tour(self) -> tuple[StepFacts, TourPictures]:
        step_facts: dict[str, Callable[[TourStep], StepFacts | None]] = {
            "network": self._network,
            "neuron": self._neuron,
            "image": self._one_image,
            "atlas": self._atlas,
            "invariant": self._invariant,
            "circuit": self._circuit,
            "forward": self._forward,
        }
        pairs = [(step, facts) for step in self._tour.steps if (facts := step_facts[step.kind](step)) is not None]
        kinds = {step.kind for step, _ in pairs}
        common = self._common_figures(len(pairs))
        steps = [self._with_text(step, facts, {**common, **facts.pop("figures")}, kinds) for step, facts in pairs]
        return {"title": fill(self._tour.title, common), "steps": steps}, self._pictures

    def _with_text(self, step: TourStep, facts: StepFacts, figures: dict[str, str], kinds: set[str]) -> StepFacts:
        text = [
            paragraph
            for paragraph in step.text
            if (paragraph.beside is None or paragraph.beside in kinds) and paragraph.without not in kinds
        ]
        optional = {
            name: None if (sentence := getattr(step, name)) is None else fill(sentence, figures)
            for name in ("see", "figure", "go")
        }
        defaults: StepFacts = {"picture": None, "parts": [], "link": None, "picture_to_open": None}
        return {
            "kind": step.kind,
            "title": fill(step.title, figures),
            "text": [fill(paragraph.say, figures) for paragraph in text],
            **optional,
            **defaults,
            **facts,
        }

    def _common_figures(self, steps: int) -> dict[str, str]:
        metadata = read_metadata(self._run.shards(self._layers[0])[0])
        failures = json.loads(self._run.failures.with_suffix(".json").read_text(encoding="utf-8"))
        return {
            "network": metadata["network"],
            "classes": number(len(metadata["classes"])),
            "pictures": number(len(self._listing)),
            "views": number(failures["views"] - failures["failures"]),
            "layers": number(len(self._layers)),
            "steps": number(steps),
        }

    def _network(self, step: TourStep) -> StepFacts | None:
        """For each layer some of its own pictures, of the coarsest level."""
        parts = []
        for layer in self._layers:
            for index, icon in enumerate(varied_icons(self._run, layer, self._settings.cells.grids[0], _OF_LAYER)):
                name = self._pictures.sprite(f"network-{self._layers.index(layer)}-{index}", icon)
                parts.append({"picture": name, "label": layer if index == 0 else None, "line": layer})
        if not parts:
            return None
        return {"parts": parts, "figures": {"first": self._layers[0], "last": self._layers[-1]}}

    def _neuron(self, step: TourStep) -> StepFacts | None:
        ranked, of = self._examples.clearest(step)
        if not ranked:
            return None
        clear = self._clear_unit = ranked[0]
        unit = clear.of
        own = self._unit_row(unit.layer, unit.number, ("pictures",))
        patches = self._patches(unit.layer, [key_of(row) for row in unit.top[:_PATCHES]])
        return {
            "picture": self._pictures.large("neuron", own["pictures"][0]),
            "parts": [
                {"picture": self._pictures.sprite(f"neuron-{index}", patch), "label": None}
                for index, patch in enumerate(patches)
            ],
            "link": _link(unit),
            "figures": {
                **self._of_unit(unit, of),
                "ratio": f"{clear.ratio:.1f}",
                "alike": f"{clear.alike:.2f}",
                "patches": number(len(unit.top)),
            },
        }

    def _one_image(self, step: TourStep) -> StepFacts | None:
        choice = self._most_certain(step)
        if choice is None:
            return None
        return {
            "picture": self._view_picture(choice[1]),
            "picture_to_open": self._view_picture(choice[1]),
            "link": "#open=image",
            "figures": self._of_image(*choice),
        }

    def _atlas(self, step: TourStep) -> StepFacts | None:
        layer = self._settings.opening if step.by_rule else step.choose
        grids = self._settings.cells.grids
        picture = grid_picture(self._run, layer, grids[min(1, len(grids) - 1)])
        if picture is None:
            return None
        return {
            "picture": self._pictures.whole("atlas", picture),
            "link": f"#layer={layer}",
            "figures": {
                "layer": layer,
                "rows": number(count_rows(self._run.shards(layer))),
                "cells": number(count_drawn_cells(self._run, layer, self._settings.cells.min_count)),
                "finest": number(grids[-1]),
            },
        }

    def _invariant(self, step: TourStep) -> StepFacts | None:
        ranked, of = self._examples.most_invariant(step)
        if not ranked:
            return None
        unit = ranked[0]
        own = self._unit_row(unit.layer, unit.number, ("pictures", "rotated_pictures"))
        response = unit.response
        peak = float(response.max()) or 1.0
        rotated = list(enumerate(own["rotated_pictures"]))[::_EVERY]
        return {
            "picture": self._pictures.large("invariant", own["pictures"][0]),
            "parts": [
                {
                    "picture": self._pictures.sprite(f"invariant-{index}", picture),
                    "label": f"{DEGREES[angle]}°",
                    "value": round(float(response[angle]) / peak, 3),
                }
                for index, (angle, picture) in enumerate(rotated)
            ],
            "link": _link(unit),
            "figures": {
                **self._of_unit(unit, of),
                "invariance": percent(float(response.mean()) / peak),
                "least": percent(float(response.min()) / peak),
                "patches": number(len(unit.unit["rotated"])),
            },
        }

    def _circuit(self, step: TourStep) -> StepFacts | None:
        ranked, of = self._examples.strongest(step)
        if not ranked:
            return None
        circuit = ranked[0]
        unit = circuit.of
        largest = max(abs(source["effect"]) for source in circuit.sources)
        parts = []
        for index, source in enumerate(circuit.sources):
            picture = self._unit_row(circuit.layer, source["unit"], ("pictures",))["pictures"][0]
            parts.append(
                {
                    "picture": self._pictures.sprite(f"circuit-{index}", picture),
                    "label": f"unit {source['unit']}",
                    "sign": 1 if source["effect"] > 0 else -1,
                    "value": round(abs(source["effect"]) / largest, 3),
                }
            )
        own = self._unit_row(unit.layer, unit.number, ("pictures",))
        return {
            "picture": self._pictures.large("circuit", own["pictures"][0]),
            "parts": parts,
            "link": f"{_link(unit)}&show=circuit",
            "figures": {
                **self._of_unit(unit, of),
                "source": circuit.layer,
                "sources": number(sum(source["effect"] > 0 for source in circuit.sources)),
                "share": percent(circuit.share),
                "agreement": "unknown" if circuit.agreement is None else f"{circuit.agreement:.2f}",
            },
        }

    def _forward(self, step: TourStep) -> StepFacts | None:
        """One spot of the picture, and the icon of the cell in which it lies on each layer's map."""
        choice = self._most_certain(step)
        if choice is None:
            return None
        facts, row, _ = choice
        parts = [
            {"picture": self._pictures.sprite("forward-spot", self._patch(row)), "label": "the spot"},
            *(
                {"picture": self._pictures.sprite(f"forward-{number}", icon), "label": layer}
                for number, (layer, icon) in enumerate(self._icons_of(facts.key))
            ),
        ]
        return {
            "picture": self._view_picture(row),
            "picture_to_open": self._view_picture(row),
            "parts": parts,
            "link": "#open=forward",
            "figures": {name: value for name, value in self._of_image(*choice).items() if name != "among"},
        }

    # What the steps are made of

    def _of_unit(self, unit: Unit, of: int) -> dict[str, str]:
        units = read_metadata(self._run.shards(unit.layer)[0])["channels"]
        return {"unit": str(unit.number), "layer": unit.layer, "units": number(units), "of": number(of)}

    def _of_image(self, facts: ViewFacts, row: Row, among: int) -> dict[str, str]:
        return {
            "image": self._listing.keys[row.key[0]],
            "class": self._class(self._layers[0], facts.predicted),
            "confidence": percent(facts.confidence),
            "among": number(among),
        }

    def _class(self, layer: str, index: int) -> str:
        return self._examples.classes(layer)[index].split(",")[0].strip()

    def _unit_row(self, layer: str, unit: int, columns: tuple[str, ...]) -> StepFacts:
        return UnitTables(self._run, layer).units(range(unit, unit + 1), (*columns, "unit"))[0]

    def _most_certain(self, step: TourStep) -> tuple[ViewFacts, Row, int] | None:
        """The picture of the steps that show one, among those of the highest confidence that can be read; where there
        is a step of a neuron, among the pictures that excite it, if the network is certain of any."""
        if self._image_choice is not None and step.by_rule:
            return self._image_choice
        layer, among = self._layers[0], None
        if not step.by_rule:
            image = list(self._listing.keys).index(step.choose)
            among = self._keys_of(layer, image)
        elif self._clear_unit is not None and self._clear_unit.of.layer in self._layers:
            among = {key_of(row) for row in self._clear_unit.of.top}
        ranked, compared = self._examples.most_certain(layer, among)
        if step.by_rule and among is not None and (not ranked or ranked[0].confidence < LEAST_CONFIDENCE):
            ranked, compared = self._examples.most_certain(layer, None)
        cropper = self._cropper(layer)
        readable_rows = {
            row.key: ((row.box[2] - row.box[0]) / min(picture.shape[:2]), row)
            for picture, rows in cropper.pictures({facts.key for facts in ranked})
            if picture is not None
            for row in rows
        }
        readable = [facts for facts in ranked if facts.key in readable_rows]
        if not readable:
            return None
        # Of those as certain as the first but for rounding, the view that shows most of its picture.
        certain = [facts for facts in readable if facts.confidence > readable[0].confidence - EQUAL_CONFIDENCE]
        best = max(certain, key=lambda facts: (round(readable_rows[facts.key][0], 2), facts.confidence))
        choice = best, readable_rows[best.key][1], compared
        if step.by_rule:
            self._image_choice = choice
        return choice

    def _cropper(self, layer: str) -> Cropper:
        return Cropper(self._run, self._listing, layer, seed=self._settings.seed)

    def _keys_of(self, layer: str, image: int) -> set[RowKey]:
        names = ["image_id", "view", "draw"]
        filters = [("image_id", "=", image)]
        return {
            key_of(row)
            for shard in self._run.shards(layer)
            for row in pq.read_table(shard, columns=names, filters=filters).to_pylist()
        }

    def _view_picture(self, row: Row) -> str | None:
        """The view of a row, as a picture of its own: its address."""
        cropper = self._cropper(self._layers[0])
        for picture, rows in cropper.pictures({row.key}):
            if picture is not None:
                return self._pictures.whole(f"image-{row.key[0]}-{row.key[1]}", cropper.view(picture, rows[0]))
        return None

    def _patch(self, row: Row) -> Any:
        return self._patches(self._layers[len(self._layers) // 2], [row.key])[0]

    def _patches(self, layer: str, keys: Iterable[RowKey]) -> list[Any]:
        """The patches of rows, in order, without those that cannot be cropped again."""
        row_keys = list(keys)
        cropper = self._cropper(layer)
        patches = {
            row.key: cropper.patch(picture, row, TourPictures.SPRITE)
            for picture, rows in cropper.pictures(set(row_keys))
            if picture is not None
            for row in rows
        }
        return [patches[key] for key in row_keys if key in patches]

    def _icons_of(self, key: RowKey) -> list[tuple[str, Any]]:
        """For each layer the finest icon of a cell in which a row lies; without layers whose map leaves it out."""
        icons = []
        filters = [(name, "=", value) for name, value in zip(("image_id", "view", "draw"), key)]
        for layer in self._layers:
            coordinates = pq.read_table(self._run.layout(layer), columns=["u", "v"], filters=filters).to_pylist()
            if not coordinates or coordinates[0]["u"] is None:
                continue
            u, v = coordinates[0]["u"], coordinates[0]["v"]
            for grid in sorted(self._settings.cells.grids, reverse=True):
                icon = icon_at(self._run, layer, grid, min(int(v * grid), grid - 1), min(int(u * grid), grid - 1))
                if icon is not None:
                    icons.append((layer, icon))
                    break
        return icons


def number(value: int) -> str:
    """A whole number as the tour's text has it."""
    return f"{value:,}"


def percent(share: float) -> str:
    """A share in per cent; one that is not whole does not become so by rounding."""
    value = 100 * share
    if 99 < value < 100:
        return f"{min(value, 99.9):.1f} %" if value < 99.95 else "over 99.9 %"
    return f"{value:.0f} %"


def _link(unit: Unit) -> str:
    return f"#unit={unit.layer}:{unit.number}"

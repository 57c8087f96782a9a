"""The tour's examples: the unit, picture and circuit of a run that explain it best, chosen by figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.config.sections import NeuronsConfig
from atlas.neurons.reading import UnitTables
from atlas.rundir.directory import RunDirectory
from atlas.site.circuits import unit_circuit_facts
from atlas.site.neurons import neuron_layers
from atlas.site.tour.text import TourStep
from atlas.store.shards import RowKey, iterate, key_of, read_metadata

_KEY = ("image_id", "view", "draw")
# A unit is judged by its tuning curve only where its own patches, cropped to a disc, excite it at least so much beside
# the whole ones; and where it is above zero at this share of the rows at least.
LEAST_PEAK, LEAST_POSITIVE = 0.5, 0.01
# A circuit is an example where weights and data agree at least so much, with sources that are as reliable as this:
# their mean effect is twice its standard error.
LEAST_AGREEMENT, LEAST_RELIABILITY = 0.5, 2 / 3
# Sources of a circuit at most and at least, and pictures that are candidates, as some may not be readable any more.
MOST_SOURCES, FEWEST_SOURCES, MOST_CANDIDATES = 4, 3, 40


@dataclass(frozen=True)
class ViewFacts:
    """Of the view of a row of the store: its predicted class, the confidence in [0, 1], and the side of its box in
    pixels of the picture."""

    key: RowKey
    predicted: int
    confidence: float
    side: float


@dataclass(frozen=True)
class Unit:
    """A unit: its row of STATISTICS, and its row of UNITS without pictures."""

    layer: str
    statistics: dict[str, Any]
    unit: dict[str, Any]

    @property
    def number(self) -> int:
        """Which channel of its layer it is."""
        return int(self.statistics["unit"])

    @property
    def largest(self) -> float:
        """The largest activation in the store."""
        return float(self.statistics["largest"])

    @property
    def top(self) -> list[dict[str, Any]]:
        """Its strongest patches, the strongest first: rows of the store with their activation."""
        return list(self.statistics["top"])

    @property
    def mean_top(self) -> float:
        """The mean activation of its strongest patches."""
        return float(np.mean([row["activation"] for row in self.top]))

    @property
    def response(self) -> NDArray[np.float64]:
        """The mean over its patches of its activation above 0 at each angle (angles,)."""
        mean: NDArray[np.float64] = np.maximum(np.array(self.unit["rotated"], np.float64), 0).mean(0)
        return mean


@dataclass(frozen=True)
class ClearUnit:
    """A unit whose picture explains it: ``ratio`` of its activation on the picture to its largest in the data; how
    ``alike`` its patches are to the rest of the layer, a mean cosine."""

    of: Unit
    ratio: float
    alike: float


@dataclass(frozen=True)
class UnitCircuit:
    """What builds a unit: the ``sources`` that do most, as in the site's file of the unit, and the ``share`` of its
    activation on its top patches that those in favour add."""

    of: Unit
    layer: str
    agreement: float | None
    sources: list[dict[str, Any]]
    share: float


class Examples:
    """Finds the examples of one run."""

    def __init__(self, run: RunDirectory, neurons: NeuronsConfig | None) -> None:
        self.run, self.layers = run, neuron_layers(neurons)

    @cached_property
    def units(self) -> list[Unit]:
        """All units of neurons.layers, without those that never fire."""
        columns = ("unit", "picture_activations", "rotated", "selectivity", "invariance")
        units = []
        for layer in self.layers:
            tables = UnitTables(self.run, layer)
            statistics = tables.statistics()
            for row, unit in zip(statistics, tables.units(range(len(statistics)), columns)):
                if row["largest"] > 0 and row["top"]:
                    units.append(Unit(layer, row, unit))
        return units

    def clearest(self, step: TourStep) -> tuple[list[ClearUnit], int]:
        """Units of the latest layer whose picture explains them, the clearest first, and how many were compared:
        by how alike the layer's other channels see their patches, times how far their own picture leads
        (ratio / (1 + ratio))."""
        units = [unit for unit in self._units_of(step, self.units) if unit.unit["picture_activations"]]
        if step.by_rule:
            units = [unit for unit in units if unit.layer == self._latest]
        clear_units = []
        for layer in dict.fromkeys(unit.layer for unit in units):
            of_layer = [unit for unit in units if unit.layer == layer]
            activations = self._activations(layer, {key_of(row) for unit in of_layer for row in unit.top})
            for unit in of_layer:
                keys = [key for row in unit.top if (key := key_of(row)) in activations]
                others = [np.delete(activations[key], unit.number) for key in keys]
                clear_units.append(
                    ClearUnit(unit, unit.unit["picture_activations"][0] / unit.largest, _likeness(np.array(others)))
                )

        def score(clear: ClearUnit) -> float:
            return clear.alike * max(clear.ratio, 0) / (1 + max(clear.ratio, 0))

        clear_units.sort(key=lambda clear: (-score(clear), *self._order(clear.of)))
        return clear_units, len(units)

    def most_certain(self, layer: str, among: set[RowKey] | None) -> tuple[list[ViewFacts], int]:
        """Views of which the network is surest, one a picture, and how many pictures were compared; ``among`` rows of
        a layer, or all."""
        best: dict[int, ViewFacts] = {}
        for facts in self._scan(layer, among):
            image = facts.key[0]
            if image not in best or _better(facts) > _better(best[image]):
                best[image] = facts
        ranked = sorted(best.values(), key=lambda facts: (-facts.confidence, facts.key))
        return ranked[:MOST_CANDIDATES], len(best)

    def most_invariant(self, step: TourStep) -> tuple[list[Unit], int]:
        """Units of the latest layer whose activation is the same at all angles, the most invariant first, and how many
        could be judged."""
        if step.unit is not None:
            units = [unit for unit in self._units_of(step, self.units) if unit.unit["rotated"]]
            return units, len(units)
        judged = [
            unit
            for unit in self.units
            if unit.layer == self._latest
            and unit.unit["invariance"] is not None
            and unit.statistics["positive"] >= LEAST_POSITIVE
            and unit.response.max() >= LEAST_PEAK * unit.mean_top
        ]
        return sorted(judged, key=lambda unit: (-unit.unit["invariance"], *self._order(unit))), len(judged)

    def strongest(self, step: TourStep) -> tuple[list[UnitCircuit], int]:
        """Circuits of the latest layer's units, the strongest first, and how many were compared: by the share of a
        unit's activation that a few reliable sources add by being there, times how far weights and data agree."""
        examples: list[UnitCircuit] = []
        for layer in self.layers:
            if step.by_rule and layer != self._latest:
                continue
            units = {unit.number: unit for unit in self._units_of(step, self.units) if unit.layer == layer}
            if not units:
                continue
            circuits = unit_circuit_facts(UnitTables(self.run, layer), range(min(units), max(units) + 1))
            for number, unit in units.items():
                examples += [
                    circuit
                    for facts in circuits[number]
                    if (circuit := _circuit(unit, facts, step.by_rule)) is not None
                ]
        ranked = sorted(
            examples, key=lambda circuit: (-circuit.share * (circuit.agreement or 0), *self._order(circuit.of))
        )
        return ranked, len({(circuit.of.layer, circuit.of.number) for circuit in examples})

    def classes(self, layer: str) -> list[str]:
        """The names of the classes of a layer's network."""
        names: list[str] = read_metadata(self.run.shards(layer)[0])["classes"]
        return names

    @cached_property
    def _latest(self) -> str | None:
        """The layer that most others lead to; None where the run has no neurons."""
        ordered = sorted(
            self.layers, key=lambda layer: (len(UnitTables(self.run, layer).earlier()), self.layers.index(layer))
        )
        return ordered[-1] if ordered else None

    def _order(self, unit: Unit) -> tuple[int, int]:
        """Of several units that are as good the one of the later layer comes first."""
        return -self.layers.index(unit.layer), unit.number

    def _activations(self, layer: str, row_keys: set[RowKey]) -> dict[RowKey, NDArray[np.float32]]:
        """The activations of rows, less the layer's mean."""
        mean = np.array([row["mean"] for row in UnitTables(self.run, layer).statistics()], np.float32)
        codes = np.array([_code(*key) for key in row_keys], np.int64)
        activations: dict[RowKey, NDArray[np.float32]] = {}
        for rows in iterate(self.run.shards(layer), (*_KEY, "activation")):
            keys = [rows[name].astype(np.int64) for name in _KEY]
            for number in np.flatnonzero(np.isin(_code(*keys), codes)):
                image, view, draw = (int(key[number]) for key in keys)
                activations[image, view, draw] = rows["activation"][number].astype(np.float32) - mean
        return activations

    def _units_of(self, step: TourStep, units: Iterable[Unit]) -> list[Unit]:
        return [unit for unit in units if step.unit is None or (unit.layer, unit.number) == step.unit]

    def _scan(self, layer: str, row_keys: set[RowKey] | None) -> Iterator[ViewFacts]:
        """The store's rows of a layer, all or those of ``row_keys``; memory holds one row group."""
        names = (*_KEY, "predicted", "confidence", "box")
        codes = None if row_keys is None else np.array([_code(*key) for key in row_keys], np.int64)
        for rows in iterate(self.run.shards(layer), names):
            numbers = np.arange(len(rows["view"]))
            if codes is not None:
                row_codes = _code(*(rows[name].astype(np.int64) for name in _KEY))
                numbers = numbers[np.isin(row_codes, codes)]
            else:  # the best view of each picture is enough
                order = np.lexsort((-_side(rows["box"]), -np.round(rows["confidence"], 2), rows["image_id"]))
                _, first = np.unique(rows["image_id"][order], return_index=True)
                numbers = order[first]
            for number in numbers:
                image, view, draw, predicted, confidence, box = (rows[name][number] for name in names)
                key = int(image), int(view), int(draw)
                yield ViewFacts(key, int(predicted), float(confidence), float(_side(box)))


def _likeness(vectors: NDArray[np.float32]) -> float:
    """Mean cosine of each two of several vectors (n, channels); 0 of fewer than two."""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    count = len(units)
    return float(((units @ units.T).sum() - count) / (count * (count - 1))) if count > 1 else 0.0


def _side(box: NDArray[Any]) -> NDArray[Any]:
    side: NDArray[Any] = box[..., 2] - box[..., 0]
    return side


def _better(facts: ViewFacts) -> tuple[float, float]:
    """Surer, and of views of which the network is as sure, the one that shows more."""
    return round(facts.confidence, 2), facts.side


def _code(image: Any, view: Any, draw: Any) -> Any:
    """A row's key as one number: views and draws of a picture are fewer than 65,536."""
    return image << 32 | view << 16 | draw


def _circuit(unit: Unit, facts: dict[str, Any], by_rule: bool) -> UnitCircuit | None:
    """A circuit as the tour shows it, from the ``facts`` of the site; None where it has too few sources."""
    # What acts when it is below 0 does so where the opposite of its picture is: its picture would mislead.
    sources = [
        source
        for source in facts["sources"]
        if abs(source["effect_above_zero"]) > abs(source["effect"] - source["effect_above_zero"])
    ]
    if by_rule:
        if (facts["agreement"] or 0) < LEAST_AGREEMENT:
            return None
        # What a unit takes over from the one of its own number, past the layers in between, is no combination.
        sources = [
            source for source in sources if source["reliability"] >= LEAST_RELIABILITY and source["unit"] != unit.number
        ]
    building = [source for source in sources if source["effect"] > 0][:MOST_SOURCES]
    opposing = [source for source in sources if source["effect"] < 0][:1]
    if len(building) < (FEWEST_SOURCES if by_rule else 1):
        return None
    share = sum(source["effect"] for source in building) / unit.mean_top
    return UnitCircuit(unit, facts["layer"], facts["agreement"], building + opposing, share)


def count_drawn_cells(run: RunDirectory, layer: str, min_count: int) -> int:
    """How many cells of a layer's map have a picture, at all levels."""
    counts = pq.read_table(run.cells(layer), columns=["count"])["count"].to_numpy()
    return int((counts >= min_count).sum())

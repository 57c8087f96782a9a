"""A finished run, ready to explain pictures: its networks, the maps of its layers and what is drawn on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.analysis import Run
from atlas.arrays import Float32
from atlas.errors import AtlasError, ConfigError
from atlas.explain.effects import first_order, without_each, without_groups
from atlas.explain.groups import Groups, factorise
from atlas.explain.icons import QUICK, Drawn, draw_each
from atlas.explain.rounding import numbers, rounded
from atlas.explain.square import Square, read_square
from atlas.forward.steps import recording
from atlas.forward.trace import Trace, trace
from atlas.layout.placement import Placement
from atlas.networks.network import Network
from atlas.networks.observer import Observer
from atlas.networks.tail import Tail
from atlas.pictures.decode import MOST_PIXELS
from atlas.store.classes import class_number
from atlas.store.shards import to_numpy
from atlas.visualize.recipe import ATLAS, SINGLE

# Classes that are told of a picture, and of how many of them each position's part is told at once.
TOLD_CLASSES, FIRST_CLASSES = 10, 5
# Classes that are told of a group, on each side.
GROUP_CLASSES = 5


@dataclass(frozen=True)
class ExplainedLayer:
    """A layer of the run: its ``name`` there, the ``network`` that it is of and its ``module`` in it."""

    name: str
    network: str
    module: str


class Explainer:
    """Explains pictures by the network and the atlas of a finished run.

    Loading takes some seconds; afterwards one Explainer serves any number of pictures and threads. ``layers``: the
    run's, by name. Raises ConfigError where there is no run or no network, AtlasError where the run is not finished
    or its network has changed.
    """

    def __init__(self, run: Run | str | Path) -> None:
        self.run = run if isinstance(run, Run) else Run(run)
        self.config = self.run.config
        self.layers: dict[str, ExplainedLayer] = {}
        for layer in self.run.layers:
            self.run.store(layer)  # a run that is not finished is told by the first stage that is not
            self.run.layout(layer)
            self.layers[layer] = ExplainedLayer(layer, *self.config.module_of(layer))
        self.networks: dict[str, Network] = {name: self.run.network(name) for name in self.config.networks()}
        self.recipe = replace(ATLAS, power=self.config.render.power, ridge=self.config.render.ridge)
        self._observers = {
            name: Observer(network, [each.module for each in self.layers_of(name)])
            for name, network in self.networks.items()
        }
        self._tails: dict[str, Tail] = {}
        self._recording = threading.Lock()
        self._drawn = {layer: self._drawn_cells(layer) for layer in self.layers}
        self._moments = {layer: self.run.second_moment(layer) for layer in self.layers}
        # What is recorded or read at first use is so before anyone waits for it.
        for name, network in self.networks.items():
            self._pass(name, np.zeros((network.size, network.size, 3), np.uint8))
            with suppress(ConfigError):  # told to whoever asks for the forward pass
                recording(network, [each.module for each in self.layers_of(name)])
        for layer, moment in self._moments.items():
            self.run.place(layer, np.zeros((1, len(moment)), np.float32))

    def layers_of(self, network: str) -> list[ExplainedLayer]:
        """The run's layers of one network."""
        return [each for each in self.layers.values() if each.network == network]

    def look(self, data: bytes, *, name: str = "The picture", most_pixels: int = MOST_PIXELS) -> Picture:
        """Show a picture, the bytes of its file, to the networks. Raises ConfigError, in a sentence that begins with
        ``name``, for what is no picture or has more than ``most_pixels``."""
        sizes = {network.size for network in self.networks.values()}
        square = read_square(data, sizes, name=name, most=most_pixels)
        seen = {name: self._pass(name, square.views[network.size]) for name, network in self.networks.items()}
        for name, each in seen.items():
            if not torch.isfinite(each.logits).all():
                raise AtlasError(
                    f"{self.networks[name].name} gives no finite logits for this picture. Take another one."
                )
        return Picture(self, square, seen)

    def layer(self, name: str) -> ExplainedLayer:
        """The run's layer called ``name``. Raises ConfigError where it has none, naming those that it has."""
        if name not in self.layers:
            raise ConfigError(f"The run has no layer {name!r}; it has {', '.join(self.layers)}.")
        return self.layers[name]

    def class_of(self, name: str | int, network: str = "") -> int:
        """The number of a class, given by name or number. Raises ConfigError naming near ones."""
        classes = self.networks[network].classes
        if isinstance(name, int) or (name not in classes and name.isdecimal()):
            if not 0 <= int(name) < len(classes):
                raise ConfigError(
                    f"{self.networks[network].name} has no class {name}: it has {len(classes):,}, counted from 0."
                )
            return int(name)
        try:
            return class_number(name, classes)
        except ConfigError as error:
            sentence = str(error)
            raise ConfigError(sentence[:1].upper() + sentence[1:]) from None

    def second_moment(self, layer: str) -> NDArray[np.float64]:
        """The layer's uncentred second moment, (channels, channels)."""
        return self._moments[layer]

    def cells(self, layer: str, placed: Placement) -> list[tuple[int, int, int] | None]:
        """For each placed point the finest cell that it lies in and that has an icon, as (grid, row, col)."""
        found: list[tuple[int, int, int] | None] = [None] * len(placed.u)
        for grid, drawn in self._drawn[layer].items():
            for number, (row, col) in enumerate(placed.cells[grid].tolist()):
                if row >= 0 and drawn[row, col]:
                    found[number] = (grid, row, col)
        return found

    def tail(self, layer: str) -> Tail:
        """The network behind ``layer``, recorded at first use."""
        each = self.layer(layer)
        network = self.networks[each.network]
        with self._recording:
            if layer not in self._tails:
                self._tails[layer] = Tail(network, each.module, torch.Size((1, 3, network.size, network.size)))
        return self._tails[layer]

    def trace(self, picture: Picture, network: str = "") -> Trace:
        """The picture's way through a network, step by step. Raises ConfigError where the network's path depends on
        the picture."""
        modules = [each.module for each in self.layers_of(network)]
        return trace(self.networks[network], picture.inputs(network), modules)

    def draw_channels(
        self, network: str, layer: str, channels: Sequence[int], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Drawn]:
        """What excites each of ``channels`` of any module of a network whose output is a map; see draw_each.

        Raises ConfigError where there is no such module, or no such channel.
        """
        held = self.networks[network]
        with torch.no_grad():
            probe = torch.zeros(1, 3, held.size, held.size, device=held.device)
            count = held.activations(held.normalize(probe), layer).shape[1]
        wrong = [channel for channel in channels if not 0 <= channel < count]
        if wrong:
            raise ConfigError(
                f"Layer {layer!r} of {held.name} has no channel {wrong[0]}: it has {count}, counted from 0."
            )
        directions = np.eye(count, dtype=np.float32)
        for drawn in draw_each(
            held,
            layer,
            directions[list(channels)],
            range(len(channels)),
            second_moment=np.eye(count),
            size=self.config.render.size,
            recipe=replace(SINGLE, dot=1.0, power=0, power_whitened=0),
            cancelled=cancelled,
        ):
            yield replace(drawn, number=channels[drawn.number])

    def _drawn_cells(self, layer: str) -> dict[int, NDArray[np.bool_]]:
        """For each grid, coarse before fine, which of its cells have icons: bool (grid, grid)."""
        cells = self.run.cells(layer).select(["grid", "row", "col", "count"])
        grid, row, col, count = (to_numpy(cells[name]) for name in cells.column_names)
        found = {}
        for side in sorted(self.config.cells.grids):
            drawn = np.zeros((side, side), bool)
            mine = (grid == side) & (count >= self.config.cells.min_count)
            drawn[row[mine], col[mine]] = True
            found[side] = drawn
        return found

    def _pass(self, name: str, view: NDArray[np.uint8]) -> _Seen:
        network, observer = self.networks[name], self._observers[name]
        inputs = network.from_bytes(torch.from_numpy(view)[None])
        maps: dict[str, Tensor] = {}
        with torch.no_grad():
            found, logits = observer.maps(inputs)
        for each in self.layers_of(name):
            maps[each.name] = found[each.module][0]
        return _Seen(inputs, logits[0], maps)


@dataclass(frozen=True)
class _Seen:
    """What one network made of a picture: its input (1, 3, size, size), the logits (classes,) on the CPU, and the maps
    (channels, H, W) of the run's layers."""

    inputs: Tensor
    logits: Tensor
    maps: dict[str, Tensor]


class Picture:
    """One picture as the networks of a run see it. Threads may share it; what was worked out once is kept.

    ``square``: what of it the networks saw.
    """

    def __init__(self, explainer: Explainer, square: Square, seen: dict[str, _Seen]) -> None:
        self.square = square
        self._explainer, self._seen = explainer, seen
        self._attributions: dict[tuple[str, int], dict[str, Float32]] = {}
        self._working = threading.Lock()

    def view(self, network: str = "") -> NDArray[np.uint8]:
        """What a network saw: uint8 (size, size, 3)."""
        return self.square.views[self._explainer.networks[network].size]

    def inputs(self, network: str = "") -> Tensor:
        """What the network was given: normalised, float32 (1, 3, size, size)."""
        return self._seen[network].inputs

    def logits(self, network: str = "") -> Float32:
        """The network's logits (classes,)."""
        found: Float32 = self._seen[network].logits.numpy()
        return found

    def top_classes(self, network: str = "", count: int = TOLD_CLASSES) -> list[dict[str, Any]]:
        """The best classes: ``class``, ``logit`` and ``probability`` (softmax) of each."""
        logits = self._seen[network].logits.double()
        shares = logits.softmax(0)
        best = logits.argsort(descending=True, stable=True)[:count].tolist()
        return [{"class": each, "logit": rounded(logits[each]), "probability": rounded(shares[each])} for each in best]

    def maps(self, layer: str) -> Float32:
        """The layer's map: float32 (channels, H, W)."""
        each = self._explainer.layer(layer)
        found: Float32 = self._seen[each.network].maps[layer].float().cpu().numpy()
        return found

    def activations(self, layer: str) -> Float32:
        """The activations of all positions of a layer, row by row: float32 (H · W, channels)."""
        maps = self.maps(layer)
        return np.ascontiguousarray(maps.reshape(len(maps), -1).T)

    @cached_property
    def places(self) -> dict[str, Placement]:
        """Where each position of each layer lands on that layer's map."""
        return {
            layer: self._explainer.run.place(layer, np.nan_to_num(self.activations(layer)))
            for layer in self._explainer.layers
        }

    def attribution(self, classes: Sequence[int], network: str = "") -> dict[int, dict[str, Float32]]:
        """For each class and layer of a network what each position adds to the logit, to first order (h · ∂logit/∂h):
        float32 (H, W)."""
        known = self._attributions
        with self._working:
            missing = [each for each in dict.fromkeys(classes) if (network, each) not in known]
            if missing:
                layers = self._explainer.layers_of(network)
                modules = [each.module for each in layers]
                found = first_order(self._explainer.networks[network], modules, self._seen[network].inputs, missing)
                for number, each in enumerate(missing):
                    known[network, each] = {layer.name: found[layer.module][number] for layer in layers}
        return {each: known[network, each] for each in classes}

    def without_each(self, layer: str, classes: Sequence[int]) -> Iterator[Float32]:
        """How much lower the logits of ``classes`` are when one position of ``layer`` is set to zero: for a few
        positions after the other, row by row, float32 (classes, positions)."""
        seen = self._seen[self._explainer.layer(layer).network]
        tail = self._explainer.tail(layer)
        return without_each(tail, seen.inputs, seen.maps[layer], seen.logits, list(classes))

    def groups(self, layer: str, count: int) -> tuple[Groups, Float32]:
        """The layer's map in ``count`` groups, and how much lower each logit is when one of them is taken out of it:
        float32 (count, classes)."""
        groups = factorise(self.maps(layer), count)
        seen = self._seen[self._explainer.layer(layer).network]
        return groups, without_groups(self._explainer.tail(layer), seen.inputs, seen.maps[layer], seen.logits, groups)

    def icons(
        self,
        layer: str,
        directions: Float32 | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        steps: int = QUICK,
    ) -> Iterator[Drawn]:
        """An icon for each position of ``layer``, drawn from its own activation, the strongest first; or for each of
        ``directions`` (n, channels) in their order."""
        explainer, each = self._explainer, self._explainer.layer(layer)
        if directions is None:
            directions = self.activations(layer)
            order = np.argsort(-np.linalg.norm(directions, axis=1), kind="stable").tolist()
        else:
            order = list(range(len(directions)))
        return draw_each(
            explainer.networks[each.network],
            each.module,
            directions,
            order,
            second_moment=explainer.second_moment(layer),
            size=explainer.config.render.size,
            steps=steps,
            recipe=explainer.recipe,
            cancelled=cancelled,
        )

    def summary(self) -> dict[str, Any]:
        """All that is known at once, as plain values: what the networks answer, and for each layer where its positions
        lie on the map, how strong they are and what they add to the best classes."""
        explainer, square = self._explainer, self.square
        names = list(explainer.networks)
        best = {name: self.top_classes(name) for name in names}
        first = {name: self.attribution([each["class"] for each in best[name][:FIRST_CLASSES]], name) for name in names}
        layers = []
        for layer, each in explainer.layers.items():
            maps, placed = self.maps(layer), self.places[layer]
            norms = np.linalg.norm(maps, axis=0).reshape(-1)
            effects = {str(number): numbers(found[layer]) for number, found in first[each.network].items()}
            layers.append(
                {
                    "path": layer,
                    "network": names.index(each.network),
                    "rows": maps.shape[1],
                    "cols": maps.shape[2],
                    "channels": maps.shape[0],
                    "magnitude": numbers(norms / max(float(norms.max()), 1e-12)),
                    **places(explainer, layer, placed),
                    "attribution": effects,
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

    def group_facts(self, layer: str, groups: Groups, effects: Float32, classes: Sequence[int] = ()) -> dict[str, Any]:
        """What is told of ``groups`` and their ``effects``, as plain values: which of the ten likeliest classes, and of
        ``classes``, they support and oppose. Among all classes those that stand out most do so by chance."""
        network = self._explainer.layer(layer).network
        best = np.array(list(dict.fromkeys([*(each["class"] for each in self.top_classes(network)), *classes])))
        placed = self._explainer.run.place(layer, groups.directions)
        where = places(self._explainer, layer, placed)
        told = []
        for number in range(len(groups.masks)):
            order = best[np.argsort(-effects[number, best], kind="stable")]
            rows = [{"class": int(each), "value": float(f"{effects[number, each]:.5g}")} for each in order]
            told.append(
                {
                    "mask": numbers(groups.masks[number]),
                    "share": rounded(groups.shares[number]),
                    "supports": [row for row in rows[:GROUP_CLASSES] if row["value"] > 0],
                    "opposes": [row for row in rows[: -GROUP_CLASSES - 1 : -1] if row["value"] < 0],
                    **{name: values[number] for name, values in where.items()},
                }
            )
        return {"groups": told, "explained": rounded(groups.explained), "signed": groups.signed}


def places(explainer: Explainer, layer: str, placed: Placement) -> dict[str, list[Any]]:
    """``u``, ``v``, ``confidence`` and ``cell`` of placed points, as plain values; None where a point has no place."""
    nowhere = np.isnan(placed.u)
    return {
        "u": numbers(placed.u),
        "v": numbers(placed.v),
        "confidence": numbers(np.where(nowhere, np.nan, placed.confidence)),
        "cell": [None if cell is None else list(cell) for cell in explainer.cells(layer, placed)],
    }

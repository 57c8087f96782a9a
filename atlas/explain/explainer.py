"""A run, ready to explain pictures: its networks, the maps of its layers and what is drawn on them."""

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
from atlas.explain.effects import first_order_attributions, without_each, without_groups
from atlas.explain.groups import Groups, factorise
from atlas.explain.icons import QUICK_STEPS, DrawnIcon, draw_icons
from atlas.explain.rounding import round_value
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

# The likeliest classes of a picture.
PICTURE_CLASSES = 10


@dataclass(frozen=True)
class ExplainedLayer:
    """A layer of the run: its ``name`` there, the ``network`` that it is of and its ``module`` in it."""

    name: str
    network: str
    module: str


class Explainer:
    """Explains pictures by the network and the atlas of a run whose layouts are made.

    Loading takes some seconds; afterwards one Explainer serves any number of pictures and threads. ``layers``: the
    run's, by name. Of a run that is still at work, pictures are placed on all layers' maps, and cells are named as
    their icons come. Raises ConfigError where there is no run or no network, AtlasError where the layouts are not
    finished or its network has changed.
    """

    def __init__(self, run: Run | str | Path) -> None:
        self.run = run if isinstance(run, Run) else Run(run)
        self.config = self.run.config
        self.layers: dict[str, ExplainedLayer] = {}
        for layer in self.run.layers:
            self.run.store(layer)  # of a run that is not finished the first stage that is not names itself
            self.run.layout(layer)
            self.layers[layer] = ExplainedLayer(layer, *self.config.module_of(layer))
        self.networks: dict[str, Network] = {name: self.run.network(name) for name in self.config.networks()}
        self.recipe = replace(ATLAS, power=self.config.render.power, ridge=self.config.render.ridge)
        self._observers = {
            name: Observer(network, [layer.module for layer in self.layers_of(name)])
            for name, network in self.networks.items()
        }
        self._tails: dict[str, Tail] = {}
        self._recording = threading.Lock()
        self._drawn_cells: dict[tuple[str, int], NDArray[np.bool_]] = {}
        self._moments = {layer: self.run.second_moment(layer) for layer in self.layers}
        # What is recorded or read at first use is so before anyone waits for it.
        for name, network in self.networks.items():
            self._pass(name, np.zeros((network.size, network.size, 3), np.uint8))
            with suppress(ConfigError):  # raised again for whoever asks for the forward pass
                recording(network, [layer.module for layer in self.layers_of(name)])
        for layer, moment in self._moments.items():
            self.run.place(layer, np.zeros((1, len(moment)), np.float32))

    def layers_of(self, network: str) -> list[ExplainedLayer]:
        """The run's layers of one network."""
        return [layer for layer in self.layers.values() if layer.network == network]

    def look(self, data: bytes, *, name: str = "The picture", most_pixels: int = MOST_PIXELS) -> Picture:
        """Show a picture, the bytes of its file, to the networks. Raises ConfigError, in a sentence that begins with
        ``name``, for what is no picture or has more than ``most_pixels``."""
        sizes = {network.size for network in self.networks.values()}
        square = read_square(data, sizes, name=name, most=most_pixels)
        outputs = {name: self._pass(name, square.views[network.size]) for name, network in self.networks.items()}
        for name, network_outputs in outputs.items():
            if not torch.isfinite(network_outputs.logits).all():
                raise AtlasError(
                    f"{self.networks[name].name} gives no finite logits for this picture. Take another one."
                )
        return Picture(self, square, outputs)

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

    def cells(self, layer: str, placement: Placement) -> list[tuple[int, int, int] | None]:
        """For each placed point the finest cell that it lies in and that has an icon, as (grid, row, col)."""
        cells: list[tuple[int, int, int] | None] = [None] * len(placement.u)
        for grid in sorted(self.config.cells.grids):
            mask = self._find_drawn_cells(layer, grid)
            for number, (row, col) in enumerate(placement.cells[grid].tolist()):
                if row >= 0 and mask[row, col]:
                    cells[number] = (grid, row, col)
        return cells

    def tail(self, layer: str) -> Tail:
        """The network behind ``layer``, recorded at first use."""
        explained_layer = self.layer(layer)
        network = self.networks[explained_layer.network]
        with self._recording:
            if layer not in self._tails:
                shape = torch.Size((1, 3, network.size, network.size))
                self._tails[layer] = Tail(network, explained_layer.module, shape)
        return self._tails[layer]

    def trace(self, picture: Picture, network: str = "") -> Trace:
        """The picture's forward pass through a network, step by step. Raises ConfigError where the network's
        path depends on the picture."""
        modules = [layer.module for layer in self.layers_of(network)]
        return trace(self.networks[network], picture.inputs(network), modules)

    def draw_channels(
        self, network: str, layer: str, channels: Sequence[int], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[DrawnIcon]:
        """What excites each of ``channels`` of any module of a network whose output is a map; see draw_icons.

        Raises ConfigError where there is no such module, or no such channel.
        """
        loaded_network = self.networks[network]
        with torch.no_grad():
            probe = torch.zeros(1, 3, loaded_network.size, loaded_network.size, device=loaded_network.device)
            count = loaded_network.activations(loaded_network.normalize(probe), layer).shape[1]
        wrong = [channel for channel in channels if not 0 <= channel < count]
        if wrong:
            raise ConfigError(
                f"Layer {layer!r} of {loaded_network.name} has no channel {wrong[0]}: it has {count}, counted from 0."
            )
        directions = np.eye(count, dtype=np.float32)
        for icon in draw_icons(
            loaded_network,
            layer,
            directions[list(channels)],
            range(len(channels)),
            second_moment=np.eye(count),
            size=self.config.render.size,
            recipe=replace(SINGLE, dot=1.0, power=0, power_whitened=0),
            cancelled=cancelled,
        ):
            yield replace(icon, number=channels[icon.number])

    def _find_drawn_cells(self, layer: str, grid: int) -> NDArray[np.bool_]:
        """Which cells of a grid have icons: bool (grid, grid). While the run is at work, none of a grid that is not
        whole; it is looked for again at the next call."""
        mask = self._drawn_cells.get((layer, grid))
        if mask is None:
            mask = np.zeros((grid, grid), bool)
            with suppress(AtlasError):
                icons = self.run.icons(layer, grid, ["row", "col"])
                if icons.num_rows:
                    mask[to_numpy(icons["row"]), to_numpy(icons["col"])] = True
                self._drawn_cells[layer, grid] = mask
        return mask

    def _pass(self, name: str, view: NDArray[np.uint8]) -> _NetworkOutputs:
        network, observer = self.networks[name], self._observers[name]
        inputs = network.from_bytes(torch.from_numpy(view)[None])
        maps: dict[str, Tensor] = {}
        with torch.no_grad():
            module_maps, logits = observer.maps(inputs)
        for layer in self.layers_of(name):
            maps[layer.name] = module_maps[layer.module][0]
        return _NetworkOutputs(inputs, logits[0], maps)


@dataclass(frozen=True)
class _NetworkOutputs:
    """What one network computed of a picture: its input (1, 3, size, size), the logits (classes,) on the CPU, and the
    maps (channels, H, W) of the run's layers."""

    inputs: Tensor
    logits: Tensor
    maps: dict[str, Tensor]


class Picture:
    """One picture as the networks of a run see it. Threads may share it; placements and attributions are cached.

    ``explainer``: of the run; ``square``: what of the picture the networks saw.
    """

    def __init__(self, explainer: Explainer, square: Square, outputs: dict[str, _NetworkOutputs]) -> None:
        self.explainer, self.square = explainer, square
        self._outputs = outputs
        self._attributions: dict[tuple[str, int], dict[str, Float32]] = {}
        self._working = threading.Lock()

    def view(self, network: str = "") -> NDArray[np.uint8]:
        """What a network saw: uint8 (size, size, 3)."""
        return self.square.views[self.explainer.networks[network].size]

    def inputs(self, network: str = "") -> Tensor:
        """What the network was given: normalised, float32 (1, 3, size, size)."""
        return self._outputs[network].inputs

    def logits(self, network: str = "") -> Float32:
        """The network's logits (classes,)."""
        logits: Float32 = self._outputs[network].logits.numpy()
        return logits

    def top_classes(self, network: str = "", count: int = PICTURE_CLASSES) -> list[dict[str, Any]]:
        """The best classes: ``class``, ``logit`` and ``probability`` (softmax) of each."""
        logits = self._outputs[network].logits.double()
        shares = logits.softmax(0)
        best = logits.argsort(descending=True, stable=True)[:count].tolist()
        return [
            {"class": index, "logit": round_value(logits[index]), "probability": round_value(shares[index])}
            for index in best
        ]

    def maps(self, layer: str) -> Float32:
        """The layer's map: float32 (channels, H, W)."""
        network = self.explainer.layer(layer).network
        maps: Float32 = self._outputs[network].maps[layer].float().cpu().numpy()
        return maps

    def activations(self, layer: str) -> Float32:
        """The activations of all positions of a layer, row by row: float32 (H · W, channels)."""
        maps = self.maps(layer)
        return np.ascontiguousarray(maps.reshape(len(maps), -1).T)

    @cached_property
    def placements(self) -> dict[str, Placement]:
        """Where each position of each layer lands on that layer's map."""
        return {
            layer: self.explainer.run.place(layer, np.nan_to_num(self.activations(layer)))
            for layer in self.explainer.layers
        }

    def attribution(self, classes: Sequence[int], network: str = "") -> dict[int, dict[str, Float32]]:
        """For each class and layer of a network what each position adds to the logit, to first order (h · ∂logit/∂h):
        float32 (H, W)."""
        cache = self._attributions
        with self._working:
            missing = [index for index in dict.fromkeys(classes) if (network, index) not in cache]
            if missing:
                layers = self.explainer.layers_of(network)
                modules = [layer.module for layer in layers]
                inputs = self._outputs[network].inputs
                effects = first_order_attributions(self.explainer.networks[network], modules, inputs, missing)
                for number, index in enumerate(missing):
                    cache[network, index] = {layer.name: effects[layer.module][number] for layer in layers}
        return {index: cache[network, index] for index in classes}

    def without_each(self, layer: str, classes: Sequence[int]) -> Iterator[Float32]:
        """How much lower the logits of ``classes`` are when one position of ``layer`` is set to zero: for a few
        positions after the other, row by row, float32 (classes, positions)."""
        outputs = self._outputs[self.explainer.layer(layer).network]
        tail = self.explainer.tail(layer)
        return without_each(tail, outputs.inputs, outputs.maps[layer], outputs.logits, list(classes))

    def groups(self, layer: str, count: int) -> tuple[Groups, Float32]:
        """The layer's map in ``count`` groups, and how much lower each logit is when one of them is taken out of it:
        float32 (count, classes)."""
        groups = factorise(self.maps(layer), count)
        outputs, tail = self._outputs[self.explainer.layer(layer).network], self.explainer.tail(layer)
        return groups, without_groups(tail, outputs.inputs, outputs.maps[layer], outputs.logits, groups)

    def icons(
        self,
        layer: str,
        directions: Float32 | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        steps: int = QUICK_STEPS,
    ) -> Iterator[DrawnIcon]:
        """An icon for each position of ``layer``, drawn from its own activation, the strongest first; or for each of
        ``directions`` (n, channels) in their order."""
        explainer, explained_layer = self.explainer, self.explainer.layer(layer)
        if directions is None:
            directions = self.activations(layer)
            order = np.argsort(-np.linalg.norm(directions, axis=1), kind="stable").tolist()
        else:
            order = list(range(len(directions)))
        return draw_icons(
            explainer.networks[explained_layer.network],
            explained_layer.module,
            directions,
            order,
            second_moment=explainer.second_moment(layer),
            size=explainer.config.render.size,
            steps=steps,
            recipe=explainer.recipe,
            cancelled=cancelled,
        )

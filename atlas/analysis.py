"""A run opened for analysis: its store, maps, cells, icons and units as NumPy and Arrow."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from atlas.cells.icons import mosaic, read_icons
from atlas.config.model import Config
from atlas.errors import AtlasError, ConfigError, did_you_mean
from atlas.layout.lattice import cell_of
from atlas.neurons.parts import unfinished_files
from atlas.neurons.reading import UnitTables
from atlas.pictures.listing import Listing
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of, marker_of_coordinates
from atlas.rundir.markers import read_marker
from atlas.rundir.remote import refuse_url
from atlas.rundir.stages import ABOVE
from atlas.slices.tables import read_errors
from atlas.store.moments import Moments
from atlas.store.shards import read_metadata, to_numpy
from atlas.store.store import ColumnArrays, Store

if TYPE_CHECKING:
    from torch import Tensor

    from atlas.cells.exemplars import Exemplar
    from atlas.layout.placement import Placement, Placer
    from atlas.networks.network import Network

_REMEDY = "Give the run's command again: it goes on where it stopped."


def open_run(path: str | Path) -> Run:
    """The run at ``path``, opened for analysis: its store, layout, cells and icons.

    Raises ConfigError when there is no run.
    """
    return Run(path)


class Run:
    """A run's folder, read only. Every reading checks that the stage it comes from is finished.

    ``config``: the run's configuration; ``layers``: the names of its layers. Raises ConfigError when ``path`` holds no
    run, and from every method ConfigError for a layer or grid that the run does not have, AtlasError for a stage that
    is not finished or files that do not fit their markers.

    ``maps``: the names of its maps, which are its layers' and those of classes, such as "layer3--tabby". Where a method
    takes a map, a layer stands for its own.
    """

    def __init__(self, path: str | Path) -> None:
        refuse_url(path)
        self.path = Path(path).expanduser()
        self._directory = RunDirectory(self.path)
        if not self._directory.manifest.is_file():
            folders = self.path.absolute().parent.glob("*/run.json")
            names = [manifest.parent.name for manifest in folders]
            near = did_you_mean(self.path.name, names, count=3, cutoff=0.4)
            raise ConfigError(
                f"There is no run at {path}: expected a folder with a run.json, as atlas run writes it.{near}"
            )
        self.config: Config = self._directory.config()
        self.layers: tuple[str, ...] = self.config.layers
        maps = maps_of(self.config.layers, self.config.layout, self.config.cells)
        self._maps = {atlas_map.name: atlas_map for atlas_map in maps}
        self.maps: tuple[str, ...] = tuple(self._maps)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, layers={list(self.layers)})"

    @property
    def listing(self) -> Path:
        """The file that lists the run's pictures; `atlas.pictures.listing.Listing.load` reads it."""
        return self._directory.listing

    @cached_property
    def report(self) -> dict[str, Any]:
        """report.json: what the run measured of its own quality."""
        if not self._directory.report.is_file():
            raise AtlasError(f"{self.path} has no report.json: the stage render is not finished. {_REMEDY}")
        return json.loads(self._directory.report.read_text(encoding="utf-8"))

    def store(self, layer: str) -> Store:
        """The rows of one layer: activations, attributions and where each comes from."""
        self._check(layer, among=self.layers)
        shards = self._shards(layer)
        return Store(
            layer,
            [path for path, _ in shards],
            [rows for _, rows in shards],
            read_metadata(shards[0][0]),
            lambda grid: self._coordinates(layer, grid),
        )

    def layout(self, name: str) -> pa.Table:
        """``image_id``, ``view``, ``draw``, ``u``, ``v``, ``dropped`` of all rows of a map, in the store's order."""
        self._check(name)
        self._finished("layout", self._marker_of_coordinates(name))
        return pq.read_table(self._directory.layout(name))

    def cells(self, name: str, grid: int | None = None) -> pa.Table:
        """The cells of a map, of every grid or of one: means, counts, classes and exemplars."""
        self._check(name, grid)
        self._finished("cells", self._directory.folder("cells") / f"{name}.json")
        return pq.read_table(self._directory.cells(name), filters=None if grid is None else [("grid", "=", grid)])

    def words(self, name: str, grid: int) -> pa.Table:
        """What may be said of the drawn cells of one grid of a map: ``row``, ``col``, ``classes`` (the classes told of
        it, strongest first, each with its gain in logits and its t), ``gains`` (of all classes).
        `atlas.words.table.level_of` says how far they hold."""
        self._check(name, grid)
        path = self._directory.words(name, grid)
        self._finished("cells", path.with_suffix(".json"))
        return pq.read_table(path)

    def errors(self, layer: str, grid: int | None = None) -> pa.Table:
        """Where on a layer's map its network errs, of every grid or of one: of each cell that holds labelled pictures
        the accuracy and the one that its classes let expect, whether its errors are more than chance (``slice``), its
        confusions, and its wrong rows, the surest first, as ``atlas.slices.tables`` lists them. Raises ConfigError
        where no label is a class of the layer's network."""
        self._check(layer, grid if layer in self.layers else None, among=self.layers)
        if not self._directory.label_classes(self.config.module_of(layer)[0]):
            raise ConfigError(
                f"{self.path}: no label of the pictures is a class of the network of {layer}. Say which class each is "
                "with images.label_classes, and give the run's command again."
            )
        self._finished("cells", self._directory.errors(layer).with_suffix(".json"))
        return read_errors(self._directory, layer, grid)

    def network(self, name: str = "") -> Network:
        """The run's network, with the weights that it was made with; ``name`` is that of another one under compare.
        Raises ConfigError where it cannot be loaded, AtlasError where its weights have changed since."""
        networks = self.config.networks()
        if name not in networks:
            raise ConfigError(f"{self.path} has no network {name!r}; it has {', '.join(map(repr, networks))}.")
        from atlas.networks.network import load  # torch comes with it

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = load(**networks[name].settings.model_dump(), keep=networks[name].modules)
        if network.digest != self._directory.network_facts(name)["sha256"]:
            raise AtlasError(
                f"{self.path}: {network.name} has other weights now than when the run was made, so its map would not "
                "fit. Put the old checkpoint back, or make a run of the new one."
            )
        return network

    def second_moment(self, layer: str) -> NDArray[np.float64]:
        """The uncentred second moment (channels, channels) of a layer's activations, by which icons are whitened."""
        self._check(layer, among=self.layers)
        self._finished("layout", self._marker_of_coordinates(layer))
        return Moments.load(self._directory.moments(layer)).second_moment

    def _marker_of_coordinates(self, name: str) -> Path:
        marker = marker_of_coordinates(self._maps[name], self.layers, self.config.layout)
        return self._directory.folder("layout") / marker

    def place(self, layer: str, activations: ArrayLike) -> Placement:
        """Where new ``activations`` (n, channels) of ``layer`` belong on its map, among the rows that are most like
        them; the index is read once. Raises ConfigError for another number of channels."""
        self._check(layer, among=self.layers)
        return self._placers(layer).place(activations)

    @cached_property
    def _placers(self) -> Callable[[str], Placer]:
        @cache
        def placer(layer: str) -> Placer:
            from atlas.layout.placement import Placer  # FAISS comes with it

            layout = self.layout(layer)
            return Placer.load(
                self._directory, layer, to_numpy(layout["u"]), to_numpy(layout["v"]), self.config.cells.grids
            )

        return placer

    def icons(self, name: str, grid: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The icons of one grid of a map as PNGs, with their scores, or some ``columns`` of them."""
        self._check(name, grid)
        drawn_count = self._finished("cells", self._directory.folder("cells") / f"{name}.json")["drawn"][str(grid)]
        self._key("render")
        icons = read_icons(self._directory, name, grid, columns)
        if icons.num_rows != drawn_count:
            raise AtlasError(
                f"{self.path}: {icons.num_rows:,} of {drawn_count:,} icons of {name}, grid {grid}, are drawn: the "
                f"stage render is not finished. {_REMEDY}"
            )
        return icons

    def members(self, name: str, grid: int, row: int, col: int) -> NDArray[np.int64]:
        """The rows of one cell of a map, int64 (n,), ascending, as ``store(layer).take`` and ``layout(name)`` number
        them; none where the cell is empty."""
        self._check(name, grid)
        layout = self.layout(name)
        cells = cell_of(to_numpy(layout["u"]), to_numpy(layout["v"]), grid)
        if not (0 <= row < grid and 0 <= col < grid):
            raise ConfigError(f"row {row}, col {col}: a grid of {grid} has rows and columns 0 to {grid - 1}.")
        return np.flatnonzero(cells == row * grid + col)

    def exemplars(self, name: str, grid: int, row: int, col: int, *, size: int = 224) -> list[Exemplar]:
        """Real patches that lie in one cell of a map, cropped from their pictures ``size`` pixels wide: those nearest
        to the cell's mean first, then some that show how much it holds. Raises ConfigError where the cell is empty."""
        if not 1 <= size <= 4096:
            raise ConfigError(f"size={size}: expected the patches' side in pixels, 1 to 4096.")
        of_grid = self.cells(name, grid)
        cells = of_grid.filter((pc.field("row") == row) & (pc.field("col") == col)).to_pylist()
        if not cells:
            raise ConfigError(f"{self.path}: {name}, grid {grid}, has nothing at row {row}, col {col}.")
        from atlas.cells.exemplars import exemplars_of  # torch comes with it

        listing = Listing.load(self._directory.listing)
        return exemplars_of(self._directory, listing, self._maps[name], cells[0], size=size, seed=self.config.seed)

    def mosaic(self, name: str, grid: int) -> Image.Image:
        """The icons of one grid of a map as one picture, cropped to the cells that are drawn."""
        self.icons(name, grid)
        picture = mosaic(self._directory, name, grid)
        if picture is None:
            raise ConfigError(f"{self.path}: no icon of {name} is drawn on the grid of {grid}; take a coarser one.")
        return picture

    def neurons(self, layer: str) -> pa.Table:
        """A row for each unit (channel) of a layer of ``neurons.layers``, as ``atlas.neurons.tables`` lists them: what
        the store holds of it (range, histogram, top rows, similar units), its pictures as PNGs, the classes that it
        supports, and its tuning curves."""
        self._check_units(layer)
        return UnitTables(self._directory, layer).table()

    def neuron(self, layer: str, unit: int) -> dict[str, Any]:
        """One row of ``neurons(layer)``, and as ``circuit`` the units of earlier layers that build it, strongest
        first. Raises ConfigError for a unit that the layer does not have."""
        self._check_units(layer)
        self._check_unit(layer, unit)
        tables, number = UnitTables(self._directory, layer), int(unit)
        circuit = tables.circuit(range(number, number + 1)).drop_columns("unit")
        return {**tables.unit(number), "circuit": circuit.to_pylist()}

    def top_views(self, layer: str, unit: int) -> tuple[Tensor, NDArray[np.int64]]:
        """The views in which a unit of ``neurons.layers`` fires most, the strongest first: normalised inputs, float32
        (n, 3, size, size), on the network's device, and where on the layer's map it fires in each, (n, 2) as (y, x).
        Views whose picture cannot be read any more are left out.

        With them a circuit between any two modules of the network is computed, also of layers that the run does not
        have: ``circuit(run.network(), "_blocks.7", "_blocks.10", 24, *run.top_views("_blocks.10", 24))``, by
        ``atlas.circuits.circuit``. A layer of another network under compare, "features.8@old", is the module features.8
        of ``run.network("old")``.

        Raises ConfigError for a unit that the layer does not have, AtlasError for one that has no such view.
        """
        self._check_units(layer)
        self._check_unit(layer, unit)
        from atlas.neurons.views import as_inputs, read_views  # torch comes with it

        top = UnitTables(self._directory, layer).unit(int(unit))["top"]
        keys = [(row["image_id"], row["view"], row["draw"]) for row in top if row["activation"] > 0]
        network = self.network(self.config.module_of(layer)[0])
        shards = self._directory.shards(layer)
        views = read_views(
            shards,
            Listing.load(self._directory.listing),
            keys,
            size=network.size,
            images=self.config.images,
            seed=self.config.seed,
        )
        if not views:
            why = "none of its pictures can be read any more" if keys else "it never fires"
            raise AtlasError(f"{self.path}: unit {unit} of {layer} has no views that excite it: {why}.")
        inputs, positions = as_inputs([views[key] for key in keys if key in views], network)
        return inputs, positions.numpy()

    def _check_unit(self, layer: str, unit: int) -> None:
        count = self.store(layer).channels
        if isinstance(unit, bool) or not isinstance(unit, int | np.integer) or not 0 <= unit < count:
            raise ConfigError(f"{layer} has no unit {unit!r}: it has {count}, counted from 0.")

    def _check_units(self, layer: str) -> None:
        """Raise ConfigError unless the layer's units were asked for, AtlasError unless all is there."""
        self._check(layer, among=self.layers)
        layers = self.config.neurons.layers if self.config.neurons else ()
        if layer not in layers:
            of = f"of {', '.join(layers)}" if layers else "of no layer"
            raise ConfigError(
                f"{self.path} was asked for the units {of}, not of {layer}. Give the run's command again with --set "
                f"'neurons={{layers: [{', '.join((*layers, layer))}]}}'."
            )
        self._key("neurons")
        if missing := unfinished_files(self._directory, layer):
            raise AtlasError(
                f"{self.path}: the stage neurons is not finished: {layer}/{missing[0]} is missing, or does not fit its "
                f"marker. {_REMEDY}"
            )

    def _check(self, name: str, grid: int | None = None, among: tuple[str, ...] | None = None) -> None:
        """Raise ConfigError unless ``name`` is a map of the run, or ``among`` some of them, and has ``grid``."""
        if name not in (among or self.maps):
            what = "layer" if among or self.maps == self.layers else "map"
            if name in self.maps:
                raise ConfigError(f"{name!r} is a map of classes; give its layer, {self._maps[name].layer!r}.")
            raise ConfigError(
                f"{self.path} has no {what} {name!r}; it has {', '.join(among or self.maps)}."
                f"{did_you_mean(name, among or self.maps, count=3, cutoff=0.4)}"
            )
        grids = self._maps[name].grids
        if grid is not None and grid not in grids:
            of = "" if name in self.layers else f" in {name}"
            raise ConfigError(f"{self.path} has no grid of {grid}{of}; it has {', '.join(map(str, grids))}.")

    def _key(self, stage: str) -> str:
        """The key of ``stage``. Raises AtlasError when it has none, or one from before the stage above was redone."""
        stages = self._directory.read_manifest().get("stages", {})
        facts = stages.get(stage)
        if facts is None:
            raise AtlasError(f"{self.path}: the stage {stage} has not been run. {_REMEDY}")
        if stage in ABOVE:
            above = ABOVE[stage]
            self._key(above)
            if facts.get("above", stages[above]["key"]) != stages[above]["key"]:
                raise AtlasError(
                    f"{self.path}: the stage {above} was made anew after {stage}, which does not fit it any more. "
                    f"{_REMEDY}"
                )
        return facts["key"]

    def _finished(self, stage: str, marker: Path) -> dict[str, Any]:
        """The facts of ``marker``. Raises AtlasError unless it stands with the stage's key and its files."""
        facts = read_marker(marker, self._key(stage))
        if facts is None:
            raise AtlasError(
                f"{self.path}: the stage {stage} is not finished, or its files do not fit {marker.name}. {_REMEDY}"
            )
        return facts

    def _shards(self, layer: str) -> list[tuple[Path, int]]:
        """The shards of a layer with their rows. Raises AtlasError unless all are there and fit their markers."""
        key = self._key("collect")
        whole = self._finished("collect", self._directory.failures.with_suffix(".json"))
        shards: list[tuple[Path, int]] = []
        views = 0
        for number, path in enumerate(sorted(self._directory.store(layer).glob("part-*.parquet"))):
            marker = read_marker(path.with_suffix(".json"), key)
            if marker is None or path.stem != f"part-{number:05d}":
                raise AtlasError(
                    f"{path.parent}: {path.name if marker is None else f'part-{number:05d}.parquet'} does not fit its "
                    f"marker, or has none: it was cut off, changed or lost. {_REMEDY}"
                )
            shards.append((path, marker["rows"]))
            views += marker["views"]
        if not shards or views != whole["views"]:
            raise AtlasError(
                f"{self._directory.store(layer)}: the shards hold {views:,} of {whole['views']:,} views: some were "
                f"lost. {_REMEDY}"
            )
        return shards

    def _coordinates(self, layer: str, grid: int | None) -> ColumnArrays:
        """``u``, ``v``, ``dropped`` of every row, and ``row``, ``col`` of its cell; −1 where it was dropped."""
        self._check(layer, grid)
        layout = self.layout(layer)
        columns = {name: to_numpy(layout[name]) for name in ("u", "v", "dropped")}
        if grid is not None:
            cell = cell_of(columns["u"], columns["v"], grid)
            columns["row"] = np.where(cell < 0, -1, cell // grid).astype(np.int32)
            columns["col"] = np.where(cell < 0, -1, cell % grid).astype(np.int32)
        return columns

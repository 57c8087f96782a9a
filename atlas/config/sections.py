"""The sections of a configuration as frozen, validated values. Unknown keys are errors.

The text below a field is its description in the reference of the configuration, and in ``model_fields``.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """What every section is: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class NetworkConfig(Section):
    """Which CNN, and how it wants its pictures."""

    name: Annotated[str, Field(min_length=1)]
    """`efficientnet_lite0` or `efficientnet_lite1`, `torchvision/NAME`, `timm/NAME`, or `mypackage.module:factory`."""
    checkpoint: str | None = None
    """A state dict on disk, loaded as tensors only, in place of the network's own weights."""
    classes: str | None = None
    """A file of class names: one a line, or a JSON list. Default: the network's own."""
    size: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Side of the input in pixels. Default: the network's own."""
    mean: Annotated[tuple[float, ...], Field(min_length=3, max_length=3)] | None = None
    """Mean of each RGB channel, for pixels in [0, 1]. Default: the network's own; ImageNet's for yours."""
    std: Annotated[tuple[float, ...], Field(min_length=3, max_length=3)] | None = None
    """Standard deviation of each RGB channel, for pixels in [0, 1]. Default as of `mean`."""

    @field_validator("checkpoint", "classes")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """Workers may have been started in another folder."""
        return None if path is None else str(Path(path).expanduser().absolute())


def _names(value: Any) -> Any:
    """YAML reads 7 as a number; as a class it is a name."""
    if isinstance(value, list | tuple):
        return tuple(_names(name) for name in value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_or_more(value: Any) -> Any:
    """One class name, or a list of them."""
    names = _names(value)
    return (names,) if isinstance(names, str) else names


def _pairs(value: Any) -> Any:
    """One pair of class names, or a list of pairs."""
    names = _names(value)
    pairs = (names,) if isinstance(names, tuple) and names and all(isinstance(name, str) for name in names) else names
    if not isinstance(pairs, tuple) or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        raise ValueError("expected two classes, such as [lemon, strawberry], or a list of such pairs")
    return pairs


def _one_or_several(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(source, str) and source for source in value):
        return tuple(value)
    raise ValueError("expected a path, a URL or a glob, or a list of them")


def _mapping(value: Any) -> Any:
    """YAML reads 7 as a number; as a label it is a name. An empty mapping is none."""
    if not isinstance(value, dict):
        return value
    if any(isinstance(entry, bool) or not isinstance(entry, int | str | None) for entry in value.values()):
        raise ValueError("expected a class's name or number for each label, such as {kitten: tabby}")
    return {_names(label): entry for label, entry in value.items()} or None


class ImagesConfig(Section):
    """Where the pictures are and how views are cropped from them."""

    source: Annotated[str | tuple[str, ...], BeforeValidator(_one_or_several)]
    """A folder, a tar or Parquet file, or a glob such as `shards/*.tar`: a path, a URL, or a list of them."""
    kind: Literal["auto", "folder", "tar", "parquet"] = "auto"
    """What the source is. `auto`: by what lies there."""
    storage_options: dict[str, Any] = {}
    """Options of fsspec for a URL, such as `{endpoint_url: "http://store:9000"}`. Kept in run.json: no secrets."""
    image_column: str | None = None
    """Of Parquet. Default: the one that Hugging Face's metadata names, or one of bytes with a usual name."""
    label_column: str | None = None
    """Of Parquet, integers or names. Default: as of `image_column`."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most this many images; with `shuffle`, a fair sample of all."""
    crops: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Views of each image. 1 is the centred square; more are random squares."""
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.4, 1.0)
    """Smallest and largest side of a random square, in shares of the image's shorter side."""
    shuffle: bool = True
    """Whether the images are worked through in random order, by `seed`."""
    classes: Annotated[tuple[str, ...] | None, BeforeValidator(_names)] = None
    """Only images of these classes, such as `[animals/birds, food/fruit]`. Default: all."""
    label_classes: Annotated[str | dict[str, int | str | None] | None, BeforeValidator(_mapping)] = None
    """The class of each label, by name or number: `{kitten: tabby}`, or a CSV or JSON file. Default: by its name."""

    @field_validator("label_classes")
    @classmethod
    def _absolute(cls, value: str | dict[str, int | str | None] | None) -> str | dict[str, int | str | None] | None:
        """A run is gone on with from any folder."""
        return str(Path(value).expanduser().absolute()) if isinstance(value, str) else value

    @field_validator("crop_scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("expected the smaller share first")
        return value


class CollectConfig(Section):
    """How the network looks at the views, and how many rows go into a file."""

    positions_per_image: Annotated[int, Field(ge=1, le=1000)] = 1
    """Places sampled from each view, each a row of the store."""
    attributions: bool = True
    """Whether the effect on the logit of every class is stored beside each activation."""
    rows_per_shard: Annotated[int, Field(ge=1, le=10_000_000)] = 65_536
    """Most rows of one Parquet file, the unit of work and of recovery. Small runs have smaller ones."""
    max_failure_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The run stops when a larger share of the views than this cannot be read."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the pass and the forward derivatives in it. `auto`: float32 on a CPU, half precision on a GPU."""
    batch: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"
    """Views in one pass. `auto`: measured once, on a worker, and kept in run.json."""


Grids = Annotated[tuple[Annotated[int, Field(ge=2, le=1280)], ...], Field(min_length=1)]


def _doubling(grids: tuple[int, ...]) -> tuple[int, ...]:
    if any(fine != 2 * coarse for coarse, fine in pairwise(grids)):
        raise ValueError("expected grids that double, such as [10, 20, 40]")
    return grids


class LayoutConfig(Section):
    """How the activations become a map, and which classes have maps of their own."""

    backend: Literal["auto", "umap", "cuml"] = "auto"
    """`umap`: umap-learn's graph, an own optimiser. `auto`: cuML and FAISS on a GPU that has both, else `umap`."""
    axes: Literal["umap", "pca", "classes"] = "umap"
    """`umap`; `pca`: the two widest directions; `classes`: UMAP of the attributions, not of the activations."""
    neighbors: Annotated[int, Field(ge=2, le=500)] = 20
    """Neighbours of each row in the kNN graph."""
    min_dist: Annotated[float, Field(ge=0, le=1)] = 0.01
    """UMAP's `min_dist`: how close points may lie."""
    fit_rows: Annotated[int, Field(ge=100)] = 1_000_000
    """A layer with more rows is fitted on a sample of this size; the others are placed among their neighbours."""
    align: bool = True
    """Whether all layers start from one common layout and are turned and scaled onto it."""
    shared: bool = False
    """One layout for all layers, by the mean of their cosines: a cell holds the same rows in each."""
    deterministic: bool = False
    """The same coordinates every time, on one thread: 1.75 times as long on two cores."""
    class_atlas: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_one_or_more)] = ()
    """Classes that get a map of their own beside every layer's: the rows that speak for the class."""
    class_pair: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)] = ()
    """Two classes, or a list of pairs: a map from what speaks for the one, left, to the other, right."""
    class_rows: Annotated[int, Field(ge=10, le=1_000_000)] = 5_000
    """Most rows of such a map; by attribution at most a tenth of the layer."""
    class_by: Literal["attribution", "predicted"] = "attribution"
    """`attribution`: the rows that most support the class; `predicted`: those of views predicted as it."""
    class_layers: tuple[str, ...] | None = None
    """Layers that get such maps. Default: all."""
    class_grids: Annotated[Grids, AfterValidator(_doubling)] = (8, 16)
    """Cells a side of each level of such a map; each twice the one before."""

    @model_validator(mode="after")
    def _on_the_cpu(self) -> LayoutConfig:
        if self.deterministic and self.backend == "cuml":
            raise ValueError("deterministic: true is of backend: umap, but backend is cuml")
        return self

    @field_validator("class_atlas", "class_pair")
    @classmethod
    def _once(cls, classes: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(classes)) != len(classes):
            raise ValueError("expected each once")
        if any(isinstance(pair, tuple) and pair[0] == pair[1] for pair in classes):
            raise ValueError("expected two different classes")
        return classes


class CellsConfig(Section):
    """How fine the grids of a map are, and how many real patches are kept of each cell."""

    grids: Annotated[Grids, AfterValidator(_doubling)] = (10, 20, 40)
    """Cells a side of each level of the map; each twice the one before."""
    min_count: Annotated[int, Field(ge=1)] = 8
    """Cells with fewer rows than this get no icon."""
    exemplars: Annotated[int, Field(ge=1, le=100)] = 6
    """Nearest real patches kept of each cell, from different images."""
    diverse_exemplars: Annotated[int, Field(ge=0, le=100)] = 3
    """Further real patches of each cell that lie far from each other on the map."""


class RenderConfig(Section):
    """How the icons are drawn."""

    size: Annotated[int, Field(ge=16, le=512, multiple_of=2)] = 80
    """Side of an icon in pixels."""
    steps: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    """Optimisation steps of an icon. `auto`: fewer where an icon starts from coarser ones."""
    quick_steps: Annotated[int, Field(ge=0, le=1000)] = 32
    """Steps of the quick icons that the opening layer shows until its own are drawn; 0 draws none."""
    power: Annotated[float, Field(ge=0, le=64)] = 16.0
    """Exponent of the cosine in the objective."""
    ridge: Annotated[float, Field(gt=0)] = 0.001
    """Ridge added to the second moment before it is inverted for whitening, relative to its mean eigenvalue."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the optimisation. `auto`: bfloat16 where it was measured to be faster. Scores are always float32."""
    compile: bool = False
    """Whether the network goes through torch.compile before icons are drawn; for GPUs."""
    batch: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    """Icons drawn at a time. `auto`: measured once, on a worker, and kept in run.json."""
    icons_per_item: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Icons in one piece of work."""


class PublishConfig(Section):
    """What the finished page shows first."""

    opens: Annotated[str, Field(min_length=1)] | None = None
    """The layer that the page opens on. Default: the middle one of the first network."""


class ClusterConfig(Section):
    """Where the work runs. A key that the kind does not use is a mistake, and so is a missing one that it needs."""

    kind: Literal["local", "cuda", "slurm", "pbs", "kubernetes", "address"] = "local"
    """What is started: processes here, one for each GPU here, jobs, pods; `address` uses a standing scheduler."""
    address: str | None = None
    """Of a Dask scheduler, such as `tcp://scheduler:8786`."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Number of workers. Default, local: one a GPU machine, else one for each `threads` cores; cuda: one a GPU."""
    adaptive: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    """Fewest and most workers, scaled by the work there is, in place of `workers`."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of torch and BLAS in each worker, and cores asked for it."""
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """How often an item that failed is tried again. A lost worker's item goes to another in any case."""
    memory: Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?[MGT](i?B)?$")] | None = None
    """Of each worker, such as `4GB`."""
    gpu: bool = False
    """Whether each worker asks for one GPU."""
    queue: str | None = None
    """Partition or queue."""
    account: str | None = None
    """The account that is charged."""
    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d\d){1,2}$")] | None = None
    """Of a job, such as `"08:00:00"`. A job that ended is asked for anew."""
    workers_per_job: Annotated[int, Field(ge=1, le=1024)] = 1
    """Workers in one job, on sites that lend whole nodes."""
    interface: str | None = None
    """Network interface between the nodes, such as `ib0`."""
    directives: tuple[str, ...] = ()
    """Further directives of the batch system, such as `[--exclusive]`."""
    prologue: tuple[str, ...] = ()
    """Shell lines before the worker starts, such as `[module load cuda]`."""
    image: str | None = None
    """Container image with this package and your network installed."""
    namespace: str | None = None
    """Namespace of the pods. Default: that of your context."""
    volumes: dict[str, str] = {}
    """Where each persistent volume claim is mounted, such as `{/data: atlas-data}`."""
    pod: dict[str, Any] = {}
    """Further keys of the workers' pod spec, such as `{nodeSelector: {pool: gpus}}`."""

    @field_validator("walltime", mode="before")
    @classmethod
    def _clock(cls, value: Any) -> Any:
        """YAML reads 12:00:00 without quotes as a number to the base 60."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 60:
            return f"{value // 3600:02d}:{value // 60 % 60:02d}:{value % 60:02d}"
        return value

    @field_validator("adaptive")
    @classmethod
    def _fewest_first(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value and value[0] > value[1]:
            raise ValueError("expected the smaller number of workers first")
        return value

    @model_validator(mode="after")
    def _fitting(self) -> ClusterConfig:
        if self.kind == "address" and not self.address:
            raise ValueError("kind: address needs an address, such as tcp://scheduler:8786")
        if self.kind != "address" and self.address:
            raise ValueError(f"an address is given, but kind is {self.kind}; expected kind: address")
        for key, kinds in KINDS_OF_KEY.items():
            if self.kind not in kinds and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} says nothing to kind: {self.kind}; it is for {_enumeration(kinds)}")
        lacking = [key for key in _NEEDED.get(self.kind, {}) if getattr(self, key) is None]
        if lacking:
            examples = ", ".join(f"{key}: {_NEEDED[self.kind][key]}" for key in lacking)
            raise ValueError(f"kind: {self.kind} needs {' and '.join(lacking)}, such as {examples}")
        if self.kind in _WITH_JOBS and (self.workers is None) == (self.adaptive is None):
            raise ValueError(
                f"kind: {self.kind} needs either workers, such as workers: 8, or adaptive, such as adaptive: [0, 8]"
            )
        return self


_BATCH = ("slurm", "pbs")
_WITH_JOBS = (*_BATCH, "kubernetes")
KINDS_OF_KEY: dict[str, tuple[str, ...]] = {
    "workers": ("local", "cuda", *_WITH_JOBS),
    **dict.fromkeys(("adaptive", "memory", "gpu"), _WITH_JOBS),
    **dict.fromkeys(("queue", "account", "walltime", "workers_per_job", "interface", "directives", "prologue"), _BATCH),
    **dict.fromkeys(("image", "namespace", "volumes", "pod"), ("kubernetes",)),
}
_NEEDED: dict[str, dict[str, str]] = {
    **{kind: {"memory": "4GB", "walltime": '"08:00:00"'} for kind in _BATCH},
    "kubernetes": {"image": "registry.example.org/atlas:1"},
}


def _enumeration(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


class TrackingConfig(Section):
    """An experiment tracker that gets the run's figures as its stages finish; it changes nothing that the run makes."""

    kind: Literal["wandb", "mlflow", "tensorboard"]
    """Which tracker."""
    project: Annotated[str, Field(min_length=1)] = "activation-atlas"
    """Name of the project; MLflow's experiment."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """Name of the run there. Default: the name of the run's folder."""
    folder: Annotated[str, Field(min_length=1)] | None = None
    """Where wandb, TensorBoard, and MLflow without a server write. Default: `OUT/tracking`."""
    mode: Literal["online", "offline"] = "online"
    """Of wandb. `offline` writes files for `wandb sync`."""
    address: str | None = None
    """Of an MLflow server, such as `http://mlflow:5000`."""

    @model_validator(mode="after")
    def _of_this_kind(self) -> TrackingConfig:
        if self.mode == "offline" and self.kind != "wandb":
            raise ValueError(f"mode: offline is wandb's; {self.kind} needs no network unless given an address")
        if self.address and self.kind != "mlflow":
            raise ValueError(f"address is of an MLflow server, but kind is {self.kind}; expected kind: mlflow")
        return self


class NeuronsConfig(Section):
    """The layers whose units are measured one by one, and how much is kept of each unit."""

    layers: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """Which of the run's layers."""
    pictures: Annotated[int, Field(ge=1, le=16)] = 4
    """Different feature visualisations of each unit."""
    patches: Annotated[int, Field(ge=1, le=25)] = 9
    """Real patches kept that excite a unit most, from different images."""
    rotated_patches: Annotated[int, Field(ge=1, le=25)] = 6
    """How many of these are also rotated, mirrored and scaled: 52 passes of the network each."""
    sources: Annotated[int, Field(ge=1, le=100)] = 12
    """Units of each earlier one of these layers kept as building a unit."""

    @field_validator("layers")
    @classmethod
    def _different(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        return each_once(layers)


def each_once(layers: tuple[str, ...]) -> tuple[str, ...]:
    """``layers`` as they are. Raises ValueError where one is named twice."""
    if len(set(layers)) != len(layers):
        raise ValueError("expected each layer once")
    return layers

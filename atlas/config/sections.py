"""The sections of a configuration as frozen, validated values. Unknown keys are errors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """What every section is: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(Section):
    """Which CNN, and how it wants its pictures."""

    name: Annotated[str, Field(min_length=1)]
    checkpoint: str | None = None
    classes: str | None = None
    size: Annotated[int, Field(ge=16, le=2048)] | None = None
    mean: Annotated[tuple[float, ...], Field(min_length=3, max_length=3)] | None = None
    std: Annotated[tuple[float, ...], Field(min_length=3, max_length=3)] | None = None

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


class ImagesConfig(Section):
    """Where the pictures are and how views are cropped from them."""

    source: Annotated[str | tuple[str, ...], BeforeValidator(_one_or_several)]
    kind: Literal["auto", "folder", "tar", "parquet"] = "auto"
    storage_options: dict[str, Any] = {}
    image_column: str | None = None
    label_column: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    crops: Annotated[int, Field(ge=1, le=10_000)] = 1
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.4, 1.0)
    shuffle: bool = True
    classes: Annotated[tuple[str, ...] | None, BeforeValidator(_names)] = None

    @field_validator("crop_scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("expected the smaller share first")
        return value


class CollectConfig(Section):
    """How the network looks at the views, and how many rows go into a file."""

    positions_per_image: Annotated[int, Field(ge=1, le=1000)] = 1
    attributions: bool = True
    rows_per_shard: Annotated[int, Field(ge=1, le=10_000_000)] = 65_536
    max_failure_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"


Grids = Annotated[tuple[Annotated[int, Field(ge=2, le=1280)], ...], Field(min_length=1)]


def _doubling(grids: tuple[int, ...]) -> tuple[int, ...]:
    if any(fine != 2 * coarse for coarse, fine in pairwise(grids)):
        raise ValueError("expected grids that double, such as [10, 20, 40]")
    return grids


class LayoutConfig(Section):
    """How the activations become a map, and which classes have maps of their own."""

    backend: Literal["auto", "umap", "cuml"] = "auto"
    axes: Literal["umap", "pca", "classes"] = "umap"
    neighbors: Annotated[int, Field(ge=2, le=500)] = 20
    min_dist: Annotated[float, Field(ge=0, le=1)] = 0.01
    fit_rows: Annotated[int, Field(ge=100)] = 1_000_000
    align: bool = True
    shared: bool = False
    deterministic: bool = False
    class_atlas: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_one_or_more)] = ()
    class_pair: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)] = ()
    class_rows: Annotated[int, Field(ge=10, le=1_000_000)] = 5_000
    class_by: Literal["attribution", "predicted"] = "attribution"
    class_layers: tuple[str, ...] | None = None
    class_grids: Annotated[Grids, AfterValidator(_doubling)] = (8, 16)

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
    min_count: Annotated[int, Field(ge=1)] = 8
    exemplars: Annotated[int, Field(ge=1, le=100)] = 6
    diverse_exemplars: Annotated[int, Field(ge=0, le=100)] = 3


class RenderConfig(Section):
    """How the icons are drawn."""

    size: Annotated[int, Field(ge=16, le=512, multiple_of=2)] = 80
    steps: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    power: Annotated[float, Field(ge=0, le=64)] = 16.0
    ridge: Annotated[float, Field(gt=0)] = 0.001
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    batch: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    icons_per_item: Annotated[int, Field(ge=1, le=10_000)] = 64


class PublishConfig(Section):
    """What the finished page shows first."""

    opens: Annotated[str, Field(min_length=1)] | None = None


class ClusterConfig(Section):
    """Where the work runs. A key that the kind does not use is a mistake, and so is a missing one that it needs."""

    kind: Literal["local", "cuda", "slurm", "pbs", "kubernetes", "address"] = "local"
    address: str | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    adaptive: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    threads: Annotated[int, Field(ge=1)] = 1
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    memory: Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?[MGT](i?B)?$")] | None = None
    gpu: bool = False
    queue: str | None = None
    account: str | None = None
    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d\d){1,2}$")] | None = None
    workers_per_job: Annotated[int, Field(ge=1, le=1024)] = 1
    interface: str | None = None
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    image: str | None = None
    namespace: str | None = None
    volumes: dict[str, str] = {}
    pod: dict[str, Any] = {}

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
        for key, kinds in _KINDS_OF_KEY.items():
            if self.kind not in kinds and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} says nothing to kind: {self.kind}; it is for {_listed(kinds)}")
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
_KINDS_OF_KEY: dict[str, tuple[str, ...]] = {
    "workers": ("local", "cuda", *_WITH_JOBS),
    **dict.fromkeys(("adaptive", "memory", "gpu"), _WITH_JOBS),
    **dict.fromkeys(("queue", "account", "walltime", "workers_per_job", "interface", "directives", "prologue"), _BATCH),
    **dict.fromkeys(("image", "namespace", "volumes", "pod"), ("kubernetes",)),
}
_NEEDED: dict[str, dict[str, str]] = {
    **{kind: {"memory": "4GB", "walltime": '"08:00:00"'} for kind in _BATCH},
    "kubernetes": {"image": "registry.example.org/atlas:1"},
}


def _listed(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


class TrackingConfig(Section):
    """An experiment tracker that gets the run's figures as its stages finish; it changes nothing that the run makes."""

    kind: Literal["wandb", "mlflow", "tensorboard"]
    project: Annotated[str, Field(min_length=1)] = "activation-atlas"
    name: Annotated[str, Field(min_length=1)] | None = None
    folder: Annotated[str, Field(min_length=1)] | None = None
    mode: Literal["online", "offline"] = "online"
    address: str | None = None

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
    pictures: Annotated[int, Field(ge=1, le=16)] = 4
    patches: Annotated[int, Field(ge=1, le=25)] = 9
    sources: Annotated[int, Field(ge=1, le=100)] = 12

    @field_validator("layers")
    @classmethod
    def _different(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        return each_once(layers)


def each_once(layers: tuple[str, ...]) -> tuple[str, ...]:
    """``layers`` as they are. Raises ValueError where one is named twice."""
    if len(set(layers)) != len(layers):
        raise ValueError("expected each layer once")
    return layers

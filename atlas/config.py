"""The YAML of a run as frozen, validated values. Unknown keys are errors, and all errors are told at once."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from atlas.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(_Section):
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
        return tuple(_names(each) for each in value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_or_more(value: Any) -> Any:
    """One class name, or a list of them."""
    named = _names(value)
    return (named,) if isinstance(named, str) else named


def _pairs(value: Any) -> Any:
    """One pair of class names, or a list of pairs."""
    named = _names(value)
    pairs = (named,) if isinstance(named, tuple) and named and all(isinstance(name, str) for name in named) else named
    if not isinstance(pairs, tuple) or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        raise ValueError("expected two classes, such as [lemon, strawberry], or a list of such pairs")
    return pairs


def _one_or_several(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(source, str) and source for source in value):
        return tuple(value)
    raise ValueError("expected a path, a URL or a glob, or a list of them")


class ImagesConfig(_Section):
    """Where the pictures are and how views are cut from them."""

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


class CollectConfig(_Section):
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


class LayoutConfig(_Section):
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


class CellsConfig(_Section):
    grids: Annotated[Grids, AfterValidator(_doubling)] = (10, 20, 40)
    min_count: Annotated[int, Field(ge=1)] = 8
    exemplars: Annotated[int, Field(ge=1, le=100)] = 6
    diverse_exemplars: Annotated[int, Field(ge=0, le=100)] = 3


class RenderConfig(_Section):
    size: Annotated[int, Field(ge=16, le=512, multiple_of=2)] = 80
    steps: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    power: Annotated[float, Field(ge=0, le=64)] = 16.0
    ridge: Annotated[float, Field(gt=0)] = 0.001
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    batch: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    icons_per_item: Annotated[int, Field(ge=1, le=10_000)] = 64


class PublishConfig(_Section):
    opens: Annotated[str, Field(min_length=1)] | None = None


class ClusterConfig(_Section):
    """Where the work runs. A key that says nothing to the chosen kind is a mistake, and so is one that it lacks."""

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
                raise ValueError(f"{key} says nothing to kind: {self.kind}; it is for {_spoken(kinds)}")
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


def _spoken(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


class TrackingConfig(_Section):
    """An experiment tracker that is told of the run as its stages finish; no part of what the run makes."""

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


class NeuronsConfig(_Section):
    """The layers whose units are looked at one by one, and how much is kept of each unit."""

    layers: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    pictures: Annotated[int, Field(ge=1, le=16)] = 4
    patches: Annotated[int, Field(ge=1, le=25)] = 9
    sources: Annotated[int, Field(ge=1, le=100)] = 12

    @field_validator("layers")
    @classmethod
    def _different(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        return _each_once(layers)


def _each_once(layers: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(layers)) != len(layers):
        raise ValueError("expected each layer once")
    return layers


class Config(_Section):
    """A whole run. See configs/reference.yaml for what each key means."""

    out: str
    out_options: dict[str, Any] = {}
    seed: Annotated[int, Field(ge=0, le=4_000_000_000)] = 0
    network: NetworkConfig
    compare: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")], NetworkConfig] = {}
    layers: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    images: ImagesConfig
    collect: CollectConfig = CollectConfig()
    layout: LayoutConfig = LayoutConfig()
    cells: CellsConfig = CellsConfig()
    render: RenderConfig = RenderConfig()
    neurons: NeuronsConfig | None = None
    publish: PublishConfig = PublishConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig | None = None
    tour: Annotated[str, Field(min_length=1)] | None = "tour"

    @field_validator("out")
    @classmethod
    def _writable(cls, out: str) -> str:
        if "://" not in out:
            return out
        if out.startswith(("http://", "https://")):
            raise ValueError("a web server takes no files; expected a folder, or an address such as s3://bucket/run")
        out = out.rstrip("/")
        if not re.fullmatch(r"\w+://[^?#]*[^?#/]", out) or out.rpartition("/")[2] in (".", ".."):
            raise ValueError("expected an address that ends in the run's name, such as s3://bucket/runs/demo")
        return out

    @field_validator("tour")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """Workers may have been started in another folder; ``tour`` is the shipped one."""
        return path if path in (None, "tour") else str(Path(path).expanduser().absolute())

    @field_validator("layers")
    @classmethod
    def _different(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        return _each_once(layers)

    @model_validator(mode="after")
    def _agreeing(self) -> Config:
        layout = self.layout
        for key, asks in (
            ("axes: classes", layout.axes == "classes"),
            ("class_atlas", layout.class_atlas and layout.class_by == "attribution"),
            ("class_pair", layout.class_pair),
        ):
            if asks and not self.collect.attributions:
                raise ValueError(f"layout.{key} goes by attributions, but collect.attributions is false")
        for name in self.networks():
            if name and not self.layers_of(name):
                raise ValueError(f"compare.{name} is given, but none of the layers is of it, such as LAYER@{name}")
        unknown = [name for name in self.layers if self.module_of(name)[0] not in self.networks()]
        if unknown:
            raise ValueError(
                f"layers: {unknown[0]} is of the network {self.module_of(unknown[0])[0]!r}, which is not under compare"
            )
        if not self.layers_of(""):
            raise ValueError("layers: none is of network; give one without an @ sign")
        if self.publish.opens not in (None, *self.layers):
            raise ValueError(f"publish.opens names {self.publish.opens!r}, which is not among the layers")
        strangers = [name for name in layout.class_layers or () if name not in self.layers]
        if strangers:
            raise ValueError(f"layout.class_layers names {strangers[0]!r}, which is not among the layers")
        strangers = [name for name in (self.neurons.layers if self.neurons else ()) if name not in self.layers]
        if strangers:
            raise ValueError(
                f"neurons.layers names {strangers[0]!r}, which is not among the layers; they are "
                f"{', '.join(self.layers)}"
            )
        return self

    def module_of(self, layer: str) -> tuple[str, str]:
        """Which network a layer is of, and its module there: "features.8@old" is features.8 of ``compare.old``, and
        layers without a sign are of ``network``, whose name here is ""."""
        module, sign, network = layer.rpartition("@")
        return (network, module) if sign else ("", layer)

    def networks(self) -> dict[str, NetworkConfig]:
        """All networks of the run by name, the first under ""."""
        return {"": self.network, **self.compare}

    def layers_of(self, network: str) -> tuple[str, ...]:
        """The layers of one of the networks, by their names in the run."""
        return tuple(layer for layer in self.layers if self.module_of(layer)[0] == network)

    @property
    def opening(self) -> str:
        """The layer that the page opens on: by default the middle one of the first network's."""
        own = self.layers_of("")
        return self.publish.opens or own[len(own) // 2]

    def plain(self) -> dict[str, Any]:
        """The configuration as JSON-ready values, defaults written out."""
        return self.model_dump(mode="json")

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Config:
        return cls.model_validate(values)


def config_folders() -> list[Path]:
    """Where the shipped configurations lie: inside the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    return [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]


def find_config(name: str) -> Path:
    """The YAML file for ``name``: a path, or the name of a shipped configuration. Raises ConfigError."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    files = [file for folder in config_folders() for file in sorted(folder.glob("*.yaml"))]
    shipped = {file.stem: file for file in files if file.stem != "tour"}  # a tour is no run
    if path.parent in (Path(), Path("configs")) and path.stem in shipped:
        return shipped[path.stem]
    near = difflib.get_close_matches(path.stem, list(shipped), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"There is no configuration {name}. Expected a YAML file, or one of the shipped ones: "
        f"{', '.join(sorted(shipped))}.{hint}"
    )


def load_config(name: str, overrides: list[str] | None = None) -> Config:
    """Read configuration ``name`` and apply ``overrides`` of the form ``key.path=value`` (values are YAML).

    Raises ConfigError that tells every mistake at once, each with its key's path, what was given and what is allowed.
    """
    path = find_config(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, expected keys such as network, layers and images.")
    for override in overrides or []:
        _apply(values, override)
    values.setdefault("out", f"runs/{path.stem}")
    return validate(values, str(path))


def validate(values: dict[str, Any], origin: str) -> Config:
    """``values`` as a Config. Raises ConfigError listing every mistake; ``origin`` names the file in the message."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        # A key that allows a word or a number fails once for each: told as one mistake with both ways out.
        told: dict[str, list[str]] = {}
        for problem in error.errors():
            subject, expected = _explain(problem)
            told.setdefault(subject, []).append(expected)
        lines = [f"{subject} {_either(expected)}" for subject, expected in told.items()]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise ConfigError(f"{origin} has {count}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _either(expected: list[str]) -> str:
    joined = ", or ".join(sentence.rstrip(".") for sentence in expected)
    return joined if joined.endswith("?") else f"{joined}."


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value, such as --set images.limit=100.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML ({error}).") from error
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if inner is None:
            inner = values[parent] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {parent} is {inner!r} and has no keys of its own.")
        values = inner
    values[last] = value


def _explain(problem: Any) -> tuple[str, str]:
    """What was given where, and what was expected."""
    location = problem["loc"]
    parts = [str(part) for part in location if not str(part).startswith(("function-", "literal[", "constrained-"))]
    if not location:  # keys of several sections that do not go together
        return problem["msg"].removeprefix("Value error, ") + ";", "change one of them."
    key = ".".join(parts)
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(known)}."
        return f"{key}: unknown key;", hint
    if kind == "missing":
        return f"{key}: missing;", "it has no default and must be given."
    expected = problem["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("Tuple", "list")
    if kind == "model_type":
        expected = f"expected keys: {', '.join(_known_keys(location))}"
    expected = expected[:1].lower() + expected[1:]
    return f"{key}: given {json.dumps(given, default=str)};", f"{expected}."


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    section: Any = Config
    for part in path:
        annotation = section.model_fields[part].annotation
        if isinstance(annotation, types.UnionType):
            annotation = next(
                kind for kind in typing.get_args(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)
            )
        section = annotation
    return list(section.model_fields)

"""The configuration of a run as one frozen value: its sections, and what must agree between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from atlas.config.sections import (
    CellsConfig,
    ClusterConfig,
    CollectConfig,
    ImagesConfig,
    LayoutConfig,
    NetworkConfig,
    NeuronsConfig,
    PublishConfig,
    RenderConfig,
    Section,
    TrackingConfig,
    each_once,
)


@dataclass(frozen=True)
class RunNetwork:
    """One of a run's networks: its ``name`` there, "" for the first; its section; and its ``layers``, by their names in
    the run."""

    name: str
    settings: NetworkConfig
    layers: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The paths of the layers in the network, in their order."""
        return tuple(Config.module_of(layer)[1] for layer in self.layers)


class Config(Section):
    """A whole run."""

    out: str
    """The run directory, or an address such as `s3://bucket/runs/demo`. Default: `runs/` and the YAML's name."""
    out_options: dict[str, Any] = Field(default_factory=dict)
    """Options of fsspec for an address, such as `{endpoint_url: "http://store:9000"}`. Kept in run.json: no secrets."""
    seed: Annotated[int, Field(ge=0, le=4_000_000_000)] = 0
    """Of shuffling, crops, sampled places, and the noise that icons start from."""
    network: NetworkConfig
    """The CNN that is looked at."""
    compare: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")], NetworkConfig] = Field(default_factory=dict)
    """Further networks over the same views, by name, such as `{lite1: {name: efficientnet_lite1}}`."""
    layers: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """Module paths, such as `_blocks.10`; `_blocks.14@lite1` is a layer of `compare.lite1`."""
    images: ImagesConfig
    """The images, and the views cut from them."""
    collect: CollectConfig = CollectConfig()
    """How activations are collected."""
    layout: LayoutConfig = LayoutConfig()
    """How activations become a map."""
    cells: CellsConfig = CellsConfig()
    """How a map is cut into cells."""
    render: RenderConfig = RenderConfig()
    """How icons are drawn."""
    neurons: NeuronsConfig | None = None
    """Layers whose single units are looked at. Default: none."""
    publish: PublishConfig = PublishConfig()
    """What the finished page shows first."""
    cluster: ClusterConfig = ClusterConfig()
    """Where the work runs."""
    tracking: TrackingConfig | None = None
    """An experiment tracker to report to. Default: none."""
    tour: Annotated[str, Field(min_length=1)] | None = "tour"
    """The steps of the page's tour: a YAML file of your own (start from a copy of `tour.yaml`), or null for none."""

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
        return each_once(layers)

    @model_validator(mode="after")
    def _agreeing(self) -> Config:
        layout = self.layout
        for key, needed in (
            ("axes: classes", layout.axes == "classes"),
            ("class_atlas", layout.class_atlas and layout.class_by == "attribution"),
            ("class_pair", layout.class_pair),
        ):
            if needed and not self.collect.attributions:
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
        unknown_layers = [name for name in layout.class_layers or () if name not in self.layers]
        if unknown_layers:
            raise ValueError(f"layout.class_layers names {unknown_layers[0]!r}, which is not among the layers")
        unknown_layers = [name for name in (self.neurons.layers if self.neurons else ()) if name not in self.layers]
        if unknown_layers:
            raise ValueError(
                f"neurons.layers names {unknown_layers[0]!r}, which is not among the layers; they are "
                f"{', '.join(self.layers)}"
            )
        return self

    @staticmethod
    def module_of(layer: str) -> tuple[str, str]:
        """Which network a layer is of, and its module there: "features.8@old" is features.8 of ``compare.old``, and
        layers without a sign are of ``network``, whose name here is ""."""
        module, sign, network = layer.rpartition("@")
        return (network, module) if sign else ("", layer)

    def networks(self) -> dict[str, RunNetwork]:
        """All networks of the run by name, the first under ""."""
        sections = {"": self.network, **self.compare}
        return {name: RunNetwork(name, settings, self.layers_of(name)) for name, settings in sections.items()}

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
        """What ``plain`` gave, as a configuration again. Raises ValueError for one of another version."""
        return cls.model_validate(values)

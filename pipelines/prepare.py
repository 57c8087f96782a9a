"""What a run reads before any work: its pictures, networks and layers, and all that is wrong with them at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from atlas.config.model import Config
from atlas.config.sections import ImagesConfig, LayoutConfig, NeuronsConfig
from atlas.errors import AtlasError, ConfigError
from atlas.layout.gpu import uses_gpu
from atlas.networks.network import Layer, Network, describe_layer, load
from atlas.pictures.listing import Listing
from atlas.pictures.sources import list_images, sources_of
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of
from atlas.site.tour.text import check_choices, load_tour
from atlas.slices.labels import LabelMatch, mapping_problems, match_labels, read_mapping
from atlas.store.classes import class_number
from pipelines.tracking import require


@dataclass(frozen=True)
class Prepared:
    """The pictures, and the networks and layers by their names in the run, read before any work starts; ``matches``:
    the pictures' labels against the classes of each network."""

    listing: Listing
    networks: dict[str, Network]
    layers: dict[str, Layer]
    matches: dict[str, LabelMatch]


def prepare(config: Config, directory: RunDirectory) -> Prepared:
    """List the pictures, or take the listing of an earlier start, and load the networks. Raises ConfigError with all
    that is wrong."""
    problems: list[str] = []
    listing: Listing | None = None
    if config.cluster.kind in ("local", "cuda") and config.layout.backend == "cuml":
        try:
            uses_gpu("cuml", deterministic=False)
        except AtlasError as error:
            problems.append(str(error))
    try:
        require(config.tracking)
    except ConfigError as error:
        problems.append(str(error))
    try:
        listing = _listing(config.images, config.seed, directory)
        problems += _damaged(listing, config.collect.max_failure_share)
    except ConfigError as error:
        problems.append(str(error))
    networks: dict[str, Network] = {}
    layers: dict[str, Layer] = {}
    maps = maps_of(config.layers, config.layout, config.cells)
    for name, run_network in config.networks().items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                networks[name] = load(**run_network.settings.model_dump(), keep=run_network.modules)
        except ConfigError as error:
            problems.append(f"compare.{name}: {error}" if name else str(error))
            continue
        for layer, module in zip(run_network.layers, run_network.modules):
            try:
                layers[layer] = describe_layer(networks[name], module)
            except ConfigError as error:
                problems.append(f"layers: {error}")
        if any(atlas_map.classes and atlas_map.layer in run_network.layers for atlas_map in maps):
            problems += _unknown_classes(config.layout, networks[name])
    matches: dict[str, LabelMatch] = {}
    if listing is not None and networks:
        try:
            matches, wrong_labels = _matches(images=config.images, listing=listing, networks=networks)
            problems += wrong_labels
        except ConfigError as error:
            problems.append(str(error))
    ordered_layers = {layer: layers[layer] for layer in config.layers if layer in layers}
    whole = len(ordered_layers) == len(config.layers)
    problems += _tour(config.tour, listing, ordered_layers if whole else None, config.neurons)
    if problems or listing is None:
        raise ConfigError("\n".join(problems))
    return Prepared(listing, networks, ordered_layers, matches)


def _matches(
    images: ImagesConfig, listing: Listing, networks: dict[str, Network]
) -> tuple[dict[str, LabelMatch], list[str]]:
    """The labels against each network's classes, and what is wrong with the mapping."""
    mapping = read_mapping(images.label_classes)
    matches = {name: match_labels(listing.label_names, one.classes, mapping) for name, one in networks.items()}
    return matches, mapping_problems(mapping, list(matches.values()), listing.label_counts)


def _tour(
    path: str | None, listing: Listing | None, layers: dict[str, Layer] | None, neurons: NeuronsConfig | None
) -> list[str]:
    """What is wrong with the tour and with the examples that it names itself, as far as the pictures and layers are
    known."""
    try:
        tour = load_tour(path)
    except ConfigError as error:
        return [str(error)]
    if tour is None or listing is None or layers is None:
        return []
    channels = {name: layer.channels for name, layer in layers.items()}
    return check_choices(tour, channels, listing.keys, neurons.layers if neurons else ())


def _unknown_classes(layout: LayoutConfig, network: Network) -> list[str]:
    """What is wrong with the classes of the class atlases and pairs."""
    problems = []
    keys = {"class_atlas": [(name,) for name in layout.class_atlas], "class_pair": layout.class_pair}
    for key, maps in keys.items():
        first_names: dict[tuple[int, ...], tuple[str, ...]] = {}
        for names in maps:
            try:
                numbers = tuple(class_number(name, network.classes) for name in names)
            except ConfigError as error:
                problems.append(f"layout.{key}: {network.name}: {error}")
                continue
            first = first_names.setdefault(numbers, names)
            if len(set(numbers)) < len(numbers) or first is not names:
                same = " and ".join(sorted({*first, *names}))
                problems.append(f"layout.{key}: {same} are the same class of {network.name}; give it once.")
    return problems


def _damaged(listing: Listing, max_share: float) -> list[str]:
    """A sentence where more than ``max_share`` of the containers cannot be read to their end: how many pictures are
    lost with them is unknown."""
    files = {file.name for file in listing.containers}
    damaged = [f"{key}: {error}" for key, error in zip(listing.keys, listing.errors) if error and key in files]
    if len(damaged) <= max_share * len(files):
        return []
    return [
        f"images.source: {len(damaged)} of {len(files)} {listing.kind} files cannot be read to their end, more than "
        f"collect.max_failure_share = {max_share:g} allows. The first: {damaged[0]}. Mend them "
        "or leave them out; or raise the share."
    ]


def listing_request(images: ImagesConfig, seed: int) -> dict[str, Any]:
    """The part of the configuration that decides the listing."""
    return {
        **images.model_dump(mode="json", exclude={"crops", "crop_scale", "source", "label_classes"}),
        "source": sources_of(images),
        "seed": seed,
    }


def _listing(images: ImagesConfig, seed: int, directory: RunDirectory) -> Listing:
    """The run's listing. It is made once: a run that goes on must not see what a folder gained in the meantime."""
    if directory.listing.exists() and directory.read_manifest().get("listing") == listing_request(images, seed):
        try:
            return Listing.load(directory.listing)
        except (ValueError, KeyError, TypeError) as error:  # Arrow's errors are ValueErrors
            raise AtlasError(
                f"{directory.listing} is cut off or overwritten ({error}). Delete it and give the same command again: "
                "the pictures are listed anew, and what was collected is kept if they are the same."
            ) from error
    return list_images(images, seed)

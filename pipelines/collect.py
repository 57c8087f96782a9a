"""Stage collect: pictures → store. An item is one shard of every layer."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.collect import collect_shard, shard_views
from atlas.config import Config
from atlas.errors import AtlasError
from atlas.networks import Layer, Network
from atlas.rundir import RunDirectory, atomic, read_marker, write_marker
from atlas.sources import Listing
from atlas.store import FAILURES, SCHEMA_VERSION
from atlas.versions import versions
from atlas.views import Failure
from pipelines import worker
from pipelines.stage import Item, Summary

NAME = "collect"
UNIT = "views"
_FAILURES = "failures"
# Runs too small for full shards have about this many, of at least so many rows.
MOST_SHARDS, FEWEST_ROWS = 64, 256


def images_per_shard(config: Config, pictures: int) -> int:
    """Whole pictures in a shard of a run over ``pictures``: at least one, at most what rows_per_shard allows.

    Small runs get smaller shards, down to 256 rows, so that there are some for every worker; how many workers there are
    plays no part, since the shards must be the same for all.
    """
    rows_per_image = config.collect.positions_per_image * config.images.crops
    rows = min(config.collect.rows_per_shard, max(FEWEST_ROWS, -(-pictures * rows_per_image // MOST_SHARDS)))
    return max(1, rows // rows_per_image)


def plan(config: Config, run: RunDirectory) -> list[Item]:
    pictures = len(Listing.load(run.listing))
    shards = -(-pictures // images_per_shard(config, pictures))
    items = [Item(f"part-{shard:05d}", NAME, run=str(run.path)) for shard in range(shards)]
    return [*items, Item(_FAILURES, NAME, tuple(item.id for item in items), str(run.path))]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    if item.id == _FAILURES:
        return [run.failures.with_suffix(".json")]
    return [run.store(layer) / f"{item.id}.json" for layer in config.layers]


def run_item(item: Item) -> Summary:
    run, config = item.open()
    if item.id == _FAILURES:
        return _gather_failures(item, run, config)
    listing = worker.listing(run)
    network, layers = worker.network(run, config), worker.layers(run, config)
    views = shard_views(
        int(item.id.removeprefix("part-")), len(listing), config.images.crops, images_per_shard(config, len(listing))
    )
    paths = {layer.name: run.store(layer.name) / f"{item.id}.parquet" for layer in layers}
    rows, failures = collect_shard(
        worker.observer(run, config),
        layers,
        listing,
        config,
        views,
        paths,
        {layer.name: metadata(network, layer, listing, config) for layer in layers},
    )
    key = run.stage_key(NAME)
    for layer in layers:
        write_marker(
            run.store(layer.name) / f"{item.id}.json",
            key=key,
            files=[paths[layer.name]],
            rows=rows,
            views=sum(map(len, views.values())),
            failures=[{"image": failure.image, "view": failure.view, "error": failure.error} for failure in failures],
        )
    return Summary(sum(map(len, views.values())), failed_views(failures, config))


def failed_views(failures: list[Failure], config: Config) -> int:
    """Views lost: all of a picture's where the picture could not be read."""
    return sum(1 if failure.view is not None else config.images.crops for failure in failures)


def metadata(network: Network, layer: Layer, listing: Listing, config: Config) -> dict[str, object]:
    """What an outside reader of a shard needs to know; no clock and no host, so that equal work gives equal bytes."""
    return {
        "format": SCHEMA_VERSION,
        "network": network.name,
        "network_sha256": network.digest,
        "layer": layer.name,
        "channels": layer.channels,
        "map_size": [layer.height, layer.width],
        "stride": layer.stride,
        "receptive_field": layer.receptive_field,
        "effective_receptive_field": layer.effective_receptive_field,
        "input_size": network.size,
        "classes": list(network.classes),
        "labels": list(listing.label_names),
        "seed": config.seed,
        "versions": versions(),
    }


def _gather_failures(item: Item, run: RunDirectory, config: Config) -> Summary:
    """All failures of all shards in one table; stops the run when too many views failed."""
    key, rows, views = run.stage_key(NAME), [], 0
    for name in item.after:
        marker = read_marker(run.store(config.layers[0]) / f"{name}.json", key)
        if marker is None:
            raise AtlasError(f"collect: the marker of {name} is gone. Give the same command again.")
        views += marker["views"]
        rows += marker["failures"]
    with atomic(run.failures) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, FAILURES), temporary, compression="zstd")
    lost = failed_views([Failure(**row) for row in rows], config)
    if lost > config.collect.max_failure_share * views or lost == views:
        raise AtlasError(_too_many(rows, lost, views, config))
    write_marker(run.failures.with_suffix(".json"), key=key, files=[run.failures], views=views, failures=lost)
    return Summary(0)


def _too_many(rows: list[dict[str, object]], lost: int, views: int, config: Config) -> str:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(str(row["error"]), []).append(str(row["image"]))
    common = sorted(reasons.items(), key=lambda reason: -len(reason[1]))[:3]
    told = "; ".join(f"{error} ({len(images)}×, such as {images[0]})" for error, images in common)
    return (
        f"collect: {lost} of {views} views failed, more than collect.max_failure_share = "
        f"{config.collect.max_failure_share:g} allows. The commonest reasons: {told}. Mend the pictures, or raise the "
        f"share."
    )

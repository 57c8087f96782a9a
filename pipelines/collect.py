"""Stage collect: pictures → store. An item is one shard of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.config.model import Config
from atlas.config.sections import CollectConfig, ImagesConfig
from atlas.errors import AtlasError
from atlas.pictures.listing import Listing
from atlas.pictures.views import Failure, failure_kind
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import read_marker, write_marker
from atlas.store.collect import (
    BatchSettings,
    choose_precision,
    collect_shard,
    shard_metadata,
    shard_views,
)
from atlas.store.collect import measure_batch_settings as measure_readers
from atlas.store.datacard import write_card
from atlas.store.shards import FAILURES
from pipelines import rank, worker
from pipelines.cluster import available_cores
from pipelines.stage import Item, Part, Summary

NAME = "collect"
WORK = "views"
REDO_DEPENDENTS = False
move_aside = None
_FAILURES = "failures"
# Runs too small for full shards have about this many, of at least so many rows.
MOST_SHARDS, FEWEST_SHARD_ROWS = 64, 256


def images_per_shard(pictures: int, images: ImagesConfig, collect: CollectConfig) -> int:
    """Whole pictures in a shard of a run over ``pictures``: at least one, at most what rows_per_shard allows.

    Small runs get smaller shards, down to 256 rows, so that there are some for every worker; how many workers there are
    plays no part, since the shards must be the same for all.
    """
    rows_per_image = collect.positions_per_image * images.crops
    rows = min(collect.rows_per_shard, max(FEWEST_SHARD_ROWS, -(-pictures * rows_per_image // MOST_SHARDS)))
    return max(1, rows // rows_per_image)


def parts(config: Config) -> list[Part]:
    """One: its items are known as soon as the pictures are listed."""
    return [Part(NAME, rank=rank.COLLECT)]


def plan(part: str, config: Config, run: RunDirectory) -> list[Item]:
    """An item for each shard, and one that gathers what failed."""
    pictures = len(Listing.load(run.listing))
    size = images_per_shard(pictures, config.images, config.collect)
    items = [
        Item(
            f"part-{first // size:05d}", NAME, run=str(run.path), work=min(size, pictures - first) * config.images.crops
        )
        for first in range(0, pictures, size)
    ]
    return [*items, Item(_FAILURES, NAME, tuple(item.id for item in items), str(run.path))]


def markers(item: Item, run: RunDirectory, config: Config) -> list[Path]:
    """Of a shard one in each layer's folder."""
    if item.id == _FAILURES:
        return [run.failures.with_suffix(".json")]
    return [run.store(layer) / f"{item.id}.json" for layer in config.layers]


def run_item(item: Item) -> Summary:
    """Look at one shard's views, and write its rows of every layer."""
    run, config = item.open()
    listing = worker.listing(run)
    if item.id == _FAILURES:
        failure_rows, all_views, failed_view_count = _gather_failures(
            item.after, run, config.layers[0], crops=config.images.crops, max_share=config.collect.max_failure_share
        )
        card = write_card(
            run,
            config.layers,
            config.networks(),
            images=config.images,
            collect=config.collect,
            pictures=len(listing),
            views=all_views,
            failed_view_count=failed_view_count,
            failures=failure_rows,
        )
        write_marker(
            run.failures.with_suffix(".json"),
            key=run.stage_key(NAME),
            files=[run.failures, card],
            views=all_views,
            failures=failed_view_count,
        )
        return Summary(0)
    settings = _batch_settings(run)
    pictures = images_per_shard(len(listing), config.images, config.collect)
    views = shard_views(int(item.id.removeprefix("part-")), len(listing), config.images.crops, pictures)
    paths = {layer: run.store(layer) / f"{item.id}.parquet" for layer in config.layers}
    networks, threads = config.networks().values(), config.cluster.threads
    readers = worker.readers(run, networks, settings.precision, threads=threads)
    metadata = {
        name: shard_metadata(reader, name, listing, config.seed, settings)
        for reader in readers
        for name in reader.layers
    }
    rows, failures = collect_shard(
        readers,
        listing,
        views,
        paths,
        metadata,
        images=config.images,
        collect=config.collect,
        seed=config.seed,
        settings=settings,
    )
    key = run.stage_key(NAME)
    for layer in config.layers:
        write_marker(
            run.store(layer) / f"{item.id}.json",
            key=key,
            files=[paths[layer]],
            rows=rows,
            views=sum(map(len, views.values())),
            failures=[{"image": failure.image, "view": failure.view, "error": failure.error} for failure in failures],
        )
    return Summary(sum(map(len, views.values())), failed_views(failures, config.images.crops))


def measure_batch_settings(path: str) -> dict[str, Any]:
    """Batch, precision and decoding threads for the run at ``path``: as configured, or as suits this worker."""
    run = RunDirectory(Path(path))
    config = run.config()
    networks, threads = config.networks(), config.cluster.threads
    device = worker.network(run, networks[""], threads=threads).device
    precision = choose_precision(device, config.collect.precision)
    readers = worker.readers(run, networks.values(), precision, threads=threads)
    settings = measure_readers(
        readers,
        worker.listing(run),
        images=config.images,
        collect=config.collect,
        seed=config.seed,
        cores=available_cores(),
    )
    return asdict(settings)


def prepare_worker(path: str) -> None:
    """Have this worker load the networks and record them, so that the first shard does not wait for it."""
    run = RunDirectory(Path(path))
    config, settings = run.config(), _batch_settings(run)
    networks, threads = config.networks().values(), config.cluster.threads
    for reader in worker.readers(run, networks, settings.precision, threads=threads):
        reader.observer.seconds_per_view(
            list(reader.layers.values()),
            draws=config.collect.positions_per_image,
            attributions=config.collect.attributions,
            views=settings.batch,
        )
    worker.listing(run)


def _batch_settings(run: RunDirectory) -> BatchSettings:
    return BatchSettings(**run.stage_facts(NAME)["batch_settings"])


def failed_views(failures: list[Failure], crops: int) -> int:
    """Views lost: where a picture could not be read, all ``crops`` of it."""
    return sum(1 if failure.view is not None else crops for failure in failures)


def watch_failures(
    run: RunDirectory, layers: Sequence[str], *, crops: int, max_share: float
) -> Callable[[Summary], None]:
    """A function to call with each finished shard's summary: raises AtlasError as soon as it is certain that more than
    ``max_share`` of the views will have failed. ``crops``: how many views a picture has.

    Shards of an earlier start count too: a run that was stopped for its failures stops at once when it is started again
    with the same share. What was finished stays finished; with a higher share the run goes on from there.
    """
    views = pq.read_metadata(run.listing).num_rows * crops
    failed_view_count = sum(failed_views(_failures_of(marker), crops) for marker in _shard_markers(run, layers))

    def watch(summary: Summary) -> None:
        nonlocal failed_view_count
        failed_view_count += summary.failures
        if failed_view_count > max_share * views:
            markers = _shard_markers(run, layers)
            raise AtlasError(_too_many(markers, crops, max_share, views, run.folder(NAME)))

    watch(Summary(0))
    return watch


def _shard_markers(run: RunDirectory, layers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The markers of all shards that are finished in every layer, in order."""
    key = run.stage_key(NAME)
    first, *others = layers
    for path in sorted(run.store(first).glob("part-*.json")):
        marker = read_marker(path, key)
        if marker is not None and all(read_marker(run.store(layer) / path.name, key) for layer in others):
            yield marker


def _failures_of(marker: dict[str, Any]) -> list[Failure]:
    return [Failure(**row) for row in marker["failures"]]


def _gather_failures(
    parts: Sequence[str], run: RunDirectory, layer: str, *, crops: int, max_share: float
) -> tuple[list[dict[str, Any]], int, int]:
    """Write all failures of all ``parts`` into one table, as the markers of ``layer`` have them; stops the run when too
    many views failed. Returns its rows, how many views there are, and how many of those failed."""
    key, views = run.stage_key(NAME), 0
    rows: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    for name in parts:
        marker = read_marker(run.store(layer) / f"{name}.json", key)
        if marker is None:
            raise AtlasError(f"collect: the marker of {name} is gone. Give the same command again.")
        views += marker["views"]
        rows += marker["failures"]
        shards.append(marker)
    with atomic(run.failures) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, FAILURES), temporary, compression="zstd")
    failed_view_count = failed_views([Failure(**row) for row in rows], crops)
    if failed_view_count > max_share * views or failed_view_count == views:
        raise AtlasError(_too_many(shards, crops, max_share, views, run.folder(NAME)))
    return rows, views, failed_view_count


def _too_many(markers: Iterable[dict[str, Any]], crops: int, share: float, all_views: int, folder: Path) -> str:
    """The sentences for more failed views than the ``share`` allowed: how many of those read, the three commonest
    reasons, an example of each."""
    views, failures = 0, []
    for marker in markers:
        views += marker["views"]
        failures += _failures_of(marker)
    reasons: dict[str, list[Failure]] = {}
    for failure in failures:
        reasons.setdefault(failure_kind(failure), []).append(failure)
    common = sorted(reasons.values(), key=lambda alike: -len(alike))[:3]
    causes = "; ".join(f"{alike[0].error} ({len(alike)}×, such as {alike[0].image})" for alike in common)
    failed_view_count = failed_views(failures, crops)
    so_far = "" if views == all_views else f" (the run has {all_views}, and stops here)"
    limit = "" if failed_view_count == all_views else f", more than collect.max_failure_share = {share:g} allows"
    return (
        f"collect: {failed_view_count} of {views} views failed{limit}{so_far}. The commonest reasons: {causes}. Mend "
        f"the pictures and delete {folder}, which remembers the failures; or raise the share."
    )

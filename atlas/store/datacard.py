"""The store's data card: README.md with the front matter by which Hugging Face's ``datasets`` opens the store.

It describes the store and where it comes from, without clock, host or the run's folder, so that equal work gives equal
bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from atlas.config.model import RunNetwork
from atlas.config.sections import CollectConfig, ImagesConfig
from atlas.pictures.views import Failure, failure_kind
from atlas.rundir.atomic import atomic
from atlas.rundir.directory import RunDirectory
from atlas.store.shards import ROW_GROUP, count_rows, read_metadata

COMMON_REASONS = 10
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")


def card_path(run: RunDirectory) -> Path:
    """Where a run's data card stands."""
    return run.folder("collect") / "README.md"


def write_card(
    run: RunDirectory,
    layers: Sequence[str],
    networks: Mapping[str, RunNetwork],
    *,
    images: ImagesConfig,
    collect: CollectConfig,
    pictures: int,
    views: int,
    failed_view_count: int,
    failures: Sequence[Mapping[str, Any]],
) -> Path:
    """Write the card of a store whose shards are finished; returns its path.

    ``layers``, ``networks``, ``images`` and ``collect``: as the run's configuration has them; ``pictures``: how many
    were listed; ``views``, ``failed_view_count``: how many views they have, and how many of those failed;
    ``failures``: the rows of failures.parquet.
    """
    path = card_path(run)
    facts = {layer: read_metadata(run.shards(layer)[0]) for layer in layers}
    rows = {layer: count_rows(run.shards(layer)) for layer in layers}
    title, first = _title(networks, facts), facts[layers[0]]
    columns = _columns(
        len(first["classes"]) if collect.attributions else None,
        true_class=any("label_classes" in row for row in facts.values()),
    )
    text = f"""---
{_front_matter(title, rows, failures=bool(failures))}---

# {title}

{_what(len(networks), facts, rows, attributions=collect.attributions)}

| layer | rows | channels | map | stride | sees (of {first["input_size"]} px) |
| --- | --- | --- | --- | --- | --- |
{_layers(facts, rows)}

*Sees* is the theoretical receptive field; in brackets the side of the smallest square around the gradient's centre of
gravity that holds 80 % of it.

## Columns

{columns}

Vectors are PLAIN float16 lists, zstd, row groups of {ROW_GROUP:,}; a reader that wants some columns reads only those.
Class names (`classes`, `labels`) and the layer's facts stand as JSON in the metadata of every file.

## Pictures

{_pictures(images, first, pictures=pictures, views=views, places=collect.positions_per_image)}

## Network{"s" * (len(networks) > 1)}

{_networks(networks, facts)}

## Failures

{_failures(views, failed_view_count, failures)}

## Open it

{_how_to_open(layers[0], first["channels"])}
"""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _front_matter(title: str, rows: Mapping[str, int], *, failures: bool) -> str:
    parts: list[dict[str, Any]] = [{"config_name": layer, "data_files": f"{layer}/part-*.parquet"} for layer in rows]
    parts[0]["default"] = True
    if failures:  # a table without rows cannot be opened as a data set
        parts.append({"config_name": "failures", "data_files": "failures.parquet"})
    values = {
        "pretty_name": title,
        "tags": ["activation-atlas", "interpretability", "activations"],
        "size_categories": [_SIZES[min(max(len(str(max(rows.values()))) - 3, 0), len(_SIZES) - 1)]],
        "configs": parts,
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)


def _title(networks: Mapping[str, RunNetwork], facts: Mapping[str, Any]) -> str:
    names = [facts[network.layers[0]]["network"] for network in networks.values()]
    return f"Activations of {' and '.join(names)}"


def _what(networks: int, facts: Mapping[str, Any], rows: Mapping[str, int], *, attributions: bool) -> str:
    also = " and its attribution to every class" if attributions else ""
    version = next(iter(facts.values()))["versions"]["activation-atlas"]
    of_networks = f"{networks} convolutional networks" if networks > 1 else "a convolutional network"
    return (
        f"What {len(facts)} layer{'s' * (len(facts) > 1)} of {of_networks} said at places of "
        f"pictures: {max(rows.values()):,} rows a layer,\neach with an activation{also}. Row *i* of one "
        f"layer is the same place of the same view as row *i* of the next.\nWritten by activation-atlas {version}."
    )


def _layers(facts: Mapping[str, Any], rows: Mapping[str, int]) -> str:
    return "\n".join(
        f"| `{layer}` | {rows[layer]:,} | {row['channels']} | {row['map_size'][0]} × {row['map_size'][1]} | "
        f"{row['stride']} px | {row['receptive_field']} ({row['effective_receptive_field']}) |"
        for layer, row in facts.items()
    )


def _columns(attributions: int | None, *, true_class: bool) -> str:
    """The table of columns; ``attributions`` is how many classes the vectors of attributions have, None without any;
    ``true_class``: whether labels are classes."""
    lines = [
        ("image", "string", "path or key of the picture in its source"),
        ("image_id", "int64", "its number in the run's listing"),
        ("view", "int32", "number of the crop"),
        ("draw", "int16", "number of the place in the view"),
        ("box", "float32 [4]", "x0, y0, x1, y1 of the view in pixels of the upright picture"),
        ("place_x, place_y", "float32", "the place in the view, from 0 to 1, the same in every layer"),
        ("y, x", "int16", "the position in the layer's map that holds the place"),
        ("label", "int32, may be null", "the picture's own class, a number into `labels`"),
        ("predicted", "int32", "the network's first class for the view, a number into `classes`"),
        ("confidence", "float32", "its softmax share"),
        ("activation", "float16 [channels]", "the layer's answer h at the position"),
    ]
    if attributions is not None:
        lines.append(
            ("attribution", f"float16 [{attributions}]", "first-order effect on each class's logit, h · ∂logit/∂h")
        )
    if true_class:
        lines += [
            ("label_rank", "int32, may be null", "rank of the label's class (its number: `label_classes`), 1 is best"),
            ("label_probability", "float32, may be null", "its softmax share"),
        ]
    table = (
        f"| {', '.join(f'`{part}`' for part in name.split(', '))} | {kind} | {text} |" for name, kind, text in lines
    )
    return "\n".join(["| column | type | what it is |", "| --- | --- | --- |", *table])


def _pictures(images: ImagesConfig, facts: Mapping[str, Any], *, pictures: int, views: int, places: int) -> str:
    paths = [images.source] if isinstance(images.source, str) else images.source
    sources = ", ".join(f"`{_source(source)}`" for source in paths)
    limit = "all of them" if images.limit is None else f"at most {images.limit:,}"
    order = f"in an order shuffled by seed {facts['seed']}" if images.shuffle else "in the order of their names"
    classes = "all classes" if images.classes is None else f"only the classes {', '.join(images.classes)}"
    low, high = images.crop_scale
    crops = "one view each, the centred square" if images.crops == 1 else (
        f"{images.crops} random squares each, of {low:g} to {high:g} of the shorter side"
    )  # fmt: skip
    return (
        f"{pictures:,} pictures from {sources} (kind: {facts['source_kind']}), {limit}, {classes}, {order}.\n"
        f"{views:,} views: {crops}. {places} place{'s' * (places > 1)} a view, drawn by seed {facts['seed']}. The "
        f"pictures belong to\ntheir makers; this store holds none of them. The listing: sha256 "
        f"`{facts['listing_sha256']}`."
    )


def _source(source: str) -> str:
    """The source as others may know it: a local folder by its last name, an address without user and password."""
    if "://" not in source:
        return Path(source).name if Path(source).expanduser().is_absolute() else source
    address = urlsplit(source)
    return address._replace(netloc=address.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _networks(networks: Mapping[str, RunNetwork], facts: Mapping[str, Any]) -> str:
    """Each network of the run; of several, the layers that are of it."""
    texts = {name: _network(facts[network.layers[0]]) for name, network in networks.items()}
    if len(texts) == 1:
        return texts[""]
    layers = {name: ", ".join(f"`{layer}`" for layer in network.layers) for name, network in networks.items()}
    return "\n\n".join(f"{layers[name]}: {text}" for name, text in texts.items())


def _network(facts: Mapping[str, Any]) -> str:
    classes = facts["classes"]
    examples = ", ".join(classes[:5]) + (", …" if len(classes) > 5 else "")
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    size, digest = facts["input_size"], facts["network_sha256"]
    return (
        f"`{facts['network']}` at {size} px, {len(classes):,} classes ({examples}). Weights: sha256 `{digest}`.\n"
        f"Pixels in [0, 1], less {_numbers(facts['mean'])}, over {_numbers(facts['std'])}. "
        f"Computed in {facts['precision']}, {facts['batch']} views at a time.\nSeed {facts['seed']}. "
        f"Made with {versions}."
    )


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def _failures(views: int, failed_view_count: int, failures: Sequence[Mapping[str, Any]]) -> str:
    if not failures:
        return f"None of {views:,} views failed."
    alike: dict[str, list[str]] = {}
    for row in failures:
        alike.setdefault(failure_kind(Failure(**row)), []).append(str(row["error"]))
    common = sorted(
        ((min(errors), len(errors)) for errors in alike.values()), key=lambda reason: (-reason[1], reason[0])
    )
    lines = [f"| {_table_cell(error)} | {count:,} |" for error, count in common[:COMMON_REASONS]]
    left = sum(count for _, count in common[COMMON_REASONS:])
    if left:
        lines.append(f"| {len(common) - COMMON_REASONS:,} other reasons | {left:,} |")
    return (
        f"{failed_view_count:,} of {views:,} views have no row; `failures.parquet` tells of each (`image`, `view`, "
        "`error`).\n\n"
        "| reason, such as | entries |\n| --- | --- |\n" + "\n".join(lines)
    )


def _how_to_open(layer: str, channels: int) -> str:
    """How to read a layer's rows."""
    return f"""With activation-atlas, from the run's folder (the parent of this one):

```python
import atlas

store = atlas.open_run("RUN").store("{layer}")
for batch in store.batches(["image", "activation"]):
    ...  # NumPy: names (n,), activations (n, {channels}) as float16
```

With Hugging Face `datasets`, from this folder:

```python
from datasets import load_dataset

rows = load_dataset("STORE", "{layer}", split="train")
```

Any other reader of Parquet takes `{layer}/part-*.parquet`. The JSON file beside each shard vouches for it
(bytes and sha256); readers of whole folders must leave it out."""


def _table_cell(text: str) -> str:
    """Text that may stand in a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")

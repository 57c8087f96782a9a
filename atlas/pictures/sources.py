"""Where pictures come from: folders, tar shards and Parquet files, here or remote, listed once in the order of work."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from atlas.config.sections import ImagesConfig
from atlas.errors import ConfigError
from atlas.pictures.containers import CONTAINERS, SUFFIXES, Contents, RawLabel, number_labels, scan
from atlas.pictures.files import File, find, open_files, resolve, suffix_of
from atlas.pictures.listing import LISTING_SCHEMA, Listing
from atlas.rundir.remote import is_remote

_COMPRESSED = frozenset({".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip"})
# Containers looked into at a time.
_SCANNERS = 8
# The class of a picture that lies in no folder of its own, as images.classes names it.
_NO_CLASS = "."


@dataclass
class _Pictures:
    """The columns of a listing before its labels are numbers, which needs all of them."""

    key: list[str]
    label: list[RawLabel]
    file: list[int | None]
    group: list[int | None]
    row: list[int | None]
    offset: list[int | None]
    size: list[int | None]
    error: list[str | None]


def sources_of(config: ImagesConfig) -> list[str]:
    """What ``images.source`` names: absolute paths and URLs."""
    sources = [config.source] if isinstance(config.source, str) else config.source
    return [resolve(source) for source in sources]


def name_of(config: ImagesConfig) -> str:
    """A short name of the source for people: its last part, without anything that says where it is."""
    return sources_of(config)[0].partition("?")[0].rpartition("/")[2]


def list_images(config: ImagesConfig, seed: int) -> Listing:
    """List the pictures of ``images.source`` with their classes.

    Sorted by key, then shuffled by ``seed`` and cut to ``limit``. Of tars and Parquet files the seed chooses the same
    fair sample, but works on one container (a row group) after the other, in an order by seed and each in its own
    order, so that they are read from front to back. What cannot be read stays in the listing with its reason.

    Raises ConfigError when the source is not there, holds no picture, or has none of the classes asked for.
    """
    sources = sources_of(config)
    base, all_files = _list_files(sources, config)
    kind = _kind(config, sources, all_files)
    suffixes = SUFFIXES if kind == "folder" else {CONTAINERS[kind].suffix}
    files = sorted((file for file in all_files if suffix_of(file.name) in suffixes or file.error), key=lambda f: f.name)
    names: tuple[str, ...] = ()
    if kind == "folder":
        pictures, containers = _from_files(files), list[File]()
    else:
        pictures, names = _from_containers(kind, base, files, config)
        containers = files
    source_name = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
    if all(error is not None for error in pictures.error):
        raise ConfigError(_no_pictures(source_name, kind, pictures))
    indices = _of_classes(pictures, config, source_name, kind)
    labels, names = number_labels([pictures.label[index] for index in indices], names)  # before the limit cuts classes
    number_of = dict(zip(indices, labels))
    indices = _in_order(indices, pictures, config, seed)
    columns = {
        "image": pa.array([pictures.key[index] for index in indices], pa.string()),
        "label": pa.array([number_of[index] for index in indices], pa.int32()),
    }
    for name in LISTING_SCHEMA.names[2:]:
        values = getattr(pictures, name)
        columns[name] = pa.array([values[index] for index in indices], LISTING_SCHEMA.field(name).type)
    return Listing(
        pa.table(columns, schema=LISTING_SCHEMA),
        source=base,
        kind=kind,
        label_names=names,
        containers=[File(_escaped(file.name), file.size) for file in containers],
        image_column=config.image_column,
        options=config.storage_options,
    )


def _list_files(sources: Sequence[str], config: ImagesConfig) -> tuple[str, list[File]]:
    """All files of all sources, named below what they have in common."""
    suffixes = SUFFIXES | {container.suffix for container in CONTAINERS.values()} | _COMPRESSED
    with ThreadPoolExecutor(_SCANNERS) as pool:  # each address asks a server
        parts = list(pool.map(lambda source: find(source, suffixes, config.storage_options), sources))
    if len(parts) == 1:
        return parts[0].base, parts[0].files
    base = _common([part.base for part in parts])
    files: dict[str, File] = {}
    for part in parts:
        below = part.base[len(base) :].strip("/")
        for file in part.files:
            name = f"{below}/{file.name}" if below else file.name
            files.setdefault(name, File(name, file.size, file.error))
    return base, list(files.values())


def _common(bases: list[str]) -> str:
    schemes = {base.partition("://")[0] if is_remote(base) else "" for base in bases}
    if len(schemes) > 1:
        raise ConfigError("images.source: expected sources of one place, all local or all under one s3://, gs:// …")
    if schemes == {""}:
        return os.path.commonpath(bases)
    shared = os.path.commonpath([base.partition("://")[2] for base in bases])
    if not shared:
        raise ConfigError("images.source: expected sources of one bucket or server.")
    return f"{schemes.pop()}://{shared}"


def _kind(config: ImagesConfig, sources: Sequence[str], files: list[File]) -> str:
    """What the files are: as configured, or by their suffixes."""
    suffixes = {suffix_of(file.name) for file in files if file.error is None}
    if config.kind != "auto":
        return config.kind
    kinds = [kind for kind, container in CONTAINERS.items() if container.suffix in suffixes]
    if suffixes & SUFFIXES:
        kinds.insert(0, "folder")
    if len(kinds) > 1:
        names = [CONTAINERS[kind].several if kind in CONTAINERS else "pictures" for kind in kinds]
        raise ConfigError(
            f"images.source: {sources[0]} holds {' and '.join(names)}. Choose with --set "
            f"images.kind={' or '.join(kinds)}."
        )
    compressed = sorted(suffixes & _COMPRESSED)
    if not kinds and compressed:
        raise ConfigError(
            f"images.source: {sources[0]} holds compressed archives only ({', '.join(compressed)}). "
            "Pictures are read from their place in a tar, so expected an uncompressed .tar: unpack them, or write "
            "tars without compression (pictures hardly shrink)."
        )
    return kinds[0] if kinds else "folder"


def _no_pictures(source_name: str, kind: str, pictures: _Pictures) -> str:
    suffixes = ", ".join(sorted(SUFFIXES)) if kind == "folder" else CONTAINERS[kind].suffix
    if not pictures.key:
        within = "" if kind == "folder" else ", with pictures in them"
        return f"images.source: {source_name} holds no picture. Expected files ending in {suffixes}{within}."
    return (
        f"images.source: {source_name} holds no picture that can be read. The first of {len(pictures.key)}: "
        f"{pictures.key[0]}: {pictures.error[0]}."
    )


def _escaped(name: str) -> str:
    """``name`` as UTF-8, with escapes for bytes that are not."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _from_files(files: list[File]) -> _Pictures:
    """Pictures that are files; the class of each is its folder (ImageNet's way)."""
    keys, errors = [], []
    for file in files:
        keys.append(file.name if file.name.isascii() else _escaped(file.name))
        errors.append(file.error or (None if keys[-1] == file.name else "its name is not UTF-8"))
    nothing: list[int | None] = [None] * len(files)
    return _Pictures(
        key=keys,
        label=[key.rpartition("/")[0] or None for key in keys],
        file=nothing,
        group=nothing,
        row=nothing,
        offset=nothing,
        size=[file.size for file in files],
        error=errors,
    )


def _from_containers(
    kind: str, base: str, files: list[File], config: ImagesConfig
) -> tuple[_Pictures, tuple[str, ...]]:
    """The pictures in tars or Parquet files, and the names of their classes where a file has them."""
    source_files = open_files(base, config.storage_options)

    def scan_file(file: File) -> Contents:
        return scan(kind, source_files, file, image_column=config.image_column, label_column=config.label_column)

    with ThreadPoolExecutor(_SCANNERS) as pool:
        scanned = list(pool.map(scan_file, files))
    names = {contents.label_names for contents in scanned if contents.label_names}
    labelled = any(entry.label is not None for contents in scanned for entry in contents.entries)
    pictures = _Pictures([], [], [], [], [], [], [], [])
    for number, (file, contents) in enumerate(zip(files, scanned)):
        for entry in contents.entries:
            key = _escaped(f"{file.name}/{entry.name}" if entry.name else file.name)
            badly_named = entry.name and key != f"{file.name}/{entry.name}"
            pictures.key.append(key)
            pictures.label.append(entry.label if labelled else _escaped(entry.folder) or None)
            pictures.file.append(number)
            pictures.group.append(entry.group)
            pictures.row.append(entry.row)
            pictures.offset.append(entry.offset)
            pictures.size.append(entry.size)
            pictures.error.append(entry.error or ("its name is not UTF-8" if badly_named else None))
    return pictures, names.pop() if len(names) == 1 else ()


def _of_classes(pictures: _Pictures, config: ImagesConfig, source_name: str, kind: str) -> list[int]:
    """The pictures of the classes to keep, and what is broken and has no class."""
    if config.classes is None:
        return list(range(len(pictures.key)))
    classes = [_NO_CLASS if label is None else str(label) for label in pictures.label]
    names = sorted(set(classes))
    missing = [name for name in config.classes if name not in names]
    if missing:
        what = "folder" if kind == "folder" else "class"
        raise ConfigError(
            f"images.classes: {source_name} has no {what} {', '.join(missing)}. It has: {', '.join(names[:20])}."
        )
    class_names = set(config.classes)
    return [
        index
        for index, name in enumerate(classes)
        if name in class_names or (kind != "folder" and name == _NO_CLASS and pictures.error[index] is not None)
    ]


def _in_order(indices: list[int], pictures: _Pictures, config: ImagesConfig, seed: int) -> list[int]:
    """The order of work, cut to the limit."""
    generator = random.Random(seed)
    if config.shuffle:
        generator.shuffle(indices)
    indices = indices[: config.limit]
    parts = [(pictures.file[index], pictures.group[index]) for index in indices]
    if config.shuffle and any(file is not None for file, _ in parts):
        ranks: dict[Any, int] = {}
        for part in parts:  # the containers' order is that of their first pictures in the sample: by seed
            ranks.setdefault(part, len(ranks))
        indices.sort(key=lambda index: (ranks[pictures.file[index], pictures.group[index]], index))
    return indices

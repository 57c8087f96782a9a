"""Tar shards and Parquet files: which pictures are in them, listed without reading the pictures."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.errors import AtlasError, ConfigError
from atlas.pictures.files import File, Files, suffix_of

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".jpe", ".jfif", ".avif"})
_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes")
_LABEL_COLUMNS = ("label", "labels", "class", "cls")
_LABEL_KEYS = ("label", "class", "cls")
# A label file is a word or a few lines of JSON.
_LONGEST_LABEL = 2**20
_BLOCK = 512
# Integers beyond this are no numbers of classes but names.
_MOST_CLASSES = 100_000

RawLabel = str | int | None


@dataclass(slots=True)
class Entry:
    """A picture inside a container, or (``error``) what cannot be read of it. ``name`` is unique in the container."""

    name: str
    label: RawLabel = None
    folder: str = ""
    group: int | None = None
    row: int | None = None
    offset: int | None = None
    size: int | None = None
    error: str | None = None


@dataclass
class Contents:
    """The pictures of one container, and the names of its integer labels where it has them."""

    entries: list[Entry] = field(default_factory=list)
    label_names: tuple[str, ...] = ()


def scan(kind: str, files: Files, file: File, *, image_column: str | None, label_column: str | None) -> Contents:
    """The pictures in one container. What cannot be read becomes an entry named after the container (an empty name) or
    its part. Raises ConfigError for a column that is not there, AtlasError for a place out of reach; no other error."""
    if file.error is not None:
        return Contents([Entry("", error=file.error)])
    try:
        return CONTAINERS[kind].scan(files, file.name, image_column, label_column)
    except AtlasError:
        raise
    except FileNotFoundError:
        return Contents([Entry("", error="the file is gone")])
    except PermissionError:
        return Contents([Entry("", error="permission denied")])
    except Exception as error:  # each storage and each codec has its own
        files.check(file.name)
        return Contents([Entry("", error=f"cannot be read as {CONTAINERS[kind].one}: {error}")])


# Tar


def _scan_tar(files: Files, name: str, _image_column: str | None, _label_column: str | None) -> Contents:
    contents, labels, paths = Contents(), dict[str, RawLabel](), set[str]()
    samples: list[tuple[str, Entry]] = []
    with files.open(name) as stream:
        length = stream.seek(0, 2)
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in _members(archive):
                path = member.name.removeprefix("./")
                sample, suffix = _sample(path)
                if suffix in (".cls", ".json") and member.isreg() and member.size <= _LONGEST_LABEL:
                    if member.offset_data + member.size <= length:
                        stream.seek(member.offset_data)
                        labels.setdefault(sample, _label(suffix, stream.read(member.size)))
                elif suffix in SUFFIXES and not member.isdir() and not path.rpartition("/")[2].startswith("."):
                    entry = Entry(path, folder=path.rpartition("/")[0], offset=member.offset_data, size=member.size)
                    if not member.isreg() or member.issparse():
                        entry.error = "a link, a pipe or a sparse file in the tar, not a plain one"
                    elif path in paths:
                        entry.error = "the tar holds this name before: only the first is used"
                    elif member.offset_data + member.size > length:
                        entry.error = "the tar is cut in the middle of this picture"
                    paths.add(path)
                    samples.append((sample, entry))
            stream.seek(min(archive.offset, length))
            end = stream.read(_BLOCK)
    for sample, entry in samples:
        entry.label = labels.get(sample)
        contents.entries.append(entry)
    if end != bytes(_BLOCK):
        contents.entries.append(
            Entry("", error=f"the tar is cut or damaged after {len(samples)} pictures, which are used")
        )
    return contents


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Every header up to the end, or up to where it is cut; none is kept: a tar may hold a million."""
    while True:
        try:
            member = archive.next()
        except tarfile.ReadError:
            return
        if member is None:
            return
        yield member
        archive.members.clear()  # type: ignore[attr-defined]


def _sample(path: str) -> tuple[str, str]:
    """WebDataset's naming: what belongs together up to the first dot of the file's name, and the last suffix."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}", suffix_of(name)


def _label(suffix: str, data: bytes) -> RawLabel:
    text = data.decode("utf-8", "replace").strip()
    if suffix == ".json":
        try:
            value = json.loads(text)
        except ValueError:
            return None
        label = next((value[key] for key in _LABEL_KEYS if key in value), None) if isinstance(value, dict) else value
        return label if isinstance(label, str | int) and not isinstance(label, bool) else None
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else text or None


# Parquet


@dataclass(frozen=True)
class ParquetColumns:
    """Where a Parquet file keeps its pictures: ``leaf`` as Parquet names it (image, or image.bytes in a struct)."""

    leaf: str
    label: str | None
    label_names: tuple[str, ...]


def _scan_parquet(files: Files, name: str, image_column: str | None, label_column: str | None) -> Contents:
    with files.open(name) as stream:
        parquet = pq.ParquetFile(stream)
        try:
            columns = find_columns(parquet.schema_arrow, image_column, label_column)
        except ConfigError as error:
            raise ConfigError(f"{error} The file: {name}.") from None
        contents, row = Contents(label_names=columns.label_names), 0
        for group in range(parquet.metadata.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            labels = _group_labels(parquet, group, columns, count)
            for within in range(count):
                contents.entries.append(Entry(str(row + within), label=labels[within], group=group, row=within))
            row += count
    return contents


def _group_labels(parquet: Any, group: int, columns: ParquetColumns, count: int) -> Sequence[RawLabel]:
    if columns.label is None:
        return [None] * count
    try:
        labels: list[RawLabel] = parquet.read_row_group(group, columns=[columns.label]).column(0).to_pylist()
    except (pa.ArrowException, OSError):  # the pictures of this group may be whole; if not, each will say so
        return [None] * count
    names: dict[RawLabel, str] = dict(enumerate(columns.label_names))
    return [names.get(label) for label in labels] if names else labels  # Hugging Face writes -1 where there is no label


def find_columns(schema: Any, image_column: str | None, label_column: str | None) -> ParquetColumns:
    """The columns of pictures and labels: those asked for, those that Hugging Face's metadata names, or those of a
    usual name and a fitting type. Raises ConfigError when there is none."""
    features = _features(schema)
    binary = [column for column in schema if _leaf(column) is not None]
    if image_column is None:
        feature_columns = [name for name, feature in features.items() if feature.get("_type") == "Image"]
        usual = [column.name for column in binary if column.name.lower() in _IMAGE_COLUMNS]
        only = [column.name for column in binary] if len(binary) == 1 else []
        image_column = next(iter([*feature_columns, *usual, *only]), "image")
    image = next((column for column in binary if column.name == image_column), None)
    if image is None:
        raise ConfigError(
            f"images.image_column: no column {image_column} of bytes, or of a struct with bytes. The columns are "
            f"{', '.join(f'{column.name} ({column.type})' for column in schema)}."
        )
    if label_column is None:
        feature_columns = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
        usual = [column.name for column in schema if column.name.lower() in _LABEL_COLUMNS and _labels(column.type)]
        label_column = next(iter([*feature_columns, *usual]), None)
    elif label_column not in schema.names or not _labels(schema.field(label_column).type):
        raise ConfigError(
            f"images.label_column: no column {label_column} of integers or strings. The columns are "
            f"{', '.join(f'{column.name} ({column.type})' for column in schema)}."
        )
    names = features.get(label_column or "", {}).get("names") or ()
    return ParquetColumns(str(_leaf(image)), label_column, tuple(map(str, names)))


def _leaf(column: Any) -> str | None:
    def binary(kind: Any) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    if binary(column.type):
        return str(column.name)
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        return f"{column.name}.bytes" if binary(column.type.field("bytes").type) else None
    return None


def _labels(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What Hugging Face's ``datasets`` wrote of each column into the file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


@dataclass(frozen=True)
class Container:
    """A kind of file with many pictures in it: its ``suffix``, its words in messages for ``one`` and for ``several``,
    and ``scan`` (files, name, image column, label column), which lists its pictures without reading them.

    `Listing.read` reads a picture again, by the offset and size of its entry, or by row group and row.
    """

    suffix: str
    one: str
    several: str
    scan: Callable[[Files, str, str | None, str | None], Contents]


# By the name that images.kind has for it.
CONTAINERS = {
    "tar": Container(".tar", "an uncompressed tar", "tar files", _scan_tar),
    "parquet": Container(".parquet", "a Parquet file", "Parquet files", _scan_parquet),
}


# Labels


def number_labels(labels: Sequence[RawLabel], names: tuple[str, ...]) -> tuple[list[int | None], tuple[str, ...]]:
    """Labels as numbers, and the name of each number. Integers keep their value; names are numbered in their order."""
    present = [label for label in labels if label is not None]
    numbers = [label for label in present if isinstance(label, int)]
    if not names and numbers and len(numbers) == len(present) and max(numbers) < _MOST_CLASSES:
        own = [label if isinstance(label, int) and label >= 0 else None for label in labels]  # −1: no label
        return own, tuple(map(str, range(max(numbers) + 1)))
    ordered = names or tuple(sorted(set(map(str, present))))
    number_of = {name: number for number, name in enumerate(ordered)}
    return [None if label is None else number_of.get(str(label)) for label in labels], ordered

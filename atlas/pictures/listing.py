"""The listing: every picture of a run once, in the order of work, and how to read each again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.pictures.decode import PictureError
from atlas.pictures.files import File, Files, open_files
from atlas.pictures.parquet import ParquetRows
from atlas.rundir.atomic import atomic

LISTING_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),  # the key
        pa.field("label", pa.int32()),
        pa.field("file", pa.int32()),  # of the container, null for pictures that are files themselves
        pa.field("group", pa.int32()),  # Parquet: the row group, and the row in it
        pa.field("row", pa.int64()),
        pa.field("offset", pa.int64()),  # tar: where its bytes begin
        pa.field("size", pa.int64()),  # in bytes, where it is known
        pa.field("error", pa.string()),  # why it cannot be read, if that was seen while listing
    ]
)

Value = TypeVar("Value")


class Column(Sequence[Value], Generic[Value]):
    """A column of the listing, a value at a time."""

    def __init__(self, array: Any) -> None:
        # One chunk is indexed at once, several by going through them.
        self._array = array.chunk(0) if array.num_chunks == 1 else array

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Value, ...]: ...
    def __getitem__(self, index: int | slice) -> Value | tuple[Value, ...]:
        if isinstance(index, slice):
            return tuple(self._array[index].to_pylist())
        value: Value = self._array[index].as_py()
        return value

    def __iter__(self) -> Iterator[Value]:
        return iter(self._array.to_pylist())


class Listing:
    """Every picture once: its key, its label (None: unlabelled), and where its bytes are.

    ``source`` is the folder, or its URL, that all keys and containers lie below; ``kind`` is folder, tar or parquet;
    ``containers`` are the tars or Parquet files; ``options`` go to fsspec. A picture's number is its place here.
    """

    def __init__(
        self,
        table: Any,
        *,
        source: str,
        kind: str = "folder",
        label_names: Sequence[str] = (),
        containers: Sequence[File] = (),
        image_column: str | None = None,
        options: dict[str, Any] | None = None,
        digest: str | None = None,
    ) -> None:
        self.table = table.combine_chunks()
        self._digest = digest
        self.source, self.kind = source, kind
        self.label_names, self.containers = tuple(label_names), tuple(containers)
        self.image_column, self.options = image_column, options or {}

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def keys(self) -> Column[str]:
        """The pictures' names: below ``source``, or of their container and in it."""
        return self._column("image")

    @cached_property
    def labels(self) -> Column[int | None]:
        """The pictures' classes, numbers of ``label_names``."""
        return self._column("label")

    @cached_property
    def label_counts(self) -> tuple[int, ...]:
        """How many pictures have each label of ``label_names``."""
        labels = self.table["label"].drop_null().to_numpy()
        return tuple(np.bincount(labels, minlength=len(self.label_names)).tolist())

    @cached_property
    def errors(self) -> Column[str | None]:
        """Why a picture cannot be read, where that was seen while listing."""
        return self._column("error")

    @property
    def threads(self) -> int:
        """How many pictures to read and decode at a time."""
        return self._files.threads

    def read(self, image_id: int) -> bytes:
        """The bytes of a picture's file. Raises PictureError with the reason when they cannot be had, AtlasError when a
        remote source is out of reach. May be called from several threads."""
        row = {name: self._column(name)[image_id] for name in ("error", "file", "group", "row", "offset", "size")}
        if row["error"] is not None:
            raise PictureError(row["error"])
        if row["file"] is None:
            return self._files.read(self.keys[image_id], row["size"])
        container = self.containers[row["file"]]
        if row["offset"] is not None:
            return self._files.read_part(container.name, row["offset"], row["size"], container.size)
        return self._rows.read(row["file"], row["group"], row["row"])

    @cached_property
    def digest(self) -> str:
        """sha256 of names, labels and sizes, wherever the source lies. A saved listing has it written down: of
        many millions of names it costs a worker more memory than the listing itself."""
        if self._digest is not None:
            return self._digest
        digest = hashlib.sha256()
        digest.update("\0".join(self.keys).encode())
        for name in ("label", "size"):
            digest.update(np.ascontiguousarray(self.table[name].fill_null(-1).to_numpy(), np.int64).tobytes())
        digest.update(json.dumps([self.label_names, [file.size for file in self.containers]]).encode())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the listing as a Parquet file."""
        metadata = {
            "source": self.source,
            "kind": self.kind,
            "label_names": self.label_names,
            "containers": [[file.name, file.size] for file in self.containers],
            "image_column": self.image_column,
            "options": self.options,
            "digest": self.digest,
        }
        table = self.table.replace_schema_metadata({"listing": json.dumps(metadata)})
        with atomic(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Listing:
        """The listing saved at ``path``."""
        table = pq.read_table(path)
        metadata = json.loads(table.schema.metadata[b"listing"])
        metadata["containers"] = [File(name, size) for name, size in metadata["containers"]]
        return cls(table.replace_schema_metadata(), **metadata)

    def _column(self, name: str) -> Column[Any]:
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, Column[Any]]:
        return {name: Column(self.table[name]) for name in LISTING_SCHEMA.names}

    @cached_property
    def _files(self) -> Files:
        return open_files(self.source, self.options)

    @cached_property
    def _rows(self) -> ParquetRows:
        return ParquetRows(self._files, self.containers, self.image_column)

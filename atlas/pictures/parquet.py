"""Pictures out of Parquet files, by row: streams that are read on and never whole, shared by threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache

from atlas.pictures.containers import find_columns
from atlas.pictures.decode import PictureError
from atlas.pictures.files import File, Files

# Row groups read at a time; bytes of a batch; what a stream caches for slower threads: rows, and bytes at most.
_STREAMS, _BATCH, _CACHED_ROWS, _CACHED_BYTES = 4, 4 * 2**20, 64, 64 * 2**20
_BUFFER = 2**20


class ParquetRows:
    """Reads pictures of ``containers`` by (container, row group, row in it). Calls may come from several threads, and
    are quick where rows are asked for roughly in their order."""

    def __init__(self, files: Files, containers: tuple[File, ...], image_column: str | None) -> None:
        self._files, self._containers, self._image_column = files, containers, image_column
        self._streams: LRUCache[tuple[int, int], _Stream] = LRUCache(_STREAMS)
        self._lock = threading.Lock()

    def read(self, container: int, group: int, row: int) -> bytes:
        """The bytes of a picture. Raises PictureError when they are not there or cannot be read."""
        with self._lock:
            stream = self._streams.get((container, group))
            if stream is None:  # a thread that still reads from one that is dropped has its own reference
                stream = _Stream(self._files, self._containers[container], group, self._image_column)
                self._streams[container, group] = stream
        return stream.read(row)


class _Stream:
    """One row group, read from front to back; begun again for a row that has left its cache."""

    def __init__(self, files: Files, file: File, group: int, image_column: str | None) -> None:
        self._files, self._file, self._group, self._image_column = files, file, group, image_column
        self._lock = threading.Lock()
        self._rows: deque[bytes | None] = deque()
        self._next = 0  # the row after the last one in the cache
        self._size = 0  # bytes in the cache
        self._batches: Iterator[Any] | None = None
        self._error: str | None = None  # met at row self._next

    def read(self, row: int) -> bytes:
        with self._lock:
            if (self._batches is None and self._error is None) or row < self._next - len(self._rows):
                self._begin()
            while row >= self._next and self._error is None:
                self._advance()
            if row >= self._next:
                raise PictureError(f"row group {self._group} of {self._file.name} cannot be read: {self._error}")
            data = self._rows[row - self._next]
        if data is None:
            raise PictureError("the row holds no bytes of a picture")
        return data

    def _begin(self) -> None:
        self._rows.clear()
        self._next = self._size = 0
        self._error = None
        self._batches = self._read()

    def _read(self) -> Iterator[Any]:
        with self._files.open(self._file.name) as stream:
            _same_size(stream, self._file)
            # Buffered: without it pyarrow would hold the whole column of the row group.
            parquet = pq.ParquetFile(stream, buffer_size=_BUFFER)
            leaf = find_columns(parquet.schema_arrow, self._image_column, None).leaf
            group = parquet.metadata.row_group(self._group)
            columns = [group.column(index) for index in range(group.num_columns)]
            size = next(column.total_uncompressed_size for column in columns if column.path_in_schema == leaf)
            rows = max(1, min(_CACHED_ROWS, _BATCH * group.num_rows // max(size, 1)))
            yield from parquet.iter_batches(rows, row_groups=[self._group], columns=[leaf], use_threads=False)

    def _advance(self) -> None:
        assert self._batches is not None
        try:
            column = next(self._batches).column(0)
            values = (column.field("bytes") if pa.types.is_struct(column.type) else column).to_pylist()
        except StopIteration:
            self._error = "it has fewer rows than were listed"
            return
        except PictureError as error:
            self._error = str(error)
            return
        except FileNotFoundError:
            self._error = "the file is gone"
            return
        except Exception as error:  # each codec and each storage has its own
            self._batches = None  # it ends with what it raised
            self._files.check(self._file.name)
            self._error = f"{type(error).__name__}: {error}"
            return
        for value in values:
            self._rows.append(value)
            self._size += len(value or b"")
        self._next += len(values)
        while len(self._rows) > len(values) and (len(self._rows) > 2 * _CACHED_ROWS or self._size > _CACHED_BYTES):
            self._size -= len(self._rows.popleft() or b"")


def _same_size(stream: BinaryIO, file: File) -> None:
    size = stream.seek(0, 2)
    stream.seek(0)
    if file.size is not None and size != file.size:
        raise PictureError("the file has changed since it was listed")

"""Pictures in Parquet: their columns, and streams of rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from containers import images, png, write_parquet

from atlas.errors import ConfigError
from atlas.pictures import parquet as parquet_rows
from atlas.pictures.decode import PictureError
from atlas.pictures.files import File, LocalFiles
from atlas.pictures.sources import list_images
from atlas.store.collect import prefetch


def test_parquet_columns_are_found_or_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table(
        {"thumb": pa.array([b"no"] * 3), "photo": pa.array([png(0), png(1), None]), "kind": pa.array(["b", None, "a"])}
    )
    pq.write_table(table, path)
    listing = list_images(images(path, label_column="kind", shuffle=False), 0)
    assert listing.read(1) == png(1)
    assert listing.label_names == ("a", "b")
    assert list(listing.labels) == [1, None, 0]
    with pytest.raises(PictureError, match="the row holds no bytes of a picture"):
        listing.read(2)
    assert list(list_images(images(path), 0).labels) == [None] * 3
    assert list_images(images(path, image_column="thumb"), 0).read(0) == b"no"
    with pytest.raises(ConfigError, match=r"images\.image_column: no column kind of bytes.*thumb \(binary\)"):
        list_images(images(path, image_column="kind"), 0)
    with pytest.raises(ConfigError, match=r"images\.label_column: no column photo of integers or strings"):
        list_images(images(path, label_column="photo"), 0)


def test_rows_asked_for_a_little_out_of_order_come_from_one_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight threads over one group of 300 rows: it is read once, and little of it is kept."""
    pictures = [b"%03d" % row + bytes(20_000) for row in range(300)]
    write_parquet(tmp_path / "a.parquet", pictures, group=300)  # type: ignore[arg-type]
    monkeypatch.setattr(parquet_rows, "_BATCH", 200_000)
    begun = []
    begin = parquet_rows._Stream._begin
    monkeypatch.setattr(parquet_rows._Stream, "_begin", lambda self: (begun.append(1), begin(self)))
    rows = parquet_rows.ParquetRows(LocalFiles(str(tmp_path)), (File("a.parquet"),), None)
    rows_in_order = list(prefetch(lambda row: rows.read(0, 0, row), range(300), threads=8, ahead=32))
    assert rows_in_order == pictures
    assert len(begun) == 1
    (stream,) = rows._streams.values()
    assert len(stream._rows) < 150
    assert rows.read(0, 0, 0) == pictures[0]  # far behind: read anew
    assert len(begun) == 2

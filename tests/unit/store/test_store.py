"""The rows of a layer as they are opened again."""

from pathlib import Path

import pytest

from atlas.errors import AtlasError
from atlas.store.shards import SCHEMA_VERSION, ShardWriter, read_metadata, schema
from atlas.store.store import Store


def open_empty(folder: Path, **facts: int) -> Store:
    """A store without rows, written with ``facts`` in its metadata."""
    path = folder / "last" / "part-00000.parquet"
    with ShardWriter(path, schema(False, {"classes": ["a"], "labels": [], "channels": 3, **facts})):
        pass
    return Store("last", [path], [0], read_metadata(path), lambda _grid: {})


def test_a_store_of_this_version_is_opened(tmp_path: Path) -> None:
    store = open_empty(tmp_path, format=SCHEMA_VERSION)
    assert (len(store), store.classes, store.channels) == (0, ["a"], 3)


@pytest.mark.parametrize("facts", [{"format": SCHEMA_VERSION + 1}, {}])
def test_a_store_of_another_version_is_refused(tmp_path: Path, facts: dict[str, int]) -> None:
    with pytest.raises(AtlasError, match=rf"last was written by another version .* reads format {SCHEMA_VERSION}\."):
        open_empty(tmp_path, **facts)

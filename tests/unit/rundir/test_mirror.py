"""A working copy and an address are kept alike: what is finished is in both, markers after what they vouch for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atlas.errors import AtlasError, ConfigError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import read_marker, write_marker
from atlas.rundir.mirror import Mirror
from atlas.rundir.remote_store import RemoteStore
from atlas.rundir.versions import RUN_FORMAT

KEY, OTHER = "a" * 64, "b" * 64


class Places:
    """A working copy ``here``, and the folder ``there`` behind an address."""

    def __init__(self, folder: Path) -> None:
        self.there, self.url = folder / "there", f"file://{folder}/there"
        self.run = self.working_copy(folder / "here")

    def working_copy(self, folder: Path) -> RunDirectory:
        folder.mkdir()
        return RunDirectory(folder)

    @contextmanager
    def mirror(self, run: RunDirectory | None = None) -> Iterator[Mirror]:
        with Mirror(self.url, {}, run or self.run) as mirror:
            mirror.begin()
            yield mirror

    def files(self) -> set[str]:
        return {path.relative_to(self.there).as_posix() for path in self.there.rglob("*") if path.is_file()}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(tmp_path)
    places.run.update_manifest(format=RUN_FORMAT, config={"out": places.url})
    return places


def make(run: RunDirectory, name: str = "a", key: str = KEY, content: str = "rows") -> Path:
    """An item's table and its marker; the marker."""
    folder = run.folder("cells")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.parquet").write_text(content)
    write_marker(folder / f"{name}.json", key=key, files=[folder / f"{name}.parquet"])
    return folder / f"{name}.json"


def test_what_is_sent_arrives_before_the_block_ends(places: Places) -> None:
    with places.mirror() as mirror:
        mirror.claim("cells", KEY)
        mirror.send([make(places.run)])
    assert places.files() == {"run.json", "cells/a.json", "cells/a.parquet"}, "and the owner is gone"
    assert (places.there / "cells" / "a.parquet").read_text() == "rows"
    assert json.loads((places.there / "run.json").read_text())["stages"]["cells"]["key"] == KEY


def test_a_marker_arrives_after_its_files(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    send = RemoteStore.send

    def note(self: RemoteStore, path: Path, name: str) -> None:
        order.append(name)
        send(self, path, name)

    with places.mirror() as mirror:
        mirror.claim("cells", KEY)
        monkeypatch.setattr(RemoteStore, "send", note)
        mirror.send([make(places.run, name) for name in "ab"])
        mirror.wait()
    assert sorted(order[:2]) == ["cells/a.parquet", "cells/b.parquet"]
    assert sorted(order[2:]) == ["cells/a.json", "cells/b.json"]


def test_another_machine_goes_on_from_what_is_finished(places: Places, tmp_path: Path) -> None:
    with places.mirror() as mirror:
        mirror.claim("cells", KEY)
        mirror.send([make(places.run, name) for name in "abc"])
    (places.there / "cells" / "b.parquet").write_text("cut")  # its marker does not vouch for that
    (places.there / "cells" / "c.parquet").unlink()
    elsewhere = places.working_copy(tmp_path / "elsewhere")
    with places.mirror(elsewhere) as mirror:
        assert elsewhere.read_manifest()["config"] == {"out": places.url}
        mirror.claim("cells", KEY)
    assert read_marker(elsewhere.folder("cells") / "a.json", KEY)
    assert (elsewhere.folder("cells") / "a.parquet").read_text() == "rows"
    for name in "bc":
        assert not (elsewhere.folder("cells") / f"{name}.json").exists(), "it is made again"


def test_what_did_not_arrive_is_sent_at_the_end_of_the_stage(places: Places) -> None:
    with places.mirror() as mirror:
        mirror.claim("cells", KEY)
        make(places.run, "a")
        make(places.run, "b", OTHER)  # of another configuration
        mirror.finish("cells", KEY)
        assert {name for name in places.files() if name.startswith("cells/")} == {"cells/a.json", "cells/a.parquet"}
        make(places.run, "a", content="other")
        mirror.finish("cells", KEY)
    assert (places.there / "cells" / "a.parquet").read_text() == "other"


def test_another_configurations_folder_is_moved_aside_there_and_back(places: Places) -> None:
    with places.mirror() as mirror:
        mirror.claim("cells", KEY)
        mirror.send([make(places.run)])
        mirror.wait()
        mirror.claim("cells", OTHER)
        assert {"cells.aaaaaaaa/a.json", "cells.aaaaaaaa/a.parquet"} <= places.files()
        assert not any(name.startswith("cells/") for name in places.files())
        mirror.send([make(places.run, key=OTHER, content="other rows")])
        mirror.wait()
        mirror.claim("cells", KEY)
    assert (places.there / "cells" / "a.parquet").read_text() == "rows"
    assert (places.there / "cells.bbbbbbbb" / "a.parquet").read_text() == "other rows"
    assert (places.run.folder("cells") / "a.parquet").read_text() == "rows"


def test_nothing_that_was_moved_aside_is_overwritten(places: Places) -> None:
    (places.there / "cells.aaaaaaaa").mkdir(parents=True)
    (places.there / "cells.aaaaaaaa" / "older").write_text("older")
    with places.mirror() as mirror:
        mirror.claim("cells", KEY)
        mirror.send([make(places.run)])
        mirror.wait()
        (places.there / "cells.aaaaaaaa").mkdir(exist_ok=True)
        (places.there / "cells.aaaaaaaa" / "older").write_text("older")
        mirror.claim("cells", OTHER)
    assert (places.there / "cells.aaaaaaaa" / "older").read_text() == "older"
    assert (places.there / "cells.aaaaaaaa-2" / "a.parquet").read_text() == "rows"


def test_only_a_working_copy_of_the_address_is_used(places: Places) -> None:
    places.run.update_manifest(config={"out": "runs/other"})
    with (
        Mirror(places.url, {}, places.run) as mirror,
        pytest.raises(AtlasError, match=r"would be the working copy of .*, but another run lies there\. Move it away"),
    ):
        mirror.begin()
    assert places.files() == set()


def test_a_run_there_of_another_version_or_none_is_a_sentence(places: Places, tmp_path: Path) -> None:
    elsewhere = places.working_copy(tmp_path / "elsewhere")
    places.there.mkdir()
    for content, kind, sentence in (
        ('{"config": {}, "format": 99}', ConfigError, "was written by another version of activation-atlas"),
        ("[1]", AtlasError, r"run\.json is no JSON of a run\. Give another URL with --set out=URL\."),
        ("{", AtlasError, "is no JSON of a run"),
    ):
        (places.there / "run.json").write_text(content)
        with pytest.raises(kind, match=sentence), places.mirror(elsewhere):
            pass
    assert places.files() == {"run.json"}, "the lock is given up"


def test_an_error_ends_the_block_after_what_was_finished_is_sent(places: Places) -> None:
    def work() -> None:
        with places.mirror() as mirror:
            mirror.claim("cells", KEY)
            mirror.send([make(places.run)])
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        work()
    assert "cells/a.json" in places.files()
    assert "owner.json" not in places.files()

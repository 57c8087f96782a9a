"""A run that an earlier version made: every way in answers with one sentence that says so, and changes nothing."""

import json
from pathlib import Path

import pytest
import yaml
from starlette.testclient import TestClient
from tiny_run import tiny_values

import atlas
from atlas.check.__main__ import main as check
from atlas.config.reading import validate
from atlas.errors import ConfigError
from atlas.run import main as run
from atlas.rundir.directory import RunDirectory
from atlas.rundir.mirror import Mirror
from atlas.rundir.versions import RUN_FORMAT
from atlas.serve.app import create_app

SENTENCE = (
    f"was written by another version of activation-atlas: the run is of format 1, and this version reads format "
    f"{RUN_FORMAT}. Open the run with the version that made it, or make it again in another folder"
)


@pytest.fixture
def old(tmp_path: Path) -> RunDirectory:
    """What an earlier version left: a run.json without the number of its format, a layout and a site."""
    directory = RunDirectory(tmp_path / "old")
    values = {**tiny_values(tmp_path), "out": str(directory.path)}
    directory.folder("layout").mkdir(parents=True)
    directory.folder("publish").mkdir()
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    manifest = {"config": validate(values, "test").plain(), "stages": {"collect": {"key": "a" * 64, "pace": {}}}}
    directory.manifest.write_text(json.dumps(manifest))
    (directory.folder("publish") / "index.html").write_text("<title>an old page</title>")
    (directory.folder("publish") / "atlas.json").write_text("{}")
    return directory


def files(directory: RunDirectory) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()}


def test_open_run(old: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=SENTENCE):
        atlas.open_run(old.path)


@pytest.mark.parametrize("option", [["--dry-run"], []])
def test_atlas_run(old: RunDirectory, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = files(old)
    assert run([str(old.path.parent / "tiny.yaml"), *option]) == 2
    assert SENTENCE in capsys.readouterr().err
    assert files(old) == before


def test_atlas_check(old: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert check([str(old.path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"{old.manifest} {SENTENCE}")
    assert said.out == ""


def test_atlas_serve(old: RunDirectory) -> None:
    """The site has its own page, which reads it; what only a server can answer is refused."""
    client = TestClient(create_app([old.path]))
    assert client.get("/").text == "<title>an old page</title>"
    answer = client.get("/api/samples")
    assert answer.status_code == 422
    assert SENTENCE in answer.json()["sentence"]


def test_several_runs_are_listed_though_one_is_old(old: RunDirectory, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "site").symlink_to(old.folder("publish"))
    page = TestClient(create_app([old.path, other])).get("/").text
    assert "<b>old</b> <span>of another version; finish the run again</span>" in page


def test_a_run_at_an_address(old: RunDirectory, tmp_path: Path) -> None:
    here = RunDirectory(tmp_path / "here")
    with Mirror(f"file://{old.path}", {}, here) as mirror, pytest.raises(ConfigError, match=SENTENCE):
        mirror.begin()
    assert not here.path.exists()

"""A run whose ``out`` is an address: what is finished is there too, and the same command goes on from it elsewhere."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from tiny_run import atlas_run, brake, contents, environment, kill_when, tiny_values

from atlas.config.reading import validate
from atlas.errors import AtlasError, ConfigError
from atlas.rundir.atomic import write_json
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker
from atlas.rundir.mirror import Mirror
from atlas.rundir.remote import working_folder
from atlas.rundir.versions import RUN_FORMAT
from pipelines.pipeline import run

Objects = dict[str, bytes]


class Bucket:
    """The bucket ``runs`` of the S3 server, seen without fsspec."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        self._client.create_bucket(Bucket="runs")

    def objects(self, prefix: str) -> Objects:
        """Everything below ``prefix``, by the name after it."""
        objects: Objects = {}
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket="runs", Prefix=f"{prefix}/"):
            for entry in page.get("Contents", []):
                body = self._client.get_object(Bucket="runs", Key=entry["Key"])["Body"].read()
                objects[entry["Key"].removeprefix(f"{prefix}/")] = body
        return objects

    def kind(self, key: str) -> str:
        return str(self._client.head_object(Bucket="runs", Key=key)["ContentType"])


@pytest.fixture(scope="module")
def bucket(s3_server: str) -> Bucket:
    return Bucket(s3_server)


def to_bucket(bucket: Bucket, name: str) -> list[str]:
    return ["--set", f"out=s3://runs/{name}", "--set", f"out_options.endpoint_url={bucket.address}"]


def digests(objects: Objects, like: dict[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(body).hexdigest() for name, body in objects.items() if name in like}


def markers(objects: Objects) -> Iterator[tuple[str, dict]]:
    for name, body in objects.items():
        if name.endswith(".json") and "files" in (marker := json.loads(body)):
            yield name, marker


def all_that_is_vouched_for_is_there(objects: Objects) -> int:
    """The number of markers, each of whose files is there and is what it should be."""
    count = 0
    for name, marker in markers(objects):
        for file, facts in marker["files"].items():
            body = objects[os.path.normpath(Path(name).parent / file)]
            assert hashlib.sha256(body).hexdigest() == facts["sha256"]
        count += 1
    return count


def test_a_whole_run_to_s3_and_on_from_there(
    workshop: Path,
    scheduler: str,
    bucket: Bucket,
    undisturbed: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Equal bytes there; a lost working copy comes back and nothing is made anew; a changed grid is moved aside there
    too, and back."""
    monkeypatch.chdir(workshop)
    values = tiny_values(workshop) | {
        "out": "s3://runs/deep/sent",
        "out_options": {"endpoint_url": bucket.address},
        "cluster": {"kind": "address", "address": scheduler},
    }
    here = run(validate(values, "test"))
    assert here.path == workshop / "runs" / "sent"
    assert "atlas serve runs/sent" in capsys.readouterr().out
    expected, objects = contents(undisturbed), bucket.objects("deep/sent")
    assert digests(objects, expected) == expected
    assert all_that_is_vouched_for_is_there(objects) > 10
    for name in ("run.json", "report.json", "listing.parquet", "store/README.md"):
        assert objects[name] == (here.path / name).read_bytes()
    assert bucket.kind("deep/sent/site/index.html") == "text/html"
    tile = next(name for name in objects if name.endswith(".webp"))
    assert bucket.kind(f"deep/sent/{tile}") == "image/webp"

    shutil.rmtree(here.path)
    run(validate(values, "test"))
    assert contents(here) == expected
    stages = json.loads((here.path / "run.json").read_text())["stages"]
    assert stages == json.loads(objects["run.json"])["stages"], "nothing was made anew"

    cells = values["cells"]
    run(validate(values | {"cells": cells | {"grids": [4]}}, "test"))
    changed = bucket.objects("deep/sent")
    aside = f"cells.{stages['cells']['key'][:8]}/"
    assert {name for name in changed if name.startswith(aside)} == {
        aside + name.removeprefix("cells/") for name in objects if name.startswith("cells/")
    }
    assert changed["cells/last.parquet"] != objects["cells/last.parquet"]
    shutil.rmtree(here.path)  # what was moved aside is fetched only when it is wanted again
    run(validate(values, "test"))
    assert contents(here) == expected
    assert digests(bucket.objects("deep/sent"), expected) == expected


def test_killed_and_gone_on_with_on_another_machine(
    workshop: Path, bucket: Bucket, undisturbed: RunDirectory, tmp_path: Path
) -> None:
    """What is in the bucket after a kill is whole; a machine that never saw the working copy ends the run."""
    arguments = ["tiny.yaml", "--until", "collect", *to_bucket(bucket, "killed")]
    brake(tmp_path, workshop / "runs/killed/store")
    braked = environment()
    braked["PYTHONPATH"] = os.pathsep.join([str(tmp_path), braked["PYTHONPATH"]])
    kill_when(lambda: any(markers(bucket.objects("killed"))), workshop, "killed.log", *arguments, env=braked)
    left = bucket.objects("killed")
    assert all_that_is_vouched_for_is_there(left) > 0
    assert "store/failures.json" not in left, "nothing may look finished"

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(workshop, elsewhere, ignore=shutil.ignore_patterns("runs"))
    process = atlas_run(elsewhere, *arguments)
    assert process.returncode == 0, process.stderr + process.stdout
    expected = contents(undisturbed, ("collect",))
    assert digests(bucket.objects("killed"), expected) == expected


def test_a_bucket_out_of_reach_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.rundir.remote._RETRY_SECONDS", (0.0, 0.0))
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    with (
        Mirror("s3://runs/unreachable", options, RunDirectory(tmp_path / "here")) as mirror,
        pytest.raises(AtlasError, match=r"s3://runs/unreachable cannot be read or written \(.*the same command goes"),
    ):
        mirror.begin()


# A folder by its file:// address, for what needs no server


def working_copy(tmp_path: Path, out: str, key: str = "a" * 64) -> RunDirectory:
    directory = RunDirectory(tmp_path / "here")
    stages = {"collect": {"key": key}}
    write_json(directory.manifest, {"format": RUN_FORMAT, "config": {"out": out}, "stages": stages})
    return directory


def fill(directory: RunDirectory, key: str, text: str) -> Path:
    """A shard with its marker."""
    shard = directory.store("last") / "part-00000.parquet"
    shard.parent.mkdir(parents=True, exist_ok=True)
    shard.write_text(text)
    write_marker(shard.with_suffix(".json"), key=key, files=[shard])
    return shard


def begin(directory: RunDirectory, out: str, key: str) -> None:
    """What a run does at its beginning, and no more."""
    with Mirror(out, {}, directory) as mirror:
        mirror.begin()
        mirror.claim("collect", key)


def test_what_was_finished_but_not_sent_is_sent_next_time(tmp_path: Path) -> None:
    out = f"file://{tmp_path}/there"
    directory = working_copy(tmp_path, out)
    shard = fill(directory, "a" * 64, "first")
    (directory.store("last") / "part-00001.parquet").write_text("unfinished: without a marker")
    there = tmp_path / "there" / "store" / "last"
    begin(directory, out, "a" * 64)
    assert {path.name: path.read_text() for path in there.glob("*.parquet")} == {shard.name: "first"}
    fill(directory, "a" * 64, "other")  # as long as the first: made again after a loss
    begin(directory, out, "a" * 64)
    assert (there / shard.name).read_text() == "other"


def test_half_a_piece_there_is_not_fetched(tmp_path: Path) -> None:
    out = f"file://{tmp_path}/there"
    source = RunDirectory(tmp_path / "there")
    stages = {"collect": {"key": "a" * 64}}
    write_json(source.manifest, {"format": RUN_FORMAT, "config": {"out": out}, "stages": stages})
    shard = fill(source, "a" * 64, "whole")
    shard.write_text("cut")
    directory = RunDirectory(tmp_path / "here")
    with Mirror(out, {}, directory) as mirror:
        mirror.begin()
        mirror.claim("collect", "a" * 64)
        assert not directory.store("last").exists()
        shard.write_text("whole")
        mirror.claim("collect", "a" * 64)
    assert directory.shards("last") == [directory.store("last") / shard.name]


def state_there(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "there" / "run.json").read_text())


def names_there(tmp_path: Path) -> set[str]:
    there = tmp_path / "there"
    return {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}


@pytest.mark.parametrize("copy", ["none", "old"])
def test_what_another_configuration_made_there_is_moved_aside(tmp_path: Path, copy: str) -> None:
    """Whether or not this machine has a working copy of it; and it comes back with its configuration."""
    out = f"file://{tmp_path}/there"
    first = working_copy(tmp_path, out)
    fill(first, "a" * 64, "first")
    begin(first, out, "a" * 64)
    if copy == "none":
        shutil.rmtree(first.path)
    with Mirror(out, {}, first) as mirror:
        mirror.begin()
        mirror.claim("collect", "b" * 64)
        assert first.shards("last") == []
        other = fill(first, "b" * 64, "other one")
        mirror.send([other.with_suffix(".json")])
    assert state_there(tmp_path)["stages"]["collect"]["key"] == "b" * 64
    part = "last/part-00000"
    assert names_there(tmp_path) == {
        "run.json", f"store/{part}.json", f"store/{part}.parquet", f"store.aaaaaaaa/{part}.json",
        f"store.aaaaaaaa/{part}.parquet",
    }  # fmt: skip
    shutil.rmtree(first.path)
    begin(first, out, "a" * 64)
    assert (first.store("last") / "part-00000.parquet").read_text() == "first"
    assert f"store.bbbbbbbb/{part}.json" in names_there(tmp_path)


def test_a_kill_between_two_moves_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"file://{tmp_path}/there"
    directory = working_copy(tmp_path, out)
    fill(directory, "a" * 64, "first")
    begin(directory, out, "a" * 64)

    def killed(_self: RunDirectory, _stage: str, _key: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "claim", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(directory, out, "b" * 64)
    for key in ("b", "a"):
        begin(directory, out, key * 64)
    assert (tmp_path / "there" / "store" / "last" / "part-00000.parquet").read_text() == "first"


def test_one_process_at_a_time_is_at_work_there(tmp_path: Path) -> None:
    out = f"file://{tmp_path}/there"
    directory, elsewhere = working_copy(tmp_path, out), RunDirectory(tmp_path / "elsewhere")
    owner = tmp_path / "there" / "owner.json"
    with Mirror(out, {}, directory) as first:
        first.begin()
        owner_facts = json.loads(owner.read_text())
        with Mirror(out, {}, elsewhere) as second, pytest.raises(AtlasError, match=r"was at work at .* seconds ago"):
            second.begin()
        assert json.loads(owner.read_text())["id"] == owner_facts["id"]
    assert not owner.exists()
    write_json(owner, {**owner_facts, "process": 2**22 + 1})  # killed, on this machine
    with Mirror(out, {}, elsewhere) as third:
        third.begin()
    write_json(owner, {**owner_facts, "host": "another", "time": time.time() - 121})  # silent for long
    with Mirror(out, {}, elsewhere) as fourth:
        fourth.begin()
    write_json(owner, {**owner_facts, "host": "another", "time": time.time() - 60})
    with Mirror(out, {}, elsewhere) as fifth, pytest.raises(AtlasError, match="if it was killed, try again in 120"):
        fifth.begin()


def test_a_bucket_that_is_not_there_is_not_made(bucket: Bucket, tmp_path: Path) -> None:
    options = {"endpoint_url": bucket.address}
    with (
        Mirror("s3://typed-wrong/run", options, RunDirectory(tmp_path / "here")) as mirror,
        pytest.raises(AtlasError, match=r"s3://typed-wrong/run cannot be read or written \(there is no such place\)"),
    ):
        mirror.begin()
    client = boto3.client("s3", endpoint_url=bucket.address, region_name="us-east-1")
    assert "typed-wrong" not in {entry["Name"] for entry in client.list_buckets()["Buckets"]}


def test_what_did_not_arrive_is_sent_once_more_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"file://{tmp_path}/there"
    directory = working_copy(tmp_path, out)
    shard = fill(directory, "a" * 64, "first")
    with Mirror(out, {}, directory) as mirror:
        with monkeypatch.context() as patched:
            patched.setattr(mirror._store._system, "put_file", lambda *_: 1 / 0)
            patched.setattr("atlas.rundir.remote._RETRY_SECONDS", ())
            mirror.send([shard.with_suffix(".json")])
            with pytest.raises(AtlasError):
                mirror.finish("collect", "a" * 64)
        mirror.send([])
        mirror.finish("collect", "a" * 64)
    assert (tmp_path / "there" / "store" / "last" / shard.name).read_text() == "first"


def test_the_folder_of_another_run_is_not_taken(tmp_path: Path) -> None:
    directory = working_copy(tmp_path, "runs/here")
    with (
        Mirror(f"file://{tmp_path}/there", {}, directory) as mirror,
        pytest.raises(AtlasError, match=r"would be the working copy of .*, but another run lies there"),
    ):
        mirror.begin()


def test_an_error_on_the_way_is_told_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"file://{tmp_path}/there"
    directory = working_copy(tmp_path, out)
    shard = fill(directory, "a" * 64, "first")
    mirror = Mirror(out, {}, directory)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(mirror._store._system, "put_file", refuse)
    with pytest.raises(AtlasError, match=r"cannot be read or written \(permission denied\)"), mirror:
        mirror.send([shard.with_suffix(".json")])


def test_where_a_run_works_and_what_takes_no_files() -> None:
    assert working_folder("s3://bucket/deep/demo/") == Path.cwd() / "runs" / "demo"
    assert working_folder("made/here") == Path.cwd() / "made" / "here"
    with pytest.raises(ConfigError, match=r"out: nothing:// is not known"):
        Mirror("nothing://bucket/x", {}, RunDirectory(Path("unused")))

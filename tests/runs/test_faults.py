"""What machines do to runs: kills at random moments, a full disk, a lost permission, a vanished folder, a reboot."""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from tiny_run import TINY, atlas_run, cluster_here, command, contents, end_all, environment, paint_pictures, tiny_values

from atlas.check.verify import verify
from atlas.config.reading import validate
from atlas.errors import AtlasError
from atlas.pictures.views import Failure, failure_kind
from atlas.rundir.directory import RunDirectory
from pipelines.pipeline import run

# A network whose workers take their time to write while the file ``slow`` lies beside it, stand still while ``halt``
# does, and find the disk full while ``full`` does: a full disk is often told only when a file is synced. The passes
# themselves are traced once: nothing that is said in ``forward`` would be asked again.
FAULTY = (
    TINY
    + """

import errno
import multiprocessing
import os
import time
from pathlib import Path

HERE = Path(__file__).parent
sync = os.fsync


def sync_somehow(file):
    if multiprocessing.parent_process():
        if (HERE / "full").exists():
            with (HERE / "attempts").open("a") as attempts:
                attempts.write("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if (HERE / "slow").exists():
            time.sleep(0.05)
        while (HERE / "halt").exists():
            time.sleep(0.01)
    return sync(file)


def make_faulty():
    os.fsync = sync_somehow
    torch.manual_seed(3)
    return Tiny()
"""
)
SHARDS = 120


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of many small shards, one picture each."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "faulty.py").write_text(FAULTY)
    paint_pictures(folder / "pictures", SHARDS - 1)
    (folder / "pictures" / "discs" / "broken.png").write_bytes(b"not a picture")
    (folder / "many.yaml").write_text(yaml.safe_dump(many_values(folder)))
    return folder


def many_values(folder: Path) -> dict:
    values = tiny_values(folder)
    values["network"] = {"name": "faulty:make_faulty", "size": 48}
    values["collect"] = {"rows_per_shard": 12, "batch": 8}
    values["cluster"] = {"workers": 2}
    return values


@pytest.fixture(scope="module")
def scheduler(shop: Path) -> Iterator[str]:
    """A cluster inside this process."""
    with cluster_here(shop) as address:
        yield address


def collect(shop: Path, scheduler: str, out: str, **changes: dict) -> RunDirectory:
    """Collect, or go on collecting, on the cluster inside this process."""
    values = {**many_values(shop), "out": str(shop / "runs" / out)}
    for section, keys in changes.items():
        values[section] = {**values[section], **keys}
    values["cluster"] = {"kind": "address", "address": scheduler}
    return run(validate(values, "test"), until="collect")


@pytest.fixture(scope="module")
def whole(shop: Path, scheduler: str) -> RunDirectory:
    """The store of an undisturbed run."""
    directory = collect(shop, scheduler, "whole")
    assert len(directory.shards("last")) == SHARDS
    return directory


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The living worker processes of a run."""
    workers = []
    for child in process.children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                workers.append(child)
        except psutil.NoSuchProcess:
            continue
    return workers


def finished_shards(directory: RunDirectory) -> int:
    return sum(1 for _ in directory.folder("collect").rglob("part-*.json"))


def wait_for_work(process: subprocess.Popen, directory: RunDirectory, chance: random.Random, halt: Path) -> None:
    """Let the run finish something, and then get to a random point of the next thing; before and after, it halts.

    However long a machine takes to start a worker anew, the other one does not end the run in the meantime.
    """
    shard_count, patience = finished_shards(directory) + chance.randint(1, 2), time.monotonic() + 150
    halt.unlink(missing_ok=True)
    while process.poll() is None and finished_shards(directory) < shard_count:
        assert time.monotonic() < patience, "the run came to a halt"
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3))


def test_killed_at_random_moments_the_store_has_equal_bytes(shop: Path, whole: RunDirectory) -> None:
    """SIGKILL for workers and the main process, at least 20 times over one run; then the same command ends it."""
    chance = random.Random(2024)
    directory = RunDirectory(shop / "runs" / "hunted")
    arguments = ("many.yaml", "--until", "collect", "--set", f"out={directory.path}")
    (shop / "slow").touch()
    kills, halt = 0, shop / "halt"
    # Workers alone six times, then the main process; again, then all at once like a reboot; workers, then no more.
    for end in ("main", "all", "none"):
        with (shop / "hunted.log").open("w") as log:
            process = subprocess.Popen(command(*arguments), cwd=shop, env=environment(), stdout=log, stderr=log)
        parent = psutil.Process(process.pid)
        try:
            for _ in range(6 if end != "none" else 20 - kills):
                wait_for_work(process, directory, chance, halt)
                assert process.poll() is None, (shop / "hunted.log").read_text()
                victim = chance.choice(workers_of(parent))
                victim.kill()
                halt.touch()
                victim.wait(timeout=10)  # gone: the signal has hit
                kills += 1
            if end == "none":
                break
            wait_for_work(process, directory, chance, halt)
            others = parent.children(recursive=True)
            victims = [parent, *(workers_of(parent) if end == "all" else [])]
            for victim in victims:
                victim.kill()
            assert process.wait() == -signal.SIGKILL
            kills += len(victims)
            _, alive = psutil.wait_procs(others, timeout=30)
            assert not alive, "workers outlive the process that started them"
            assert not directory.failures.exists(), "nothing may look finished"
        finally:
            if end != "none":
                end_all(process)
    assert kills >= 20
    halt.unlink()
    (shop / "slow").unlink()
    try:
        assert process.wait(timeout=200) == 0, (shop / "hunted.log").read_text()
    finally:
        end_all(process)
    assert contents(directory, ("collect",)) == contents(whole, ("collect",))
    assert verify(directory).problems == []


def test_a_full_disk_is_one_sentence_and_costs_nothing(shop: Path, scheduler: str, whole: RunDirectory) -> None:
    """No second and third try, nothing that looks finished; when room is made, the same command ends the run."""
    directory = RunDirectory(shop / "runs" / "crowded")
    (shop / "full").touch()
    try:
        process = atlas_run(shop, "many.yaml", "--until", "collect", "--set", f"out={directory.path}")
    finally:
        (shop / "full").unlink()
    assert process.returncode == 3, process.stdout
    assert "part-000" in process.stderr
    assert "cannot be written: the disk is full (" in process.stderr
    assert "the same command goes on from there" in process.stderr
    assert "Traceback" not in process.stderr
    # Each of two workers may have come to one or two shards; with retries it would have been three times as many.
    assert len((shop / "attempts").read_text()) <= 6
    assert directory.shards("last") == []
    assert list(directory.folder("collect").rglob("*.parquet")) == []
    collect(shop, scheduler, "crowded")
    assert contents(directory, ("collect",)) == contents(whole, ("collect",))


def test_a_folder_that_is_moved_away_ends_the_run(shop: Path, scheduler: str, whole: RunDirectory) -> None:
    """The run neither goes on elsewhere nor leaves anything behind; brought back, the folder is gone on with."""
    directory, elsewhere = RunDirectory(shop / "runs" / "moved"), shop / "elsewhere"
    (shop / "slow").touch()
    process = subprocess.Popen(
        command("many.yaml", "--until", "collect", "--set", f"out={directory.path}"),
        cwd=shop, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while finished_shards(directory) < 5:
            assert process.poll() is None
            time.sleep(0.01)
        directory.path.rename(elsewhere)
        _, output = process.communicate(timeout=100)
    finally:
        (shop / "slow").unlink()
        end_all(process)
    assert process.returncode == 3, output
    assert "vanished while the run wrote to it" in output or "run.json is gone" in output or "has no run.json" in output
    assert "Traceback" not in output
    assert not directory.path.exists()
    elsewhere.rename(directory.path)
    collect(shop, scheduler, "moved")
    assert contents(directory, ("collect",)) == contents(whole, ("collect",))


def test_what_a_reboot_leaves_is_made_again(shop: Path, scheduler: str, whole: RunDirectory, tmp_path: Path) -> None:
    """Half a shard, half a marker, zeros, half a temporary file: the same command puts it right."""
    directory = RunDirectory(shop / "runs" / "rebooted")
    shutil.copytree(whole.path, directory.path)
    (store := directory.store("last")).joinpath(".part-00009.parquet.12345678.tmp").write_bytes(b"PAR1")
    for name, size in (("part-00001.parquet", 999), ("part-00002.json", 50), ("part-00003.json", 0)):
        os.truncate(store / name, size)
    (store / "part-00004.json").write_bytes(b"\0" * 300)
    (directory.store("middle") / "part-00005.parquet").unlink()
    directory.failures.with_suffix(".json").unlink()
    collect(shop, scheduler, "rebooted")
    assert contents(directory, ("collect",)) == contents(whole, ("collect",))


@pytest.mark.parametrize("left", [b"", b'{"config": {"cel', b"\0" * 2000, b"[]"])
def test_half_a_run_json_is_a_sentence_and_nothing_is_lost(
    shop: Path, scheduler: str, whole: RunDirectory, left: bytes
) -> None:
    directory = RunDirectory(shop / "runs" / "headless")
    if not directory.path.exists():
        shutil.copytree(whole.path, directory.path)
    before = {path: path.stat().st_mtime_ns for path in directory.folder("collect").rglob("*")}
    directory.manifest.write_bytes(left)
    with pytest.raises(AtlasError, match=r"run\.json is cut off or overwritten.* Delete it and give the command"):
        collect(shop, scheduler, "headless")
    directory.manifest.unlink()
    collect(shop, scheduler, "headless")
    assert {path: path.stat().st_mtime_ns for path in directory.folder("collect").rglob("*")} == before
    assert not list(directory.path.glob("store.*"))


def test_half_a_listing_is_a_sentence_and_nothing_is_lost(shop: Path, scheduler: str, whole: RunDirectory) -> None:
    directory = RunDirectory(shop / "runs" / "unlisted")
    shutil.copytree(whole.path, directory.path)
    os.truncate(directory.listing, 200)
    with pytest.raises(AtlasError, match=r"listing\.parquet is cut off or overwritten .* Delete it"):
        collect(shop, scheduler, "unlisted")
    directory.listing.unlink()
    collect(shop, scheduler, "unlisted")
    assert contents(directory, ("collect",)) == contents(whole, ("collect",))
    assert not list(directory.path.glob("store.*"))


def settled(directory: RunDirectory) -> dict[Path, int]:
    """The shards with their times, when the item that the worker was at when the run ended is done as well."""
    patience, files, last = time.monotonic() + 60, {}, None
    while files != last or not files:
        assert time.monotonic() < patience
        time.sleep(1)
        last, files = files, {path: path.stat().st_mtime_ns for path in directory.folder("collect").rglob("*.parquet")}
    return files


def test_a_run_that_is_clearly_wrong_stops_early_with_its_reasons(shop: Path, scheduler: str, tmp_path: Path) -> None:
    """As soon as it is certain, not after the last picture; reasons that differ in numbers only are one."""
    paint_pictures(tmp_path / "pictures", 72)
    good = (tmp_path / "pictures" / "stripes" / "01.png").read_bytes()
    for number, kind in enumerate(("cut", "cut", "junk", "empty", "cut", "cut", "cut", "cut")):
        bad = {"cut": good[: len(good) // 2 + number], "junk": b"junk", "empty": b""}[kind]
        (tmp_path / "pictures" / f"a{number}.png").write_bytes(bad)
    source = {"source": str(tmp_path / "pictures"), "crops": 2, "shuffle": False}
    changes = {"images": source, "collect": {"rows_per_shard": 2}}
    with pytest.raises(AtlasError) as caught:
        collect(shop, scheduler, "wrong", **changes)
    directory = RunDirectory(shop / "runs" / "wrong")
    message, shards = str(caught.value), len(directory.shards("last"))
    assert 5 <= shards < 80
    failures, views = (int(number) for number in re.match(r"collect: (\d+) of (\d+) views failed", message).groups())
    assert 10 <= failures <= 16
    assert failures <= views <= 2 * shards
    assert "more than collect.max_failure_share = 0.05 allows (the run has 160, and stops here)" in message
    reasons = re.findall(r"(?:: |; )([^;]*) \((\d)×, such as (a\d\.png)\)", message.split("reasons")[1])
    assert len(reasons) == 3, message
    assert [int(count) for _, count, _ in reasons] == sorted((int(count) for _, count, _ in reasons), reverse=True)
    assert "truncated" in reasons[0][0]
    assert int(reasons[0][1]) >= 3
    assert [example for _, _, example in reasons] == ["a0.png", "a2.png", "a3.png"]
    before = settled(directory)
    with pytest.raises(AtlasError, match="max_failure_share"):
        collect(shop, scheduler, "wrong", **changes)
    assert settled(directory) == before
    collect(shop, scheduler, "wrong", images=source, collect={"rows_per_shard": 2, "max_failure_share": 0.1})
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was finished is kept"
    assert pq.read_table(directory.failures).num_rows == 8
    assert len(directory.shards("last")) == 80


def test_reasons_that_differ_in_numbers_or_names_are_one() -> None:
    def kind(error: str, image: str = "cats/7.jpg") -> str:
        return failure_kind(Failure(image, None, error))

    assert kind("truncated (12 bytes missing)") == kind("truncated (3 bytes missing)")
    assert kind("cats/7.jpg: no such file") == kind("dogs/x y.jpg: no such file", "dogs/x y.jpg")
    assert kind("cannot identify <BytesIO at 0x7fab>") == kind("cannot identify <BytesIO at 0x12ef>")
    assert kind("the file is empty") != kind("truncated (12 bytes missing)")
    assert kind("no such file", " ") == "no such file"

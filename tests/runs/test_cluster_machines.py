"""Runs over machines that come and go: workers and schedulers in processes of their own, and SLURM."""

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster_sections import JOBS, section
from distributed import Client
from tiny_run import PLAIN_STAGES, atlas_run, command, contents, environment

from atlas.errors import ConfigError
from atlas.rundir.directory import RunDirectory
from pipelines import cluster

# --- processes that are killed


def store(directory: RunDirectory) -> dict[str, str]:
    return contents(directory, ("collect",))


class Machines:
    """A scheduler and workers, each a process of its own, as a person starts them by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:], "--no-dashboard"],
                cwd=self.folder, env=environment(), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def start_all(self, *workers: str) -> None:
        self.start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", str(self.port))
        for name in workers:
            self.start_worker(name)
        with Client(self.address, timeout=60) as client:
            client.wait_for_workers(len(workers), timeout=60)

    def start_worker(self, name: str) -> None:
        self.start(name, "worker", self.address, "--nthreads", "1", "--memory-limit", "0")

    def kill(self, name: str) -> None:
        """As if the machine had lost its power: the process and all its children."""
        process = self.processes.pop(name)
        family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def machines(workshop: Path) -> Iterator[Machines]:
    started = Machines(workshop)
    try:
        yield started
    finally:
        for name in list(started.processes):
            started.kill(name)


def begin(
    machines: Machines, workshop: Path, out: str, until: str = "collect", stage: str | None = None
) -> tuple[subprocess.Popen[str], RunDirectory, list[str]]:
    """The run on the machines, up to the first finished part of ``stage``, by default the one that it goes to."""
    directory = RunDirectory(workshop / "runs" / out)
    arguments = [
        "tiny.yaml", "--until", until, "--set", f"out={directory.path}", "--set",
        f"cluster={json.dumps({'kind': 'address', 'address': machines.address})}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command(*arguments), cwd=workshop, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    await_files(process, directory.folder(stage or until), "part-*.json")
    return process, directory, arguments


def await_files(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """Wait until a run has written such a file."""
    while not any(folder.rglob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_a_worker_killed_in_the_middle_changes_no_byte(
    machines: Machines, workshop: Path, undisturbed: RunDirectory
) -> None:
    machines.start_all("first", "second")
    process, directory, _ = begin(machines, workshop, "worker-lost")
    machines.kill("first")
    shards = [len(list(run.store("last").glob("part-*.json"))) for run in (directory, undisturbed)]
    assert shards[0] < shards[1], "the worker was to be killed in the middle"
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors + out
    assert store(directory) == store(undisturbed)
    with Client(machines.address) as client:
        loads = client.run(eval, "__import__('pipelines.worker').worker._network.cache_info().misses")
    assert list(loads.values()) == [1], "the network is loaded once by the worker that is left"


def test_the_only_worker_killed_in_every_stage_changes_no_byte(
    machines: Machines, workshop: Path, undisturbed: RunDirectory
) -> None:
    """While it writes; then another one comes."""
    machines.start_all("collect")
    process, directory, _ = begin(machines, workshop, "workers-lost", "publish", "collect")
    for stage, following in zip(PLAIN_STAGES, (*PLAIN_STAGES[1:], "last")):
        await_files(process, directory.folder(stage), "*.*")
        machines.kill(stage)
        assert process.poll() is None, "it waits for another worker"
        machines.start_worker(following)
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors + out
    assert contents(directory) == contents(undisturbed)


@pytest.mark.parametrize("stage", ["collect", "render"])
def test_a_scheduler_lost_in_the_middle_is_a_sentence_and_the_same_command_goes_on(
    stage: str, machines: Machines, workshop: Path, undisturbed: RunDirectory
) -> None:
    machines.start_all("first", "second")
    process, directory, arguments = begin(machines, workshop, f"scheduler-lost-in-{stage}", stage)
    machines.kill("scheduler")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert errors.splitlines() == [
        "The scheduler of the cluster was lost. Start it and its workers anew if they are gone.",
        "What was finished is kept; the same command goes on from there.",
    ]
    assert len(contents(directory, (stage,))) < len(contents(undisturbed, (stage,)))
    for name in ("first", "second"):
        machines.kill(name)
    machines.start_all("first", "second")
    second_process = atlas_run(workshop, *arguments)
    assert second_process.returncode == 0, second_process.stderr
    stages = PLAIN_STAGES[: PLAIN_STAGES.index(stage) + 1]
    assert contents(directory, stages) == contents(undisturbed, stages)


# --- a real SLURM on this machine


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """munged, slurmctld and slurmd for one node, this machine; yields the environment that finds them."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o711)  # munged wants its socket to be reachable for all
    key, user, host = folder / "key", getpass.getuser(), socket.gethostname().partition(".")[0]
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    (folder / "slurm.conf").write_text(f"""\
ClusterName=atlas
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES State=UP
""")
    variables = {
        **os.environ,
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
    }
    variables.pop("XDG_RUNTIME_DIR", None)
    munge_files = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    daemons = []
    for words in (
        ["munged", "-F", f"--key-file={key}", f"--socket={folder}/munge", *munge_files],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", host],
    ):
        with (folder / f"{words[0]}.out").open("w") as log:
            daemons.append(subprocess.Popen(words, env=variables, stdout=log, stderr=log, cwd=folder))
        if words[0] == "munged":
            while not (folder / "munge").exists():
                assert daemons[0].poll() is None, (folder / "munged.out").read_text()
                time.sleep(0.02)
    try:
        deadline = time.monotonic() + 60
        while "idle" not in (
            state := subprocess.run(["sinfo", "-h", "-o", "%T"], env=variables, capture_output=True).stdout.decode()
        ):
            assert time.monotonic() < deadline, (
                f"SLURM does not start: {state} {(folder / 'slurmctld.out').read_text()}"
            )
            time.sleep(0.2)
        yield variables
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_run_in_jobs_of_slurm(slurm: dict[str, str], workshop: Path, undisturbed: RunDirectory) -> None:
    keys = {"kind": "slurm", "workers": 2, "memory": "1GB", "walltime": "00:10:00", "interface": "lo", "queue": "short"}
    setting = f"cluster={json.dumps(keys)}"
    directory = RunDirectory(workshop / "runs/slurm")
    process = subprocess.run(
        command("tiny.yaml", "--until", "collect", "--set", f"out={directory.path}", "--set", setting),
        cwd=workshop, env={**environment(), **slurm, "PYTHONPATH": environment()["PYTHONPATH"]},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr + process.stdout
    assert "Waiting for the first worker of cluster.kind: slurm" in process.stdout
    assert "Traceback" not in process.stderr
    assert store(directory) == store(undisturbed)
    jobs = subprocess.run(
        ["squeue", "-h", "-t", "all", "-o", "%j %T"], env=slurm, capture_output=True, text=True
    ).stdout
    assert len(jobs.splitlines()) == 2
    assert all(re.fullmatch("activation-atlas (CANCELLED|COMPLETING|COMPLETED)", job) for job in jobs.splitlines())


def test_a_job_that_slurm_refuses_is_told(slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm[name])
    config = section(kind="slurm", interface="lo", queue="nosuch", **JOBS)
    sentence = r"sbatch refused the job \(sbatch: error: invalid partition specified: nosuch"
    with pytest.raises(ConfigError, match=sentence), cluster.connect(config):
        pass

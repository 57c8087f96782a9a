"""Clusters: what each kind is started with, and what a worker is given."""

import os
import re
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_sections import JOBS, section
from distributed import Client, LocalCluster

from atlas.config.reading import load_config, validate
from atlas.config.sections import ClusterConfig
from atlas.errors import AtlasError, ConfigError
from pipelines import cluster


def exports(threads: int) -> list[str]:
    """The lines that give a worker its memory and its threads."""
    return [
        "export MALLOC_TRIM_THRESHOLD_=2147483647",
        "export MALLOC_MMAP_MAX_=0",
        "export MALLOC_ARENA_MAX=1",
        f"export OMP_NUM_THREADS={threads}",
        f"export MKL_NUM_THREADS={threads}",
        f"export OPENBLAS_NUM_THREADS={threads}",
    ]


def job_script(config: ClusterConfig) -> tuple[list[str], str]:
    """The lines that start a job's workers, and the address of their scheduler."""
    with cluster.batch_cluster(config) as jobs:
        return jobs.job_script().splitlines(), jobs.scheduler_address


# --- what the configuration allows


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"kind": "slurm", "workers": 3}, 'kind: slurm needs memory and walltime, such as memory: 4GB, walltime: "08'),
        ({**JOBS, "kind": "pbs", "walltime": None}, 'kind: pbs needs walltime, such as walltime: "08:00:00"'),
        ({**JOBS, "kind": "slurm", "workers": None}, "kind: slurm needs either workers, such as workers: 8, or adapt"),
        ({**JOBS, "kind": "slurm", "adaptive": [1, 3]}, "kind: slurm needs either workers, such as workers: 8, or ad"),
        ({"kind": "kubernetes", "workers": 3}, "kind: kubernetes needs image, such as image: registry.example.org"),
        ({"queue": "short"}, "queue says nothing to kind: local; it is for slurm and pbs"),
        ({"kind": "cuda", "gpu": True}, "gpu says nothing to kind: cuda; it is for slurm, pbs and kubernetes"),
        ({**JOBS, "kind": "slurm", "image": "a"}, "image says nothing to kind: slurm; it is for kubernetes"),
        (
            {"kind": "address", "address": "tcp://a:1", "workers": 2},
            "workers says nothing to kind: address; it is for local, cuda, slurm, pbs and kubernetes",
        ),
        ({**JOBS, "kind": "slurm", "address": "tcp://a:1"}, "an address is given, but kind is slurm; expected kind: a"),
        ({"kind": "lsf"}, "input should be 'local', 'cuda', 'slurm', 'pbs', 'kubernetes' or 'address'"),
        ({"kind": "kubernetes", "image": "a", "adaptive": [4, 2]}, "expected the smaller number of workers first"),
        ({**JOBS, "kind": "slurm", "memory": "much"}, "string should match pattern"),
        ({**JOBS, "kind": "slurm", "walltime": "a day"}, "string should match pattern"),
    ],
)
def test_a_key_that_does_not_fit_the_kind_is_one_sentence(keys: dict, sentence: str) -> None:
    values = {"out": "x", "network": {"name": "n"}, "layers": ["a"], "images": {"source": "p"}, "cluster": keys}
    with pytest.raises(ConfigError) as caught:
        validate(values, "mine.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "mine.yaml has 1 mistake:"
    assert sentence in lines[1]
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("yaml_text", "meant"),
    [("12:00:00", "12:00:00"), ('"08:30:00"', "08:30:00"), ("1:30:00", "01:30:00"), ("2-00:00:00", "2-00:00:00")],
)
def test_a_walltime_without_quotes_means_what_it_says(yaml_text: str, meant: str) -> None:
    keys = yaml.safe_load(f"{{kind: slurm, workers: 1, memory: 1GB, walltime: {yaml_text}}}")
    assert section(**keys).walltime == meant


# --- what workers are started with


def test_the_job_script_of_slurm_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = section(
        kind="slurm", workers=3, memory="4GB", walltime="08:00:00", threads=2, queue="short", account="atlas",
        directives=["--exclusive"], prologue=["module load something"], interface="lo",
    )  # fmt: skip
    script, address = job_script(config)
    assert script == [
        "#!/usr/bin/env bash",
        "",
        "#SBATCH -J activation-atlas",
        "#SBATCH -p short",
        "#SBATCH -A atlas",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --mem=4G",
        "#SBATCH -t 08:00:00",
        "#SBATCH --exclusive",
        *exports(threads=2),
        "export PYTHONSAFEPATH=1",
        f"cd {tmp_path}",
        "module load something",
        f"{sys.executable} -m distributed.cli.dask_worker {address} --name dummy-name --nthreads 2 "
        "--memory-limit 3.73GiB --nanny --death-timeout 60 --memory-limit 0 --nthreads 1 --interface lo",
    ]


def test_the_job_script_of_pbs_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PBS_ACCOUNT", raising=False)
    config = section(kind="pbs", workers=2, memory="2GiB", walltime="01:00:00", queue="workq", interface="lo")
    script, address = job_script(config)
    assert script == [
        "#!/usr/bin/env bash",
        "",
        "#PBS -N activation-atlas",
        "#PBS -q workq",
        "#PBS -l select=1:ncpus=1:mem=2048MB",
        "#PBS -l walltime=01:00:00",
        *exports(threads=1),
        "export PYTHONSAFEPATH=1",
        f"cd {tmp_path}",
        f"{sys.executable} -m distributed.cli.dask_worker {address} --name dummy-name --nthreads 1 "
        "--memory-limit 2.00GiB --nanny --death-timeout 60 --memory-limit 0 --nthreads 1 --interface lo",
    ]


def test_whole_nodes_with_gpus_have_a_process_for_each() -> None:
    keys = {"workers": 8, "memory": "2GiB", "walltime": "01:00:00", "threads": 3, "gpu": True, "interface": "lo"}
    script, _ = job_script(section(kind="slurm", workers_per_job=4, **keys))
    assert {"#SBATCH --gres=gpu:4", "#SBATCH --cpus-per-task=12", "#SBATCH --mem=8G"} <= set(script)
    assert f"{sys.executable} -m dask_cuda.cli worker tcp://" in script[-1]
    assert script[-1].endswith("--memory-limit 0 --nthreads 1 --interface lo")
    script, _ = job_script(section(kind="pbs", workers_per_job=4, **keys))
    assert "#PBS -l select=1:ncpus=12:mem=8192MB:ngpus=4" in script
    script, _ = job_script(section(kind="slurm", **keys))
    assert "#SBATCH --gres=gpu:1" in script
    assert f"{sys.executable} -m distributed.cli.dask_worker tcp://" in script[-1]


def test_the_pods_of_kubernetes() -> None:
    config = section(
        kind="kubernetes", image="registry/atlas:1", adaptive=[2, 9], threads=4, memory="16GB", gpu=True,
        volumes={"/data": "claim", "/archive": "old"}, pod={"nodeSelector": {"pool": "gpus"}},
    )  # fmt: skip
    spec = cluster.kubernetes_spec(config, "atlas-1")
    assert spec["kind"] == "DaskCluster"
    assert spec["metadata"]["name"] == "atlas-1"
    assert spec["spec"]["idleTimeout"] == 3600
    worker = spec["spec"]["worker"]
    assert worker["replicas"] == 2
    pod = worker["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry/atlas:1"
    assert container["args"][:5] == ["dask-worker", "--nthreads", "1", "--memory-limit", "0"]
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "16000000000", "nvidia.com/gpu": "1"},
        "limits": {"memory": "16000000000", "nvidia.com/gpu": "1"},
    }
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert variables == {
        "MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_MMAP_MAX_": "0", "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4",
    }  # fmt: skip
    claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    mounted = {mount["mountPath"]: claims[mount["name"]] for mount in container["volumeMounts"]}
    assert mounted == {"/data": "claim", "/archive": "old"}
    assert pod["nodeSelector"] == {"pool": "gpus"}
    (scheduler,) = spec["spec"]["scheduler"]["spec"]["containers"]
    assert scheduler["image"] == "registry/atlas:1"
    assert not scheduler["resources"], "the scheduler needs no GPU"


def test_cuda_has_one_process_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """dask-cuda wants a GPU to be imported: a LocalCluster in its place takes the same arguments."""
    calls: list[dict] = []

    class Fake(LocalCluster):
        def __init__(self, **options: Any) -> None:
            calls.append(options)
            super().__init__(**{**options, "n_workers": 1, "processes": False})

    monkeypatch.setitem(sys.modules, "dask_cuda", types.SimpleNamespace(LocalCUDACluster=Fake))
    for workers in (None, 2):
        with cluster.connect(section(kind="cuda", workers=workers, threads=4)) as client:
            assert client.submit(os.environ.get, "OMP_NUM_THREADS").result() == "4"
        options = calls.pop()
        assert options["n_workers"] is workers  # None: every GPU
        assert (options["threads_per_worker"], options["memory_limit"], options["processes"]) == (1, 0, True)


def test_local_workers_have_the_threads_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # of the person's shell: Dask would hand it on
    with cluster.connect(section(workers=1, threads=2)) as client:
        variables = client.submit(lambda: dict(os.environ)).result()
    expected = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0"}
    assert {name: variables[name] for name in expected} == expected


# --- mistakes


@pytest.mark.parametrize(
    ("keys", "package", "sentence"),
    [
        ({"kind": "cuda"}, "dask_cuda", 'needs dask-cuda. Install it with: pip install "activation-atlas[cuda]"'),
        (
            {"kind": "slurm", **JOBS},
            "dask_jobqueue",
            'dask-jobqueue. Install it with: pip install "activation-atlas[jo',
        ),
        ({"kind": "pbs", **JOBS}, "dask_jobqueue", 'dask-jobqueue. Install it with: pip install "activation-atlas[job'),
        (
            {"kind": "kubernetes", "image": "a", "workers": 1},
            "dask_kubernetes.operator",
            'needs dask-kubernetes. Install it with: pip install "activation-atlas[kubernetes]"',
        ),
    ],
)
def test_a_missing_package_is_named(
    keys: dict, package: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in ("sbatch", "qsub"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=re.escape(sentence)), cluster.connect(section(**keys)):
        pass


@pytest.mark.parametrize(("kind", "submit"), [("slurm", "sbatch"), ("pbs", "qsub")])
def test_a_machine_without_the_batch_system_says_so(
    kind: str, submit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sentence = f"cluster.kind: {kind} submits jobs with {submit}, which is not on this machine."
    with pytest.raises(ConfigError, match=sentence), cluster.connect(section(kind=kind, **JOBS)):
        pass


def test_a_kind_that_nothing_starts_is_told_of() -> None:
    """What CONTRIBUTING.md asks for, forgotten: never another kind's jobs."""
    forgotten = section(kind="pbs", interface="lo", **JOBS).model_copy(update={"kind": "lsf"})
    sentence = "cluster.kind: lsf has no branch here and no command for jobs"
    with pytest.raises(AssertionError, match=sentence), cluster.connect(forgotten):
        pass


def test_kubernetes_out_of_reach_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    config = section(kind="kubernetes", image="a", workers=1)
    with pytest.raises(ConfigError, match="no Dask cluster could be made"), cluster.connect(config):
        pass


def test_workers_that_are_not_there_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_WATCH_SECONDS", 0.05)
    sentences: list[str] = []
    with LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1") as standing:
        config = section(kind="address", address=standing.scheduler_address)
        with (
            pytest.raises(AtlasError, match=f"The scheduler at {config.address} has no workers"),
            cluster.connect(config),
        ):
            pass
        standing.scale(1)
        with Client(standing) as client:
            client.wait_for_workers(1)
        with cluster.connect(config, print_sentence=sentences.append):
            time.sleep(0.5)
            assert sentences == []
            standing.scale(0)
            deadline = time.monotonic() + 20
            while not sentences and time.monotonic() < deadline:
                time.sleep(0.05)
    assert sentences == ["All workers are gone. The run goes on as soon as one is there; Ctrl-C stops it."]


def test_dasks_page_is_named_only_where_it_shows_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as standing, Client(standing) as client:
        monkeypatch.setattr(sys, "path", [])
        assert cluster.dashboard(client) is None, "without bokeh it says that bokeh is missing"
        facts = tmp_path / "bokeh-3.6.0.dist-info" / "METADATA"
        facts.parent.mkdir()
        facts.write_text("Metadata-Version: 2.1\nName: bokeh\nVersion: 3.6.0\n", encoding="utf-8")
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        assert cluster.dashboard(client) == standing.dashboard_link


@pytest.mark.parametrize("name", ["cluster-slurm", "cluster-kubernetes", "cluster-cuda"])
def test_the_shipped_configurations_can_be_started_from(name: str) -> None:
    config = load_config(name).cluster
    assert f"cluster-{config.kind}" == name
    if config.kind == "slurm":
        script, _ = job_script(config.model_copy(update={"interface": "lo"}))
        assert "#SBATCH --gres=gpu:1" in script
    if config.kind == "kubernetes":
        assert cluster.kubernetes_spec(config, "atlas-1")["spec"]["worker"]["spec"]["nodeSelector"] == {"pool": "gpus"}

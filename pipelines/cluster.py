"""Config → Dask client. The memory, thread and allocator settings of workers are set here, all on purpose.

Starting workers is left to Dask's own deployments: LocalCluster, dask-cuda, dask-jobqueue and dask-kubernetes.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed import Client, LocalCluster
from distributed.comm.core import CommClosedError
from distributed.deploy.cluster import Cluster
from distributed.scheduler import KilledWorker

from atlas.config.sections import ClusterConfig
from atlas.errors import AtlasError, ConfigError
from atlas.networks.allocator import ENVIRONMENT
from atlas.networks.network import has_gpu

_SUBMIT = {"slurm": "sbatch", "pbs": "qsub"}
# What must be installed for a kind, and the extra that brings it.
_KIND_EXTRAS = {
    "cuda": ("dask-cuda", "cuda"),
    "slurm": ("dask-jobqueue", "jobqueue"),
    "pbs": ("dask-jobqueue", "jobqueue"),
    "kubernetes": ("dask-kubernetes", "kubernetes"),
}
# Workers that have nothing to do are given back after so many seconds: the pauses between stages are shorter.
_IDLE_SECONDS = 60
# A Kubernetes cluster whose run was killed is removed after so many seconds without work.
_ABANDONED_SECONDS = 3600
_WATCH_SECONDS = 10.0
# Dask logs a lost connection in many lines; the person gets one sentence.
_LOGGERS = ("distributed", "dask_jobqueue", "dask_kubernetes", "tornado.application", "asyncio")


@contextmanager
def connect(config: ClusterConfig, print_sentence: Callable[[str], None] = print) -> Iterator[Client]:
    """A client of the cluster that ``config`` asks for, with a worker at least; what was started is ended at the end.

    ``print_sentence`` is called with a sentence when workers are waited for. Raises ConfigError when the cluster cannot
    be had, AtlasError when its scheduler is lost.
    """
    with _quiet(), dask.config.set(_SETTINGS):
        if config.kind == "address":
            with _client_of_address(config) as client, _sentences(client), _watch_workers(client, print_sentence):
                yield client
            return
        with _cluster(config) as cluster, Client(cluster) as client, _sentences(client):
            _await_worker(client, config, print_sentence)
            with _watch_workers(client, print_sentence):
                yield client


def dashboard(client: Client) -> str | None:
    """The address of Dask's page about its work; None where the scheduler has none. Without bokeh there is a page too,
    which says no more than that bokeh is missing."""
    try:
        client.run_on_scheduler(version, "bokeh")
        return client.dashboard_link
    except Exception:  # of any kind: a scheduler of another version perhaps, or one without a dashboard
        return None


def environment(config: ClusterConfig) -> dict[str, str]:
    """Environment variables of a worker: the configured number of threads in every library, and the allocator's."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**ENVIRONMENT, **dict.fromkeys(names, str(config.threads))}


def default_workers(config: ClusterConfig) -> int:
    """Processes of a cluster: as configured, else one where torch has a GPU, else one for each core of this machine."""
    if config.workers is not None:
        return config.workers
    if config.adaptive is not None:
        return config.adaptive[1]
    return 1 if has_gpu() else max(1, available_cores() // config.threads)


def available_cores() -> int:
    """Cores that this process may use, by its affinity and its control group."""
    return CPU_COUNT


# No memory limit of Dask's: a worker that Dask kills in the middle of an item only starts the item again.
_SETTINGS: dict[str, object] = {
    "distributed.worker.memory.terminate": False,
    # an item may hold the GIL for a while; a slow worker is not a lost one
    "distributed.scheduler.worker-ttl": None,
    "distributed.comm.timeouts.connect": "60s",
    # Machines are lost, taken back and reach their walltime: that is the item's fault only when it happens to it
    # again and again. And one item at a time, so that a lost worker casts doubt on one item alone.
    "distributed.scheduler.allowed-failures": 10,
    "distributed.scheduler.worker-saturation": 1.0,
}


@contextmanager
def _cluster(config: ClusterConfig) -> Iterator[Cluster]:
    """The started cluster of ``config``, of any kind but address."""
    if config.kind in ("local", "cuda"):
        with _start_local(config) as cluster:
            yield cluster
    elif config.kind == "kubernetes":
        with _start_kubernetes(config) as cluster:
            if config.adaptive:
                cluster.adapt(*config.adaptive)
            yield cluster
    else:
        assert config.kind in _SUBMIT, f"cluster.kind: {config.kind} has no branch here and no command for jobs"
        if shutil.which(_SUBMIT[config.kind]) is None:
            raise ConfigError(
                f"cluster.kind: {config.kind} submits jobs with {_SUBMIT[config.kind]}, which is not on this machine. "
                "Start the run where jobs can be submitted."
            )
        fewest, most = config.adaptive or (config.workers, config.workers)
        cluster = batch_cluster(config)
        for _ in range(-(-max(fewest or 0, 1) // config.workers_per_job)):
            cluster.worker_spec.update(cluster.new_worker_spec())  # scale() would keep silent about a refused job
        with ExitStack() as stack:
            try:
                stack.enter_context(cluster)  # submits the jobs
            except (RuntimeError, AssertionError) as error:  # the latter while the former closes the cluster
                refusal = error if isinstance(error, RuntimeError) else error.__context__ or error
                raise ConfigError(f"cluster: {_SUBMIT[config.kind]} refused the job ({_message(refusal)}).") from error
            # Also where the number is fixed: a job that ended, at its walltime perhaps, is asked for anew.
            cluster.adapt(minimum=fewest, maximum=most, wait_count=_IDLE_SECONDS)
            yield cluster


def _start_local(config: ClusterConfig) -> LocalCluster:
    """Start processes that a Ctrl-C in the terminal does not reach: the client ends them, once, in order."""
    kind: type[LocalCluster] = LocalCluster
    workers: int | None = default_workers(config)
    if config.kind == "cuda":
        with _extra(config.kind):
            from dask_cuda import LocalCUDACluster
        kind, workers = LocalCUDACluster, config.workers  # one process a GPU, each seeing its own; None: all GPUs
    # For the children; Dask's own choice would be one thread, and memory given back after every step.
    os.environ.update(environment(config))
    resource_tracker.ensure_running()  # multiprocessing's helper; starting it later would unblock the signal again
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by Dask's thread and its processes
    try:
        # A worker works on one item at a time; inside it, torch uses ``threads`` threads.
        return kind(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise AtlasError(f"cluster.kind: {config.kind}: no workers could be started ({_message(error)}).") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def batch_cluster(config: ClusterConfig) -> Any:
    """A cluster of jobs of SLURM or PBS, none submitted yet. Its ``job_script()`` is the text of one."""
    workers = config.workers_per_job
    options: dict[str, Any] = {
        "job_name": "activation-atlas",
        "cores": config.threads * workers,
        "processes": workers,
        "memory": f"{_bytes(config) * workers}B",
        "walltime": config.walltime,
        "queue": config.queue,
        "account": config.account,
        "interface": config.interface,
        "job_extra_directives": list(config.directives),
        # Jobs start in the folder of the run's command, so that a network in a file of one's own is found. That folder
        # is no place of Python's own search: it may hold a folder named as one of ours.
        "job_script_prologue": [
            *(f"export {name}={value}" for name, value in environment(config).items()),
            "export PYTHONSAFEPATH=1",
            f"cd {shlex.quote(str(Path.cwd()))}",
            *config.prologue,
        ],
        # The last one counts: the batch system guards the memory, and each worker takes one item at a time.
        "worker_extra_args": ["--memory-limit", "0", "--nthreads", "1"],
        "scheduler_options": {"dashboard_address": ":0"},
        "silence_logs": logging.CRITICAL,
    }
    if config.gpu and workers > 1:
        options["worker_command"] = "dask_cuda.cli worker"  # gives each of the job's GPUs a process of its own
    with _extra(config.kind):
        from dask_jobqueue import PBSCluster, SLURMCluster
    if config.kind == "slurm":
        if config.gpu:
            options["job_extra_directives"].insert(0, f"--gres=gpu:{workers}")
        return SLURMCluster(**options)
    assert config.kind == "pbs", f"cluster.kind: {config.kind} has no class of jobs here"
    if config.gpu:
        memory = -(-_bytes(config) * workers // 2**20)
        options["resource_spec"] = f"select=1:ncpus={config.threads * workers}:mem={memory}MB:ngpus={workers}"
    return PBSCluster(**options)


def _bytes(config: ClusterConfig) -> int:
    """Memory of a worker."""
    return parse_bytes(config.memory or "0B")


def kubernetes_spec(config: ClusterConfig, name: str) -> dict[str, Any]:
    """The DaskCluster resource that the Dask operator makes a scheduler and workers from."""
    with _extra(config.kind):
        from dask_kubernetes.operator import make_cluster_spec
    spec: dict[str, Any] = make_cluster_spec(
        name,
        image=config.image,
        n_workers=config.workers or max(1, config.adaptive[0] if config.adaptive else 1),
        env=environment(config),
        worker_command=["dask-worker", "--nthreads", "1", "--memory-limit", "0"],
        idle_timeout=_ABANDONED_SECONDS,
    )
    pod = spec["spec"]["worker"]["spec"]
    container = pod["containers"][0]
    requests = {"cpu": str(config.threads)}
    if config.memory:
        requests["memory"] = str(_bytes(config))
    if config.gpu:
        requests["nvidia.com/gpu"] = "1"
    limits = {key: value for key, value in requests.items() if key != "cpu"}  # a limit on cores would only throttle
    container["resources"] = {"requests": requests, "limits": limits}
    volumes = sorted(config.volumes.items())
    container["volumeMounts"] = [
        {"name": f"volume-{number}", "mountPath": path} for number, (path, _claim) in enumerate(volumes)
    ]
    pod["volumes"] = [
        {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
        for number, (_path, claim) in enumerate(volumes)
    ]
    pod.update(config.pod)
    return spec


def _start_kubernetes(config: ClusterConfig) -> Any:
    spec = kubernetes_spec(config, f"atlas-{uuid.uuid4().hex[:8]}")
    from dask_kubernetes.operator import KubeCluster

    try:
        return KubeCluster(custom_cluster_spec=spec, namespace=config.namespace, quiet=True)
    except Exception as error:  # its clients raise errors of four libraries
        raise ConfigError(
            f"cluster.kind: kubernetes: no Dask cluster could be made ({_message(error)}). Expected a kubectl context "
            "that works, and the Dask operator installed in it (https://kubernetes.dask.org)."
        ) from error


@contextmanager
def _client_of_address(config: ClusterConfig) -> Iterator[Client]:
    try:
        client = Client(config.address, timeout=10)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"cluster.address: no scheduler answers at {config.address} ({error}). Start one with `dask "
            "scheduler`, and workers with `dask worker ADDRESS --nthreads 1 --memory-limit 0`."
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise AtlasError(
                f"The scheduler at {config.address} has no workers. Start some with `dask worker {config.address} "
                "--nthreads 1 --memory-limit 0`."
            )
        yield client


def _await_worker(client: Client, config: ClusterConfig, print_sentence: Callable[[str], None]) -> None:
    """Wait as long as it takes: jobs may queue for hours. One worker is enough to begin with."""
    if client.scheduler_info()["workers"]:
        return
    if config.kind in _KIND_EXTRAS:
        print_sentence(f"Waiting for the first worker of cluster.kind: {config.kind}; others join as they come …")
    client.wait_for_workers(1)


@contextmanager
def _watch_workers(client: Client, print_sentence: Callable[[str], None]) -> Iterator[None]:
    """Say so when all workers have been gone for a while: the run then waits for new ones, however long."""
    ended = threading.Event()

    def watch() -> None:
        absent = 0
        while not ended.wait(_WATCH_SECONDS):
            try:
                absent = 0 if client.scheduler_info()["workers"] else absent + 1
            except Exception:  # of any kind while a connection breaks; _sentences has the sentence for it
                return
            if absent == 3:
                print_sentence("All workers are gone. The run goes on as soon as one is there; Ctrl-C stops it.")

    thread = threading.Thread(target=watch, name="watch workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _sentences(client: Client) -> Iterator[None]:
    """A lost scheduler, and workers that die again and again, as AtlasError."""
    try:
        yield
    except KilledWorker as error:
        raise AtlasError("The workers died again and again; most often they ran out of memory.") from error
    except (CancelledError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, CommClosedError) and client.status == "running":
            raise  # of a disk, say
        raise AtlasError(
            "The scheduler of the cluster was lost. Start it and its workers anew if they are gone."
        ) from error


@contextmanager
def _extra(kind: str) -> Iterator[None]:
    """Say what to install when the package behind ``kind`` is not there."""
    package, extra = _KIND_EXTRAS[kind]
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f'cluster.kind: {kind} needs {package}. Install it with: pip install "activation-atlas[{extra}]" ({error})'
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log lines off the person's screen. Each of its loggers has a level and a handler of its own."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _LOGGERS or name in _LOGGERS]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _message(error: BaseException) -> str:
    """The message of an error on one line; of a command that failed, what it wrote to its stderr."""
    text = str(error) or type(error).__name__
    message = text.partition("stderr:\n")[2].strip() or text
    return " ".join(message.split()).rstrip(".")

"""What handing out an item costs: items of no work through ``run_graph``, on a scheduler and workers of their own.

Milliseconds an item, bytes that the scheduler read and wrote for it, and the pickled sizes of an item and of what comes
back.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench_rows import BenchRow  # beside this file
from distributed import Client

from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.rundir.directory import RunDirectory
from pipelines.cluster import connect, environment
from pipelines.graph import Outcome, run_graph
from pipelines.stage import Item, Part, Summary


class NoWork:
    """A stage whose items do nothing; the last waits for all others, as the last of collect does."""

    NAME, WORK, REDO_DEPENDENTS = "collect", "items", False
    measure_batch_settings = prepare_worker = move_aside = None

    def __init__(self, items: int) -> None:
        self.items = items

    def parts(self, config: Config) -> list[Part]:
        return [Part(self.NAME)]

    def plan(self, part: str, config: Config, run: RunDirectory) -> list[Item]:
        names = [f"part-{number:05d}" for number in range(self.items - 1)]
        return [
            *(Item(name, self.NAME, (), str(run.path)) for name in names),
            Item("failures", self.NAME, tuple(names), str(run.path)),
        ]

    def markers(self, item: Item, run: RunDirectory, config: Config) -> list[Path]:
        return [run.folder(self.NAME) / f"{item.id}.json"]

    def run_item(self, item: Item) -> Summary:
        return nothing(item)


def nothing(item: Item) -> Summary:
    return Summary(1)


def bench_schedule(items: int, workers: int) -> BenchRow:
    """``items`` items on ``workers`` workers of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        outcome, seconds, read_bytes, written_bytes = measure_items(Path(folder), items, workers)
    item = NoWork(3).plan("", None, RunDirectory(Path("/shared/runs/imagenet")))[0]  # type: ignore[arg-type]
    return {
        "bench": "schedule",
        "system": "ours",
        "items": outcome.items,
        "workers": workers,
        "seconds": round(seconds, 1),
        "ms_an_item": round(1000 * seconds / outcome.items, 2),
        "bytes_read_an_item": round(read_bytes / outcome.items),
        "bytes_written_an_item": round(written_bytes / outcome.items),
        "bytes_of_an_item": len(pickle.dumps(item)),
        "bytes_of_a_summary": len(pickle.dumps(Summary(65_536, 12, 1_800))),
    }


def measure_items(folder: Path, items: int, workers: int) -> tuple[Outcome, float, int, int]:
    """Run the items; the outcome, the seconds that it took, and the bytes that the scheduler read and wrote."""
    here = Path(__file__).resolve().parent
    values = {
        "network": {"name": "none:none"},
        "layers": ["none"],
        "images": {"source": str(folder)},
        "out": str(folder),
    }
    config = validate(values, "overhead")
    run = RunDirectory(folder)
    run.claim(NoWork.NAME, "0" * 64)
    inherited = {**os.environ, **environment(config.cluster)}
    inherited["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
            env=inherited, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        processes.append(process)
        return process

    try:
        scheduler = start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        address = ""
        while not address:
            match = re.search(r"Scheduler at:\s+(tcp://\S+)", (scheduler.stderr or sys.stdin).readline())
            address = match[1] if match else ""
        for _ in range(workers):
            start("dask_worker", address, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard")
        for process in processes:  # a full pipe would stop them
            threading.Thread(target=lambda stream: [None for _ in stream], args=(process.stderr,), daemon=True).start()
        with Client(address) as client:
            client.wait_for_workers(workers, timeout=60)
        cluster = config.cluster.model_copy(update={"kind": "address", "address": address})
        with connect(cluster) as client:
            stage: Any = NoWork(workers * 5)
            _run(stage, client, run, config)  # the first items load the modules
            client.run_on_scheduler(count_bytes)
            started = time.perf_counter()
            outcome = _run(NoWork(items), client, run, config)
            seconds = time.perf_counter() - started
            read_bytes, written_bytes = client.run_on_scheduler(bytes_counted)
        return outcome, seconds, read_bytes, written_bytes
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)


def _run(stage: Any, client: Client, run: RunDirectory, config: Config) -> Outcome:
    return run_graph([stage], client, run, config)[stage.NAME]


def count_bytes() -> None:
    """On the scheduler: count what its streams read and write from now on."""
    from tornado.iostream import IOStream

    read, write = IOStream.read_from_fd, IOStream.write_to_fd
    counts = [0, 0]

    def counting_read(stream: IOStream, buffer: bytearray | memoryview) -> int | None:
        count = read(stream, buffer)
        counts[0] += count or 0
        return count

    def counting_write(stream: IOStream, data: memoryview) -> int:
        count = write(stream, data)
        counts[1] += count
        return count

    IOStream.read_from_fd, IOStream.write_to_fd = counting_read, counting_write  # type: ignore[method-assign]
    IOStream.counts = counts  # type: ignore[attr-defined]


def bytes_counted() -> tuple[int, int]:
    from tornado.iostream import IOStream

    return tuple(IOStream.counts)  # type: ignore[attr-defined, no-any-return]

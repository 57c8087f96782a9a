"""Trackers are told what the run measured, read back from their own files; and where they fail, the run goes on."""

import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from documents import answer_of, the_command
from PIL import Image
from rich.console import Console
from tiny_run import GRIDS, PLAIN_STAGES

from atlas.cells.icons import mosaic
from atlas.config.model import Config
from atlas.config.reading import validate
from atlas.errors import ConfigError
from atlas.rundir.directory import RunDirectory
from pipelines import pipeline, tracking
from pipelines.tracking import Tracking

LAYERS = ("middle", "last")


@pytest.fixture
def finished(undisturbed: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A finished run that may be told of; no tracker may ask the network for anything on its own account."""
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"), ("DO_NOT_TRACK", "true"), ("WANDB_ERROR_REPORTING", "false"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "5"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    run = RunDirectory(tmp_path / "tiny")
    shutil.copytree(undisturbed.path, run.path)
    return run


def configure(run: RunDirectory, **settings: Any) -> Config:
    values = run.config().plain()
    values["out"] = str(run.path)
    values["tracking"] = settings or None
    return validate(values, "the test")


def tell(run: RunDirectory, **settings: Any) -> list[str]:
    """Tell a tracker of all stages, as a run does; returns what the person was told."""
    said: list[str] = []
    with Tracking(configure(run, **settings), run, said.append) as tracker:
        for stage in PLAIN_STAGES:
            tracker.stage(stage)
            if stage == "render":
                tracker.report()
    return said


def expected(run: RunDirectory) -> dict[str, float]:
    """Every figure that a tracker must have, taken from run.json and report.json by hand."""
    figures: dict[str, float] = {}
    stages = json.loads(run.manifest.read_text())["stages"]
    units = {"collect": "views", "layout": "rows", "cells": "rows", "render": "icons", "publish": "parts"}
    for stage in PLAIN_STAGES:
        for name in ("seconds", "units", "worker_peak_mb", f"{units[stage]}_per_second"):
            figures[f"{stage}/{name}"] = stages[stage][name]
    report = json.loads(run.report.read_text())
    figures["report/collect/failures"] = report["collect"]["failures"]
    for layer in LAYERS:
        facts = report["layers"][layer]
        figures[f"report/layers/{layer}/layout/trustworthiness"] = facts["layout"]["trustworthiness"]
        for grid in map(str, GRIDS):
            figures[f"report/layers/{layer}/cells/{grid}/n"] = facts["cells"][grid]["n"]
            figures[f"report/layers/{layer}/icons/{grid}/median_cosine"] = facts["icons"][grid]["median_cosine"]
    return figures


def holds(metrics: dict[str, float], figures: dict[str, float], precision: float = 1e-9) -> None:
    for name, value in figures.items():
        assert math.isclose(metrics[name], value, rel_tol=precision), name


def sheet(run: RunDirectory, layer: str) -> np.ndarray:
    picture = mosaic(run, layer, GRIDS[1])
    assert picture is not None
    return np.asarray(picture)


def test_tensorboard(finished: RunDirectory) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said = tell(finished, kind="tensorboard", name="first")
    folder = finished.path / "tracking"
    assert said == [f"Tracking: tensorboard, tensorboard --logdir {folder}"]
    events = EventAccumulator(str(folder / "first")).Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    holds({tag: values[-1].value for tag, values in scalars.items()}, expected(finished), 1e-6)
    assert [scalars[f"{stage}/seconds"][0].step for stage in PLAIN_STAGES] == [1, 2, 3, 4, 5]
    for layer in LAYERS:
        image = events.Images(f"contact sheet/{layer}")[0].encoded_image_string
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image))), sheet(finished, layer))
    text = events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"name": "tiny:make"' in text
    assert "tracking" not in text


def test_mlflow(finished: RunDirectory) -> None:
    from mlflow.tracking import MlflowClient

    said = tell(finished, kind="mlflow", project="my atlases")
    folder = finished.path / "tracking"
    address = f"sqlite:///{folder / 'mlflow.db'}"
    assert said == [f"Tracking: mlflow, {address}"]
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("my atlases")
    (mlflow_run,) = client.search_runs([experiment.experiment_id])
    assert mlflow_run.info.run_name == "tiny"
    assert mlflow_run.info.status == "FINISHED"
    holds(mlflow_run.data.metrics, expected(finished))
    assert mlflow_run.data.params["cells.grids"] == "[4, 8]"
    assert mlflow_run.data.params["seed"] == "0"
    assert not any(name.startswith(("cluster", "tracking")) for name in mlflow_run.data.params)
    for layer in LAYERS:
        picture = Path(mlflow_run.info.artifact_uri.removeprefix("file://")) / "contact sheet" / f"{layer}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(picture)), sheet(finished, layer))
    # The same command again: the same run at the tracker, and nothing twice.
    tell(finished, kind="mlflow", project="my atlases")
    (again,) = client.search_runs([experiment.experiment_id])
    assert again.info.run_id == mlflow_run.info.run_id
    assert again.info.status == "FINISHED"
    assert len(client.get_metric_history(mlflow_run.info.run_id, "collect/seconds")) == 1
    # And a run that fails is marked so.
    config = configure(finished, kind="mlflow", project="my atlases")
    tracker = Tracking(config, finished, lambda sentence: None)
    with pytest.raises(RuntimeError, match="worker"), tracker:
        raise RuntimeError("worker")
    assert client.get_run(mlflow_run.info.run_id).info.status == "FAILED"


@contextmanager
def listening() -> Iterator[tuple[int, list[Any]]]:
    """A port of this machine, and who called there."""
    calls: list[Any] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.1)
        over = threading.Event()

        def wait() -> None:
            while not over.is_set():
                try:
                    connection, caller = server.accept()
                except TimeoutError:
                    continue
                calls.append(caller)
                connection.close()

        thread = threading.Thread(target=wait)
        thread.start()
        try:
            yield server.getsockname()[1], calls
        finally:
            over.set()
            thread.join()


def test_wandb_offline_keeps_all_in_the_folder_and_calls_nobody(
    finished: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as (port, calls):
        for name in ("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        said = tell(finished, kind="wandb", mode="offline", project="atlases", name="first")
    assert calls == []
    folder = finished.path / "tracking"
    assert said == [f"Tracking: wandb, offline in {folder}; deliver it with wandb sync"]
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    records = list(wandb_records(file))
    (started,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (started.project, started.display_name) == ("atlases", "first")
    assert finished.read_manifest()["tracking"]["id"] == started.run_id
    config = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert config["layers"] == list(LAYERS)
    assert "cluster" not in config
    metrics_by_name: dict[str, Any] = {}
    for record in records:
        for item in record.history.item:
            metrics_by_name["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    holds(
        {name: value for name, value in metrics_by_name.items() if isinstance(value, float | int)}, expected(finished)
    )
    for layer in LAYERS:
        picture = Image.open(file.parent / "files" / metrics_by_name[f"contact sheet/{layer}/path"])
        np.testing.assert_array_equal(np.asarray(picture), sheet(finished, layer))
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [0]


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of wandb's own file: blocks of 32 KiB, records in parts of (checksum, length, kind), as LevelDB's."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # what is left of a block holds no head
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def for_run(run: RunDirectory, words: list[str]) -> list[str]:
    """A command of the guide, for this run and by this environment's programs."""
    words = [word.replace("runs/NAME", str(run.path)) for word in words]
    return [str(Path(sys.executable).with_name(words[0])), *words[1:]]


def test_the_guides_command_finds_what_wandb_is_to_be_sent(finished: RunDirectory) -> None:
    tell(finished, kind="wandb", mode="offline")
    program, verb, pattern = for_run(finished, the_command("wandb sync"))
    (folder,) = Path("/").glob(pattern.lstrip("/"))
    process = subprocess.run([program, verb, "--dry-run", str(folder)], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert folder.name in process.stdout + process.stderr


@pytest.mark.parametrize(
    ("kind", "words", "question", "answer"),
    [
        (
            "mlflow",
            the_command("mlflow ui"),
            "/api/2.0/mlflow/experiments/get-by-name?experiment_name=activation-atlas",
            "experiment",
        ),
        ("tensorboard", the_command("tensorboard --logdir"), "/data/runs", "tiny"),
    ],
)
def test_the_guides_command_shows_what_was_told(
    finished: RunDirectory, monkeypatch: pytest.MonkeyPatch, kind: str, words: list[str], question: str, answer: str
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # of another package here; it would ask the network
    tell(finished, kind=kind)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [*for_run(finished, words), "--port", str(port)]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as server:
        try:
            assert answer in answer_of(server, f"http://127.0.0.1:{port}{question}").decode()
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def test_without_tracking_nothing_is_told_or_kept(finished: RunDirectory) -> None:
    before = finished.manifest.read_bytes()
    assert tell(finished) == []
    assert finished.manifest.read_bytes() == before
    assert not (finished.path / "tracking").exists()


def test_a_tracker_that_fails_midway_is_told_the_rest_next_time(
    finished: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    real, calls = tracking._TensorBoard.figures, []

    def full(self: Any, values: dict[str, float], step: int) -> None:
        calls.append(step)
        if step == 2:
            raise OSError(28, "No space left on device")
        real(self, values, step)

    with monkeypatch.context() as patch:
        patch.setattr(tracking._TensorBoard, "figures", full)
        said = tell(finished, kind="tensorboard")
    assert calls == [1, 2]
    assert len(said) == 2
    assert said[1] == (
        "Tracking: tensorboard failed (OSError: [Errno 28] No space left on device). The run goes on without it; the "
        "same command sends it what is missing."
    )
    assert set(finished.read_manifest()["tracking"]["sent"]) == {"collect"}
    assert len(tell(finished, kind="tensorboard")) == 1
    events = EventAccumulator(str(finished.path / "tracking" / "tiny")).Reload()
    holds({tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}, expected(finished), 1e-6)
    assert len(events.Scalars("collect/seconds")) == 1


def test_a_server_that_does_not_answer_costs_one_sentence(finished: RunDirectory) -> None:
    said = tell(finished, kind="mlflow", address="http://127.0.0.1:9")
    assert len(said) == 1
    assert said[0].startswith("Tracking: mlflow failed (")
    assert "The run goes on without it" in said[0]


def test_a_run_tells_its_tracker_and_makes_nothing_anew(
    finished: RunDirectory, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracking is no part of the stages' keys: with it, a finished run is found finished, and told of."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.syspath_prepend(str(workshop))

    @contextmanager
    def thread(*_: Any, **__: Any) -> Iterator[Client]:
        with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster, Client(cluster) as client:
            yield client

    monkeypatch.setattr(pipeline, "connect", thread)
    stages = finished.read_manifest()["stages"]
    out = io.StringIO()
    pipeline.run(configure(finished, kind="tensorboard"), output=pipeline.Output(Console(file=out, width=200)))
    assert finished.read_manifest()["stages"] == stages
    assert f"Tracking: tensorboard, tensorboard --logdir {finished.path / 'tracking'}" in out.getvalue()
    events = EventAccumulator(str(finished.path / "tracking" / "tiny")).Reload()
    holds({tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}, expected(finished), 1e-6)


@pytest.mark.parametrize("kind", ["wandb", "mlflow", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_told_before_work_starts(
    finished: RunDirectory, workshop: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.syspath_prepend(str(workshop))
    monkeypatch.setattr(tracking, "find_spec", lambda module: None)
    out = finished.path.with_name("new")
    config = configure(RunDirectory(finished.path), kind=kind).model_copy(update={"out": str(out)})
    with pytest.raises(ConfigError) as caught:
        pipeline.run(config, output=pipeline.Output(Console(file=io.StringIO())))
    assert f"tracking: {kind} is not installed; give: pip install 'activation-atlas[{kind}]'" in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "mlflow", "mode": "offline"}, "mode: offline is wandb's; mlflow needs no network"),
        ({"kind": "wandb", "address": "http://a"}, "address is of an MLflow server, but kind is wandb"),
        ({"kind": "comet"}, "input should be 'wandb', 'mlflow' or 'tensorboard'"),
        ({"project": "x"}, "tracking.kind: missing"),
        ({"kind": "wandb", "projct": "x"}, "tracking.projct: unknown key; did you mean project?"),
    ],
)
def test_mistakes_in_the_key_are_sentences(finished: RunDirectory, settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(finished, **settings)
    assert sentence in str(caught.value)

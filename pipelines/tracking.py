"""What a run measures, sent to an experiment tracker as its stages finish: Weights & Biases, MLflow or TensorBoard.

Nothing depends on a tracker: where it fails, the run says so in a sentence and goes on without it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image

from atlas.cells.icons import mosaic
from atlas.config.model import Config
from atlas.config.sections import TrackingConfig
from atlas.errors import ConfigError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import maps_of
from atlas.rundir.markers import digest_values
from atlas.rundir.stages import stages_of

_SHEET_WIDTH = 1600
# How long the run waits at its end for wandb to upload what is left.
_FINISH_SECONDS = 60
_BATCH = 100  # MLflow's own limit for parameters
_NEEDS = {"wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic"), "tensorboard": ("tensorboard",)}


class Tracker(Protocol):
    """One run at a tracker; by ``id`` it is opened again, ``location`` is its address or folder."""

    id: str
    location: str

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Log ``values`` by name; ``step`` is the number of the stage that they are of."""

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log a picture under ``name``."""

    def close(self, finished: bool) -> None:
        """Close the run as ``finished``, or else as failed."""


def require(settings: TrackingConfig | None) -> None:
    """Raise ConfigError when the tracker that the run asks for is not installed."""
    if settings is None:
        return
    kind = settings.kind
    if any(find_spec(module) is None for module in _NEEDS[kind]):
        raise ConfigError(
            f"tracking: {kind} is not installed; give: pip install 'activation-atlas[{kind}]', or go without it with "
            "--set tracking=null."
        )


class Tracking:
    """The tracker of a run while its stages run; without ``tracking`` in the configuration nothing happens.

    A digest of what was sent stands in run.json with the tracker's own id: a run that is resumed goes on in the same
    place and sends nothing twice, and a finished one can be sent later by its command with ``tracking``.
    """

    def __init__(self, config: Config, directory: RunDirectory, print_sentence: Callable[[str], None]) -> None:
        self._config, self._directory, self._print_sentence = config, directory, print_sentence
        self._tracker: Tracker | None = None

    def __enter__(self) -> Tracking:
        settings = self._config.tracking
        if settings is not None:
            with self._sentence_for_errors():
                self._tracker = self._open(settings)
                self._print_sentence(f"Tracking: {settings.kind}, {self._tracker.location}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tracker, self._tracker = self._tracker, None
        with self._sentence_for_errors():
            if tracker:
                tracker.close(finished=error is None)

    def stage(self, name: str) -> None:
        """Send the figures of a finished stage."""
        facts = self._directory.read_manifest()["stages"][name]
        with self._once(name, facts) as tracker:
            if tracker:
                tracker.figures(_numbers({name: facts}), self._step(name))

    def report(self) -> None:
        """Send the report, which is written when layouts, cells and icons are finished, and a contact sheet of each
        map."""
        report = json.loads(self._directory.report.read_text(encoding="utf-8"))
        with self._once("report", report) as tracker:
            if tracker:
                tracker.figures(_numbers({"report": report}), self._step("render"))
                for map_name, sheet in self._sheets():
                    tracker.picture(f"contact sheet/{map_name}", sheet, self._step("render"))

    def _step(self, stage: str) -> int:
        return stages_of(self._config.neurons).index(stage) + 1

    def _sheets(self) -> Iterator[tuple[str, Image.Image]]:
        """The icons of each map's middle grid as one picture."""
        for atlas_map in maps_of(self._config.layers, self._config.layout, self._config.cells):
            sheet = mosaic(self._directory, atlas_map.name, atlas_map.grids[len(atlas_map.grids) // 2])
            if sheet is not None:
                sheet.thumbnail((_SHEET_WIDTH, _SHEET_WIDTH), Image.Resampling.LANCZOS)
                yield atlas_map.name, sheet

    def _open(self, settings: TrackingConfig) -> Tracker:
        folder = Path(settings.folder).expanduser().absolute() if settings.folder else self._directory.path / "tracking"
        name = settings.name or self._directory.path.name
        values = {key: value for key, value in self._config.plain().items() if key not in ("cluster", "tracking")}
        values.pop("out_options", None)  # they may hold a password
        values["images"].pop("storage_options", None)
        target = digest_values(settings.model_dump(mode="json"))
        entry = self._directory.read_manifest().get("tracking", {})
        if entry.get("target") != target:
            entry = {"target": target, "id": None, "sent": {}}
        folder.mkdir(parents=True, exist_ok=True)
        tracker: Tracker = _KINDS[settings.kind](settings, folder, name, values, entry["id"])
        if tracker.id != entry["id"]:
            entry = {"target": target, "id": tracker.id, "sent": {}}
        self._directory.update_manifest(tracking=entry)
        return tracker

    @contextmanager
    def _once(self, name: str, facts: Any) -> Iterator[Tracker | None]:
        """The tracker, or None where these facts were sent before; when the block ends well, they count as sent."""
        digests = self._directory.read_manifest()["tracking"]["sent"] if self._tracker else {}
        new = self._tracker is not None and digests.get(name) != digest_values(facts)
        done = False
        with self._sentence_for_errors():
            yield self._tracker if new else None
            done = True
        if new and done:
            self._directory.update_manifest(tracking={"sent": {**digests, name: digest_values(facts)}})

    @contextmanager
    def _sentence_for_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a tracker, its network or its disk may raise
            tracker, self._tracker = self._tracker, None
            reason = " ".join(str(error).split()) or "no reason given"
            assert self._config.tracking is not None
            self._print_sentence(
                f"Tracking: {self._config.tracking.kind} failed ({type(error).__name__}: {reason[:300]}). The run goes "
                "on without it; the same command sends it what is missing."
            )
            if tracker:
                with suppress(Exception):
                    tracker.close(finished=False)


def _numbers(values: Any, path: str = "") -> dict[str, float]:
    """The numbers in nested dicts by their paths, such as report/layers/_blocks.10/layout/recall."""
    if isinstance(values, dict):
        parts = [_numbers(value, f"{path}/{key}" if path else str(key)) for key, value in values.items()]
        return {name: number for part in parts for name, number in part.items()}
    return {path: float(values)} if isinstance(values, int | float) and not isinstance(values, bool) else {}


class _WandB:
    def __init__(
        self, settings: TrackingConfig, folder: Path, name: str, values: dict[str, Any], earlier: str | None
    ) -> None:
        import wandb

        self._run = wandb.init(
            project=settings.project, name=name, dir=str(folder), mode=settings.mode, config=values, id=earlier,
            resume="allow",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, x_disable_stats=True, finish_timeout=_FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )  # fmt: skip
        self._image = wandb.Image
        self.id = self._run.id
        online = settings.mode == "online"
        self.location = str(self._run.url) if online else f"offline in {folder}; deliver it with wandb sync"

    def figures(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values))  # wandb counts steps by itself, on from where a resumed run stood

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        self._run.log({name: self._image(picture)})

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class _MLflow:
    def __init__(
        self, settings: TrackingConfig, folder: Path, name: str, values: dict[str, Any], earlier: str | None
    ) -> None:
        # By default MLflow waits a quarter of an hour for a server that does not answer.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it logs every table that it creates
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.location = settings.address or f"sqlite:///{folder / 'mlflow.db'}"
        self._client, self._metric, self._param = MlflowClient(tracking_uri=self.location), Metric, Param
        if earlier is not None:
            try:
                self._client.update_run(earlier, status="RUNNING")
            except MlflowException:  # deleted there in the meantime
                earlier = None
        if earlier is None:
            earlier = self._create(settings, folder, name, values)
        self.id = earlier

    def _create(self, settings: TrackingConfig, folder: Path, name: str, values: dict[str, Any]) -> str:
        experiment = self._client.get_experiment_by_name(settings.project)
        if experiment is not None:
            number = experiment.experiment_id
        else:
            artifacts = None if settings.address else (folder / "artifacts").as_uri()
            number = self._client.create_experiment(settings.project, artifact_location=artifacts)
        run = str(self._client.create_run(number, run_name=name).info.run_id)
        params = [
            self._param(f"{section}.{key}".rstrip("."), str(part))
            for section, value in values.items()
            for key, part in (value if isinstance(value, dict) else {"": value}).items()
        ]
        for first in range(0, len(params), _BATCH):
            self._client.log_batch(run, params=params[first : first + _BATCH])
        return run

    def figures(self, values: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 1_000_000
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(self.id, metrics=metrics[first : first + _BATCH])

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        self._client.log_image(self.id, picture, artifact_file=f"{name}.png")

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if finished else "FAILED")


class _TensorBoard:
    def __init__(
        self, settings: TrackingConfig, folder: Path, name: str, values: dict[str, Any], earlier: str | None
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.id = name
        self.location = f"tensorboard --logdir {folder}"
        self._writer = SummaryWriter(str(folder / name))  # a resumed run adds a file of events
        if earlier is None:
            self._writer.add_text("configuration", f"```json\n{json.dumps(values, indent=1)}\n```")

    def figures(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        self._writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
        self._writer.flush()

    def close(self, finished: bool) -> None:
        self._writer.close()


_KINDS: dict[str, Callable[..., Tracker]] = {"wandb": _WandB, "mlflow": _MLflow, "tensorboard": _TensorBoard}

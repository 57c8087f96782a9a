"""The run directory: where everything lies, run.json, the stages' keys, and the lock of the process at work."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atlas.config.model import Config
from atlas.errors import AtlasError, ConfigError
from atlas.rundir.atomic import write_json
from atlas.rundir.faults import explain_write_errors
from atlas.rundir.markers import marked_key
from atlas.rundir.stages import ABOVE, FOLDERS
from atlas.rundir.versions import refuse_other_format


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run. Nothing is created until something is written."""

    path: Path

    def folder(self, stage: str) -> Path:
        """The folder that a stage fills."""
        return self.path / FOLDERS[stage]

    @property
    def has_site(self) -> bool:
        """Whether the site shows something."""
        return all((self.folder("publish") / name).is_file() for name in ("index.html", "atlas.json"))

    @property
    def manifest(self) -> Path:
        """The configuration, versions, the stages' keys, and what was measured of each stage."""
        return self.path / "run.json"

    @property
    def report(self) -> Path:
        """How good the run's work is."""
        return self.path / "report.json"

    @property
    def progress(self) -> Path:
        """How far the process at work is, or how the last one ended."""
        return self.path / "progress.json"

    @property
    def listing(self) -> Path:
        """The pictures' names in the order of work."""
        return self.path / "listing.parquet"

    @property
    def failures(self) -> Path:
        """The pictures and views that gave no row."""
        return self.path / "store" / "failures.parquet"

    def store(self, layer: str) -> Path:
        """The shards of a layer and their markers."""
        return self.path / "store" / layer

    def shards(self, layer: str) -> list[Path]:
        """The finished shards of a layer, in order: those with a marker."""
        return sorted(path for path in self.store(layer).glob("part-*.parquet") if path.with_suffix(".json").exists())

    def layout(self, map_name: str) -> Path:
        """The coordinates of each row of a map."""
        return self.path / "layout" / f"{map_name}.parquet"

    def moments(self, layer: str) -> Path:
        """The count, sum and second sum of a layer's activations."""
        return self.path / "layout" / f"{layer}.moments.npz"

    def projection(self, layer: str) -> Path:
        """The projection in which a layer's neighbours are searched."""
        return self.path / "layout" / f"{layer}.projection.npz"

    def coordinates(self, layout_group: str) -> Path:
        """The fitted rows' coordinates before they are scaled to the common box, and what placing among them needs."""
        return self.path / "layout" / f"{layout_group}.coordinates.npz"

    def independent_coordinates(self, layer: str) -> Path:
        """Coordinates of some of an aligned layer's rows in a layout that was not aligned, to compare the two."""
        return self.path / "layout" / f"{layer}.alone.npz"

    def index(self, layer: str) -> Path:
        """The FAISS index of a layer's fitted rows."""
        return self.path / "layout" / f"{layer}.faiss"

    def cells(self, map_name: str) -> Path:
        """The cells of all grids of a map."""
        return self.path / "cells" / f"{map_name}.parquet"

    def words(self, map_name: str, grid: int) -> Path:
        """What may be said of the cells of one grid."""
        return self.path / "cells" / "words" / map_name / f"grid-{grid:03d}.parquet"

    def errors(self, map_name: str) -> Path:
        """Where the network errs: the accuracy of the cells of all grids of a map."""
        return self.path / "cells" / "errors" / f"{map_name}.parquet"

    def icons(self, map_name: str, grid: int) -> Path:
        """The parts of one grid's icons and their markers."""
        return self.path / "icons" / map_name / f"grid-{grid:03d}"

    def neurons(self, layer: str) -> Path:
        """The tables of a layer's units and their markers."""
        return self.path / "neurons" / layer

    def site_grid(self, map_name: str, grid: int) -> Path:
        """The page's files of one grid."""
        return self.path / "site" / map_name / f"grid-{grid:03d}"

    def read_manifest(self) -> dict[str, Any]:
        """run.json, or an empty dict before the first run. Raises AtlasError where it is cut off or no JSON."""
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise AtlasError(
                f"{self.manifest} is cut off or overwritten: it is no JSON of a run. Delete it and give the command of "
                "the run again: finished work is recognized by its markers, and is kept."
            )
        return manifest

    def update_manifest(self, **values: Any) -> None:
        """Set top-level keys of run.json; dicts are merged one level deep."""
        manifest = self.read_manifest()
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(manifest.get(key), dict):
                manifest[key] = {**manifest[key], **value}
            else:
                manifest[key] = value
        write_json(self.manifest, manifest)

    def config(self) -> Config:
        """The configuration in run.json. Raises ConfigError when there is none, or another version of activation-atlas
        wrote it."""
        manifest = self.read_manifest()
        if "config" not in manifest:
            reason = "its run.json holds no configuration" if self.manifest.exists() else "it has no run.json"
            raise ConfigError(f"{self.path} is no run directory: {reason}. Expected the folder that atlas run wrote.")
        refuse_other_format(manifest, self.manifest)
        try:
            return Config.from_plain(manifest["config"])
        except ValidationError as error:
            raise ConfigError(
                f"{self.manifest} was written by another version of activation-atlas: {error.error_count()} of its "
                "keys are not known here. Open it with the version that made it."
            ) from None

    def network_facts(self, name: str = "") -> dict[str, Any]:
        """What run.json says of one of the run's networks, the first by default: its name, sha256, folded norms."""
        manifest = self.read_manifest()
        facts: dict[str, Any] = manifest["compare"][name] if name else manifest["network"]
        return facts

    def label_classes(self, network: str = "") -> tuple[int | None, ...]:
        """For each label of the listing the number of its class in one of the run's networks, or None; empty where no
        label is a class."""
        return tuple((self.read_manifest().get("label_classes") or {}).get(network) or ())

    def stage_key(self, stage: str) -> str:
        """The key that the stage's folder belongs to. Raises AtlasError when the stage has not been claimed."""
        return self.stage_facts(stage)["key"]

    def stage_facts(self, stage: str) -> dict[str, Any]:
        """What run.json says of a stage. Raises AtlasError when the stage has not been claimed."""
        try:
            return self.read_manifest()["stages"][stage]
        except KeyError:
            raise AtlasError(
                f"{self.manifest} is gone, or does not know the stage {stage}. Was the folder moved or changed while "
                "the run was at work in it?"
            ) from None

    def claim(self, stage: str, key: str) -> None:
        """Make the folder of ``stage`` belong to ``key``.

        A folder of another key is moved aside (``store.KEY8``), and one that was moved aside under this key comes back.
        Nothing is deleted. Where run.json was lost, the folder's own markers say which key it belongs to. The key of
        the stage above is noted beside the key, so that a reader can tell when the stage above was made again and this
        one was not. What is noted of a stage (its batch, its seconds) is kept for each key and comes back with it.
        """
        folder = self.folder(stage)
        self.sweep(stage)
        manifest_key = self.read_manifest().get("stages", {}).get(stage, {}).get("key")
        owner = manifest_key or marked_key(folder)
        if folder.exists() and owner != key:
            move_folder_aside(folder, owner or "unknown")
        if manifest_key != key:
            manifest = self.read_manifest()
            stages, past = manifest.get("stages", {}), manifest.get("past", {})
            above = ABOVE.get(stage)
            if manifest_key:
                past = {**past, manifest_key: stages[stage]}
            facts = {**past.get(key, {}), "key": key}
            if above is not None:
                facts["above"] = stages.get(above, {}).get("key")
            self.update_manifest(stages={**stages, stage: facts}, past=past)
        elif stage in ABOVE:
            # The stage above was made again in a way that this one does not depend on.
            stages = self.read_manifest()["stages"]
            above = stages.get(ABOVE[stage], {}).get("key")
            if stages[stage].get("above") != above:
                self.update_manifest(stages={**stages, stage: {**stages[stage], "above": above}})
        # After run.json: a crash in between leaves no folder, and the next start comes by here again.
        returning = folder.with_name(f"{folder.name}.{key[:8]}")
        if returning.exists() and not folder.exists():
            returning.rename(folder)

    def sweep(self, stage: str) -> None:
        """Remove the temporary files of killed processes from the stage's folder; no process may be at work in it."""
        for leftover in sorted(self.folder(stage).rglob(".*.tmp")):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run for this process. Raises AtlasError when another one is at work in it."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"out: {self.path} is a file, expected a folder. Give another with --set out=FOLDER.")
        with explain_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with explain_write_errors(self.path / ".lock"):
            file = (self.path / ".lock").open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AtlasError(
                    f"Another process is at work in {self.path}. Wait for it, or give another folder with --set "
                    "out=FOLDER."
                ) from None
            for leftover in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote run.json
                leftover.unlink(missing_ok=True)
            yield


def move_folder_aside(folder: Path, digest: str) -> None:
    """Rename ``folder`` to its name and the first letters of ``digest``, and a number where there is one already."""
    aside = folder.with_name(f"{folder.name}.{digest[:8]}")
    count = 1
    while aside.exists():
        count += 1
        aside = folder.with_name(f"{folder.name}.{digest[:8]}-{count}")
    with explain_write_errors(aside):
        folder.rename(aside)

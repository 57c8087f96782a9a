"""What a check of a run has found: problems with their cures, and how far each stage is."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.rundir.directory import RunDirectory
from atlas.rundir.maps import COMMON_START, AtlasMap

AGAIN = "give the run's command again"


@dataclass(frozen=True)
class Problem:
    """Something wrong: where (a path in the run), what, and the cure: what to delete before the command is given
    again, or another ``remedy``."""

    where: str
    what: str
    delete: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        cure = f"delete {' '.join(self.delete)} and {AGAIN}" if self.delete else AGAIN
        cure = self.remedy or cure
        return f"{self.where}: {self.what}. Cure: {cure}."


@dataclass
class Findings:
    """What a check found. ``stages`` says of each stage how far it is, ``notes`` what is worth knowing but not wrong;
    ``suspect`` holds the files that no comparison may trust."""

    run: RunDirectory
    problems: list[Problem] = field(default_factory=list)
    stages: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    suspect: set[Path] = field(default_factory=set)
    markers: dict[str, dict[Path, dict[str, Any]]] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    layout_boxes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    maps: tuple[AtlasMap, ...] = ()
    files: int = 0
    bytes: int = 0

    @property
    def layout_groups(self) -> tuple[str, ...]:
        """The layers that are laid out together, by the names of their groups."""
        return tuple(group for groups in self.layout_boxes.values() for group in groups)

    def wrong(self, path: Path, what: str, *delete: Path, remedy: str = "") -> None:
        """Note a problem of ``path``, cured by deleting ``delete``."""
        self.suspect.add(path)
        self.problems.append(Problem(self.name(path), what, tuple(map(self.name, delete)), remedy))

    def name(self, path: Path) -> str:
        """``path`` as messages have it: from the run's folder on."""
        return os.path.relpath(path, self.run.path)

    def table(self, path: Path, columns: tuple[str, ...]) -> pa.Table | None:
        """Columns of a table that a marker vouches for; None, and a problem, where it cannot be read."""
        try:
            return pq.read_table(path, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            self.wrong(path, f"cannot be read ({first_sentence(error)})", *([path] if path.exists() else []))
            return None

    def begun(self, *stages: str) -> bool:
        """Whether one of ``stages`` has a marker of the present configuration."""
        return any(self.markers.get(stage) and stage not in self.stale for stage in stages)

    def with_it(self, stage: str, path: Path) -> list[Path]:
        """What must be deleted for ``path`` to be made again rightly: itself, and the markers of what was made from it.

        A layout that is fitted again is another one, so what was placed in it and the common box go too, and all layers
        where it is what they start from. All other work gives equal bytes when it is done again.
        """
        delete = [path]
        without_parts = path.name.startswith(("class-", "quality-")) or path.stem in self.layout_boxes
        if stage != "layout" or path.suffix == ".parquet" or without_parts:
            return [file for file in delete if file.exists()]
        folder = self.run.folder(stage)
        name = path.name.removeprefix("fit-")
        if name.startswith(f"{COMMON_START}."):
            delete.append(folder / f"{COMMON_START}.json")
            refitted = self.layout_groups
            boxes = list(self.layout_boxes)
        else:
            refitted = tuple(
                group for group in self.layout_groups if name.startswith((f"{group}.", f"place-{group}-"))
            )[-1:]
            boxes = [box for box, groups in self.layout_boxes.items() if set(groups) & set(refitted)]
        for group in refitted:
            delete += [folder / f"fit-{group}.json", *sorted(folder.glob(f"place-{group}-*.json"))]
        delete += [*sorted(folder.glob("index-*.json")), *(folder / f"{box}.json" for box in boxes)]
        return [file for file in dict.fromkeys(delete) if file.exists()]


def size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def first_sentence(error: Exception) -> str:
    """The first sentence of what ``error`` says."""
    return str(error).split(". ")[0].strip()

"""Where pictures come from.

A listing names every picture once, in the order in which they are worked on; it is kept in the run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.config import ImagesConfig
from atlas.errors import ConfigError
from atlas.rundir import atomic, digest_values

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True)
class Listing:
    """Every picture once: its key (path below the source) and its label (None: no class folder)."""

    source: str
    keys: tuple[str, ...]
    labels: tuple[int | None, ...]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def digest(self) -> str:
        return digest_values(self.keys, self.labels, self.label_names)

    def save(self, path: Path) -> None:
        table = pa.table({"image": pa.array(self.keys, pa.string()), "label": pa.array(self.labels, pa.int32())})
        table = table.replace_schema_metadata({"source": self.source, "label_names": "\n".join(self.label_names)})
        with atomic(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Listing:
        table = pq.read_table(path)
        metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        names = tuple(metadata["label_names"].split("\n")) if metadata["label_names"] else ()
        return cls(metadata["source"], tuple(table["image"].to_pylist()), tuple(table["label"].to_pylist()), names)


def list_images(config: ImagesConfig, seed: int) -> Listing:
    """List the pictures of a folder, recursively; the class of a picture is its parent folder (ImageNet's way).

    Sorted by key, then shuffled by ``seed`` and cut to ``limit``. Raises ConfigError when the folder is not there,
    holds no picture, or has none of the classes asked for.
    """
    source = Path(config.source).expanduser()
    if not source.is_dir():
        raise ConfigError(
            f"images.source: there is no folder {source} (looked for {source.absolute()}). Point it at your pictures "
            f"with "
            "--set images.source=FOLDER."
        )
    found = (path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    paths = [path for path in found if not path.is_dir()]
    folders = {path: path.parent.relative_to(source).as_posix() for path in paths}
    if not paths:
        raise ConfigError(
            f"images.source: {source} holds no picture. Expected files ending in {', '.join(sorted(SUFFIXES))}."
        )
    strange = [path for path in paths if not _is_utf8(str(path))]
    if strange:
        shown = str(strange[0]).encode("utf-8", "backslashreplace").decode()
        raise ConfigError(
            f"images.source: names of {len(strange)} pictures are not UTF-8, such as {shown}. Rename them."
        )
    if config.classes is not None:
        known = sorted(set(folders.values()))
        missing = [name for name in config.classes if name not in known]
        if missing:
            raise ConfigError(
                f"images.classes: {source} has no folder {', '.join(missing)}. It has: {', '.join(known[:20])}."
            )
        paths = [path for path in paths if folders[path] in config.classes]
    paths.sort(key=lambda path: path.relative_to(source).as_posix())
    if config.shuffle:
        random.Random(seed).shuffle(paths)
    # Before the limit, so that a label keeps its number whatever the limit leaves out.
    names = sorted({folders[path] for path in paths} - {"."})
    paths = paths[: config.limit]
    numbers = {name: number for number, name in enumerate(names)}
    return Listing(
        source=str(source.absolute()),
        keys=tuple(path.relative_to(source).as_posix() for path in paths),
        labels=tuple(numbers.get(folders[path]) for path in paths),
        label_names=tuple(names),
    )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

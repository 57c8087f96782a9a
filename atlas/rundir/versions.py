"""Which versions a result was made with, and which formats of a run this version reads."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from atlas.errors import ConfigError

# Of this project.
VERSION = "0.1.0"
# Of run.json and of the tables of all stages but the store's, which has atlas.store.shards.SCHEMA_VERSION.
RUN_FORMAT = 3
# Of a site's files: the page reads those of its own.
SITE_FORMAT = 7


def versions() -> dict[str, str]:
    """Versions of this project and of what its figures depend on."""
    names = ("torch", "torchvision", "umap-learn", "faiss-cpu", "dask", "pyarrow", "numpy", "pillow", "simplejpeg")
    return {"activation-atlas": VERSION, **{name: version(name) for name in names}}


def refuse_other_format(manifest: Mapping[str, Any], path: Path | str) -> None:
    """Raises ConfigError when the run.json that was read from ``path`` is of another RUN_FORMAT than this version's."""
    run_format = manifest.get("format", 1)
    if "config" in manifest and run_format != RUN_FORMAT:
        raise ConfigError(
            f"{path} was written by another version of activation-atlas: the run is of format {run_format}, and this "
            f"version reads format {RUN_FORMAT}. Open the run with the version that made it, or make it again in "
            "another folder, with --set out=FOLDER."
        )

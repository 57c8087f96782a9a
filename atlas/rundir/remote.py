"""Addresses: what is one, and which folder of this machine stands for it."""

from __future__ import annotations

from pathlib import Path

from atlas.errors import ConfigError


def is_remote(source: str) -> bool:
    """Whether it is an address, and no folder of this machine."""
    return "://" in source


def working_folder(out: str) -> Path:
    """The folder, absolute, that a run with this ``out`` works in: ``out`` itself, or for a URL its last part in runs/.

    Absolute, since workers may stand in another folder.
    """
    path = Path("runs", out.rstrip("/").rpartition("/")[2]) if is_remote(out) else Path(out).expanduser()
    return path.absolute()


def refuse_url(run: str | Path) -> None:
    """Raises ConfigError when ``run`` is an address: runs are opened where they lie as a folder."""
    if is_remote(str(run)):
        raise ConfigError(
            f"{run} is an address; expected a folder of this machine. The run's working copy is "
            f"{working_folder(str(run))}; where it is missing, the run's own command fetches it."
        )

"""Addresses: how to tell one, which folder of this machine stands for it, and fsspec's file systems behind them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from atlas.errors import AtlasError, ConfigError

# Seconds to wait before each further attempt.
_RETRY_SECONDS = (0.5, 2.0, 8.0)
# The project's extra that brings the package of a protocol.
_PROTOCOL_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}

Result = TypeVar("Result")


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


def open_system(url: str, options: dict[str, Any], key: str = "images.source") -> tuple[AbstractFileSystem, str]:
    """fsspec's file system for ``url``, and the path in it. Raises ConfigError naming the ``key`` that gave the URL."""
    protocol = url.partition("://")[0]
    try:
        system, path = url_to_fs(url, **options)
    except ImportError:
        extra = _PROTOCOL_EXTRAS.get(protocol)
        install = (
            f'pip install "activation-atlas[{extra}]"' if extra else "install the package that fsspec names for it"
        )
        raise ConfigError(f"{key}: {protocol}:// needs a package that is not here. Give: {install}") from None
    except ValueError:
        raise ConfigError(
            f"{key}: {protocol}:// is not known. Expected a path, or an address such as s3://, gs:// or https://."
        ) from None
    return system, str(path)


def with_retries(attempt: Callable[[], Result]) -> Result:
    """``attempt``, again after a while where the network is to blame. Raises what the last one raised.

    (Seven lines, where a library of retries would be one more package to install.)
    """
    for pause in _RETRY_SECONDS:
        try:
            return attempt()
        except (FileNotFoundError, PermissionError, AtlasError):
            raise
        except Exception:  # each storage has its own
            time.sleep(pause)
    return attempt()


def error_reason(error: Exception) -> str:
    """What went wrong with a file, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    if isinstance(error, PermissionError):
        return "permission denied"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__

"""Why a file cannot be written (a full disk, a missing permission, a folder that is gone), in a sentence.

Trying again at once mends none of these, so they are raised as AtlasError, which ends the stage instead of starting the
item again.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas.errors import AtlasError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PERMISSION = (errno.EACCES, errno.EPERM)
_DEVICE_FAILS = (errno.EIO, errno.ESTALE, errno.ENOTCONN)


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Around code that writes ``path``: raises AtlasError for what the machine refuses; other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        sentence = write_error_sentence(error, path)
        if sentence is None:
            raise
        raise AtlasError(sentence) from error
    except RuntimeError as error:  # FAISS writes in C++ and knows no errno
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise AtlasError(_disk_full_sentence(OSError(errno.ENOSPC, ""), path)) from error


def write_error_sentence(error: OSError, path: Path) -> str | None:
    """Why ``path`` could not be written and what to do about it; None where ``error`` has nothing to do with that."""
    folder = path.parent
    # Only writing gives these, whatever file the error names.
    if error.errno in _DISK_FULL:
        return _disk_full_sentence(error, path)
    if error.errno == errno.EROFS:
        return (
            f"{path} cannot be written: the file system is read-only. Mount it for writing, or run in another folder."
        )
    if str(folder) not in str(error):
        return None  # of a file that was being read meanwhile
    if error.errno in _NO_PERMISSION:
        return (
            f"{path} cannot be written: the permission is missing ({os.strerror(error.errno)}). Give yourself the "
            f"right to write in {folder}."
        )
    if error.errno == errno.ENOENT and not folder.exists():
        return f"The folder {folder} vanished while the run wrote to it. Bring it back, or start the run again."
    if error.errno in _DEVICE_FAILS:
        return (
            f"{path} cannot be written: the disk or the share fails ({os.strerror(error.errno)}). Look after it first."
        )
    return None


def _disk_full_sentence(error: OSError, path: Path) -> str:
    if error.errno == errno.EDQUOT:
        return f"{path} cannot be written: your disk quota is used up. Make room."
    if error.errno == errno.EFBIG:
        return f"{path} cannot be written: the file grows larger than this system or your limits (ulimit -f) allow."
    return f"{path} cannot be written: the disk is full{_free_space(path.parent)}. Make room."


def _free_space(folder: Path) -> str:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return ""
    return f" ({usage.free / 1e6:,.0f} MB of {usage.total / 1e6:,.0f} MB free)"

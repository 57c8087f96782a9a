"""Settings of glibc's malloc: memory that is freed stays with the process.

A pass of a network allocates the same large buffers again and again. By default glibc takes each from the kernel and
gives it back, and most of the pass goes into page faults: at 224 px a batch of 64 ran at 25 images/s, and at 86 with
these settings (see scripts/benchmarks/smaller-things.md).
"""

import ctypes
import sys

# Parameter numbers of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1

# The same three as environment variables, for processes that are yet to start.
ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(_NEVER), "MALLOC_MMAP_MAX_": "0", "MALLOC_ARENA_MAX": "1"}


def keep_memory() -> bool:
    """Make malloc reuse freed memory instead of returning it to the kernel. False where the C library cannot (it is not
    glibc)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(key, value) for key, value in ((_M_TRIM_THRESHOLD, _NEVER), (_M_MMAP_MAX, 0), (_M_ARENA_MAX, 1)))

"""Hashes as random numbers: in [0, 1), the same on every machine and in any order of work."""

from __future__ import annotations

import hashlib
import struct


def uniform_hash(*parts: str | int) -> tuple[float, float]:
    """Two numbers in [0, 1) from a hash of ``parts``: the same on every machine, in any order of work."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogateescape"), digest_size=16).digest()
    first, second = struct.unpack("<QQ", digest)
    return (first >> 11) / 2**53, (second >> 11) / 2**53
